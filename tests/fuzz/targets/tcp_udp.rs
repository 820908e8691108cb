//! TCP and UDP: the views agree with etherparse, a reset is right and never answers a reset, and a clamped SYN keeps its checksum.
#![no_main]

use etherparse::{TcpSlice, UdpSlice};
use libfuzzer_sys::fuzz_target;
use overlay_engine::gateway::refuse::reset;
use overlay_engine::packet::ipv4::{self, Ipv4};
use overlay_engine::packet::mss;
use overlay_engine::packet::tcp::{Flags, Tcp};
use overlay_engine::packet::udp::Udp;
use overlay_fuzz::{check_whole, destination, plausible, source};

fuzz_target!(|bytes: &[u8]| {
    let theirs = TcpSlice::from_slice(bytes);
    assert_eq!(Tcp::parse(bytes).is_ok(), theirs.is_ok());
    if let (Ok(ours), Ok(theirs)) = (Tcp::parse(bytes), theirs) {
        assert_eq!(
            (ours.source_port(), ours.destination_port()),
            (theirs.source_port(), theirs.destination_port())
        );
        assert_eq!(
            (ours.sequence(), ours.acknowledgment()),
            (theirs.sequence_number(), theirs.acknowledgment_number())
        );
        assert_eq!(ours.payload(), theirs.payload());
        assert_eq!(ours.flags().contains(Flags::RST), theirs.rst());
    }
    if let Ok(ours) = Udp::parse(bytes) {
        // etherparse takes a length of 0 for "all of it" (RFC 2675), which IPv4 does not know.
        let theirs = UdpSlice::from_slice(bytes).expect("etherparse reads it as well");
        assert_eq!(
            (ours.source_port(), ours.destination_port()),
            (theirs.source_port(), theirs.destination_port())
        );
        assert_eq!(ours.payload(), theirs.payload());
    }
    let mut packet = plausible(bytes.to_vec());
    packet[6..8].fill(0);
    packet[9] = ipv4::TCP;
    let header = usize::from(packet[0] & 0x0f) * 4;
    // With the right checksums, or no reset would ever be due.
    if let Some(segment) = packet.get_mut(header..).filter(|segment| segment.len() >= 20) {
        segment[12] = segment[12].max(0x50);
        segment[16..18].fill(0);
    }
    packet[10..12].fill(0);
    let sum = overlay_engine::packet::checksum::checksum(&packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let (from, to) = (source(&packet), destination(&packet));
    if let Some(sum) = TcpSlice::from_slice(&packet[header..])
        .ok()
        .and_then(|s| s.calc_checksum_ipv4(from.octets(), to.octets()).ok())
    {
        packet[header + 16..header + 18].copy_from_slice(&sum.to_be_bytes());
    }
    let view = Ipv4::parse(&packet).expect("a packet");
    let mut out = [0; 100];
    if let Some(len) = reset(&view, &mut out) {
        let segment = Tcp::parse(view.payload()).expect("a segment");
        assert!(len == 40 && !segment.flags().contains(Flags::RST));
        check_whole(&out[..len]);
        assert_eq!((source(&out), destination(&out)), (to, from));
        let answer = Tcp::parse(&out[20..40]).expect("a segment");
        assert!(answer.flags().contains(Flags::RST));
        if segment.flags().contains(Flags::ACK) {
            assert_eq!(answer.sequence(), segment.acknowledgment());
        } else {
            assert_eq!(answer.acknowledgment(), segment.sequence().wrapping_add(segment.sequence_len()));
        }
        assert_eq!(reset(&Ipv4::parse(&out[..len]).expect("a packet"), &mut [0; 100]), None);
    }
    let before = packet.clone();
    if mss::clamp(&mut packet, 1200) {
        assert!(Tcp::parse(&packet[header..]).expect("a segment").flags().contains(Flags::SYN));
        let ip = Ipv4::parse(&packet).expect("a packet");
        let right = |packet: &[u8]| {
            let ip = Ipv4::parse(packet).expect("a packet");
            Tcp::parse(ip.payload()).is_ok_and(|segment| segment.checksum_ok(from, to))
        };
        assert_eq!(right(ip.bytes()), right(&before), "a right checksum stays right, a wrong one wrong");
        assert!(!mss::clamp(&mut packet, 1200), "once is enough");
    } else {
        assert_eq!(packet, before);
    }
});
