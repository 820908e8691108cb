//! Super-packets from the host become the packets that they stand for (TCP segmentation and UDP segmentation offload),
//! with complete checksums: what leaves the machine through a tunnel has nobody behind it who would add them.

use overlay_engine::packet::{
    checksum::{Checksum, checksum},
    ipv4::{self, Ipv4},
};

use super::virtio::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_UDP_L4, NEEDS_CSUM, VirtioHeader, put, take};

const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// The cutting of one super-packet, under way. The packet's bytes are kept by the caller.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    kind: Kind,
    /// Bytes of the IP header, and of all headers.
    ip_len: usize,
    head_len: usize,
    /// Bytes of payload of each packet but the last.
    size: usize,
    /// Where the next packet's payload begins, and where the last one's ends.
    at: usize,
    end: usize,
    index: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Whole,
    Tcp,
    Udp,
}

impl Split {
    /// Begins with `packet`, before which `header` stood, and completes its checksum if it is not a super-packet.
    /// `None` when the two contradict each other, or for a kind of super-packet that nobody has asked for.
    #[must_use]
    pub fn new(header: VirtioHeader, packet: &mut [u8]) -> Option<Self> {
        let gso_type = header.gso_type & !GSO_ECN;
        if gso_type == GSO_NONE {
            if header.flags & NEEDS_CSUM != 0 {
                complete(packet, usize::from(header.csum_start), usize::from(header.csum_offset))?;
            }
            let end = packet.len();
            return Some(Self { kind: Kind::Whole, ip_len: 0, head_len: 0, size: end, at: 0, end, index: 0 });
        }
        let ip = Ipv4::parse(packet).ok()?;
        let (ip_len, end) = (ip.header().len(), ip.bytes().len());
        let (kind, head_len) = match (gso_type, ip.protocol()) {
            (GSO_TCPV4, ipv4::TCP) => {
                let words = ip.payload().get(12)? >> 4;
                (Kind::Tcp, ip_len + usize::from(words.max(5)) * 4)
            }
            (GSO_UDP_L4, ipv4::UDP) => (Kind::Udp, ip_len + 8),
            _ => return None,
        };
        let size = usize::from(header.gso_size);
        if ip.is_fragment() || size == 0 || head_len >= end {
            return None;
        }
        Some(Self { kind, ip_len, head_len, size, at: head_len, end, index: 0 })
    }

    /// The length in bytes of the next packet; `None` after the last.
    #[must_use]
    pub fn next_len(&self) -> Option<usize> {
        (self.at < self.end).then(|| self.head_len + self.size.min(self.end - self.at))
    }

    /// Writes the next packet of `packet`, which is the one that was begun with, to the start of `out` and returns its
    /// length; `None` after the last, or when `out` is shorter than [`Split::next_len`].
    pub fn write_next(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        let len = self.next_len()?;
        let out = out.get_mut(..len)?;
        let payload = packet.get(self.at..self.at + (len - self.head_len))?;
        let (head, body) = out.split_at_mut(self.head_len);
        head.copy_from_slice(packet.get(..self.head_len)?);
        if self.kind == Kind::Whole {
            body.copy_from_slice(payload);
        } else {
            let sum = copy_and_sum(payload, body);
            self.write_head(head, body.len(), sum);
        }
        self.at += payload.len();
        self.index = self.index.wrapping_add(1);
        Some(len)
    }

    /// Completes the headers in front of a payload of `body_len` bytes, whose sum is `sum`.
    fn write_head(&self, head: &mut [u8], body_len: usize, sum: Checksum) {
        // Never more than an IPv4 packet holds: the whole was one.
        let len_of = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
        let (ip, transport) = head.split_at_mut(self.ip_len);
        put(ip, 2, len_of(ip.len() + transport.len() + body_len).to_be_bytes());
        let identification = u16::from_be_bytes(take(ip, 4)).wrapping_add(self.index);
        put(ip, 4, identification.to_be_bytes());
        put(ip, 10, [0, 0]);
        put(ip, 10, checksum(ip).to_be_bytes());
        let (protocol, field) = match self.kind {
            Kind::Udp => {
                put(transport, 4, len_of(transport.len() + body_len).to_be_bytes());
                (ipv4::UDP, 6)
            }
            Kind::Tcp | Kind::Whole => {
                let behind = u32::try_from(self.at - self.head_len).unwrap_or(0);
                put(transport, 4, u32::from_be_bytes(take(transport, 4)).wrapping_add(behind).to_be_bytes());
                let [mut flags] = take(transport, 13);
                if self.at + body_len < self.end {
                    flags &= !FIN_PSH;
                }
                if self.at > self.head_len {
                    // RFC 3168 section 6.1.2: CWR once.
                    flags &= !CWR;
                }
                put(transport, 13, [flags]);
                (ipv4::TCP, 16)
            }
        };
        put(transport, field, [0, 0]);
        let length = len_of(transport.len() + body_len);
        // Behind the payload, whose last odd byte the sum has padded: the order of words does not matter (RFC 1071 section 2).
        let sum = sum
            .with_pseudo_header(take::<4>(ip, 12).into(), take::<4>(ip, 16).into(), protocol, length)
            .with(transport)
            .finish();
        // RFC 768: a UDP checksum that comes out as zero is sent as all ones.
        put(transport, field, if sum == 0 && protocol == ipv4::UDP { [0xff; 2] } else { sum.to_be_bytes() });
    }
}

/// Copies a payload and returns its sum: in one pass where the processor has AVX2, else in two, of which each is as quick as it can be
/// without.
fn copy_and_sum(from: &[u8], to: &mut [u8]) -> Checksum {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[target_feature(enable = "avx2")]
        fn wide(from: &[u8], to: &mut [u8]) -> Checksum {
            Checksum::new().with_copy(from, to)
        }
        #[allow(unsafe_code, reason = "a function for a kind of processor")]
        // SAFETY: the processor has the instructions.
        return unsafe { wide(from, to) };
    }
    to.copy_from_slice(from);
    Checksum::new().with(from)
}

/// Completes a checksum whose field holds the sum of the pseudo header.
fn complete(packet: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let covered = packet.get_mut(start..)?;
    covered.get(offset..offset + 2)?;
    let sum = checksum(covered);
    put(covered, offset, if sum == 0 { [0xff; 2] } else { sum.to_be_bytes() });
    Some(())
}
