//! What the engine promises about time. These are the product's numbers, restated here and not imported.

use std::time::Duration;

/// After the last fault, with a beat a second between all nodes, everything that is joined works.
///
/// 15 s of silence, four quick handshakes 0.5 s apart (a quarter of jitter), then one every 4 s: a hub that came back
/// late is found within 25 s; the direct path of two nodes is given up by both within twice that.
pub const SETTLE: Duration = Duration::from_secs(15);

/// After everybody has started within 3 s, nothing else having happened.
pub const START: Duration = Duration::from_secs(8);

/// How long traffic may stop at a single fault while another way is there.
pub const RECOVERY: Duration = Duration::from_millis(1000);

/// How long traffic may stop when nothing has failed (a reload): a beat's pace, and what the network makes of it.
pub const UNDISTURBED: Duration = Duration::from_millis(200);

/// For how long after a fault it is watched.
pub const MEASURED: Duration = Duration::from_secs(40);

/// Datagrams a second that an engine may send for each peer when nobody has anything to send.
///
/// Node and hub probe each other's leg twice a second or so each way, and answer; 64 nodes make fewer than 300 probes a second.
pub const QUIET_RATE: f64 = 8.0;

/// What an engine may hold for each peer, in bytes, and besides.
pub const MEMORY_PER_PEER: i64 = 24 * 1024;
pub const MEMORY_BASE: i64 = 96 * 1024;
