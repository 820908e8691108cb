//! Packets made by hand, sent from a raw socket, and an ear for ICMP: for what no well-behaved program sends.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::node::Node;

/// An IPv4 packet (RFC 791) in the making. The kernel fills in total length and header checksum.
#[derive(Clone, Debug)]
pub struct Packet {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    /// Flags and fragment offset as they stand in the header.
    fragment: u16,
    ttl: u8,
    payload: Vec<u8>,
}

impl Packet {
    /// A UDP datagram; checksum 0, which says that there is none (RFC 768).
    ///
    /// # Panics
    /// When the payload is longer than a datagram can be.
    #[must_use]
    pub fn udp(source: Ipv4Addr, destination: Ipv4Addr, port: u16, payload: &[u8]) -> Self {
        let mut bytes = Vec::new();
        bytes.extend(40_000_u16.to_be_bytes());
        bytes.extend(port.to_be_bytes());
        bytes.extend(u16::try_from(payload.len() + 8).unwrap().to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(payload);
        Self { source, destination, protocol: 17, fragment: 0, ttl: 64, payload: bytes }
    }

    /// An ICMP message (RFC 792) with its checksum; `rest` is what follows the checksum, 4 bytes at least.
    #[must_use]
    pub fn icmp(source: Ipv4Addr, destination: Ipv4Addr, kind: u8, code: u8, rest: &[u8]) -> Self {
        let mut bytes = vec![kind, code, 0, 0];
        bytes.extend(rest);
        let sum = checksum(&bytes);
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        Self { source, destination, protocol: 1, fragment: 0, ttl: 64, payload: bytes }
    }

    /// The same packet as a fragment that begins at `offset` (a multiple of 8), with more to follow or not.
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.fragment = (offset / 8) | if more { 0x2000 } else { 0 };
        self
    }

    /// The same packet with that time to live.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 0, 0x12, 0x34];
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([self.ttl, self.protocol, 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(&self.payload);
        bytes
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// A raw socket that sends whole packets out of one device, whatever their source.
pub struct Forger(Socket);

impl Forger {
    /// Opens it in a node.
    ///
    /// # Panics
    /// When the socket cannot be made.
    #[must_use]
    #[track_caller]
    pub fn new(node: &Node, device: &str) -> Self {
        node.inside(|| {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))
                .expect("a raw socket");
            socket.set_header_included_v4(true).expect("IP_HDRINCL");
            socket.set_broadcast(true).expect("SO_BROADCAST");
            socket.bind_device(Some(device.as_bytes())).expect("SO_BINDTODEVICE");
            Self(socket)
        })
    }

    /// Sends a packet.
    ///
    /// # Panics
    /// When the kernel does not take it.
    #[track_caller]
    pub fn send(&self, packet: &Packet) {
        let to = SocketAddrV4::new(packet.destination, 0);
        self.0
            .send_to(&packet.bytes(), &to.into())
            .unwrap_or_else(|error| panic!("sending {packet:?}: {error}"));
    }
}

/// An ICMP message that a node received.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Who sent it.
    pub from: Ipv4Addr,
    /// The address to which it was sent.
    pub to: Ipv4Addr,
    /// Its type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// The next-hop MTU of a fragmentation needed (RFC 1191).
    pub mtu: u16,
    /// What follows the 8 bytes of its header: for an error, the packet that it quotes.
    pub quote: Vec<u8>,
}

impl Heard {
    /// The destination of the packet that an error quotes.
    #[must_use]
    pub fn quoted_destination(&self) -> Option<Ipv4Addr> {
        let octets: [u8; 4] = self.quote.get(16..20)?.try_into().ok()?;
        Some(octets.into())
    }
}

/// Hears every ICMP message that a node receives, from the moment it is made.
pub struct Ear(Socket);

impl Ear {
    /// Opens it in a node.
    ///
    /// # Panics
    /// When the socket cannot be made.
    #[must_use]
    #[track_caller]
    pub fn new(node: &Node) -> Self {
        node.inside(|| {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).expect("a raw socket");
            socket.set_recv_buffer_size(4 << 20).expect("SO_RCVBUF");
            Self(socket)
        })
    }

    /// The next message for which `wanted` holds, if one comes within `limit`.
    #[must_use]
    pub fn hear(&self, limit: Duration, wanted: impl Fn(&Heard) -> bool) -> Option<Heard> {
        let end = Instant::now() + limit;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            match self.next(left) {
                Ok(Some(heard)) if wanted(&heard) => return Some(heard),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// All messages for which `wanted` holds, until none has come for `quiet`.
    #[must_use]
    pub fn hear_all(&self, quiet: Duration, wanted: impl Fn(&Heard) -> bool) -> Vec<Heard> {
        let mut all = Vec::new();
        while let Some(heard) = self.hear(quiet, &wanted) {
            all.push(heard);
        }
        all
    }

    fn next(&self, limit: Duration) -> io::Result<Option<Heard>> {
        self.0.set_read_timeout(Some(limit.max(Duration::from_millis(1))))?;
        let mut buffer = [MaybeUninit::<u8>::uninit(); 65536];
        let length = self.0.recv(&mut buffer)?;
        // SAFETY: recv has written the first `length` bytes.
        #[allow(unsafe_code, reason = "socket2 receives into uninitialised memory")]
        let bytes: Vec<u8> = buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        Ok(parse(&bytes))
    }
}

fn parse(bytes: &[u8]) -> Option<Heard> {
    let header = usize::from(bytes.first()? & 15) * 4;
    let icmp = bytes.get(header..)?;
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
    Some(Heard {
        from: address(12)?,
        to: address(16)?,
        kind: *icmp.first()?,
        code: *icmp.get(1)?,
        mtu: u16::from_be_bytes(icmp.get(6..8)?.try_into().ok()?),
        quote: icmp.get(8..)?.to_vec(),
    })
}
