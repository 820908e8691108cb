//! The key stream of ChaCha20 (RFC 8439 section 2.3), many blocks at a time, in one of two forms.
//!
//! Columns: word `n` of sixteen blocks stands in one vector. Rows: four words of four blocks stand in one vector. Either waits for
//! its own results half of the time, since each instruction needs the one before it; side by side they fill the processor, and
//! make the 24 blocks that a full packet needs in little more time than 16 (benches/README.md).

use crate::common::{BLOCK, DOUBLE_ROUNDS, SIGMA, word};
use std::arch::x86_64::{
    __m512i, _mm_setr_epi32, _mm512_add_epi32, _mm512_broadcast_i32x4, _mm512_loadu_si512,
    _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8, _mm512_rol_epi32, _mm512_set1_epi32, _mm512_setr_epi32,
    _mm512_setzero_si512, _mm512_shuffle_epi32, _mm512_shuffle_i32x4, _mm512_storeu_si512,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    _mm512_xor_si512,
};

/// The first sixteen blocks from block `counter` on, one block a vector.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn sixteen(key: &[u8; 32], nonce: &[u8; 12], counter: u32) -> [__m512i; 16] {
    let start = columns(key, nonce, counter);
    let mut v = start;
    for _ in 0..DOUBLE_ROUNDS {
        v = double_round(v);
    }
    from_columns(v, start)
}

/// Blocks 0 to 23, one block a vector.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn twenty_four(key: &[u8; 32], nonce: &[u8; 12]) -> [__m512i; 24] {
    let (start, start_rows) = (columns(key, nonce, 0), [rows(key, nonce, 16), rows(key, nonce, 20)]);
    let (mut v, mut v_rows) = (start, start_rows);
    for _ in 0..DOUBLE_ROUNDS {
        v = double_round(v);
        v_rows = double_round_of_rows(v_rows);
    }
    let mut blocks = [_mm512_setzero_si512(); 24];
    let (front, back) = blocks.split_at_mut(16);
    front.copy_from_slice(&from_columns(v, start));
    back[..4].copy_from_slice(&from_rows(v_rows[0], start_rows[0]));
    back[4..].copy_from_slice(&from_rows(v_rows[1], start_rows[1]));
    blocks
}

/// The state before the first round (RFC 8439 section 2.3) of sixteen blocks, as columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn columns(key: &[u8; 32], nonce: &[u8; 12], counter: u32) -> [__m512i; 16] {
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let mut start = [_mm512_setzero_si512(); 16];
    for (n, vector) in start.iter_mut().enumerate() {
        *vector = match n {
            0..4 => _mm512_set1_epi32(SIGMA[n].cast_signed()),
            4..12 => _mm512_set1_epi32(word(key, n - 4)),
            12 => _mm512_add_epi32(_mm512_set1_epi32(counter.cast_signed()), lanes),
            _ => _mm512_set1_epi32(word(nonce, n - 13)),
        };
    }
    start
}

/// The same of four blocks, as rows.
#[inline]
#[target_feature(enable = "avx512f")]
fn rows(key: &[u8; 32], nonce: &[u8; 12], counter: u32) -> [__m512i; 4] {
    let row =
        |words: [i32; 4]| _mm512_broadcast_i32x4(_mm_setr_epi32(words[0], words[1], words[2], words[3]));
    let lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0);
    let d = row([counter.cast_signed(), word(nonce, 0), word(nonce, 1), word(nonce, 2)]);
    [
        row(SIGMA.map(u32::cast_signed)),
        row([word(key, 0), word(key, 1), word(key, 2), word(key, 3)]),
        row([word(key, 4), word(key, 5), word(key, 6), word(key, 7)]),
        _mm512_add_epi32(d, lanes),
    ]
}

/// What comes of columns after the last round.
#[inline]
#[target_feature(enable = "avx512f")]
fn from_columns(mut v: [__m512i; 16], start: [__m512i; 16]) -> [__m512i; 16] {
    for (vector, start) in v.iter_mut().zip(start) {
        *vector = _mm512_add_epi32(*vector, start);
    }
    transpose(&v)
}

