//! Keys under the names of x25519-dalek: 32 bytes, of which the public ones hold a number in the first eight.

use crate::mix;

/// A secret.
#[derive(Clone)]
pub struct StaticSecret {
    pub(crate) exponent: u64,
}

impl From<[u8; 32]> for StaticSecret {
    fn from(bytes: [u8; 32]) -> Self {
        Self { exponent: mix::exponent(mix::hash(0, &bytes)) }
    }
}

impl StaticSecret {
    /// What both sides, and only they, can compute.
    #[must_use]
    pub fn diffie_hellman(&self, public: &PublicKey) -> SharedSecret {
        SharedSecret(mix::power(public.number(), self.exponent))
    }
}

/// What [`StaticSecret::diffie_hellman`] finds.
pub struct SharedSecret(pub(crate) u64);

/// A public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl From<[u8; 32]> for PublicKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl From<&StaticSecret> for PublicKey {
    fn from(secret: &StaticSecret) -> Self {
        Self::of(mix::public(secret.exponent))
    }
}

impl PublicKey {
    pub(crate) fn of(number: u64) -> Self {
        let mut bytes = [0; 32];
        for (n, chunk) in bytes.chunks_mut(8).enumerate() {
            let word = if n == 0 { number } else { mix::join(number, n as u64) };
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        Self(bytes)
    }

    pub(crate) fn number(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}
