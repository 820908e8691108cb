//! For processors with AVX2: the cipher in the vector units, the authenticator beside it in the scalar ones.
//!
//! Each waits for its own results half of the time and leaves the other's units idle. The processor looks far enough ahead to do both when
//! their instructions come in turn, and then the tag costs next to nothing (benches/README.md).

mod poly;
mod rounds;

use crate::TAG;
use crate::common::{BLOCK, DOUBLE_ROUNDS, SIGMA, is_same, word};
use poly::Poly;
use rounds::State;
use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_loadu_si256, _mm256_permute2x128_si256, _mm256_set1_epi32,
    _mm256_setr_epi32, _mm256_setzero_si256, _mm256_store_si256, _mm256_storeu_si256, _mm256_unpackhi_epi32,
    _mm256_unpackhi_epi64, _mm256_unpacklo_epi32, _mm256_unpacklo_epi64, _mm256_xor_si256,
};

/// Blocks of key stream that are made at once, one a lane.
const LANES: usize = 8;

/// Bytes of them.
const GROUP: usize = LANES * BLOCK;

/// The processor has what the functions here need.
pub fn is_here() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2")
}

/// Seals `text` in place and returns its tag.
#[target_feature(enable = "avx2,bmi2")]
pub fn seal(key: &[u8; 32], nonce: &[u8; 12], text: &mut [u8]) -> [u8; TAG] {
    let mut cipher = Cipher::new(key, nonce);
    let mut stream = Stream::new();
    cipher.next(&mut stream, &mut Poly::none(), &[]);
    let one_time = stream.one_time_key();
    let mut poly = Poly::new(&one_time);
    let len = text.len();
    let (mut done, mut rest) = text.split_at_mut(len.min(GROUP - BLOCK));
    combine(done, &stream.0[BLOCK..]);
    while !rest.is_empty() {
        // What was sealed last goes into the tag while the key stream for the next is made.
        cipher.next(&mut stream, &mut poly, done);
        let next = rest.len().min(GROUP);
        (done, rest) = rest.split_at_mut(next);
        combine(done, &stream.0);
    }
    poly.padded(done);
    poly.finish(len, &one_time)
}

/// Opens `text` in place if `tag` is its tag, and otherwise leaves it as it is.
#[target_feature(enable = "avx2,bmi2")]
pub fn open(key: &[u8; 32], nonce: &[u8; 12], text: &mut [u8], tag: &[u8; TAG]) -> bool {
    let mut cipher = Cipher::new(key, nonce);
    let (mut first, mut more) = (Stream::new(), [const { Stream::new() }; 2]);
    cipher.next(&mut first, &mut Poly::none(), &[]);
    let one_time = first.one_time_key();
    let mut poly = Poly::new(&one_time);
    // The key stream of a full packet is made beside the tag; for what is longer the rest of it comes later.
    let groups = (text.len() + BLOCK).div_ceil(GROUP).saturating_sub(1).min(more.len());
    let (blocks, _) = text.as_chunks::<{ poly::BLOCK }>();
    let share = blocks.len().div_ceil(groups.max(1)).min(5 * DOUBLE_ROUNDS) * poly::BLOCK;
    let mut rest = &*text;
    for stream in &mut more[..groups] {
        let (now, later) = rest.split_at(rest.len().min(share));
        cipher.next(stream, &mut poly, now);
        rest = later;
    }
    poly.padded(rest);
    let wanted = poly.finish(text.len(), &one_time);
    let authentic = is_same(wanted, tag);
    if authentic {
        let (front, mut rest) = text.split_at_mut(text.len().min(GROUP - BLOCK));
        combine(front, &first.0[BLOCK..]);
        for stream in &more[..groups] {
            let (now, later) = rest.split_at_mut(rest.len().min(GROUP));
            combine(now, &stream.0);
            rest = later;
        }
        for chunk in rest.chunks_mut(GROUP) {
            cipher.next(&mut first, &mut Poly::none(), &[]);
            combine(chunk, &first.0);
        }
    }
    authentic
}

/// A group of blocks of key stream.
#[repr(align(32))]
struct Stream([u8; GROUP]);

impl Stream {
    const fn new() -> Self {
        Self([0; GROUP])
    }

    /// The authenticator's key: the first half of block 0 (RFC 8439 section 2.6).
    fn one_time_key(&self) -> [u8; 32] {
        self.0.first_chunk().copied().unwrap_or_default()
    }
}

/// The state before the first round (RFC 8439 section 2.3), word `n` of eight blocks in vector `n`.
struct Cipher([__m256i; 16]);