/// What comes of rows after the last round.
#[inline]
#[target_feature(enable = "avx512f")]
fn from_rows(mut v: [__m512i; 4], start: [__m512i; 4]) -> [__m512i; 4] {
    for (vector, start) in v.iter_mut().zip(start) {
        *vector = _mm512_add_epi32(*vector, start);
    }
    let [a, b, c, d] = v;
    let (ab_low, ab_high) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b));
    let (cd_low, cd_high) = (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xee>(c, d));
    [
        _mm512_shuffle_i32x4::<0x88>(ab_low, cd_low),
        _mm512_shuffle_i32x4::<0xdd>(ab_low, cd_low),
        _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high),
        _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high),
    ]
}

/// The same for rows: between the two rounds the rows are turned, so that diagonals stand as columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn double_round_of_rows(mut v: [[__m512i; 4]; 2]) -> [[__m512i; 4]; 2] {
    macro_rules! step {
        ($to:literal += $from:literal, $mixed:literal <<< $by:literal) => {
            for row in &mut v {
                row[$to] = _mm512_add_epi32(row[$to], row[$from]);
                row[$mixed] = _mm512_rol_epi32::<$by>(_mm512_xor_si512(row[$mixed], row[$to]));
            }
        };
    }
    macro_rules! quarters {
        () => {
            step!(0 += 1, 3 <<< 16);
            step!(2 += 3, 1 <<< 12);
            step!(0 += 1, 3 <<< 8);
            step!(2 += 3, 1 <<< 7);
        };
    }
    macro_rules! turn {
        ($b:literal, $c:literal, $d:literal) => {
            for row in &mut v {
                row[1] = _mm512_shuffle_epi32::<$b>(row[1]);
                row[2] = _mm512_shuffle_epi32::<$c>(row[2]);
                row[3] = _mm512_shuffle_epi32::<$d>(row[3]);
            }
        };
    }
    quarters!();
    turn!(0x39, 0x4e, 0x93);
    quarters!();
    turn!(0x93, 0x4e, 0x39);
    v
}

/// A column round and a diagonal round (RFC 8439 section 2.3). Sixteen names rather than an array, so that all of it stays in
/// registers; four quarter rounds that do not depend on each other go side by side.
#[inline]
#[target_feature(enable = "avx512f")]
fn double_round(v: [__m512i; 16]) -> [__m512i; 16] {
    let [
        mut a0,
        mut a1,
        mut a2,
        mut a3,
        mut b0,
        mut b1,
        mut b2,
        mut b3,
        mut c0,
        mut c1,
        mut c2,
        mut c3,
        mut d0,
        mut d1,
        mut d2,
        mut d3,
    ] = v;
    macro_rules! step {
        ($($to:ident += $from:ident, $mixed:ident;)+ <<< $by:literal) => {
            $($to = _mm512_add_epi32($to, $from);)+
            $($mixed = _mm512_rol_epi32::<$by>(_mm512_xor_si512($mixed, $to));)+
        };
    }
    macro_rules! quarters {
        ($($a:ident $b:ident $c:ident $d:ident,)+) => {
            step!($($a += $b, $d;)+ <<< 16);
            step!($($c += $d, $b;)+ <<< 12);
            step!($($a += $b, $d;)+ <<< 8);
            step!($($c += $d, $b;)+ <<< 7);
        };
    }
    quarters!(a0 b0 c0 d0, a1 b1 c1 d1, a2 b2 c2 d2, a3 b3 c3 d3,);
    quarters!(a0 b1 c2 d3, a1 b2 c3 d0, a2 b3 c0 d1, a3 b0 c1 d2,);
    [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3]
}

