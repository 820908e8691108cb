//! For processors with AVX-512 and its IFMA part: cipher and authenticator one behind the other (RFC 8439 section 2.8).

mod chacha;
mod poly;

use crate::TAG;
use crate::common::{BLOCK, is_same};
use chacha::{apply, sixteen, twenty_four};
use std::arch::x86_64::{__m512i, _mm512_storeu_si512};

/// The processor has what the functions here need.
pub fn is_here() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512ifma")
}

/// The longest text that [`twenty_four`] is not worth while for: sixteen blocks are enough.
const SHORT: usize = 15 * BLOCK;

/// Seals `text` in place and returns its tag.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub fn seal(key: &[u8; 32], nonce: &[u8; 12], text: &mut [u8]) -> [u8; TAG] {
    if text.len() <= SHORT {
        seal_from(&sixteen(key, nonce, 0), key, nonce, text)
    } else {
        seal_from(&twenty_four(key, nonce), key, nonce, text)
    }
}

/// Opens `text` in place if `tag` is its tag, and otherwise leaves it as it is.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub fn open(key: &[u8; 32], nonce: &[u8; 12], text: &mut [u8], tag: &[u8; TAG]) -> bool {
    if text.len() <= SHORT {
        open_from(&sixteen(key, nonce, 0), key, nonce, text, tag)
    } else {
        open_from(&twenty_four(key, nonce), key, nonce, text, tag)
    }
}

/// Seals with the first blocks of key stream.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn seal_from(first: &[__m512i], key: &[u8; 32], nonce: &[u8; 12], text: &mut [u8]) -> [u8; TAG] {
    encrypt(first, key, nonce, text);
    poly::tag(&one_time_key(first), text)
}

/// Opens with the first blocks of key stream.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn open_from(first: &[__m512i], key: &[u8; 32], nonce: &[u8; 12], text: &mut [u8], tag: &[u8; TAG]) -> bool {
    let wanted = poly::tag(&one_time_key(first), text);
    let authentic = is_same(wanted, tag);
    if authentic {
        encrypt(first, key, nonce, text);
    }
    authentic
}

/// Combines `text` with the key stream from block 1 on, of which `first` holds as much as there is yet, and block 0.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn encrypt(first: &[__m512i], key: &[u8; 32], nonce: &[u8; 12], text: &mut [u8]) {
    let stream = first.get(1..).unwrap_or_default();
    let (front, rest) = text.split_at_mut(text.len().min(stream.len() * BLOCK));
    apply(front, stream);
    // Never more blocks than the counter has numbers for (MAX_TEXT).
    let mut counter = first.len() as u32;
    for chunk in rest.chunks_mut(16 * BLOCK) {
        apply(chunk, &sixteen(key, nonce, counter));
        counter = counter.wrapping_add(16);
    }
}

/// The authenticator's key: the first half of block 0 (RFC 8439 section 2.6).
#[inline]
#[target_feature(enable = "avx512f")]
fn one_time_key(blocks: &[__m512i]) -> [u8; 32] {
    let mut block = [0_u8; BLOCK];
    if let Some(first) = blocks.first() {
        // SAFETY: 64 bytes are written to an array of 64.
        unsafe { _mm512_storeu_si512(block.as_mut_ptr().cast(), *first) };
    }
    block.first_chunk().copied().unwrap_or_default()
}
