//! ARP: only the gateway and what lies outside the slot are answered for, and only addresses of the slot are learnt.
#![no_main]

use etherparse::ArpPacketSlice;
use libfuzzer_sys::fuzz_target;
use overlay_engine::gateway::arp::REPLY;
use overlay_engine::gateway::{ArpResponder, gateway_mac};
use overlay_engine::packet::arp::Arp;
use overlay_fuzz::slot;
use std::net::Ipv4Addr;

fuzz_target!(|input: (bool, Vec<u8>)| {
    let (shaped, mut frame) = input;
    let slot = slot();
    let mac = gateway_mac("172.16.8.0/24".parse().unwrap(), slot.net());
    if shaped && frame.len() >= 42 {
        let to = if frame[0] & 1 == 0 { [0xff; 6] } else { mac.0 };
        frame[..6].copy_from_slice(&to);
        frame[12..21].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0]);
        frame[21] = 1 + frame[21] % 2;
        for place in [28, 38] {
            if frame[place] % 4 != 0 {
                frame[place..place + 3].copy_from_slice(&[172, 16, 8]);
            }
        }
    }
    let mut out = [0xa5; 64];
    let outcome = ArpResponder::new(slot.gateway(), mac, slot.net()).answer(&frame, &mut out);
    if let Some((address, learnt)) = outcome.learnt {
        assert!(slot.contains(address) && address != slot.gateway() && address != slot.broadcast());
        assert!(learnt.is_unicast() && learnt != mac);
    }
    let Some(len) = outcome.reply else {
        assert_eq!(out, [0xa5; 64], "nothing is written where nothing is said");
        return;
    };
    assert_eq!(len, REPLY);
    let asked = Arp::parse(&frame[14..]).expect("only a message is answered");
    let reply = ArpPacketSlice::from_slice(&out[14..len]).unwrap().to_packet().try_eth_ipv4().unwrap();
    assert_eq!((&out[..6], &out[6..12]), (&asked.sender_mac().0[..], &mac.0[..]));
    assert_eq!((reply.sender_mac, reply.target_mac), (mac.0, asked.sender_mac().0));
    assert_eq!((reply.sender_ipv4, reply.target_ipv4), (asked.target().octets(), asked.sender().octets()));
    let (target, probe) = (asked.target(), asked.sender() == Ipv4Addr::UNSPECIFIED);
    assert!(target == slot.gateway() || (!slot.contains(target) && !probe), "answered for {target}");
    assert!(target != asked.sender(), "an announcement is not answered");
});