/// From a vector a word to a vector a block.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(v: &[__m512i; 16]) -> [__m512i; 16] {
    // Within each 128 bits: of four words, then of the four fours.
    let mut rows = [_mm512_setzero_si512(); 16];
    for n in 0..4 {
        let [a, b, c, d] = [v[4 * n], v[4 * n + 1], v[4 * n + 2], v[4 * n + 3]];
        let (low_ab, high_ab) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (low_cd, high_cd) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        rows[n] = _mm512_unpacklo_epi64(low_ab, low_cd);
        rows[4 + n] = _mm512_unpackhi_epi64(low_ab, low_cd);
        rows[8 + n] = _mm512_unpacklo_epi64(high_ab, high_cd);
        rows[12 + n] = _mm512_unpackhi_epi64(high_ab, high_cd);
    }
    // rows[4 m + n] holds, in its 128 bits k, the words 4 n .. 4 n + 3 of block 4 k + m.
    let mut blocks = [_mm512_setzero_si512(); 16];
    for m in 0..4 {
        let [a, b, c, d] = [rows[4 * m], rows[4 * m + 1], rows[4 * m + 2], rows[4 * m + 3]];
        let (ab_low, ab_high) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (cd_low, cd_high) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        blocks[m] = _mm512_shuffle_i32x4::<0x88>(ab_low, cd_low);
        blocks[8 + m] = _mm512_shuffle_i32x4::<0xdd>(ab_low, cd_low);
        blocks[4 + m] = _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high);
        blocks[12 + m] = _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high);
    }
    blocks
}

/// Combines `data` with as many of `blocks` as it is long, the last one in part.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn apply(data: &mut [u8], blocks: &[__m512i]) {
    for (chunk, block) in data.chunks_mut(BLOCK).zip(blocks) {
        let at = chunk.as_mut_ptr();
        if chunk.len() == BLOCK {
            // SAFETY: 64 bytes are read from and written to `chunk`, which is as long.
            unsafe {
                _mm512_storeu_si512(at.cast(), _mm512_xor_si512(_mm512_loadu_si512(at.cast()), *block))
            };
        } else {
            let mask = (1_u64 << chunk.len()) - 1;
            // SAFETY: only the first `chunk.len()` bytes are read and written: the mask has no other bit.
            unsafe {
                let bytes = _mm512_maskz_loadu_epi8(mask, at.cast());
                _mm512_mask_storeu_epi8(at.cast(), mask, _mm512_xor_si512(bytes, *block));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8439 section 2.3.2, and its block at other places of a call.
    #[test]
    fn the_block_of_the_rfc_comes_out_of_columns_and_of_rows() {
        if !is_x86_feature_detected!("avx512bw") {
            eprintln!("this processor has no AVX-512: nothing was tested");
            return;
        }
        let key: [u8; 32] = std::array::from_fn(|n| n as u8);
        let nonce = [0, 0, 0, 9, 0, 0, 0, 0x4a, 0, 0, 0, 0];
        let block = [
            0x10, 0xf1, 0xe7, 0xe4, 0xd1, 0x3b, 0x59, 0x15, 0x50, 0x0f, 0xdd, 0x1f, 0xa3, 0x20, 0x71, 0xc4,
            0xc7, 0xd1, 0xf4, 0xc7, 0x33, 0xc0, 0x68, 0x03, 0x04, 0x22, 0xaa, 0x9a, 0xc3, 0xd4, 0x6c, 0x4e,
            0xd2, 0x82, 0x64, 0x46, 0x07, 0x9f, 0xaa, 0x09, 0x14, 0xc2, 0xd7, 0x05, 0xd9, 0x8b, 0x02, 0xa2,
            0xb5, 0x12, 0x9c, 0xd1, 0xde, 0x16, 0x4e, 0xb9, 0xcb, 0xd0, 0x83, 0xe8, 0xa2, 0x50, 0x3c, 0x4e,
        ];
        // SAFETY: the processor has the instructions.
        let (mut from_one, mut all, mut more) = ([0; 64], [0; 24 * 64], [0; 8 * 64]);
        unsafe {
            apply(&mut from_one, &sixteen(&key, &nonce, 1));
            apply(&mut all, &twenty_four(&key, &nonce));
            apply(&mut more, &sixteen(&key, &nonce, 16));
        }
        assert_eq!(from_one, block);
        assert_eq!(all[64..128], block);
        assert_eq!(all[16 * 64..], more);
    }
}
