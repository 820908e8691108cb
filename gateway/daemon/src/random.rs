//! The system's randomness: for keys, and for seeds.

/// Fills `bytes` from the operating system.
///
/// It does not come back before the system has randomness to give (getrandom(2) blocks early at boot); a system that has
/// no getrandom at all is older than any that this program runs on.
pub fn fill(bytes: &mut [u8]) {
    while getrandom::fill(bytes).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// 32 random bytes.
#[must_use]
pub fn key() -> [u8; 32] {
    let mut bytes = [0; 32];
    fill(&mut bytes);
    bytes
}

/// A random seed.
#[must_use]
pub fn seed() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}
