//! Waiting for a condition, with a deadline, and never for a fixed time.

use std::thread;
use std::time::{Duration, Instant};

/// How long something may take that a healthy, busy machine does in under a second. Only a failing test waits this long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` holds, for at most [`PATIENCE`].
///
/// # Panics
/// When it does not hold in time; the message names `what`.
#[track_caller]
pub fn until(what: &str, condition: impl FnMut() -> bool) {
    until_in(PATIENCE, what, condition);
}

/// Waits until `condition` holds, for at most `limit`; returns how long that took.
///
/// # Panics
/// When it does not hold in time; the message names `what`.
#[track_caller]
pub fn until_in(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    value_in(limit, what, || condition().then_some(())).1
}

/// Waits for `source` to give a value, for at most `limit`; returns it and how long that took.
///
/// # Panics
/// When there is none in time; the message names `what`.
#[track_caller]
pub fn value_in<T>(limit: Duration, what: &str, mut source: impl FnMut() -> Option<T>) -> (T, Duration) {
    let start = Instant::now();
    loop {
        if let Some(value) = source() {
            return (value, start.elapsed());
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(POLL);
    }
}

/// Watches for `length` that `condition` goes on holding: for what must not happen.
///
/// # Panics
/// As soon as it does not hold; the message names `what`.
#[track_caller]
pub fn holds_for(length: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < length {
        assert!(condition(), "no longer so after {:?}: {what}", start.elapsed());
        thread::sleep(POLL);
    }
}
