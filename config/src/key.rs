//! WireGuard keys: 32 bytes, written in base64 as `wg genkey`, `wg pubkey` and `wg genpsk` print them.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

/// Why a text is no key. It never holds the text: that may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing but white space.
    #[error("it is empty")]
    Empty,
    /// Not base64 (RFC 4648, section 4, with padding).
    #[error("it is not base64")]
    NotBase64,
    /// Base64 of another number of bytes.
    #[error("it holds {0} bytes, not 32")]
    Length(usize),
    /// 32 zero bytes, which WireGuard takes for "no key".
    #[error("it is all zeros, which WireGuard takes for no key")]
    Zero,
    /// No point of the curve that signatures can be verified with.
    #[error("no signature can be verified with it")]
    NoSigningKey,
}

/// The 32 bytes that a text writes in base64.
pub(crate) fn decode_key(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(KeyError::Empty);
    }
    let bytes = Zeroizing::new(STANDARD.decode(text).map_err(|_| KeyError::NotBase64)?);
    let key: [u8; 32] = bytes.as_slice().try_into().map_err(|_| KeyError::Length(bytes.len()))?;
    let key = Zeroizing::new(key);
    if key.iter().all(|byte| *byte == 0) { Err(KeyError::Zero) } else { Ok(key) }
}

/// A Curve25519 secret, clamped as `wg genkey` does (RFC 7748, section 5). Wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(Zeroizing<[u8; 32]>);

impl PrivateKey {
    /// A key out of 32 bytes of entropy, or the raw bytes of an existing key.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut key = Zeroizing::new(bytes);
        let [first, .., last] = &mut *key;
        *first &= 0b1111_1000;
        *last = (*last & 0b0111_1111) | 0b0100_0000;
        Self(key)
    }

    /// Reads what `wg genkey` prints; white space around it is ignored.
    ///
    /// # Errors
    /// When the text is not the base64 of 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        decode_key(text).map(|key| Self::from_bytes(*key))
    }

    /// The text that `wg genkey` would print, without a line end.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0.as_slice()))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&StaticSecret::from(*self.0)).to_bytes())
    }

    /// The raw bytes, for the tunnel.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}

/// A secret that two ends share besides their keys. Wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PresharedKey(Zeroizing<[u8; 32]>);

impl PresharedKey {
    /// A key out of 32 bytes of entropy.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads what `wg genpsk` prints; white space around it is ignored.
    ///
    /// # Errors
    /// When the text is not the base64 of 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        decode_key(text).map(Self)
    }

    /// The text that `wg genpsk` would print, without a line end.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0.as_slice()))
    }

    /// The raw bytes, for the tunnel.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(redacted)")
    }
}

/// A member's public key, its identity in the overlay. Displayed in base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode_key(text).map(|key| Self(*key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_half_is_that_of_rfc_7748_section_6_1() {
        let alice = PrivateKey::from_base64("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=").unwrap();
        assert_eq!(alice.public().to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
    }

    #[test]
    fn a_secret_is_clamped_once_and_reads_back_as_itself() {
        let key = PrivateKey::from_bytes([0xff; 32]);
        assert_eq!(PrivateKey::from_bytes(*key.as_bytes()), key);
        assert_eq!(PrivateKey::from_base64(&key.to_base64()).unwrap(), key);
        assert_eq!(key.as_bytes()[0] & 7, 0);
        assert_eq!(key.as_bytes()[31] >> 6, 1);
    }

    #[test]
    fn secrets_are_never_printed() {
        assert_eq!(format!("{:?}", PrivateKey::from_bytes([7; 32])), "PrivateKey(redacted)");
        assert_eq!(format!("{:?}", PresharedKey::from_bytes([7; 32])), "PresharedKey(redacted)");
    }

    #[test]
    fn what_is_no_key_says_why_without_showing_it() {
        for (text, why) in [
            (" \n", KeyError::Empty),
            ("not a key!", KeyError::NotBase64),
            ("c2hvcnQ=", KeyError::Length(5)),
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", KeyError::Zero),
        ] {
            assert_eq!(text.parse::<PublicKey>(), Err(why));
            assert_eq!(PresharedKey::from_base64(text), Err(why));
        }
    }
}
