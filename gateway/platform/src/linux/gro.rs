//! Packets for the host that follow one another in one flow become one super-packet, which the host takes with one call
//! and cuts again only where it must (the reverse of [`super::gso`]).
//!
//! What is joined can be cut into exactly what it was, as the kernel's own GRO demands. Checksums are verified first:
//! the host takes a super-packet's for right without looking.

use overlay_engine::packet::{
    MAX_PACKET,
    checksum::{Checksum, checksum},
    ipv4,
};

use super::virtio::{GSO_TCPV4, GSO_UDP_L4, NEEDS_CSUM, VIRTIO_HEADER, VirtioHeader, put, take};

/// The most packets in one super-packet (the kernel's UDP_MAX_SEGMENTS; 46 full TCP segments are 64 KB).
pub const MAX_JOINED: usize = 64;

/// An IPv4 header without options, and the largest TCP header.
const IP: usize = 20;
const MAX_HEAD: usize = IP + 60;

const FIN_PSH: u8 = 0x09;
const ACK: u8 = 0x10;

/// The front of a super-packet: the virtio header and the packet's headers. The payloads follow from where they lie.
#[derive(Clone, Copy, Debug)]
pub struct Front {
    bytes: [u8; VIRTIO_HEADER + MAX_HEAD],
    len: usize,
}

impl Front {
    /// The bytes to write before the payloads.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// A packet that may be joined with others.
#[derive(Clone, Copy)]
struct Part<'a> {
    packet: &'a [u8],
    tcp: bool,
    head_len: usize,
}

impl<'a> Part<'a> {
    /// A whole IPv4 packet without options that carries TCP data with no flag but ACK, PSH and FIN, or UDP.
    fn parse(packet: &'a [u8], udp: bool) -> Option<Self> {
        let [version, _, high, low, _, _, flags, fragment, _, protocol] = packet.first_chunk::<10>()?;
        let whole = usize::from(u16::from_be_bytes([*high, *low])) == packet.len();
        // Neither the reserved bit nor "more fragments" nor an offset: only "don't fragment".
        if *version != 0x45 || !whole || flags & !0x40 != 0 || *fragment != 0 {
            return None;
        }
        let (tcp, head_len) = match *protocol {
            ipv4::TCP => {
                let [words, flags] = packet.get(IP + 12..)?.first_chunk()?;
                let head_len = IP + usize::from(words >> 4) * 4;
                if flags & !FIN_PSH != ACK || head_len < IP + 20 {
                    return None;
                }
                (true, head_len)
            }
            ipv4::UDP if udp => {
                let field: [u8; 2] = packet.get(IP + 4..)?.first_chunk().copied()?;
                if usize::from(u16::from_be_bytes(field)) != packet.len() - IP {
                    return None;
                }
                (false, IP + 8)
            }
            _ => return None,
        };
        (packet.len() > head_len).then_some(Self { packet, tcp, head_len })
    }

    fn payload_len(&self) -> usize {
        self.packet.len() - self.head_len
    }

    fn sequence(&self) -> u32 {
        u32::from_be_bytes(take(self.packet, IP + 4))
    }

    fn identification(&self) -> u16 {
        u16::from_be_bytes(take(self.packet, 4))
    }

    fn flags(&self) -> u8 {
        let [flags] = take(self.packet, IP + 13);
        flags
    }

    /// Whether `next` can follow `self`, `behind` bytes of payload after `first`.
    fn takes(&self, first: &Self, next: &Self, behind: usize) -> bool {
        let same = |from: usize, to: usize| first.packet.get(from..to) == next.packet.get(from..to);
        // Type of service; "don't fragment"; time to live and protocol; addresses and ports.
        let ip = first.tcp == next.tcp
            && first.head_len == next.head_len
            && same(1, 2)
            && same(6, 7)
            && same(8, 10)
            && same(12, IP + 4)
            && next.identification() == self.identification().wrapping_add(1);
        let sizes = self.payload_len() == first.payload_len() && next.payload_len() <= first.payload_len();
        if !ip || !sizes || !next.tcp {
            return ip && sizes;
        }
        // Acknowledgement and header length; window; urgent pointer and options.
        same(IP + 8, IP + 13)
            && same(IP + 14, IP + 16)
            && same(IP + 18, first.head_len)
            && self.flags() & FIN_PSH == 0
            && u32::try_from(behind).is_ok_and(|n| first.sequence().wrapping_add(n) == next.sequence())
    }

