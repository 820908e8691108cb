//! What the engine tells its owner: changes that a person, or the daemon, wants to know of.

use crate::claim::Conflict;
use parking_lot::Mutex;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};

/// Events that wait to be polled; beyond that the oldest go.
const MOST: usize = 1024;

/// What peers say of records and waits to be polled: altogether, and of one peer. Beyond that it is not taken.
const MOST_MEMBERSHIP: usize = 8192;
const MOST_OF_ONE: usize = 256;

/// As many of one peer's may wait however many of others do.
const FEW: usize = 8;

/// Something has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Datagrams to a peer take another way. `via`: the hub's name, or none for a direct path.
    PathChanged {
        /// The peer's name.
        peer: String,
        /// The hub's name; none: a direct path.
        via: Option<String>,
        /// The old path was dead.
        emergency: bool,
    },
    /// The leg to a hub carries, or does not any more.
    HubChanged {
        /// The hub's name.
        hub: String,
        /// It carries.
        up: bool,
    },
    /// A member was seen at a new endpoint, and has confirmed it.
    EndpointConfirmed {
        /// The member's public key.
        public_key: [u8; 32],
        /// Where it is.
        endpoint: SocketAddr,
    },
    /// A peer has said hello for the first time since it, or this engine, started.
    Greeted {
        /// Its public key.
        public_key: [u8; 32],
    },
    /// A floating address has another owner.
    FloatingMoved {
        /// The address.
        address: Ipv4Addr,
        /// Its owner's name; `None`: nobody has it.
        to: Option<String>,
    },
    /// Two nodes have one address, or a node has one that is not for it to have; it has lasted for a while.
    AddressConflict(Conflict),
    /// A hub does not know this node's key any more, and has sent the signed record that says why. Nothing of it is verified.
    Notice {
        /// As it came.
        record: Vec<u8>,
    },
    /// Signed records, or what is known of them, from a peer.
    Membership {
        /// Whose session they came out of.
        public_key: [u8; 32],
        /// As they came.
        bytes: Vec<u8>,
    },
}

/// What waits to be polled.
#[derive(Debug, Default)]
pub struct Events(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    news: VecDeque<Event>,
    membership: VecDeque<([u8; 32], Vec<u8>)>,
    /// How many of those each peer has there.
    each: HashMap<[u8; 32], usize>,
}

impl Events {
    /// Adds one.
    pub fn push(&self, event: Event) {
        let news = &mut self.0.lock().news;
        if news.len() >= MOST {
            news.pop_front();
        }
        news.push_back(event);
    }

    /// Adds [`Event::Membership`]; `false`: there is no room for this peer's. No peer can take that of another.
    #[must_use]
    pub fn push_membership(&self, public_key: [u8; 32], bytes: &[u8]) -> bool {
        let mut waiting = self.0.lock();
        let most = if waiting.membership.len() < MOST_MEMBERSHIP { MOST_OF_ONE } else { FEW };
        let count = waiting.each.entry(public_key).or_default();
        if *count >= most {
            return false;
        }
        *count += 1;
        waiting.membership.push_back((public_key, bytes.to_vec()));
        true
    }

    /// The oldest; what peers say of records after everything else.
    pub fn pop(&self) -> Option<Event> {
        let mut waiting = self.0.lock();
        if let Some(event) = waiting.news.pop_front() {
            return Some(event);
        }
        let (public_key, bytes) = waiting.membership.pop_front()?;
        if let Entry::Occupied(mut count) = waiting.each.entry(public_key) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(Event::Membership { public_key, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_a_lot_of_records_takes_nobody_elses_room() {
        let events = Events::default();
        let taken = |peer: u8, count: usize| {
            (0..count).filter(|_| events.push_membership([peer; 32], b"record")).count()
        };
        assert_eq!(taken(1, 2 * MOST_OF_ONE), MOST_OF_ONE);
        events.push(Event::Greeted { public_key: [2; 32] });
        for peer in 2..100 {
            assert!(taken(peer, MOST_OF_ONE) >= FEW);
        }
        assert!(matches!(events.pop(), Some(Event::Greeted { .. })), "before what is said of records");
        let left = std::iter::from_fn(|| events.pop()).count();
        assert!(left <= MOST_MEMBERSHIP + 100 * FEW, "{left}");
        assert_eq!(taken(1, 1), 1, "room again");
        assert_eq!(events.0.lock().each.len(), 1);
    }
}
