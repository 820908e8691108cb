//! The rounds of ChaCha20 (RFC 8439 section 2.3) over eight blocks, and those of the authenticator's blocks between them.
//!
//! Word `n` of eight blocks stands in one vector. In assembly, since the compiler has no use for the last register, and because the order
//! matters: a block of the authenticator after each pair of quarter rounds.

use super::poly::{BLOCK, Factor, Poly, block, with};
use std::arch::asm;
use std::arch::x86_64::__m256i;

/// Rotations of each word by 16 and by 8 bits, as orders of bytes.
#[repr(C, align(32))]
struct Orders([[u8; 32]; 2]);

static ORDERS: Orders = Orders([
    [
        2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15,
        12, 13,
    ],
    [
        3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14, 3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12,
        13, 14,
    ],
]);

/// A state between two double rounds. Its sixteen vectors leave no register for a rotation: two of them wait in [`Memory`].
pub struct State {
    a: [__m256i; 4],
    b: [__m256i; 4],
    /// Words 8 and 9.
    c: [__m256i; 2],
    d: [__m256i; 4],
    /// The authenticator's.
    sum: [u64; 3],
}

/// What the rounds need in memory, in this order. Not in [`State`], which could then not stay in registers either: as far as the compiler
/// knows, who gets the address of a part gets at all of it.
#[repr(C, align(32))]
pub struct Memory {
    /// Words 8 to 11, of which those that are in a register are out of date here.
    c: [__m256i; 4],
    factor: Factor,
}

/// `$to = $from <operation> $by`, over vectors of these names.
macro_rules! vectors {
    ($operation:literal, $to:literal, $from:literal, $by:literal) => {
        concat!($operation, " {", $to, "}, {", $from, "}, {", $by, "}\n")
    };
}

/// The same with a number of bits.
macro_rules! shift {
    ($operation:literal, $to:literal, $from:literal, $bits:literal) => {
        concat!($operation, " {", $to, "}, {", $from, "}, ", $bits, "\n")
    };
}

macro_rules! add {
    ($to:literal, $from:literal) => {
        vectors!("vpaddd", $to, $to, $from)
    };
}

macro_rules! xor {
    ($to:literal, $from:literal) => {
        vectors!("vpxor", $to, $to, $from)
    };
}

/// Rotates by whole bytes.
macro_rules! turn {
    ($word:literal, $order:literal) => {
        concat!("vpshufb {", $word, "}, {", $word, "}, [rip + {orders} + ", $order, "]\n")
    };
}

/// Rotates two words to the left by `$left` bits, 32 minus `$right`.
macro_rules! rotate {
    ($one:literal $scratch1:literal, $two:literal $scratch2:literal, $left:literal, $right:literal) => {
        concat!(
            shift!("vpslld", $scratch1, $one, $left),
            shift!("vpslld", $scratch2, $two, $left),
            shift!("vpsrld", $one, $one, $right),
            shift!("vpsrld", $two, $two, $right),
            vectors!("vpor", $one, $one, $scratch1),
            vectors!("vpor", $two, $two, $scratch2),
        )
    };
}

/// Two quarter rounds side by side.
macro_rules! quarters {
    ($a:literal $b:literal $c:literal $d:literal, $a2:literal $b2:literal $c2:literal $d2:literal) => {
        concat!(
            add!($a, $b), add!($a2, $b2), xor!($d, $a), xor!($d2, $a2), turn!($d, 0), turn!($d2, 0),
            add!($c, $d), add!($c2, $d2), xor!($b, $c), xor!($b2, $c2), rotate!($b "t0", $b2 "t1", 12, 20),
            add!($a, $b), add!($a2, $b2), xor!($d, $a), xor!($d2, $a2), turn!($d, 32), turn!($d2, 32),
            add!($c, $d), add!($c2, $d2), xor!($b, $c), xor!($b2, $c2), rotate!($b "t0", $b2 "t1", 7, 25),
        )
    };
}

/// Two of the words 8 to 11 to memory, and the other two from there.
macro_rules! swap {
    ($store:literal, $load:literal) => {
        concat!(
            concat!("vmovdqa [{memory} + ", $store, "], {x}\n"),
            concat!("vmovdqa [{memory} + ", $store, " + 32], {y}\n"),
            concat!("vmovdqa {x}, [{memory} + ", $load, "]\n"),
            concat!("vmovdqa {y}, [{memory} + ", $load, " + 32]\n"),
        )
    };
}