    fn checksums_ok(&self) -> bool {
        let (ip, transport) = self.packet.split_at(IP);
        if !self.tcp && take(transport, 6) == [0, 0] {
            return false;
        }
        checksum(ip) == 0 && self.pseudo(transport.len()).with(transport).finish() == 0
    }

    /// The sum of the pseudo header for `len` bytes.
    fn pseudo(&self, len: usize) -> Checksum {
        let protocol = if self.tcp { ipv4::TCP } else { ipv4::UDP };
        let (from, to) = (take::<4>(self.packet, 12), take::<4>(self.packet, 16));
        Checksum::new().with_pseudo_header(
            from.into(),
            to.into(),
            protocol,
            u16::try_from(len).unwrap_or(u16::MAX),
        )
    }
}

/// How many of `packets` the first super-packet holds, and its front; `None` when the first packet goes by itself.
/// `udp`: datagrams may be joined as well.
pub fn join<'a>(packets: impl Iterator<Item = &'a [u8]>, udp: bool) -> Option<(usize, Front)> {
    let mut parts = packets.take(MAX_JOINED).map_while(|packet| Part::parse(packet, udp));
    let first = parts.next()?;
    let (mut last, mut count, mut payload) = (first, 1, first.payload_len());
    for next in parts {
        let fits = first.head_len + payload + next.payload_len() <= MAX_PACKET;
        if !fits || !last.takes(&first, &next, payload) || !next.checksums_ok() {
            break;
        }
        if count == 1 && !first.checksums_ok() {
            return None;
        }
        (last, count, payload) = (next, count + 1, payload + next.payload_len());
    }
    (count > 1).then(|| (count, front(&first, &last, payload)))
}

/// Bytes of headers before a packet's payload, for one that [`join`] has joined.
pub fn payload<'a>(front: &Front, packet: &'a [u8]) -> &'a [u8] {
    packet.get(front.len - VIRTIO_HEADER..).unwrap_or_default()
}

fn front(first: &Part<'_>, last: &Part<'_>, payload: usize) -> Front {
    let word = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
    let transport = first.head_len - IP + payload;
    let header = VirtioHeader {
        flags: NEEDS_CSUM,
        gso_type: if first.tcp { GSO_TCPV4 } else { GSO_UDP_L4 },
        hdr_len: word(first.head_len),
        gso_size: word(first.payload_len()),
        csum_start: word(IP),
        csum_offset: if first.tcp { 16 } else { 6 },
    };
    let mut front = Front { bytes: [0; VIRTIO_HEADER + MAX_HEAD], len: VIRTIO_HEADER + first.head_len };
    put(&mut front.bytes, 0, header.bytes());
    if let (Some(to), Some(from)) =
        (front.bytes.get_mut(VIRTIO_HEADER..front.len), first.packet.get(..first.head_len))
    {
        to.copy_from_slice(from);
        put(to, 2, word(IP + transport).to_be_bytes());
        put(to, 10, [0, 0]);
        let sum = checksum(to.get(..IP).unwrap_or_default());
        put(to, 10, sum.to_be_bytes());
        // The sum of the pseudo header, not complemented: the host adds the rest if it must.
        let partial = (!first.pseudo(transport).finish()).to_be_bytes();
        if first.tcp {
            put(to, IP + 13, [first.flags() | last.flags() & FIN_PSH]);
            put(to, IP + 16, partial);
        } else {
            put(to, IP + 4, word(transport).to_be_bytes());
            put(to, IP + 6, partial);
        }
    }
    front
}

#[cfg(test)]
#[path = "offload_tests.rs"]
mod tests;
