//! Poly1305 (RFC 8439 section 2.5), eight blocks at a time, over limbs of 44, 44 and 42 bits (IFMA multiplies 52).
//!
//! The sum m1 r^n + m2 r^(n-1) + ... + mn r is taken apart into eight, one for each of the vector's lanes, each with steps of r^8.
//! A block of zeros without the bit behind it adds nothing, so a message is filled up to whole groups of eight at its front.

use crate::common::half;
use std::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_broadcastq_epi64, _mm512_castsi512_si128,
    _mm512_loadu_si512, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64, _mm512_mask_blend_epi64,
    _mm512_mask_set1_epi64, _mm512_or_si512, _mm512_reduce_add_epi64, _mm512_set1_epi64, _mm512_setr_epi64,
    _mm512_setzero_si512, _mm512_slli_epi64, _mm512_srli_epi64, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
};

const BLOCK: usize = 16;
const LANES: usize = 8;
const GROUP: usize = BLOCK * LANES;

const MASK44: u64 = (1 << 44) - 1;
const MASK42: u64 = (1 << 42) - 1;

/// Which block of a group stands in which lane: what unpacking two halves makes of the order.
const ORDER: [usize; LANES] = [0, 4, 1, 5, 2, 6, 3, 7];

/// A number in limbs of 44, 44 and 42 bits.
type Number = [u64; 3];

/// One such number a lane.
type Lanes = [__m512i; 3];

/// What a number is multiplied with: its limbs, and 20 times the upper two (2^132 is 20, modulo 2^130 - 5).
#[derive(Clone, Copy)]
struct Factor {
    limbs: Lanes,
    wrapped: [__m512i; 2],
}

/// The tag of `text` under the one-time key `key`, as ChaCha20-Poly1305 wants it without associated data: filled up with zeros to
/// whole blocks, and then the lengths (RFC 8439 section 2.8).
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn tag(key: &[u8; 32], text: &[u8]) -> [u8; 16] {
    let (step, last_step) = powers(clamp(key));
    let blocks = text.len().div_ceil(BLOCK) + 1;
    let (first, groups) = ((blocks - 1) % LANES + 1, (blocks - 1) / LANES);
    let mut edge = [0; GROUP];
    let mut rest = text;
    let mut sum;
    if groups == 0 {
        // All of it is one group.
        sum = [_mm512_setzero_si512(); 3];
    } else {
        let (front, behind) = rest.split_at(first * BLOCK);
        edge[GROUP - front.len()..].copy_from_slice(front);
        sum = read(&edge, first);
        rest = behind;
        while let Some((group, behind)) = rest.split_first_chunk::<GROUP>() {
            sum = add(multiply(sum, &step), read(group, LANES));
            rest = behind;
        }
        sum = multiply(sum, &step);
        edge = [0; GROUP];
    }
    // The last group: what is left of the text, and the lengths (of no associated data, and of the text).
    let last = if groups == 0 { blocks } else { LANES };
    let from = (LANES - last) * BLOCK;
    edge[from..from + rest.len()].copy_from_slice(rest);
    edge[GROUP - 8..].copy_from_slice(&(text.len() as u64).to_le_bytes());
    sum = multiply(add(sum, read(&edge, last)), &last_step);
    let total = sum.map(|limb| _mm512_reduce_add_epi64(limb).cast_unsigned());
    finish(total, key)
}

/// The first half of the key as a number, with the bits cleared that have to be (RFC 8439 section 2.5).
fn clamp(key: &[u8; 32]) -> Number {
    let low = half(key, 0) & 0x0fff_fffc_0fff_ffff;
    let high = half(key, 8) & 0x0fff_fffc_0fff_fffc;
    [low & MASK44, (low >> 44 | high << 20) & MASK44, high >> 24]
}

