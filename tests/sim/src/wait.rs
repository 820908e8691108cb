//! What the engine promises about time. These are the product's numbers, restated here and not imported.

use std::time::Duration;

/// After the last fault, with a beat a second between all nodes, everything that is joined works. Handshakes that nobody
/// answers end at one in 4 s, and what was broken for long takes a few of them; 15 s are enough in all but one of 500 seeds.
pub const SETTLE: Duration = Duration::from_secs(30);

/// After everybody has started within 3 s, nothing else having happened.
pub const START: Duration = Duration::from_secs(8);

/// How long traffic may stop at a single fault while another way is there: at most one beat of a cluster's.
pub const RECOVERY: Duration = Duration::from_millis(1000);

/// How soon a floating address is reached where it has come to, wherever from.
pub const MOVED: Duration = Duration::from_millis(1000);

/// How long traffic may stop when nothing has failed (a reload): a beat's pace, and the longest way there is.
pub const UNDISTURBED: Duration = Duration::from_millis(300);

/// For how long after a fault it is watched.
pub const MEASURED: Duration = Duration::from_secs(40);

/// Datagrams a second that an engine may send for each peer when nobody has anything to send.
///
/// Node and hub probe each other's leg twice a second or so each way, and answer; 64 nodes make fewer than 300 probes a second.
pub const QUIET_RATE: f64 = 8.0;

/// What an engine may hold for each peer, in bytes, and besides.
pub const MEMORY_PER_PEER: i64 = 24 * 1024;
pub const MEMORY_BASE: i64 = 96 * 1024;
