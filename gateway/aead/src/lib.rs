//! ChaCha20-Poly1305 (RFC 8439) without associated data, for x86-64 processors: in one form for those with AVX-512 and its IFMA part (Intel
//! since Ice Lake, AMD since Zen 4), in another for those with AVX2.
//!
//! Half of what a packet costs is the cipher, and both forms are quicker at a full packet than what ring and aws-lc have
//! (benches/README.md has the figures). Only the two functions of a data message are here. Everything else, and
//! every other processor, is the affair of the library behind it: see the crate `ring` beside this one.
//!
//! Constant time: no branch and no index depends on key, text or tag; lengths are no secret.

// The vectors' instructions have no safe form where they touch memory; each place says why it may.
#![allow(
    unsafe_code,
    reason = "loads and stores of vectors, and calls of functions for one kind of processor"
)]
// Each index is a constant below an array's length, or a block's place in a group; the tests try every length of a text.
#![allow(clippy::indexing_slicing, reason = "the optimiser must see that there is no bound to check")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod common;
#[cfg(target_arch = "x86_64")]
#[path = "x86.rs"]
mod imp;
#[cfg(not(target_arch = "x86_64"))]
#[path = "absent.rs"]
mod imp;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

/// Bytes of a tag.
pub const TAG: usize = 16;

/// The longest text in bytes (RFC 8439 section 2.8: the block counter has 32 bits, and block 0 is the tag's).
pub const MAX_TEXT: u64 = (u32::MAX as u64) * 64;

/// A key, on a processor that can use it. Wiped when dropped; what sealing and opening leave on the stack is not.
pub struct Key(imp::Key);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// The key of these bytes; `None` when this processor has not the instructions.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Option<Self> {
        imp::Key::new(bytes).map(Self)
    }

    /// The instructions that it uses, as they stand in figures: `avx512` or `avx2`.
    #[must_use]
    pub fn form(&self) -> &'static str {
        self.0.form()
    }

    /// Texts of `len` bytes are sealed and opened quicker with this than with a library; others are as well, but not quicker.
    #[must_use]
    pub fn is_worth_while(&self, len: usize) -> bool {
        self.0.is_worth_while(len)
    }

    /// Seals `text` in place and returns its tag. A nonce must never come twice with the same key. `None`, and nothing done, when
    /// the text is longer than [`MAX_TEXT`].
    #[must_use]
    pub fn seal(&self, nonce: &[u8; 12], text: &mut [u8]) -> Option<[u8; TAG]> {
        (text.len() as u64 <= MAX_TEXT).then(|| self.0.seal(nonce, text))
    }

    /// Opens `text` in place if `tag` is its tag; otherwise it stays as it is, and the answer is `false`.
    #[must_use]
    pub fn open(&self, nonce: &[u8; 12], text: &mut [u8], tag: &[u8; TAG]) -> bool {
        text.len() as u64 <= MAX_TEXT && self.0.open(nonce, text, tag)
    }
}
