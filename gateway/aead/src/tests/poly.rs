//! What any form of Poly1305 has to come to.

/// Poly1305 as RFC 8439 section 2.5.1 writes it down, over numbers of any length: slow, and plainly right.
fn naive(key: &[u8; 32], text: &[u8]) -> [u8; 16] {
    // 17 bytes a number, lowest first, and room for a product.
    type Big = [u64; 40];
    fn add(a: &mut Big, b: &[u8]) {
        for (to, from) in a.iter_mut().zip(b) {
            *to += u64::from(*from);
        }
    }
    fn carry(a: &mut Big) {
        for n in 0..39 {
            a[n + 1] += a[n] >> 8;
            a[n] &= 255;
        }
    }
    fn reduce(a: &mut Big) {
        // What lies above 2^130 counts five times.
        for _ in 0..3 {
            carry(a);
            let above: Vec<u64> = (0..20).map(|n| (a[16 + n] >> 2) | (a[17 + n] & 3) << 6).collect();
            a[16] &= 3;
            a[17..].fill(0);
            for (to, from) in a.iter_mut().zip(above) {
                *to += from * 5;
            }
        }
        carry(a);
    }
    let mut r = [0; 16];
    r.copy_from_slice(&key[..16]);
    for n in [3, 7, 11, 15] {
        r[n] &= 15;
    }
    for n in [4, 8, 12] {
        r[n] &= 252;
    }
    let mut padded = text.to_vec();
    padded.resize(text.len().next_multiple_of(16), 0);
    padded.extend([0; 8]);
    padded.extend((text.len() as u64).to_le_bytes());
    let mut sum: Big = [0; 40];
    for block in padded.chunks(16) {
        add(&mut sum, block);
        sum[16] += 1;
        let mut product: Big = [0; 40];
        for (n, a) in sum.iter().take(18).enumerate() {
            for (m, b) in r.iter().enumerate() {
                product[n + m] += a * u64::from(*b);
            }
        }
        sum = product;
        reduce(&mut sum);
    }
    // Once more than p fits at most once.
    let mut less = sum;
    add(&mut less, &[5]);
    carry(&mut less);
    if less[16] >= 4 {
        sum = less;
    }
    add(&mut sum, &key[16..]);
    carry(&mut sum);
    std::array::from_fn(|n| sum[n] as u8)
}

/// Texts of the highest and the lowest values, of every length up to a few groups.
pub fn at_the_edge_of_the_field(tag: impl Fn(&[u8; 32], &[u8]) -> [u8; 16]) {
    let ones = [0xff; 32];
    let (mut small, mut two) = ([0; 32], [0; 32]);
    (small[0], two[0], two[16]) = (1, 2, 0xff);
    for key in [ones, small, two, [0; 32], std::array::from_fn(|n| n as u8 * 7)] {
        for len in (0..420).chain([960, 1279, 1280, 1420, 1452, 4000]) {
            for fill in [0xff, 0, 0xfb, 1] {
                let mut text = vec![fill; len];
                for edge in [text.len().saturating_sub(16), 0] {
                    assert_eq!(tag(&key, &text), naive(&key, &text), "{len} times {fill:#x}");
                    if let Some(byte) = text.get_mut(edge) {
                        *byte ^= 0x80;
                    }
                }
            }
        }
    }
}

/// With r = 1 the sum is that of the blocks, and can be chosen: here from a little below 2^130 - 5 to a little above.
pub fn around_the_modulus(tag: impl Fn(&[u8; 32], &[u8]) -> [u8; 16]) {
    let mut key = [0x5a; 32];
    key[..16].copy_from_slice(&1_u128.to_le_bytes());
    for below in 0..12 {
        // Five blocks and the lengths are 6 * 2^128, which is 2 * 2^128 + 5, and 80 * 2^64.
        let second = u128::MAX - (below + 3) - (80 << 64);
        let mut text = [0; 80];
        text[..16].fill(0xff);
        text[16..32].copy_from_slice(&second.to_le_bytes());
        assert_eq!(tag(&key, &text), naive(&key, &text), "2^130 - {below}");
    }
}
