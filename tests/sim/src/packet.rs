//! What hosts send and receive, made and read here without the engine's codecs.
//!
//! A probe is a UDP datagram, a TCP SYN or a ping that carries a marker, its number and a filling that follows from the
//! number. Whoever sees the marker in clear sees plaintext; whoever receives a probe can tell whether it is whole.

use std::net::Ipv4Addr;

/// In the clear in every probe, and never on the underlay.
pub const MARKER: &[u8; 8] = b"PLAINTXT";

/// Bytes in front of a probe's filling: the marker and its number.
const HEAD: usize = 16;

/// What kind of packet a probe is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Udp,
    Syn,
    Ping,
}

fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut total = start;
    for pair in bytes.chunks(2) {
        total += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

fn pseudo(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: usize) -> u32 {
    let halves = |ip: Ipv4Addr| {
        let [a, b, c, d] = ip.octets();
        u32::from(u16::from_be_bytes([a, b])) + u32::from(u16::from_be_bytes([c, d]))
    };
    halves(source) + halves(destination) + u32::from(protocol) + len as u32
}

/// The port that a probe comes from: answers name it.
pub fn port(id: u64) -> u16 {
    (1024 + id % 60_000) as u16
}

fn filling(id: u64, size: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(size.max(HEAD));
    body.extend_from_slice(MARKER);
    body.extend_from_slice(&id.to_be_bytes());
    body.extend((HEAD..size).map(|n| (id as u8).wrapping_mul(31).wrapping_add(n as u8)));
    body
}

/// The probe with this number; `size` bytes of payload, at least 16.
pub fn probe(kind: Kind, id: u64, source: Ipv4Addr, destination: Ipv4Addr, size: usize) -> Vec<u8> {
    let body = filling(id, size);
    let mut payload = match kind {
        Kind::Udp => {
            let len = (body.len() + 8) as u16;
            [&port(id).to_be_bytes()[..], &3343_u16.to_be_bytes(), &len.to_be_bytes(), &[0, 0]].concat()
        }
        Kind::Syn => {
            let ports = [port(id).to_be_bytes(), 1433_u16.to_be_bytes()].concat();
            [&ports[..], &(id as u32).to_be_bytes(), &[0; 4], &[0x50, 2, 0xff, 0xff, 0, 0, 0, 0]].concat()
        }
        Kind::Ping => [&[8, 0, 0, 0][..], &port(id).to_be_bytes(), &[0, 1]].concat(),
    };
    payload.extend(body);
    let (protocol, checksum_at) = match kind {
        Kind::Udp => (17, 6),
        Kind::Syn => (6, 16),
        Kind::Ping => (1, 2),
    };
    let start = if kind == Kind::Ping { 0 } else { pseudo(source, destination, protocol, payload.len()) };
    let checksum = sum(&payload, start);
    payload[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
    let total = (payload.len() + 20) as u16;
    let mut header = vec![0x45, 0];
    header.extend_from_slice(&total.to_be_bytes());
    header.extend_from_slice(&[id as u8, (id >> 8) as u8, 0, 0, 64, protocol, 0, 0]);
    header.extend_from_slice(&source.octets());
    header.extend_from_slice(&destination.octets());
    let checksum = sum(&header, 0);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    [header, payload].concat()
}

/// What came out of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A probe, whole.
    Probe { id: u64, source: Ipv4Addr, destination: Ipv4Addr },
    /// A ping's answer.
    Echo { id: u64, source: Ipv4Addr, destination: Ipv4Addr },
    /// "Nobody there", about the packet from this port: a reset or an ICMP error.
    Refusal { from: Ipv4Addr, to: Ipv4Addr, about: Ipv4Addr, port: u16 },
    /// Something else, which nobody sent.
    Strange(String),
}

/// Reads what came out of a tunnel.
pub fn read(packet: &[u8]) -> Seen {
    let strange = |why: &str| Seen::Strange(format!("{why}: {packet:02x?}"));
    if packet.len() < 28 || packet[0] != 0x45 || sum(&packet[..20], 0) != 0 {
        return strange("no good IPv4 header");
    }
    let address = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let (source, destination) = (address(12), address(16));
    if usize::from(word(2)) != packet.len() {
        return strange("its length is wrong");
    }
    let (protocol, payload) = (packet[9], &packet[20..]);
    let start = if protocol == 1 { 0 } else { pseudo(source, destination, protocol, payload.len()) };
    if sum(payload, start) != 0 {
        return strange("its checksum is wrong");
    }
    let body = |at: usize| -> Option<u64> {
        let body = payload.get(at..)?;
        let id = u64::from_be_bytes(body.get(8..HEAD)?.try_into().ok()?);
        (filling(id, body.len()) == body).then_some(id)
    };
    match (protocol, payload[0]) {
        (17, _) => body(8).map_or_else(|| strange("altered"), |id| Seen::Probe { id, source, destination }),
        (1, 8) => body(8).map_or_else(|| strange("altered"), |id| Seen::Probe { id, source, destination }),
        (1, 0) => body(8).map_or_else(|| strange("altered"), |id| Seen::Echo { id, source, destination }),
        (1, 3 | 11) if payload.len() >= 36 => {
            // The packet that it is about begins at 28; a ping has its number where others have a checksum.
            let port = if packet[37] == 1 { word(52) } else { word(48) };
            Seen::Refusal { from: source, to: destination, about: address(44), port }
        }
        (6, _) if payload.len() >= 20 && payload[13] & 4 != 0 => {
            Seen::Refusal { from: source, to: destination, about: source, port: word(22) }
        }
        (6, _) if payload.len() >= 20 => {
            body(20).map_or_else(|| strange("altered"), |id| Seen::Probe { id, source, destination })
        }
        _ => strange("of no kind that is sent here"),
    }
}

/// Most packets whose fragments a host holds.
const HELD: usize = 64;

/// A host's reassembly (RFC 791 section 3.2): what a gateway has cut comes together again.
#[derive(Debug, Default)]
pub struct Reassembly {
    /// By the first bytes of the header that all fragments share: identification, protocol, addresses.
    parts: Vec<([u8; 11], Vec<Vec<u8>>)>,
}

impl Reassembly {
    /// Takes a packet: gives it back when it is whole, or what it was the last missing fragment of.
    pub fn take(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let flags = packet.get(6..8).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
        if packet.len() < 20 || flags & 0x3fff == 0 {
            return Some(packet.to_vec());
        }
        let mut key = [0; 11];
        key[..2].copy_from_slice(&packet[4..6]);
        key[2] = packet[9];
        key[3..].copy_from_slice(&packet[12..20]);
        let place = self.parts.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            if self.parts.len() >= HELD {
                self.parts.remove(0);
            }
            self.parts.push((key, Vec::new()));
            self.parts.len() - 1
        });
        let parts = &mut self.parts[place].1;
        parts.push(packet.to_vec());
        let whole = join(parts)?;
        self.parts.remove(place);
        Some(whole)
    }
}