#[inline]
fn product(a: Number, b: Number) -> Number {
    let times = |a: u64, b: u64| u128::from(a) * u128::from(b);
    let (wrapped1, wrapped2) = (b[1] * 20, b[2] * 20);
    let mut low = times(a[0], b[0]) + times(a[1], wrapped2) + times(a[2], wrapped1);
    let mut middle = times(a[0], b[1]) + times(a[1], b[0]) + times(a[2], wrapped2);
    let mut high = times(a[0], b[2]) + times(a[1], b[1]) + times(a[2], b[0]);
    middle += low >> 44;
    low &= u128::from(MASK44);
    high += middle >> 44;
    middle &= u128::from(MASK44);
    low += (high >> 42) * 5;
    high &= u128::from(MASK42);
    middle += low >> 44;
    low &= u128::from(MASK44);
    [low as u64, middle as u64, high as u64]
}

impl Factor {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(limbs: Lanes) -> Self {
        // x * 20 as 16 x + 4 x.
        let wrap = |x| _mm512_add_epi64(_mm512_slli_epi64::<4>(x), _mm512_slli_epi64::<2>(x));
        Self { limbs, wrapped: [wrap(limbs[1]), wrap(limbs[2])] }
    }

    /// The number of the first lane for all of them.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn first(numbers: Lanes) -> Self {
        let spread = |limb| _mm512_broadcastq_epi64(_mm512_castsi512_si128(limb));
        Self::new([spread(numbers[0]), spread(numbers[1]), spread(numbers[2])])
    }

    /// The same number for all lanes.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn all(number: Number) -> Self {
        Self::new(number.map(|limb| _mm512_set1_epi64(limb.cast_signed())))
    }
}

/// What sums are multiplied with: r^8 in all lanes for a step, and at the end r^8 for a group's first block, down to r for its last.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn powers(r: Number) -> (Factor, Factor) {
    // The exponents in the lanes, first lane first. The last row is 8 minus `ORDER`.
    //   low    2 2 1 1 2 2 1 1
    //   * r^2  4 4 3 3 4 4 3 3
    //   four   4 4 3 3 2 2 1 1
    //   * r^4  8 8 7 7 6 6 5 5
    //   last   8 4 7 3 6 2 5 1
    let r2 = product(r, r);
    let mut low = [_mm512_setzero_si512(); 3];
    for ((low, r), r2) in low.iter_mut().zip(r).zip(r2) {
        *low = _mm512_mask_set1_epi64(_mm512_set1_epi64(r.cast_signed()), 0b0011_0011, r2.cast_signed());
    }
    let high = multiply(low, &Factor::all(r2));
    let four = blend(0b0000_1111, low, high);
    let high = multiply(four, &Factor::first(high));
    (Factor::first(high), Factor::new(blend(0b0101_0101, four, high)))
}

/// The lanes of `b` whose bit is set, and of `a` otherwise.
#[inline]
#[target_feature(enable = "avx512f")]
fn blend(lanes: u8, a: Lanes, b: Lanes) -> Lanes {
    [
        _mm512_mask_blend_epi64(lanes, a[0], b[0]),
        _mm512_mask_blend_epi64(lanes, a[1], b[1]),
        _mm512_mask_blend_epi64(lanes, a[2], b[2]),
    ]
}

