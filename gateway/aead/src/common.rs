//! What both forms need of RFC 8439.

/// Bytes of one block of key stream.
pub const BLOCK: usize = 64;

pub const DOUBLE_ROUNDS: usize = 10;

/// "expand 32-byte k", as words.
pub const SIGMA: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// Word `n` of a key or a nonce.
pub fn word(bytes: &[u8], n: usize) -> i32 {
    let bytes = bytes.get(4 * n..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
    i32::from_le_bytes(bytes)
}

/// The 64 bits from byte `at` on of a one-time key.
pub fn half(key: &[u8], at: usize) -> u64 {
    key.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Whether a tag is the one that is wanted: as one number, compared without a branch.
pub fn is_same(wanted: [u8; crate::TAG], tag: &[u8; crate::TAG]) -> bool {
    u128::from_le_bytes(wanted) ^ u128::from_le_bytes(*tag) == 0
}
