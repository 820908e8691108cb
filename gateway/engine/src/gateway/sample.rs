//! Packets for tests, made and read by etherparse, so that our own codecs do not vouch for themselves.

use etherparse::{IpNumber, Ipv4Header, Ipv4HeaderSlice, Ipv4Options, PacketBuilder, TcpHeader};

/// A node's address in slot 64.
pub const NODE: [u8; 4] = [172, 16, 8, 65];
/// The gateway of slot 56.
pub const GATEWAY: [u8; 4] = [172, 16, 8, 56];

/// A packet with this payload; `adjust` may change its header before lengths and checksum are set.
pub fn packet(
    source: [u8; 4],
    destination: [u8; 4],
    protocol: u8,
    payload: &[u8],
    adjust: impl FnOnce(&mut Ipv4Header),
) -> Vec<u8> {
    let mut header = Ipv4Header::new(0, 64, IpNumber(protocol), source, destination).unwrap();
    header.dont_fragment = false;
    adjust(&mut header);
    header.total_len = (header.header_len() + payload.len()) as u16;
    header.header_checksum = header.calc_header_checksum();
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend(payload);
    bytes
}

/// Options from bytes, whose number is a multiple of 4.
pub fn options(bytes: &[u8]) -> Ipv4Options {
    Ipv4Options::try_from(bytes).unwrap()
}

/// An echo request, or with `reply` a reply.
pub fn echo(source: [u8; 4], destination: [u8; 4], reply: bool, id: u16, seq: u16, data: &[u8]) -> Vec<u8> {
    let to = PacketBuilder::ipv4(source, destination, 64);
    let to = if reply { to.icmpv4_echo_reply(id, seq) } else { to.icmpv4_echo_request(id, seq) };
    let mut bytes = Vec::new();
    to.write(&mut bytes, data).unwrap();
    // etherparse forbids fragments by default.
    packet(source, destination, 1, &bytes[20..], |_| ())
}

/// A UDP datagram from port 1000 to port 2000.
pub fn udp(source: [u8; 4], destination: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(source, destination, 64).udp(1000, 2000).write(&mut bytes, data).unwrap();
    packet(source, destination, 17, &bytes[20..], |_| ())
}

/// A TCP segment from port 1000 to port 1433; `adjust` sets flags and numbers.
pub fn tcp(
    source: [u8; 4],
    destination: [u8; 4],
    data: &[u8],
    adjust: impl FnOnce(&mut TcpHeader),
) -> Vec<u8> {
    let mut tcp = TcpHeader::new(1000, 1433, 7, 64_000);
    adjust(&mut tcp);
    let ip = Ipv4Header::new(0, 64, IpNumber::TCP, source, destination).unwrap();
    tcp.checksum = tcp.calc_checksum_ipv4(&ip, data).unwrap();
    let mut segment = tcp.to_bytes().to_vec();
    segment.extend(data);
    packet(source, destination, 6, &segment, |_| ())
}

/// The header as etherparse reads it; fails when its checksum or total length is wrong.
pub fn header(bytes: &[u8]) -> Ipv4Header {
    let header = Ipv4HeaderSlice::from_slice(bytes).unwrap().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "header checksum");
    assert_eq!(usize::from(header.total_len), bytes.len(), "total length");
    header
}

/// Puts fragments together as RFC 791 section 3.2 does, and fails on a gap, an overlap, or a missing end. The payload, and
/// whether fragments are still to follow it.
pub fn reassemble(fragments: &[Vec<u8>], start: usize) -> (Vec<u8>, bool) {
    let mut pieces: Vec<_> = fragments.iter().map(|f| (header(f), f)).collect();
    pieces.sort_by_key(|(h, _)| h.fragment_offset.value());
    let mut payload = Vec::new();
    let last = pieces.len() - 1;
    for (i, (h, bytes)) in pieces.iter().enumerate() {
        assert_eq!(usize::from(h.fragment_offset.value()) * 8, start + payload.len(), "a gap or an overlap");
        assert!(h.more_fragments || i == last, "an end in the middle");
        payload.extend(&bytes[h.header_len()..]);
    }
    (payload, pieces[last].0.more_fragments)
}

/// The one's complement sum, word by word, over an ICMP message: 0 when its checksum is right.
pub fn naive_checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}
