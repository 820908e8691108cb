//! The synthetic gateway: the first address of a slot, which no host has and which overlay-gw answers for.
//!
//! [`Gateway`] answers packets for that address itself, and says why others cannot be delivered. Below it are pure functions, one
//! subject per file: a view of the offending packet in, the answer written into the caller's buffer. The time is an argument,
//! nothing is allocated, and no function sends: what was written goes back the way the packet came. In TAP mode the frames of
//! [`arp`] come before all this.

pub mod arp;
pub mod echo;
pub mod fragment;
pub mod icmp;
pub mod limit;
pub mod refuse;
#[cfg(test)]
mod sample;

use std::{net::Ipv4Addr, time::Instant};

use ipnet::Ipv4Net;

pub use arp::{ArpOutcome, ArpResponder, device_mac, gateway_mac};
pub use echo::EchoFragments;
pub use fragment::{FragmentError, fragment};
pub use icmp::{IcmpError, MAX_ERROR};
pub use limit::RateLimit;
pub use refuse::Refusal;

use crate::packet::ipv4::{self, Ipv4};

/// ICMP errors and resets a second. Linux sends as many errors by default (`net.ipv4.icmp_msgs_per_sec`).
pub const ERRORS_PER_SECOND: u32 = 1000;

/// ICMP errors and resets at once, after a rest: what one client with a hundred connections to a listener that just left needs.
pub const ERRORS_BURST: u32 = 200;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An echo reply, or a fragment of one, of so many bytes.
    Echo(usize),
    /// A reset or an ICMP error of so many bytes.
    Refused(usize),
    /// An error was due, and too many have been sent lately.
    Limited,
    /// It must not be answered, or nothing is to be said, or the buffer is too small.
    Silent,
}

impl Answer {
    /// How many bytes of the buffer are to be sent.
    #[must_use]
    pub fn written(self) -> Option<usize> {
        match self {
            Self::Echo(len) | Self::Refused(len) => Some(len),
            Self::Limited | Self::Silent => None,
        }
    }
}

/// The gateway of one slot. A buffer for its answers has room for [`crate::packet::MAX_PACKET`] bytes: an echo is as large as its request.
#[derive(Debug)]
pub struct Gateway {
    address: Ipv4Addr,
    overlay: Ipv4Net,
    slot: Ipv4Net,
    /// Of the next ICMP error.
    identification: u16,
    errors: RateLimit,
    /// "Fragmentation needed" has a bucket of its own: a storm of connections to a listener that is not there must not make a black
    /// hole for somebody else's large packets (RFC 1191 section 3).
    too_big: RateLimit,
    fragments: EchoFragments,
}

impl Gateway {
    /// The gateway of `slot`, at its first address.
    #[must_use]
    pub fn new(overlay: Ipv4Net, slot: Ipv4Net) -> Self {
        Self {
            address: slot.network(),
            overlay,
            slot,
            identification: 0,
            errors: RateLimit::new(ERRORS_PER_SECOND, ERRORS_BURST),
            too_big: RateLimit::new(ERRORS_PER_SECOND, ERRORS_BURST),
            fragments: EchoFragments::new(),
        }
    }

