//! What must hold at each step, whatever the story.

use crate::party::Traffic;
use crate::wait;

/// An overlay of eight with a burst under way stays far below this; one that answers its own answers does not.
pub const EVENTS_PER_SECOND: u64 = 60_000;

/// An engine may find that something has become due while it was called, but not for ever.
pub const CALLS_AT_ONCE: u32 = 4;

/// Whether an engine sends more than it has reason to: each packet and datagram that it was given may become one (or, with
/// what waited for a session, one of the second before), and each peer has a handshake, a keepalive, and at most six
/// candidates with three probes each.
pub fn traffic(traffic: &Traffic, peers: u64) -> Option<String> {
    let allowed = traffic.given + traffic.given_before + 20 * peers + 8;
    (traffic.sent > allowed).then(|| {
        format!(
            "sent {} datagrams within a second, having been given {} and {peers} peers",
            traffic.sent,
            traffic.given + traffic.given_before
        )
    })
}

/// Whether an engine holds more than it may. `excess`: bytes beyond what is allowed for its peers.
pub fn memory(excess: i64) -> Option<String> {
    (excess > wait::MEMORY_BASE).then(|| format!("holds {excess} bytes more than its peers explain"))
}
