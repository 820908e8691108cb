//! A prompt "no" instead of a timeout: a reset for TCP, host unreachable for the rest.
//!
//! A client that tries an offline listener waits 21 seconds when nobody answers, and not at all when somebody refuses.

use std::net::Ipv4Addr;

use super::icmp::{IcmpError, error, may_be_answered};
use crate::packet::{
    ipv4::{self, Ipv4},
    tcp::{self, Flags, Tcp},
};

/// How packets for an address that is not there are refused (`overlay.refuse` of the config file).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refusal {
    /// A TCP reset, and host unreachable for all else.
    #[default]
    Reset,
    /// Host unreachable.
    Unreachable,
    /// Nothing.
    Silent,
}

/// Refuses `offending` as `policy` says, into `out`. The length in bytes. `None` when nothing is to be said: the policy is silent, or
/// the packet must not be answered. Under [`Refusal::Reset`] a TCP packet that cannot be reset (see [`reset`]) gets nothing.
///
/// A reset comes from the address that was tried; host unreachable from `gateway`, with the arguments of [`error`].
pub fn refuse(
    policy: Refusal,
    offending: &Ipv4<'_>,
    gateway: Ipv4Addr,
    identification: u16,
    is_broadcast: bool,
    out: &mut [u8],
) -> Option<usize> {
    match policy {
        Refusal::Silent => None,
        // RFC 1122 section 4.2.3.10: a SYN for a broadcast or multicast address is discarded without a word.
        Refusal::Reset if offending.protocol() == ipv4::TCP && is_broadcast => None,
        Refusal::Reset if offending.protocol() == ipv4::TCP => reset(offending, out),
        Refusal::Reset | Refusal::Unreachable => {
            error(IcmpError::HostUnreachable, offending, gateway, identification, is_broadcast, out)
        }
    }
}

/// Writes the reset that a TCP segment for a closed port gets into `out` (RFC 9293 section 3.10.7.1), from the segment's destination to
/// its source. The length in bytes, always 40.
///
/// `None` for what is not TCP, for a reset, for every fragment (the first one too: its checksum cannot be verified), for a segment
/// whose checksum is wrong, and when either address does not name a single host (RFC 1122 section 4.2.3.10).
pub fn reset(offending: &Ipv4<'_>, out: &mut [u8]) -> Option<usize> {
    if offending.protocol() != ipv4::TCP || offending.is_fragment() || !may_be_answered(offending) {
        return None;
    }
    let segment = Tcp::parse(offending.payload()).ok()?;
    let flags = segment.flags();
    if flags.contains(Flags::RST) || !segment.checksum_ok(offending.source(), offending.destination()) {
        return None;
    }
    // <SEQ=SEG.ACK><CTL=RST>, or <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>.
    let (sequence, acknowledgment, flags) = if flags.contains(Flags::ACK) {
        (segment.acknowledgment(), 0, Flags::RST)
    } else {
        (0, segment.sequence().wrapping_add(segment.sequence_len()), Flags::RST.with(Flags::ACK))
    };
    let answer = tcp::Header {
        source_port: segment.destination_port(),
        destination_port: segment.source_port(),
        sequence,
        acknowledgment,
        flags,
    };
    // Never fragmented, so its identification may be anything (RFC 6864 section 4.1).
    let header = ipv4::Header {
        dont_fragment: true,
        ..ipv4::Header::new(offending.destination(), offending.source(), ipv4::TCP, tcp::HEADER)
    };
    answer.write(header.source, header.destination, header.write(out)?)?;
    Some(header.total_len())
}
