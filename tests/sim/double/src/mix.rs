//! Toy cryptography: a keyed hash, a stream, and Diffie-Hellman in the numbers modulo 2^61 - 1.

/// A Mersenne prime: what a multiplication leaves is folded with a shift.
const PRIME: u64 = (1 << 61) - 1;
const GENERATOR: u64 = 37;

const SALT: [u64; 3] = [0x9E37_79B9_7F4A_7C15, 0xD1B5_4A32_D192_ED03, 0x8CB9_2BA7_2F3D_8DD7];

/// A key, or what came of hashing something.
pub type Key = u64;

fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide as u64) ^ ((wide >> 64) as u64)
}

/// `value`, scattered.
pub fn scatter(value: u64) -> u64 {
    fold(value ^ SALT[0], SALT[1]) ^ fold(value.rotate_left(29) ^ SALT[2], SALT[0])
}

/// Both in one.
pub fn join(a: Key, b: u64) -> Key {
    scatter(a ^ scatter(b).rotate_left(17))
}

/// A keyed hash of `bytes`.
pub fn hash(key: Key, bytes: &[u8]) -> Key {
    let mut state = key ^ SALT[2] ^ (bytes.len() as u64);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state = fold(state ^ u64::from_le_bytes(word) ^ SALT[1], SALT[0]) ^ state.rotate_left(23);
    }
    scatter(state)
}

/// A tag of 16 bytes over `bytes`.
pub fn tag(key: Key, bytes: &[u8]) -> [u8; 16] {
    let first = hash(key, bytes);
    let second = join(first, key);
    let mut tag = [0; 16];
    tag[..8].copy_from_slice(&first.to_le_bytes());
    tag[8..].copy_from_slice(&second.to_le_bytes());
    tag
}

/// Hides `bytes`, or shows them again.
pub fn stream(key: Key, bytes: &mut [u8]) {
    for (n, chunk) in bytes.chunks_mut(8).enumerate() {
        let pad = fold(key.wrapping_add(SALT[0].wrapping_mul(n as u64 + 1)), SALT[1] ^ key).to_le_bytes();
        chunk.iter_mut().zip(pad).for_each(|(byte, pad)| *byte ^= pad);
    }
}

/// Seals `plain` into `out`, which is 16 bytes longer.
pub fn seal(key: Key, plain: &[u8], out: &mut [u8]) {
    let (body, end) = out.split_at_mut(plain.len());
    body.copy_from_slice(plain);
    stream(key, body);
    end.copy_from_slice(&tag(key, body));
}

/// Opens what [`seal`] made into `out`, which is 16 bytes shorter; `false`: it is not what was sealed.
pub fn open(key: Key, sealed: &[u8], out: &mut [u8]) -> bool {
    let Some((body, end)) = sealed.split_at_checked(sealed.len().wrapping_sub(16)) else { return false };
    if tag(key, body) != end {
        return false;
    }
    out.copy_from_slice(body);
    stream(key, out);
    true
}

fn reduce(wide: u128) -> u64 {
    let folded = (wide as u64 & PRIME) + (wide >> 61) as u64;
    if folded >= PRIME { folded - PRIME } else { folded }
}

/// `base` to the power of `exponent`.
pub fn power(base: u64, exponent: u64) -> u64 {
    let (mut result, mut base, mut left) = (1_u64, base % PRIME, exponent);
    while left > 0 {
        if left & 1 == 1 {
            result = reduce(u128::from(result) * u128::from(base));
        }
        base = reduce(u128::from(base) * u128::from(base));
        left >>= 1;
    }
    result
}

/// The public half of a secret exponent.
pub fn public(secret: u64) -> u64 {
    power(GENERATOR, secret)
}

/// A secret exponent out of anything.
pub fn exponent(key: Key) -> u64 {
    scatter(key) % (PRIME - 2) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_an_exchange_find_the_same_and_a_third_does_not() {
        let [a, b, c] = [1, 2, 3].map(exponent);
        assert_eq!(power(public(a), b), power(public(b), a));
        assert_ne!(power(public(a), b), power(public(a), c));
    }

    #[test]
    fn what_is_sealed_is_hidden_and_every_changed_bit_is_noticed() {
        let plain = b"a packet that nobody else may read";
        let mut sealed = vec![0; plain.len() + 16];
        seal(7, plain, &mut sealed);
        assert!(!sealed.windows(6).any(|w| w == &plain[..6]));
        let mut opened = vec![0; plain.len()];
        assert!(open(7, &sealed, &mut opened) && opened == plain);
        assert!(!open(8, &sealed, &mut opened));
        for bit in 0..sealed.len() * 8 {
            sealed[bit / 8] ^= 1 << (bit % 8);
            assert!(!open(7, &sealed, &mut opened), "bit {bit}");
            sealed[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
