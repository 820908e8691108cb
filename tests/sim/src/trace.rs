//! The story as a person reads it: one line for each thing that happens.

use std::time::Duration;

/// Where the lines go.
#[derive(Debug, Default)]
pub struct Trace {
    /// Nowhere, unless this is set.
    pub on: bool,
    /// Of everything that happened so far: two runs of a seed must agree on it.
    pub hash: u64,
}

impl Trace {
    /// Adds to the hash.
    pub fn note(&mut self, now: Duration, what: u64) {
        let mixed = (self.hash ^ what).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ now.as_nanos() as u64;
        self.hash = mixed.rotate_left(27).wrapping_mul(0xD1B5_4A32_D192_ED03);
    }

    /// A line, made only when somebody reads it.
    pub fn line(&self, now: Duration, who: &str, what: impl FnOnce() -> String) {
        if self.on {
            println!("{:12.6}  {who:<9} {}", now.as_secs_f64(), what());
        }
    }
}

/// A datagram in a few words: what an observer of the underlay can tell.
pub fn describe(bytes: &[u8]) -> String {
    let word = |at: usize| bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    match (bytes.first(), bytes.len()) {
        (Some(1), 148) => format!("initiation from session {:08x}", word(4)),
        (Some(2), 92) => format!("response from session {:08x} to {:08x}", word(4), word(8)),
        (Some(3), 64) => format!("cookie for session {:08x}", word(4)),
        (Some(4), 32) => format!("keepalive for session {:08x}, counter {}", word(4), word(8)),
        (Some(4), len) => format!("data for session {:08x}, counter {}, {len} bytes", word(4), word(8)),
        (_, len) => format!("{len} bytes of nothing known"),
    }
}