macro_rules! sum {
    ($($at:literal)*) => {
        concat!($(block!("{memory} + 128", $at),)* "")
    };
}

/// A column round and a diagonal round, with the authenticator's blocks of these numbers between the quarters.
macro_rules! double_round {
    ($state:ident, $memory:ident, $blocks:expr, $one:expr, $two:expr, $three:expr, $four:expr) => {{
        let State { a: [a0, a1, a2, a3], b: [b0, b1, b2, b3], c: [x, y], d: [d0, d1, d2, d3], sum: [h0, h1, h2] } = $state;
        // SAFETY: reads and writes `$memory`, whose vectors are aligned, and reads `ORDERS` and as many blocks as there are.
        unsafe {
            asm!(
                quarters!("a0" "b0" "x" "d0", "a1" "b1" "y" "d1"), swap!(0, 64), $one,
                quarters!("a2" "b2" "x" "d2", "a3" "b3" "y" "d3"), $two,
                quarters!("a0" "b1" "x" "d3", "a1" "b2" "y" "d0"), swap!(64, 0), $three,
                quarters!("a2" "b3" "x" "d1", "a3" "b0" "y" "d2"), $four,
                // Without blocks these have no use.
                "/* {h0} {h1} {h2} {u0} {u1} {u2} {u3} {u4} {u5} {blocks} */",
                a0 = inout(ymm_reg) *a0, a1 = inout(ymm_reg) *a1, a2 = inout(ymm_reg) *a2, a3 = inout(ymm_reg) *a3,
                b0 = inout(ymm_reg) *b0, b1 = inout(ymm_reg) *b1, b2 = inout(ymm_reg) *b2, b3 = inout(ymm_reg) *b3,
                d0 = inout(ymm_reg) *d0, d1 = inout(ymm_reg) *d1, d2 = inout(ymm_reg) *d2, d3 = inout(ymm_reg) *d3,
                x = inout(ymm_reg) *x, y = inout(ymm_reg) *y, t0 = out(ymm_reg) _, t1 = out(ymm_reg) _,
                h0 = inout(reg) *h0, h1 = inout(reg) *h1, h2 = inout(reg) *h2, out("rdx") _,
                u0 = out(reg) _, u1 = out(reg) _, u2 = out(reg) _, u3 = out(reg) _, u4 = out(reg) _, u5 = out(reg) _,
                memory = in(reg) $memory, blocks = in(reg) $blocks, orders = sym ORDERS,
                options(nostack),
            );
        }
    }};
}

impl State {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn new(start: &[__m256i; 16], poly: &Poly) -> (Self, Memory) {
        let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3] = *start;
        let (a, b, c, d) = ([a0, a1, a2, a3], [b0, b1, b2, b3], [c0, c1], [d0, d1, d2, d3]);
        (Self { a, b, c, d, sum: poly.sum }, Memory { c: [c0, c1, c2, c3], factor: poly.factor })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn double_round(&mut self, memory: &mut Memory) {
        double_round!(self, memory, std::ptr::null::<u8>(), sum!(), sum!(), sum!(), sum!());
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi2")]
    pub fn double_round_and_three(&mut self, memory: &mut Memory, blocks: &[[u8; BLOCK]; 3]) {
        double_round!(self, memory, blocks, sum!(0), sum!(1), sum!(2), sum!());
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi2")]
    pub fn double_round_and_four(&mut self, memory: &mut Memory, blocks: &[[u8; BLOCK]; 4]) {
        double_round!(self, memory, blocks, sum!(0), sum!(1), sum!(2), sum!(3));
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi2")]
    pub fn double_round_and_five(&mut self, memory: &mut Memory, blocks: &[[u8; BLOCK]; 5]) {
        double_round!(self, memory, blocks, sum!(0), sum!(1), sum!(2), sum!(3 4));
    }

    /// The sixteen vectors, and the authenticator's sum.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn finish(self, memory: &Memory) -> ([__m256i; 16], [u64; 3]) {
        let Self { a: [a0, a1, a2, a3], b: [b0, b1, b2, b3], c: [c0, c1], d: [d0, d1, d2, d3], sum } = self;
        let [_, _, c2, c3] = memory.c;
        ([a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3], sum)
    }
}
