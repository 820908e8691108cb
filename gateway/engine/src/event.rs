//! What the engine tells its owner: changes that a person, or the daemon, wants to know of.

use crate::claim::Conflict;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};

/// Events that wait to be polled; beyond that the oldest go.
const MOST: usize = 1024;

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
    /// Signed records, or what is known of them, from a peer.
    Membership {
        /// Whose session they came out of.
        public_key: [u8; 32],
        /// As they came.
        bytes: Vec<u8>,
    },
}

/// The queue of events.
#[derive(Debug, Default)]
pub struct Events(Mutex<VecDeque<Event>>);

impl Events {
    /// Adds one.
    pub fn push(&self, event: Event) {
        let mut queue = self.0.lock();
        if queue.len() >= MOST {
            queue.pop_front();
        }
        queue.push_back(event);
    }

    /// The oldest.
    pub fn pop(&self) -> Option<Event> {
        self.0.lock().pop_front()
    }
}
