//! Labels: the upper 24 bits of a receiver index, which the other side of a session writes in clear into every message of
//! type 2, 3 and 4 (WireGuard paper, sections 5.4.3 to 5.4.6). A hub reads them to forward what it cannot open.
//!
//! ```text
//! bit 23  1: a session of the hub itself; 23 bits say with which member
//!         0: 13 bits ordinal of the node's slot, 10 bits local number, given on demand by the node
//! ```
//!
//! boringtun counts its sessions in the lower eight bits of the index.

use crate::peer::PeerIndex;
use ipnet::Ipv4Net;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Set in the labels of a hub's own sessions.
const HUB_BIT: u32 = 1 << 23;

/// Bits for the local number of a node's session.
const LOCAL_BITS: u32 = 10;

/// How many sessions a node can have at a time.
pub const LOCALS: usize = 1 << LOCAL_BITS;

/// How long a local number rests before it is given again: no session outlives 180 s (Reject-After-Time, the paper's
/// section 6.1), and what was meant for the old one must not reach the new one.
pub const QUARANTINE: Duration = Duration::from_secs(240);

/// The upper 24 bits of a receiver index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Label(u32);

/// Whose session a label names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The hub that reads it: its session with this peer.
    Hub(PeerIndex),
    /// A node: the ordinal of its slot, and its number for the session.
    Node {
        /// Of the slot, counted from the overlay's first.
        ordinal: u16,
        /// Known to the node alone.
        local: u16,
    },
}

impl Label {
    /// The label of a hub's session with its peer at `index` (23 bits count).
    #[must_use]
    pub fn hub(index: PeerIndex) -> Self {
        Self(HUB_BIT | index & (HUB_BIT - 1))
    }

    /// The label of a node's session. 13 bits of `ordinal` count and 10 of `local`.
    #[must_use]
    pub fn node(ordinal: u16, local: u16) -> Self {
        let local = u32::from(local) & (LOCALS as u32 - 1);
        Self((u32::from(ordinal) << LOCAL_BITS | local) & (HUB_BIT - 1))
    }

    /// The label of a receiver index.
    #[must_use]
    pub fn of(receiver: u32) -> Self {
        Self(receiver >> 8)
    }

    /// The 24 bits: what boringtun takes as a tunnel's index.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Whose session it names.
    #[must_use]
    pub fn holder(self) -> Holder {
        if self.0 & HUB_BIT != 0 {
            return Holder::Hub(self.0 & (HUB_BIT - 1));
        }
        Holder::Node { ordinal: (self.0 >> LOCAL_BITS) as u16, local: (self.0 & (LOCALS as u32 - 1)) as u16 }
    }
}

/// The receiver index of a message of type 2, 3 or 4 that has the length of one.
#[must_use]
pub fn receiver(datagram: &[u8]) -> Option<u32> {
    let index = match datagram {
        [4, 0, 0, 0, a, b, c, d, ..] if datagram.len() >= 32 => [*a, *b, *c, *d],
        [2, 0, 0, 0, _, _, _, _, a, b, c, d, ..] if datagram.len() == 92 => [*a, *b, *c, *d],
        [3, 0, 0, 0, a, b, c, d, ..] if datagram.len() == 64 => [*a, *b, *c, *d],
        _ => return None,
    };
    Some(u32::from_le_bytes(index))
}

/// Which slot of the overlay `slot` is, counted from the first; `None` when it is none, or beyond the 13 bits.
#[must_use]
pub fn ordinal(overlay: Ipv4Net, slot_prefix: u8, slot: Ipv4Net) -> Option<u16> {
    if !overlay.contains(&slot.network()) || slot.prefix_len() != slot_prefix {
        return None;
    }
    let offset = u32::from(slot.network()) - u32::from(overlay.network());
    let ordinal = offset.checked_shr(32 - u32::from(slot_prefix))?;
    u16::try_from(ordinal).ok().filter(|ordinal| *ordinal < 1 << 13)
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It carries packets.
    Carries,
    /// It only tries direct paths.
    Tries,
}

/// A node's local numbers: which session each one names.
#[derive(Debug)]
pub struct Labels {
    /// 0: nobody's; else twice the peer's index plus 2, and 1 more for a session that tries direct paths.
    holders: Box<[AtomicU32]>,
    /// Free numbers, the longest unused first, each with the time from which it may be given.
    free: Mutex<VecDeque<(u16, Option<Instant>)>>,
}

