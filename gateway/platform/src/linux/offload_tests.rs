//! Cutting and joining against each other and against etherparse.

use super::*;
use crate::os::{
    gso::Split,
    virtio::{GSO_ECN, GSO_NONE},
};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

/// A whole packet with right checksums.
fn packet(tcp: bool, sequence: u32, flags: u8, identification: u16, payload: &[u8]) -> Vec<u8> {
    let ip = etherparse::Ipv4Header {
        identification,
        dont_fragment: true,
        ..etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber(0), [172, 16, 8, 57], [172, 16, 8, 65])
            .unwrap()
    };
    let builder = PacketBuilder::ip(etherparse::IpHeaders::Ipv4(ip, Default::default()));
    let mut bytes = Vec::new();
    if tcp {
        let builder = builder.tcp(4000, 5000, sequence, 512).ack(77);
        let builder = if flags & 8 != 0 { builder.psh() } else { builder };
        let builder = if flags & 1 != 0 { builder.fin() } else { builder };
        let stamps = [
            etherparse::TcpOptionElement::Noop,
            etherparse::TcpOptionElement::Noop,
            etherparse::TcpOptionElement::Timestamp(1, 2),
        ];
        builder.options(&stamps).unwrap().write(&mut bytes, payload).unwrap();
    } else {
        builder.udp(4000, 5000).write(&mut bytes, payload).unwrap();
    }
    bytes
}

fn checksums_are_right(bytes: &[u8]) -> bool {
    let sliced = SlicedPacket::from_ip(bytes).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else { return false };
    let header = ip.header().to_header();
    let transport = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).unwrap() == tcp.checksum()
        }
        Some(TransportSlice::Udp(udp)) => {
            udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap() == udp.checksum()
        }
        _ => false,
    };
    transport && header.calc_header_checksum() == header.header_checksum
}

fn cut(header: VirtioHeader, packet: &mut [u8]) -> Option<Vec<Vec<u8>>> {
    let mut split = Split::new(header, packet)?;
    let mut pieces = Vec::new();
    while let Some(len) = split.next_len() {
        let mut out = vec![0xee; len];
        assert_eq!(split.write_next(packet, &mut out), Some(len));
        pieces.push(out);
    }
    Some(pieces)
}

/// What is written to the device for `packets`: virtio headers and packets.
fn joined(packets: &[Vec<u8>], udp: bool) -> Vec<(VirtioHeader, Vec<u8>)> {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < packets.len() {
        match join(packets[at..].iter().map(Vec::as_slice), udp) {
            Some((count, front)) => {
                let (header, head) = front.bytes().split_first_chunk().unwrap();
                let payloads = packets[at..at + count].iter().flat_map(|packet| payload(&front, packet));
                out.push((VirtioHeader::read(*header), head.iter().chain(payloads).copied().collect()));
                at += count;
            }
            None => {
                out.push((VirtioHeader::default(), packets[at].clone()));
                at += 1;
            }
        }
    }
    out
}

/// A flow: `count` packets of `size` bytes and a last one.
fn flow(
    tcp: bool,
    sequence: u32,
    id: u16,
    count: usize,
    size: usize,
    last: usize,
    flags: u8,
) -> Vec<Vec<u8>> {
    (0..=count)
        .map(|n| {
            let bytes: Vec<u8> =
                (0..if n == count { last } else { size }).map(|i| (n * 31 + i) as u8).collect();
            let behind = sequence.wrapping_add((n * size) as u32);
            packet(tcp, behind, if n == count { flags } else { 0 }, id.wrapping_add(n as u16), &bytes)
        })
        .collect()
}