/// The packet that these are all the fragments of.
fn join(parts: &[Vec<u8>]) -> Option<Vec<u8>> {
    let word = |part: &[u8], at: usize| u16::from_be_bytes([part[at], part[at + 1]]);
    let offset = |part: &[u8]| usize::from(word(part, 6) & 0x1fff) * 8;
    let last = parts.iter().find(|part| word(part, 6) & 0x2000 == 0)?;
    let total = offset(last) + last.len() - 20;
    let (mut body, mut filled) = (vec![0; total], vec![false; total]);
    for part in parts {
        let at = offset(part);
        body.get_mut(at..at + part.len() - 20)?.copy_from_slice(&part[20..]);
        filled[at..at + part.len() - 20].fill(true);
    }
    if !filled.iter().all(|filled| *filled) {
        return None;
    }
    let first = parts.iter().find(|part| offset(part) == 0)?;
    let mut packet = [&first[..20], &body].concat();
    packet[2..4].copy_from_slice(&((total + 20) as u16).to_be_bytes());
    packet[6..8].fill(0);
    packet[10..12].fill(0);
    let checksum = sum(&packet[..20], 0);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    Some(packet)
}

/// Whether `bytes` hold plaintext.
pub fn shows_plaintext(bytes: &[u8]) -> bool {
    bytes.windows(MARKER.len()).any(|window| window == MARKER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_read_as_it_was_made_and_one_changed_byte_is_noticed() {
        let [a, b] = [Ipv4Addr::new(172, 16, 8, 57), Ipv4Addr::new(172, 16, 8, 65)];
        for kind in [Kind::Udp, Kind::Syn, Kind::Ping] {
            let made = probe(kind, 123_456, a, b, 100);
            assert_eq!(read(&made), Seen::Probe { id: 123_456, source: a, destination: b }, "{kind:?}");
            assert!(shows_plaintext(&made));
            let mut host = Reassembly::default();
            assert_eq!(host.take(&made), Some(made.clone()));
            let (head, body) = made.split_at(20);
            let cut = |from: usize, to: usize| {
                let more = if to < body.len() { 0x20 } else { 0 };
                let mut part = [head, &body[from..to]].concat();
                part[2..4].copy_from_slice(&((to - from + 20) as u16).to_be_bytes());
                part[6..8].copy_from_slice(&[more, (from / 8) as u8]);
                part
            };
            assert_eq!(host.take(&cut(48, body.len())), None);
            assert_eq!(host.take(&cut(0, 24)), None);
            assert_eq!(host.take(&cut(24, 48)).as_deref().map(read), Some(read(&made)));
            for at in 0..made.len() {
                let mut other = made.clone();
                other[at] ^= 1;
                assert!(matches!(read(&other), Seen::Strange(_)), "{kind:?}, byte {at}");
            }
        }
    }
}
