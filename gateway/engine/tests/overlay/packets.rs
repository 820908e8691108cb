//! Packets to send and eyes to read them with: all of it etherparse, nothing of the engine's own codecs.

use etherparse::{
    Icmpv4Header, Icmpv4Slice, Icmpv4Type, IpFragOffset, IpNumber, Ipv4Header, Ipv4HeaderSlice, Ipv4Slice,
    TcpHeader, TcpSlice, UdpHeader,
};
use std::net::Ipv4Addr;

/// An IPv4 packet with a header that is right.
pub fn ip(source: Ipv4Addr, destination: Ipv4Addr, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut header = Ipv4Header::new(length, 64, protocol, source.octets(), destination.octets()).unwrap();
    header.dont_fragment = false;
    with_header(header, payload)
}

/// The packet with another header: `change` alters it, and its checksum is made right again.
pub fn changed(packet: &[u8], change: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
    let (mut header, payload) = Ipv4Header::from_slice(packet).unwrap();
    change(&mut header);
    with_header(header, payload)
}

fn with_header(mut header: Ipv4Header, payload: &[u8]) -> Vec<u8> {
    header.header_checksum = header.calc_header_checksum();
    [&header.to_bytes()[..], payload].concat()
}

pub fn ping(source: Ipv4Addr, destination: Ipv4Addr, sequence: u16, data: &[u8]) -> Vec<u8> {
    let kind = Icmpv4Type::EchoRequest(etherparse::IcmpEchoHeader { id: 7, seq: sequence });
    let header = Icmpv4Header::with_checksum(kind, data);
    ip(source, destination, IpNumber::ICMP, &[&header.to_bytes()[..], data].concat())
}

pub fn udp(source: Ipv4Addr, destination: Ipv4Addr, data: &[u8]) -> Vec<u8> {
    udp_ports(source, 40_000, destination, 3343, data)
}

pub fn udp_ports(source: Ipv4Addr, from: u16, destination: Ipv4Addr, to: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len() + 8).unwrap();
    let header = Ipv4Header::new(length, 64, IpNumber::UDP, source.octets(), destination.octets()).unwrap();
    let header = Ipv4Header { dont_fragment: false, ..header };
    let udp = UdpHeader::with_ipv4_checksum(from, to, &header, data).unwrap();
    with_header(header, &[&udp.to_bytes()[..], data].concat())
}

/// A SYN from port 40000 to port 1433 with sequence number 1000.
pub fn syn(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let header = Ipv4Header::new(20, 64, IpNumber::TCP, source.octets(), destination.octets()).unwrap();
    let mut tcp = TcpHeader::new(40_000, 1433, 1000, 64_000);
    tcp.syn = true;
    tcp.checksum = tcp.calc_checksum_ipv4(&header, &[]).unwrap();
    with_header(header, &tcp.to_bytes())
}

/// The same packet after one hop more.
pub fn hop(packet: &[u8]) -> Vec<u8> {
    changed(packet, |header| header.time_to_live -= 1)
}

pub fn header(packet: &[u8]) -> Ipv4Header {
    let header = Ipv4HeaderSlice::from_slice(packet).unwrap().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "header checksum");
    assert_eq!(usize::from(header.total_len), packet.len(), "total length");
    header
}

pub fn source(packet: &[u8]) -> Ipv4Addr {
    header(packet).source.into()
}

pub fn destination(packet: &[u8]) -> Ipv4Addr {
    header(packet).destination.into()
}

/// What a packet says, as far as the tests want to know.
#[derive(Debug, PartialEq, Eq)]
pub enum Says {
    EchoReply {
        sequence: u16,
        data: Vec<u8>,
    },
    /// An ICMP error: type, code, next-hop MTU, and what it quotes.
    Error {
        kind: u8,
        code: u8,
        mtu: u16,
        quote: Vec<u8>,
    },
    /// A reset that acknowledges so much.
    Reset {
        acknowledges: u32,
    },
    Other,
}

pub fn says(packet: &[u8]) -> Says {
    let (head, slice) = (header(packet), Ipv4Slice::from_slice(packet).unwrap());
    let payload = slice.payload().payload;
    match head.protocol {
        IpNumber::ICMP => {
            let message = Icmpv4Slice::from_slice(payload).unwrap();
            let right = message.icmp_type().calc_checksum(message.payload());
            assert_eq!(message.checksum(), right, "ICMP checksum");
            match message.icmp_type() {
                Icmpv4Type::EchoReply(echo) => {
                    Says::EchoReply { sequence: echo.seq, data: message.payload().to_vec() }
                }
                Icmpv4Type::DestinationUnreachable(_) | Icmpv4Type::TimeExceeded(_) => Says::Error {
                    kind: message.type_u8(),
                    code: message.code_u8(),
                    mtu: u16::from_be_bytes([payload[6], payload[7]]),
                    quote: message.payload().to_vec(),
                },
                _ => Says::Other,
            }
        }
        IpNumber::TCP => {
            let segment = TcpSlice::from_slice(payload).unwrap();
            assert_eq!(
                segment.checksum(),
                segment.calc_checksum_ipv4(head.source, head.destination).unwrap(),
                "TCP checksum"
            );
            match segment.rst() {
                true => Says::Reset { acknowledges: segment.acknowledgment_number() },
                false => Says::Other,
            }
        }
        _ => Says::Other,
    }
}

/// Puts the payload of one datagram together from its fragments, which may come in any order.
pub fn reassembled(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut pieces: Vec<_> = fragments
        .iter()
        .map(|fragment| {
            let head = header(fragment);
            let payload = Ipv4Slice::from_slice(fragment).unwrap().payload().payload.to_vec();
            (head.fragment_offset, head.more_fragments, head.identification, payload)
        })
        .collect();
    pieces.sort_by_key(|(offset, ..)| *offset);
    let mut whole = Vec::new();
    for (n, (offset, more, identification, payload)) in pieces.iter().enumerate() {
        assert_eq!(usize::from(IpFragOffset::value(*offset)) * 8, whole.len(), "no gap and no overlap");
        assert_eq!(*more, n + 1 < pieces.len(), "more fragments");
        assert_eq!(*identification, pieces[0].2, "identification");
        whole.extend_from_slice(payload);
    }
    whole
}

/// A SYN that offers this maximum segment size, and may not be fragmented.
pub fn syn_with_mss(source: Ipv4Addr, destination: Ipv4Addr, mss: u16) -> Vec<u8> {
    let mut tcp = TcpHeader::new(40_000, 1433, 1000, 64_000);
    tcp.syn = true;
    tcp.set_options(&[etherparse::TcpOptionElement::MaximumSegmentSize(mss)]).unwrap();
    let length = tcp.header_len() as u16;
    let header = Ipv4Header::new(length, 64, IpNumber::TCP, source.octets(), destination.octets()).unwrap();
    tcp.checksum = tcp.calc_checksum_ipv4(&header, &[]).unwrap();
    with_header(header, &tcp.to_bytes())
}