proptest! {
    #[test]
    fn what_is_joined_is_cut_into_what_it_was(
        tcp: bool, sequence: u32, id: u16, count in 1_usize..70, size in 1_usize..1400,
        part in 0.0_f64..1.0, flags in prop::sample::select(vec![0_u8, 1, 8, 9]),
    ) {
        let last = 1 + (part * size as f64) as usize;
        let packets = flow(tcp, sequence, id, count, size, last.min(size), flags);
        prop_assert!(packets.iter().all(|packet| checksums_are_right(packet)));
        let written = joined(&packets, true);
        prop_assert!(written.len() <= 2 + packets.len() / 40, "{} of {}", written.len(), packets.len());
        let mut back = Vec::new();
        for (header, mut bytes) in written {
            prop_assert!(bytes.len() <= MAX_PACKET);
            back.extend(cut(header, &mut bytes).unwrap());
        }
        prop_assert_eq!(back, packets);
    }

    #[test]
    fn what_is_odd_is_not_joined_and_nothing_is_lost(
        tcp: bool, odd in 0_usize..9, byte in 0_usize..60, bit in 0_u8..8,
    ) {
        // One bit anywhere in the headers of one packet is wrong: the checksums tell.
        let mut packets = flow(tcp, 1, 1, 9, 100, 100, 0);
        let head = packets[odd].len() - 100;
        packets[odd][byte % head] ^= 1 << bit;
        let mut back = Vec::new();
        for (header, mut bytes) in joined(&packets, true) {
            match header.gso_type {
                GSO_NONE => back.push(bytes),
                _ => back.extend(cut(header, &mut bytes).unwrap()),
            }
        }
        prop_assert_eq!(back, packets);
    }

    #[test]
    fn arbitrary_bytes_and_headers_do_no_harm(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200), header: [u8; VIRTIO_HEADER],
        gso_type in prop::sample::select(vec![GSO_NONE, GSO_TCPV4, GSO_UDP_L4, GSO_TCPV4 | GSO_ECN, 3, 4]), shape: bool,
        protocol in prop::sample::select(vec![6_u8, 17]),
    ) {
        let header = VirtioHeader { gso_type, ..VirtioHeader::read(header) };
        prop_assert_eq!(VirtioHeader::read(header.bytes()), header);
        if let (true, 20..) = (shape, bytes.len()) {
            bytes[0] = 0x45;
            let len = bytes.len() as u16;
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
            (bytes[6], bytes[7], bytes[9]) = (0, 0, protocol);
        }
        let all = [bytes.clone(), bytes.clone()];
        let _ = join(all.iter().map(Vec::as_slice), true);
        if let Some(pieces) = cut(header, &mut bytes) {
            prop_assert!(pieces.iter().all(|piece| piece.len() <= bytes.len()));
        }
    }
}

#[test]
fn each_cut_packet_is_whole_and_fin_psh_and_cwr_stand_where_they_belong() {
    let mut whole = packet(true, u32::MAX - 100, 9, 0xffff, &[7; 3000]);
    whole[IP + 13] |= 0x80;
    let header = VirtioHeader {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV4 | GSO_ECN,
        gso_size: 1000,
        csum_start: 20,
        csum_offset: 16,
        ..Default::default()
    };
    let pieces = cut(header, &mut whole).unwrap();
    assert!(pieces.iter().all(|piece| checksums_are_right(piece)));
    let facts: Vec<_> = pieces
        .iter()
        .map(|p| (p.len(), take::<2>(p, 4), u32::from_be_bytes(take(p, IP + 4)), p[IP + 13]))
        .collect();
    assert_eq!(
        facts,
        [(1052, [0xff, 0xff], u32::MAX - 100, 0x90), (1052, [0, 0], 899, 0x10), (1052, [0, 1], 1899, 0x19)]
    );
}

#[test]
fn a_partial_checksum_is_completed() {
    for tcp in [true, false] {
        let right = packet(tcp, 5, 0, 9, b"odd length!");
        let (mut partial, offset) = (right.clone(), if tcp { 16 } else { 6 });
        let part = Part::parse(&right, true).unwrap();
        put(&mut partial, IP + offset, (!part.pseudo(right.len() - IP).finish()).to_be_bytes());
        let header = VirtioHeader {
            flags: NEEDS_CSUM,
            csum_start: 20,
            csum_offset: offset as u16,
            ..Default::default()
        };
        assert_eq!(cut(header, &mut partial), Some(vec![right]));
    }
}

#[test]
fn flows_that_differ_anywhere_but_in_what_may_are_not_joined() {
    let two = |change: &dyn Fn(&mut [Vec<u8>])| {
        let mut packets = flow(true, 1, 1, 2, 100, 100, 0);
        change(&mut packets);
        joined(&packets, true).len()
    };
    assert_eq!(two(&|_| ()), 1);
    // PSH ends a super-packet; a gap in the sequence; another size; UDP where it is not to be joined.
    assert_eq!(two(&|p| p[1] = packet(true, 101, 8, 2, &[31; 100])), 2);
    assert_eq!(two(&|p| p[1] = packet(true, 102, 0, 2, &[31; 100])), 3);
    assert_eq!(two(&|p| p[0] = packet(true, 1, 0, 1, &[31; 99])), 2);
    let datagrams = flow(false, 0, 1, 2, 100, 50, 0);
    assert_eq!((joined(&datagrams, true).len(), joined(&datagrams, false).len()), (1, 3));
}
