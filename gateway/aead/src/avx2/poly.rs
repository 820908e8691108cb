//! Poly1305 (RFC 8439 section 2.5), a block at a time in the scalar units, over two words of 64 bits and the few bits above them.
//!
//! The sum m1 r^n + m2 r^(n-1) + ... + mn r is kept without its last factor: it is multiplied before a block is added, not behind it. So the
//! block can be added to what the product has early, and the carries, which come late, find it there.

use crate::common::half;
use std::arch::asm;

/// Bytes of a block.
pub const BLOCK: usize = 16;

/// A sum under a one-time key.
#[derive(Clone, Copy)]
pub struct Poly {
    /// The lowest word first; the third is 6 at most.
    pub sum: [u64; 3],
    pub factor: Factor,
}

/// What the sum is multiplied with, in the order in which [`block`] reads it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Factor {
    r: [u64; 2],
    /// Five quarters of the upper word: its lowest two bits are always clear, so what it brings to 2^130, which is 5, has no rest.
    wrapped: u64,
}

/// An instruction whose last operand is a word in memory.
macro_rules! with {
    ($front:literal, $base:literal, $at:expr) => {
        concat!($front, ", [", $base, " + ", $at, "]\n")
    };
}
pub(super) use with;

/// Instructions that multiply the sum in `h0`, `h1`, `h2` with the factor at the address `$f` and add the block number `$at` of `blocks`.
/// `u0` to `u5` and rdx are scratch.
macro_rules! block {
    ($f:literal, $at:literal) => {
        concat!(
            // h0 r0, h0 r1, h1 wrapped, h1 r0: two words each.
            concat!("mov rdx, {h0}\n", with!("mulx {u1}, {u0}", $f, 0), with!("mulx {u3}, {u2}", $f, 8)),
            concat!("mov rdx, {h1}\n", with!("mulx {u5}, {u4}", $f, 16), with!("mulx {h1}, {h0}", $f, 0)),
            // u1 u0 = h0 r0 + h1 wrapped
            "add {u0}, {u4}\nadc {u1}, {u5}\n",
            // h2 u2 = h0 r1 + h1 r0 + h2 wrapped + u1, and h2 r0 above it
            concat!("mov {u4}, {h2}\n", with!("imul {u4}", $f, 16), with!("imul {h2}", $f, 0)),
            "add {u2}, {h0}\nadc {u3}, {h1}\nadd {u2}, {u4}\nadc {u3}, 0\nadd {u2}, {u1}\nadc {h2}, {u3}\n",
            // What lies above 2^130 comes back five times: four as it stands, and one.
            "mov rdx, {h2}\nmov {u4}, {h2}\nand rdx, -4\nshr {u4}, 2\nand {h2}, 3\nadd rdx, {u4}\n",
            // The block, the bit behind it, and last what comes back.
            with!("add {u0}", "{blocks}", concat!("16 * ", $at)),
            with!("adc {u2}", "{blocks}", concat!("16 * ", $at, " + 8")),
            "adc {h2}, 1\nmov {h0}, {u0}\nmov {h1}, {u2}\nadd {h0}, rdx\nadc {h1}, 0\nadc {h2}, 0\n",
        )
    };
}
pub(super) use block;

impl Poly {
    /// An empty sum under the one-time key `key`.
    #[inline]
    pub fn new(key: &[u8; 32]) -> Self {
        let r0 = half(key, 0) & 0x0fff_fffc_0fff_ffff;
        let r1 = half(key, 8) & 0x0fff_fffc_0fff_fffc;
        Self { sum: [0; 3], factor: Factor { r: [r0, r1], wrapped: r1 + (r1 >> 2) } }
    }

    /// A sum that nobody asks for.
    #[inline]
    pub fn none() -> Self {
        Self::new(&[0; 32])
    }

    /// Adds these blocks.
    #[inline]
    #[target_feature(enable = "bmi2")]
    pub fn blocks(&mut self, blocks: &[[u8; BLOCK]]) {
        let [mut h0, mut h1, mut h2] = self.sum;
        for block in blocks {
            // SAFETY: reads the factor and one block.
            unsafe {
                asm!(
                    block!("{factor}", 0),
                    h0 = inout(reg) h0, h1 = inout(reg) h1, h2 = inout(reg) h2, out("rdx") _,
                    u0 = out(reg) _, u1 = out(reg) _, u2 = out(reg) _, u3 = out(reg) _, u4 = out(reg) _, u5 = out(reg) _,
                    factor = in(reg) &raw const self.factor, blocks = in(reg) block,
                    options(nostack, readonly, pure),
                );
            }
        }
        self.sum = [h0, h1, h2];
    }

    /// Adds `text`, the last block of it filled up with zeros (RFC 8439 section 2.8).
    #[inline]
    #[target_feature(enable = "bmi2")]
    pub fn padded(&mut self, text: &[u8]) {
        let (blocks, rest) = text.as_chunks();
        self.blocks(blocks);
        if !rest.is_empty() {
            let mut last = [0; BLOCK];
            last[..rest.len()].copy_from_slice(rest);
            self.blocks(&[last]);
        }
    }

    /// The tag: with the lengths of no associated data and of a text of `len` bytes, reduced for good, plus the second half of the key.
    #[inline]
    #[target_feature(enable = "bmi2")]
    pub fn finish(mut self, len: usize, key: &[u8; 32]) -> [u8; 16] {
        self.blocks(&[(u128::from(len as u64) << 64).to_le_bytes()]);
        // The last factor. A block of zeros would bring its bit with it, which is taken away again.
        self.blocks(&[[0; BLOCK]]);
        let [h0, h1, h2] = self.sum;
        let h2 = h2 - 1;
        // h - p, that is h + 5 - 2^130; taken when it is not negative, without a branch.
        let (g0, carry) = h0.overflowing_add(5);
        let (g1, carry) = h1.overflowing_add(u64::from(carry));
        let more = ((h2 + u64::from(carry)) >> 2).wrapping_neg();
        let pick = |h: u64, g: u64| h & !more | g & more;
        let sum = u128::from(pick(h1, g1)) << 64 | u128::from(pick(h0, g0));
        sum.wrapping_add(u128::from(half(key, 24)) << 64 | u128::from(half(key, 16))).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::poly;

    #[test]
    fn sums_come_out_as_in_the_rfc() {
        if !crate::avx2::is_here() {
            eprintln!("this processor has no AVX2: nothing was tested");
            return;
        }
        #[target_feature(enable = "bmi2")]
        fn tag(key: &[u8; 32], text: &[u8]) -> [u8; 16] {
            let mut poly = Poly::new(key);
            poly.padded(text);
            poly.finish(text.len(), key)
        }
        // SAFETY: the processor has the instructions.
        let ours = |key: &[u8; 32], text: &[u8]| unsafe { tag(key, text) };
        poly::at_the_edge_of_the_field(ours);
        poly::around_the_modulus(ours);
    }
}