impl Cipher {
    /// From block 0 on.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new(key: &[u8; 32], nonce: &[u8; 12]) -> Self {
        let mut start = [_mm256_setzero_si256(); 16];
        for (n, vector) in start.iter_mut().enumerate() {
            *vector = match n {
                0..4 => _mm256_set1_epi32(SIGMA[n].cast_signed()),
                4..12 => _mm256_set1_epi32(word(key, n - 4)),
                12 => _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                _ => _mm256_set1_epi32(word(nonce, n - 13)),
            };
        }
        Self(start)
    }

    /// The next group of the key stream; and at the same time `text` into the sum, filled up with zeros to whole blocks.
    #[inline]
    #[target_feature(enable = "avx2,bmi2")]
    fn next(&mut self, stream: &mut Stream, poly: &mut Poly, text: &[u8]) {
        let (mut blocks, rest) = text.as_chunks();
        let (mut state, mut memory) = State::new(&self.0, poly);
        for left in (1..=DOUBLE_ROUNDS).rev() {
            if blocks.len() > 4 * left
                && let Some((five, more)) = blocks.split_first_chunk()
            {
                state.double_round_and_five(&mut memory, five);
                blocks = more;
            } else if blocks.len() > 3 * left
                && let Some((four, more)) = blocks.split_first_chunk()
            {
                state.double_round_and_four(&mut memory, four);
                blocks = more;
            } else if let Some((three, more)) = blocks.split_first_chunk() {
                state.double_round_and_three(&mut memory, three);
                blocks = more;
            } else {
                state.double_round(&mut memory);
            }
        }
        let (mut end, sum) = state.finish(&memory);
        poly.sum = sum;
        poly.blocks(blocks);
        poly.padded(rest);
        for (vector, start) in end.iter_mut().zip(&self.0) {
            *vector = _mm256_add_epi32(*vector, *start);
        }
        transpose(&end, stream);
        // Never more blocks than the counter has numbers for (MAX_TEXT).
        self.0[12] = _mm256_add_epi32(self.0[12], _mm256_set1_epi32(LANES as i32));
    }
}

/// From a vector a word to 64 bytes a block.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(v: &[__m256i; 16], stream: &mut Stream) {
    // Eight words at a time make half of each block.
    for half in 0..2 {
        // Within each 128 bits: of four words, then of the four fours.
        let mut fours = [_mm256_setzero_si256(); 8];
        for n in 0..2 {
            let at = 8 * half + 4 * n;
            let [a, b, c, d] = [v[at], v[at + 1], v[at + 2], v[at + 3]];
            let (low_ab, high_ab) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let (low_cd, high_cd) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            fours[4 * n] = _mm256_unpacklo_epi64(low_ab, low_cd);
            fours[4 * n + 1] = _mm256_unpackhi_epi64(low_ab, low_cd);
            fours[4 * n + 2] = _mm256_unpacklo_epi64(high_ab, high_cd);
            fours[4 * n + 3] = _mm256_unpackhi_epi64(high_ab, high_cd);
        }
        // fours[4 n + m] holds, in its 128 bits k, the words 4 n .. 4 n + 3 of the eight, of block 4 k + m.
        for m in 0..4 {
            let low = _mm256_permute2x128_si256::<0x20>(fours[m], fours[4 + m]);
            let high = _mm256_permute2x128_si256::<0x31>(fours[m], fours[4 + m]);
            for (block, vector) in [(m, low), (m + 4, high)] {
                let to = &mut stream.0[block * BLOCK + 32 * half..][..32];
                // SAFETY: `to` has 32 bytes, and is as aligned as the stream.
                unsafe { _mm256_store_si256(to.as_mut_ptr().cast(), vector) };
            }
        }
    }
}

/// Combines `text` with as much of `stream` as it is long.
#[inline]
#[target_feature(enable = "avx2")]
fn combine(text: &mut [u8], stream: &[u8]) {
    let (vectors, rest) = text.as_chunks_mut::<32>();
    let (whole, _) = stream.as_chunks::<32>();
    let behind = &stream[vectors.len() * 32..];
    for (vector, stream) in vectors.iter_mut().zip(whole) {
        // SAFETY: both are 32 bytes.
        unsafe {
            let (text, stream) =
                (_mm256_loadu_si256(vector.as_ptr().cast()), _mm256_loadu_si256(stream.as_ptr().cast()));
            _mm256_storeu_si256(vector.as_mut_ptr().cast(), _mm256_xor_si256(text, stream));
        }
    }
    for (byte, stream) in rest.iter_mut().zip(behind) {
        *byte ^= stream;
    }
}
