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
            ipv4::TCP => self.limited(now, refuse::reset(packet, out)),
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
        self.limited(now, written)
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
        self.limited(now, written)
    }

    fn touches_broadcast(&self, packet: &Ipv4<'_>) -> bool {
        self.is_broadcast(packet.destination()) || self.is_broadcast(packet.source())
    }

    /// What has been written goes out when the limit allows it.
    fn limited(&mut self, now: Instant, written: Option<usize>) -> Answer {
        let Some(len) = written else { return Answer::Silent };
        if !self.errors.allow(now) {
            return Answer::Limited;
        }
        self.identification = self.identification.wrapping_add(1);
        Answer::Refused(len)
    }
}