    /// The gateway's address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Whether an address is the broadcast address of a slot of the overlay, one's own or another's.
    #[must_use]
    pub fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        let host = u32::from(self.slot.hostmask());
        self.overlay.contains(&address) && u32::from(address) & host == host
    }

    /// Answers a packet for the gateway's own address: an echo request with a reply, as often as it is asked (RFC 1812 section 4.3.3.6);
    /// UDP with port unreachable (RFC 1122 section 4.1.3.1); TCP with a reset; every other protocol with protocol unreachable (RFC
    /// 1122 section 3.2.2.1). Other ICMP messages get nothing. A packet for another address gets nothing either.
    pub fn answer(&mut self, now: Instant, packet: &Ipv4<'_>, out: &mut [u8]) -> Answer {
        if packet.destination() != self.address || self.is_broadcast(packet.source()) {
            return Answer::Silent;
        }
        match packet.protocol() {
            ipv4::ICMP => {
                let reply = if packet.is_fragment() {
                    self.fragments.reflect(now, packet, out)
                } else {
                    icmp::echo_reply(packet, out)
                };
                reply.map_or(Answer::Silent, Answer::Echo)
            }
            ipv4::TCP => self.limited(now, None, refuse::reset(packet, out)),
            ipv4::UDP => self.error(now, IcmpError::PortUnreachable, packet, false, out),
            _ => self.error(now, IcmpError::ProtocolUnreachable, packet, false, out),
        }
    }

    /// An ICMP error from the gateway about a packet for anybody: see [`icmp::error`]. `link_broadcast` says that the packet came in
    /// a frame for everybody; broadcast addresses of slots are recognised here. Counts against the limit only when it is sent.
    pub fn error(
        &mut self,
        now: Instant,
        kind: IcmpError,
        offending: &Ipv4<'_>,
        link_broadcast: bool,
        out: &mut [u8],
    ) -> Answer {
        let is_broadcast = link_broadcast || self.touches_broadcast(offending);
        let written = icmp::error(kind, offending, self.address, self.identification, is_broadcast, out);
        self.limited(now, Some(kind), written)
    }

    /// Refuses a packet for an address that is not there: see [`refuse::refuse`]. `link_broadcast` as in [`Gateway::error`].
    pub fn refuse(
        &mut self,
        now: Instant,
        policy: Refusal,
        offending: &Ipv4<'_>,
        link_broadcast: bool,
        out: &mut [u8],
    ) -> Answer {
        let is_broadcast = link_broadcast || self.touches_broadcast(offending);
        let written = refuse::refuse(policy, offending, self.address, self.identification, is_broadcast, out);
        self.limited(now, None, written)
    }

    fn touches_broadcast(&self, packet: &Ipv4<'_>) -> bool {
        self.is_broadcast(packet.destination()) || self.is_broadcast(packet.source())
    }

    /// What has been written goes out when the limit allows it.
    fn limited(&mut self, now: Instant, kind: Option<IcmpError>, written: Option<usize>) -> Answer {
        let Some(len) = written else { return Answer::Silent };
        let limit = match kind {
            Some(IcmpError::FragmentationNeeded { .. }) => &mut self.too_big,
            _ => &mut self.errors,
        };
        if !limit.allow(now) {
            return Answer::Limited;
        }
        self.identification = self.identification.wrapping_add(1);
        Answer::Refused(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{MAX_PACKET, ipv4::decrement_ttl};
    use proptest::prelude::*;
    use sample::{GATEWAY, NODE};
    use std::time::Duration;

    fn gateway() -> Gateway {
        Gateway::new("172.16.8.0/24".parse().unwrap(), "172.16.8.56/29".parse().unwrap())
    }

    fn ask(gateway: &mut Gateway, now: Instant, packet: &[u8]) -> (Answer, Vec<u8>) {
        let mut out = vec![0; MAX_PACKET];
        let answer = gateway.answer(now, &Ipv4::parse(packet).unwrap(), &mut out);
        out.truncate(answer.written().unwrap_or(0));
        (answer, out)
    }

    #[test]
    fn each_protocol_gets_its_answer() {
        let (mut gateway, now) = (gateway(), Instant::now());
        let (answer, bytes) = ask(&mut gateway, now, &sample::echo(NODE, GATEWAY, false, 1, 2, b"x"));
        assert_eq!((answer, bytes[20]), (Answer::Echo(29), 0));
        let (answer, bytes) = ask(&mut gateway, now, &sample::udp(NODE, GATEWAY, b"x"));
        assert_eq!((answer, bytes[9], &bytes[20..22]), (Answer::Refused(57), 1, &[3, 3][..]));
        let (answer, bytes) = ask(&mut gateway, now, &sample::tcp(NODE, GATEWAY, &[], |t| t.syn = true));
        assert_eq!((answer, bytes[9]), (Answer::Refused(40), 6));
        let (answer, bytes) = ask(&mut gateway, now, &sample::packet(NODE, GATEWAY, 47, &[0; 8], |_| ()));
        assert_eq!((answer, bytes[9], &bytes[20..22]), (Answer::Refused(56), 1, &[3, 2][..]));
        for kind in (0..=255).filter(|kind| *kind != 8) {
            let message = sample::packet(NODE, GATEWAY, 1, &[kind, 0, 0, 0, 0, 0, 0, 0], |_| ());
            assert_eq!(ask(&mut gateway, now, &message).0, Answer::Silent, "ICMP type {kind}");
        }
    }

    #[test]
    fn a_packet_for_another_address_or_from_a_broadcast_address_gets_nothing() {
        let (mut gateway, now) = (gateway(), Instant::now());
        assert_eq!(ask(&mut gateway, now, &sample::udp(NODE, [172, 16, 8, 57], b"x")).0, Answer::Silent);
        for source in [[172, 16, 8, 63], [172, 16, 8, 71], [172, 16, 8, 255]] {
            assert_eq!(
                ask(&mut gateway, now, &sample::echo(source, GATEWAY, false, 1, 2, b"x")).0,
                Answer::Silent
            );
            assert_eq!(ask(&mut gateway, now, &sample::udp(source, GATEWAY, b"x")).0, Answer::Silent);
        }
    }

    #[test]
    fn a_fragmented_ping_is_answered_piece_by_piece() {
        let (mut gateway, now) = (gateway(), Instant::now());
        let request = sample::echo(NODE, GATEWAY, false, 1, 2, &[7; 5000]);
        let mut answers = Vec::new();
        fragment(&Ipv4::parse(&request).unwrap(), 1420, |header, payload| {
            let (answer, bytes) = ask(&mut gateway, now, &[header, payload].concat());
            answers.push(bytes);
            matches!(answer, Answer::Echo(_))
        })
        .unwrap();
        let reply = sample::echo(GATEWAY, NODE, true, 1, 2, &[7; 5000]);
        assert_eq!(sample::reassemble(&answers, 0), (reply[20..].to_vec(), false));
    }

    #[test]
    fn errors_and_resets_are_limited_and_echo_is_not() {
        let (mut gateway, now) = (gateway(), Instant::now());
        let (datagram, silent) = (sample::udp(NODE, GATEWAY, b"x"), sample::udp([240; 4], GATEWAY, b"x"));
        for _ in 0..1000 {
            assert_eq!(ask(&mut gateway, now, &silent).0, Answer::Silent);
        }
        let mut seen = std::collections::HashSet::new();
        for _ in 0..ERRORS_BURST {
            let (answer, bytes) = ask(&mut gateway, now, &datagram);
            assert_eq!(answer, Answer::Refused(57), "what is not answered does not count");
            assert!(
                seen.insert(sample::header(&bytes).identification),
                "each error has its own identification"
            );
        }
        assert_eq!(ask(&mut gateway, now, &datagram).0, Answer::Limited);
        let syn = sample::tcp(NODE, GATEWAY, &[], |t| t.syn = true);
        assert_eq!(ask(&mut gateway, now, &syn).0, Answer::Limited);
        for _ in 0..1000 {
            let (answer, _) = ask(&mut gateway, now, &sample::echo(NODE, GATEWAY, false, 1, 2, b"x"));
            assert_eq!(answer, Answer::Echo(29));
        }
        assert_eq!(ask(&mut gateway, now + Duration::from_millis(1), &datagram).0, Answer::Refused(57));
    }

    #[test]
    fn a_storm_of_refusals_leaves_path_mtu_discovery_alone() {
        let (mut gateway, now) = (gateway(), Instant::now());
        let syn = sample::tcp(NODE, [172, 16, 8, 59], &[], |t| t.syn = true);
        let syn = Ipv4::parse(&syn).unwrap();
        while gateway.refuse(now, Refusal::Reset, &syn, false, &mut [0; MAX_ERROR]) != Answer::Limited {}
        let mut too_big = || {
            let kind = IcmpError::FragmentationNeeded { mtu: 1420 };
            gateway.error(now, kind, &syn, false, &mut [0; MAX_ERROR])
        };
        for _ in 0..ERRORS_BURST {
            assert_eq!(too_big(), Answer::Refused(68));
        }
        assert_eq!(too_big(), Answer::Limited);
    }

    #[test]
    fn a_directed_broadcast_is_not_refused() {
        let (mut gateway, now) = (gateway(), Instant::now());
        let mut refuse = |last, link| {
            let packet = sample::udp(NODE, [172, 16, 8, last], b"x");
            let view = Ipv4::parse(&packet).unwrap();
            let refused = gateway.refuse(now, Refusal::Reset, &view, link, &mut [0; MAX_ERROR]);
            let error = gateway.error(now, IcmpError::NetUnreachable, &view, link, &mut [0; MAX_ERROR]);
            assert_eq!(refused, error);
            refused
        };
        assert_eq!(refuse(59, false), Answer::Refused(57));
        assert_eq!(refuse(59, true), Answer::Silent);
        assert_eq!(refuse(63, false), Answer::Silent);
        assert_eq!(refuse(71, false), Answer::Silent);
    }

    proptest! {
        /// Half of the packets have right lengths and checksums, so that what is random lies deeper.
        #[test]
        fn arbitrary_bytes_never_panic_and_answers_are_valid(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..700), shape in 0_u8..4, room in prop_oneof![Just(MAX_PACKET), 0_usize..100],
            protocol in prop_oneof![Just(1_u8), Just(6), Just(17), any::<u8>()], mtu in any::<u16>(), flags in any::<u16>(),
        ) {
            if shape > 0 && bytes.len() >= 60 {
                bytes[0] = if shape == 1 { 0x45 } else { 0x45 + bytes[0] % 11 };
                let len = bytes.len() as u16;
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
                bytes[6..8].copy_from_slice(&(flags & if shape == 2 { 0x3f } else { 0x4000 }).to_be_bytes());
                if shape == 3 {
                    bytes[6] |= 0x20;
                }
                bytes[9] = protocol;
                bytes[12..16].copy_from_slice(&NODE);
                bytes[16..20].copy_from_slice(&GATEWAY);
                let header = usize::from(bytes[0] & 0xf) * 4;
                crate::packet::ipv4::set_header_checksum(&mut bytes[..header]);
                if protocol == 1 && bytes.len() > header + 8 && mtu % 2 == 0 {
                    bytes[header] = 8;
                    bytes[header + 1] = 0;
                }
            }
            let (mut gateway, now) = (gateway(), Instant::now());
            let mut out = vec![0; room];
            let responder = ArpResponder::new(GATEWAY.into(), crate::packet::ethernet::MacAddr([2; 6]), "172.16.8.56/29".parse().unwrap());
            responder.answer(&bytes, &mut out);
            if let Ok(view) = Ipv4::parse(&bytes) {
                let mut answers = vec![(gateway.answer(now, &view, &mut out).written(), out.clone())];
                let mut also = |len: Option<usize>, out: &[u8]| answers.push((len, out.to_vec()));
                also(icmp::error(IcmpError::FragmentationNeeded { mtu }, &view, GATEWAY.into(), flags, false, &mut out), &out);
                also(refuse::refuse(Refusal::Reset, &view, GATEWAY.into(), flags, false, &mut out), &out);
                also(icmp::echo_reply(&view, &mut out), &out);
                also(refuse::reset(&view, &mut out), &out);
                also(EchoFragments::new().reflect(now, &view, &mut out), &out);
                for (len, out) in answers {
                    if let Some(len) = len {
                        let header = sample::header(&out[..len]);
                        prop_assert_eq!(Ipv4Addr::from(header.destination), view.source());
                        prop_assert!(len <= view.bytes().len() + 28 || len <= 40);
                    }
                }
                let _ = fragment(&view, mtu, |header, payload| {
                    let piece = [header, payload].concat();
                    assert!(piece.len() <= usize::from(mtu));
                    assert_eq!(Ipv4::parse(&piece).unwrap().bytes().len(), piece.len());
                    true
                });
            }
            decrement_ttl(&mut bytes);
        }
    }
}
