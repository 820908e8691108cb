//! What a hub answers when a key knocks that was a member: the record that revoked it, as it was signed.
//!
//! Whoever was revoked while its gateway was off has no session in which it could be told. The record is no secret and is believed by
//! its signature alone, so it may travel in the open. The answer is never longer than what it answers, and there are few of them:
//! nobody can be flooded with it.
//!
//! ```text
//! 6f 76 67 01 | a signed record
//! ```

use crate::engine::Engine;
use crate::event::Event;
use crate::gateway::RateLimit;
use crate::packet::DatagramBatch;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// No message of WireGuard begins so.
const MAGIC: [u8; 4] = [0x6f, 0x76, 0x67, 1];

/// Between two that a hub sends, and between two that a node looks at; and so many at once.
const PACE: Duration = Duration::from_millis(100);
const AT_ONCE: u32 = 10;

/// The records of keys that are members no more.
#[derive(Debug)]
pub(crate) struct Notices {
    records: ArcSwap<HashMap<[u8; 32], Vec<u8>>>,
    limit: Mutex<RateLimit>,
}

impl Default for Notices {
    fn default() -> Self {
        Self { records: ArcSwap::default(), limit: Mutex::new(RateLimit::every(PACE, AT_ONCE)) }
    }
}

impl Engine {
    /// A hub: the signed records of the keys that were revoked, by key.
    pub fn set_revoked(&self, records: HashMap<[u8; 32], Vec<u8>>) {
        self.notices.records.store(Arc::new(records));
    }

    /// A key that is no member's has sent a handshake initiation of so many bytes: tells it why, if it was one.
    pub(crate) fn answer_revoked(
        &self,
        now: Instant,
        key: &[u8; 32],
        (from, bytes): (SocketAddr, usize),
        net: &mut DatagramBatch,
    ) {
        let records = self.notices.records.load();
        let Some(record) = records.get(key).filter(|record| MAGIC.len() + record.len() <= bytes) else {
            return;
        };
        if self.notices.limit.lock().allow(now) {
            net.push(from, &[&MAGIC, record.as_slice()].concat());
        }
    }

    /// A node: a datagram that is none of WireGuard's. Whether it is a hub's notice; it is handed on to who knows signatures.
    pub(crate) fn is_notice(&self, now: Instant, from: SocketAddr, datagram: &[u8]) -> bool {
        let Some(record) = datagram.strip_prefix(&MAGIC) else { return false };
        let from_hub = self.legs.read().iter().any(|leg| leg.endpoint == from);
        if !from_hub || !self.notices.limit.lock().allow(now) {
            return false;
        }
        self.events.push(Event::Notice { record: record.to_vec() });
        true
    }
}