/// A group's blocks as numbers, of which the last `valid` are blocks of the message and get the bit behind them.
#[inline]
#[target_feature(enable = "avx512f")]
fn read(group: &[u8; GROUP], valid: usize) -> Lanes {
    // SAFETY: 64 bytes are read at 0 and at 64 of an array of 128.
    let (a, b) = unsafe {
        (_mm512_loadu_si512(group.as_ptr().cast()), _mm512_loadu_si512(group.as_ptr().add(64).cast()))
    };
    let (low, high) = (_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    let mask = _mm512_set1_epi64(MASK44.cast_signed());
    let bit = if valid == LANES {
        _mm512_set1_epi64(1 << 40)
    } else {
        let [a, b, c, d, e, f, g, h] = ORDER.map(|block| i64::from(block + valid >= LANES) << 40);
        _mm512_setr_epi64(a, b, c, d, e, f, g, h)
    };
    let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
    [
        _mm512_and_si512(low, mask),
        _mm512_and_si512(middle, mask),
        _mm512_or_si512(_mm512_srli_epi64::<24>(high), bit),
    ]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add(a: Lanes, b: Lanes) -> Lanes {
    [_mm512_add_epi64(a[0], b[0]), _mm512_add_epi64(a[1], b[1]), _mm512_add_epi64(a[2], b[2])]
}

/// The product. The limbs of `a` may have 46 bits, those of `b` 45: so the sums of three products of 52 bits stay below 2^58, and
/// the limbs that come out below 2^44 + 2^16, to which a block (2^44) can be added before the next product.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn multiply(a: Lanes, b: &Factor) -> Lanes {
    let zero = _mm512_setzero_si512();
    let ([r0, r1, r2], [s1, s2]) = (b.limbs, b.wrapped);
    // The lower 52 bits of three products, and the upper ones.
    let sum = |x: __m512i, y: __m512i, z: __m512i| {
        let low = _mm512_madd52lo_epu64(_mm512_madd52lo_epu64(zero, a[0], x), a[1], y);
        let high = _mm512_madd52hi_epu64(_mm512_madd52hi_epu64(zero, a[0], x), a[1], y);
        (_mm512_madd52lo_epu64(low, a[2], z), _mm512_madd52hi_epu64(high, a[2], z))
    };
    let (low0, high0) = sum(r0, s2, s1);
    let (low1, high1) = sum(r1, r0, s2);
    let (low2, high2) = sum(r2, r1, r0);
    let (mask44, mask42) = (_mm512_set1_epi64(MASK44.cast_signed()), _mm512_set1_epi64(MASK42.cast_signed()));
    // 2^52 is 2^8 of the next limb, and behind the last one 2^10 of 2^130, which is 5.
    let over = times5(_mm512_slli_epi64::<10>(high2));
    let d0 = _mm512_add_epi64(low0, over);
    let d1 = _mm512_add_epi64(low1, _mm512_slli_epi64::<8>(high0));
    let d2 = _mm512_add_epi64(low2, _mm512_slli_epi64::<8>(high1));
    // All three carries at once; what they add stays for the next product.
    [
        _mm512_add_epi64(_mm512_and_si512(d0, mask44), times5(_mm512_srli_epi64::<42>(d2))),
        _mm512_add_epi64(_mm512_and_si512(d1, mask44), _mm512_srli_epi64::<44>(d0)),
        _mm512_add_epi64(_mm512_and_si512(d2, mask42), _mm512_srli_epi64::<44>(d1)),
    ]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn times5(x: __m512i) -> __m512i {
    _mm512_add_epi64(_mm512_slli_epi64::<2>(x), x)
}

/// The number, reduced for good, plus the second half of the key.
fn finish([mut h0, mut h1, mut h2]: Number, key: &[u8; 32]) -> [u8; 16] {
    for _ in 0..3 {
        h1 += h0 >> 44;
        h0 &= MASK44;
        h2 += h1 >> 44;
        h1 &= MASK44;
        h0 += (h2 >> 42) * 5;
        h2 &= MASK42;
    }
    h1 += h0 >> 44;
    h0 &= MASK44;
    // h - p, that is h + 5 - 2^130; taken when it is not negative, without a branch.
    let g0 = h0 + 5;
    let g1 = h1 + (g0 >> 44);
    let g2 = (h2 + (g1 >> 44)).wrapping_sub(1 << 42);
    let negative = (g2 >> 63).wrapping_neg();
    let pick = |h: u64, g: u64| h & negative | g & !negative;
    let (h0, h1, h2) = (pick(h0, g0 & MASK44), pick(h1, g1 & MASK44), pick(h2, g2));
    let low = h0 | h1 << 44;
    let high = h1 >> 20 | h2 << 24;
    let sum = (u128::from(high) << 64 | u128::from(low))
        .wrapping_add(u128::from(half(key, 24)) << 64 | u128::from(half(key, 16)));
    sum.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::poly;

    #[test]
    fn sums_come_out_as_in_the_rfc() {
        if !crate::avx512::is_here() {
            eprintln!("this processor has no AVX-512: nothing was tested");
            return;
        }
        // SAFETY: the processor has the instructions.
        let ours = |key: &[u8; 32], text: &[u8]| unsafe { tag(key, text) };
        poly::at_the_edge_of_the_field(ours);
        poly::around_the_modulus(ours);
    }
}