impl Default for Labels {
    fn default() -> Self {
        Self {
            holders: (0..LOCALS).map(|_| AtomicU32::new(0)).collect(),
            free: Mutex::new((0..LOCALS as u16).map(|local| (local, None)).collect()),
        }
    }
}

impl Labels {
    /// Gives a number to a session; `None` while all are taken or resting.
    pub fn give(&self, now: Instant, peer: PeerIndex, purpose: Use) -> Option<u16> {
        let mut free = self.free.lock();
        let (local, _) = free.pop_front_if(|(_, from)| from.is_none_or(|from| from <= now))?;
        if let Some(holder) = self.holders.get(usize::from(local)) {
            holder.store((peer << 1) + 2 + u32::from(purpose == Use::Tries), Relaxed);
        }
        Some(local)
    }

    /// Takes a number back.
    pub fn take_back(&self, now: Instant, local: u16) {
        if let Some(holder) = self.holders.get(usize::from(local))
            && holder.swap(0, Relaxed) != 0
        {
            self.free.lock().push_back((local, Some(now + QUARANTINE)));
        }
    }

    /// Whose number it is.
    #[must_use]
    pub fn holder(&self, local: u16) -> Option<(PeerIndex, Use)> {
        let holder = self.holders.get(usize::from(local))?.load(Relaxed).checked_sub(2)?;
        Some((holder >> 1, if holder & 1 == 0 { Use::Carries } else { Use::Tries }))
    }

    /// How many numbers can be given now or later, without one being taken back.
    #[must_use]
    pub fn left(&self) -> usize {
        self.free.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_label_says_whose_it_is(ordinal in 0_u16..1 << 13, local in 0_u16..1 << 10, index in 0_u32..1 << 23, low: u8) {
            let node = Label::node(ordinal, local);
            prop_assert!(node.bits() < 1 << 24);
            prop_assert_eq!(Label::of(node.bits() << 8 | u32::from(low)).holder(), Holder::Node { ordinal, local });
            let hub = Label::hub(index);
            prop_assert!(hub.bits() < 1 << 24);
            prop_assert_eq!(Label::of(hub.bits() << 8 | u32::from(low)).holder(), Holder::Hub(index));
        }

        #[test]
        fn only_messages_with_a_receiver_have_one(bytes in prop::collection::vec(0_u8..6, 0..100)) {
            if let Some(receiver) = receiver(&bytes) {
                prop_assert!((2..=4).contains(&bytes[0]));
                let at = if bytes[0] == 2 { 8 } else { 4 };
                prop_assert_eq!(&bytes[at..at + 4], receiver.to_le_bytes());
            }
        }
    }

    #[test]
    fn slots_are_counted_from_the_first_of_the_overlay() {
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        let overlay = net("172.16.8.0/24");
        assert_eq!(ordinal(overlay, 29, net("172.16.8.0/29")), Some(0));
        assert_eq!(ordinal(overlay, 29, net("172.16.8.56/29")), Some(7));
        assert_eq!(ordinal(overlay, 29, net("172.16.9.0/29")), None, "outside");
        assert_eq!(ordinal(overlay, 29, net("172.16.8.0/28")), None, "no slot");
        assert_eq!(
            ordinal(net("10.0.0.0/16"), 29, net("10.0.255.248/29")),
            Some(8191),
            "the last that there may be"
        );
        assert_eq!(ordinal(net("10.0.0.0/15"), 29, net("10.1.0.0/29")), None, "beyond the 13 bits");
        assert_eq!(ordinal(net("0.0.0.0/0"), 24, net("0.0.1.0/24")), Some(1));
    }

    #[test]
    fn a_number_rests_before_it_is_given_again() {
        let (labels, now) = (Labels::default(), Instant::now());
        for n in 0..LOCALS {
            let local = labels.give(now, n as u32, Use::Carries).unwrap();
            assert_eq!(labels.holder(local), Some((n as u32, Use::Carries)));
        }
        assert_eq!(labels.give(now, 1, Use::Carries), None, "all are taken");
        labels.take_back(now, 7);
        labels.take_back(now, 7);
        assert_eq!((labels.holder(7), labels.left()), (None, 1));
        let later = now + QUARANTINE;
        assert_eq!(labels.give(later - Duration::from_millis(1), 5, Use::Tries), None);
        assert_eq!(labels.give(later, 5, Use::Tries), Some(7));
        assert_eq!(labels.holder(7), Some((5, Use::Tries)));
    }
}
