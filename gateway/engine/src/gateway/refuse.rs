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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::sample::{self, GATEWAY, NODE};
    use etherparse::TcpSlice;
    use proptest::prelude::*;

    const LISTENER: [u8; 4] = [172, 16, 8, 59];

    fn answer(offending: &[u8]) -> Option<Vec<u8>> {
        let mut out = [0; 40];
        let len = reset(&Ipv4::parse(offending).unwrap(), &mut out)?;
        Some(out[..len].to_vec())
    }

    #[test]
    fn a_connection_attempt_is_refused_at_once() {
        let bytes = answer(&sample::tcp(NODE, LISTENER, &[], |t| t.syn = true)).unwrap();
        let header = sample::header(&bytes);
        assert_eq!((header.source, header.destination, header.protocol.0), (LISTENER, NODE, 6));
        assert!(header.dont_fragment);
        let segment = TcpSlice::from_slice(&bytes[20..]).unwrap();
        assert_eq!((segment.source_port(), segment.destination_port()), (1433, 1000));
        assert!(segment.rst() && segment.ack() && !segment.syn());
        assert_eq!((segment.sequence_number(), segment.acknowledgment_number()), (0, 8));
        assert_eq!(segment.checksum(), segment.calc_checksum_ipv4(LISTENER, NODE).unwrap());
    }

    #[test]
    fn a_reset_is_never_answered() {
        assert_eq!(answer(&sample::tcp(NODE, LISTENER, &[], |t| t.rst = true)), None);
        let ours = answer(&sample::tcp(NODE, LISTENER, &[], |t| t.syn = true)).unwrap();
        assert_eq!(answer(&ours), None);
    }

    #[test]
    fn what_may_have_been_garbled_or_is_not_whole_is_not_answered() {
        let syn = sample::tcp(NODE, LISTENER, &[], |t| t.syn = true);
        let mut wrong = syn.clone();
        wrong[39] ^= 1;
        assert_eq!(answer(&wrong), None, "checksum");
        assert_eq!(answer(&sample::packet(NODE, LISTENER, 6, &syn[20..39], |_| ())), None, "too short");
        let first = sample::packet(NODE, LISTENER, 6, &syn[20..], |h| h.more_fragments = true);
        assert_eq!(answer(&first), None, "fragment");
        assert_eq!(answer(&sample::udp(NODE, LISTENER, b"x")), None, "UDP");
        let multicast = sample::tcp(NODE, [224, 0, 0, 1], &[], |t| t.syn = true);
        assert_eq!(answer(&multicast), None, "multicast");
        assert_eq!(answer(&sample::tcp(LISTENER, LISTENER, &[], |t| t.syn = true)), None, "to itself");
        assert_eq!(reset(&Ipv4::parse(&syn).unwrap(), &mut [0; 39]), None, "no room");
    }

    #[test]
    fn the_policy_chooses_the_answer() {
        let syn = sample::tcp(NODE, LISTENER, &[], |t| t.syn = true);
        let datagram = sample::udp(NODE, LISTENER, b"x");
        // Protocol and source of the answer.
        let answer = |policy, offending: &[u8], broadcast| {
            let mut out = [0; 576];
            let view = Ipv4::parse(offending).unwrap();
            refuse(policy, &view, GATEWAY.into(), 0, broadcast, &mut out)
                .map(|len| (sample::header(&out[..len]).protocol.0, sample::header(&out[..len]).source))
        };
        assert_eq!(answer(Refusal::Reset, &syn, false), Some((6, LISTENER)));
        assert_eq!(answer(Refusal::Reset, &datagram, false), Some((1, GATEWAY)));
        assert_eq!(answer(Refusal::Unreachable, &syn, false), Some((1, GATEWAY)));
        assert_eq!(answer(Refusal::Unreachable, &datagram, false), Some((1, GATEWAY)));
        assert_eq!(answer(Refusal::Silent, &syn, false), None);
        assert_eq!(answer(Refusal::Silent, &datagram, false), None);
        for policy in [Refusal::Reset, Refusal::Unreachable] {
            assert_eq!(answer(policy, &syn, true), None, "broadcast");
            assert_eq!(answer(policy, &datagram, true), None, "broadcast");
        }
    }

    proptest! {
        #[test]
        fn the_peer_accepts_the_reset(
            seq in any::<u32>(), ack in any::<u32>(), (syn, fin, acked, psh) in any::<(bool, bool, bool, bool)>(),
            data in proptest::collection::vec(any::<u8>(), 0..100), words in 0_usize..=10,
        ) {
            let offending = sample::tcp(NODE, LISTENER, &data, |t| {
                (t.sequence_number, t.acknowledgment_number) = (seq, ack);
                (t.syn, t.fin, t.ack, t.psh) = (syn, fin, acked, psh);
                t.set_options_raw(&vec![1; words * 4]).unwrap();
            });
            let bytes = answer(&offending).unwrap();
            sample::header(&bytes);
            let segment = TcpSlice::from_slice(&bytes[20..]).unwrap();
            prop_assert!(segment.rst() && !segment.syn() && !segment.fin());
            prop_assert_eq!(segment.checksum(), segment.calc_checksum_ipv4(LISTENER, NODE).unwrap());
            // RFC 9293 section 3.10.7.3 and 3.5.3: in SYN-SENT a reset counts when it acknowledges the SYN, later when its sequence
            // number is the one expected.
            if acked {
                prop_assert_eq!((segment.ack(), segment.sequence_number()), (false, ack));
            } else {
                let next = seq.wrapping_add(data.len() as u32 + u32::from(syn) + u32::from(fin));
                prop_assert_eq!((segment.ack(), segment.sequence_number(), segment.acknowledgment_number()), (true, 0, next));
            }
        }
    }
}
