//! ICMP answers: errors and echo replies are right by etherparse's reckoning, quote what they answer, and go back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overlay_engine::gateway::icmp::{echo_reply, error};
use overlay_engine::gateway::{IcmpError, MAX_ERROR};
use overlay_engine::packet::icmp::Icmp;
use overlay_engine::packet::ipv4::Ipv4;
use overlay_fuzz::{check_whole, destination, plausible, source};

fuzz_target!(|input: (u8, bool, Vec<u8>)| {
    let (kind, shaped, bytes) = input;
    let bytes = if shaped { plausible(bytes) } else { bytes };
    let Ok(packet) = Ipv4::parse(&bytes) else { return };
    let kind = match kind % 7 {
        0 => IcmpError::NetUnreachable,
        1 => IcmpError::HostUnreachable,
        2 => IcmpError::ProtocolUnreachable,
        3 => IcmpError::PortUnreachable,
        4 => IcmpError::FragmentationNeeded { mtu: 1420 },
        5 => IcmpError::TimeExceeded,
        _ => IcmpError::AdminProhibited,
    };
    let mut out = vec![0xa5; 70_000];
    let gateway = "172.16.8.56".parse().unwrap();
    if let Some(len) = error(kind, &packet, gateway, 1, false, &mut out) {
        assert!(len <= MAX_ERROR);
        check_whole(&out[..len]);
        assert_eq!((source(&out), destination(&out)), (gateway, packet.source()));
        assert!(packet.bytes().starts_with(&out[28..len]) && len >= 28 + packet.header().len());
        assert!(packet.fragment_offset() == 0 && packet.header_checksum_ok());
        // Nothing answers what was just said: no two gateways talk for ever.
        let answer = Ipv4::parse(&out[..len]).expect("just made").bytes().to_vec();
        let answer = Ipv4::parse(&answer).expect("just made");
        assert_eq!(error(IcmpError::HostUnreachable, &answer, gateway, 2, false, &mut out), None);
        assert_eq!(echo_reply(&answer, &mut out), None);
    }
    if let Some(len) = echo_reply(&packet, &mut out) {
        check_whole(&out[..len]);
        assert_eq!((source(&out), destination(&out)), (packet.destination(), packet.source()));
        assert_eq!(len, 20 + packet.payload().len(), "as much as was asked");
        let (request, reply) = (packet.payload(), &out[20..len]);
        assert_eq!((request[0], reply[0], &request[4..]), (8, 0, &reply[4..]));
        assert!(Icmp::parse(request).is_ok_and(|message| message.checksum_ok()));
    }
});
