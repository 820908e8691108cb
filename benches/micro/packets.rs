//! Packets to work on.

use overlay_engine::packet::{icmp, ipv4, tcp};
use std::net::Ipv4Addr;

/// Bytes of a packet as full as UDP over the tunnel's MTU makes it, and of a small one.
pub const SIZES: [usize; 2] = [1372, 64];

/// An IPv4 packet of `len` bytes in all with a UDP datagram in it.
pub fn udp(source: Ipv4Addr, destination: Ipv4Addr, len: usize) -> Vec<u8> {
    let mut payload = vec![0; len - ipv4::HEADER];
    payload[0..2].copy_from_slice(&40_000_u16.to_be_bytes());
    payload[2..4].copy_from_slice(&5_300_u16.to_be_bytes());
    let length = u16::try_from(payload.len()).unwrap();
    payload[4..6].copy_from_slice(&length.to_be_bytes());
    wrap(source, destination, ipv4::UDP, &payload)
}

/// An echo request with `len` bytes of data.
pub fn echo(source: Ipv4Addr, destination: Ipv4Addr, len: usize) -> Vec<u8> {
    let mut message = vec![0; icmp::HEADER + len];
    let header = icmp::Header { kind: icmp::ECHO_REQUEST, code: 0, rest: [0, 7, 0, 1] };
    header.write(&vec![0; len], &mut message).unwrap();
    wrap(source, destination, ipv4::ICMP, &message)
}

/// The first packet of a TCP connection.
pub fn syn(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let mut segment = vec![0; tcp::HEADER];
    let header = tcp::Header {
        source_port: 40_000,
        destination_port: 1433,
        sequence: 1,
        acknowledgment: 0,
        flags: tcp::Flags::SYN,
    };
    header.write(source, destination, &mut segment).unwrap();
    wrap(source, destination, ipv4::TCP, &segment)
}

fn wrap(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = ipv4::Header::new(source, destination, protocol, payload.len());
    let mut packet = vec![0; header.total_len()];
    header.write(&mut packet).unwrap().copy_from_slice(payload);
    packet
}
