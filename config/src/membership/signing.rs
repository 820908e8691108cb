//! The overlay's signing key, and records that carry its signature (Ed25519, RFC 8032, verified strictly).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use ipnet::Ipv4Net;
use zeroize::Zeroizing;

use crate::key::{KeyError, decode_key};

use super::codec;
use super::record::{MAX_RECORD_BYTES, Record, RecordError};

/// What is signed begins with this: a signature of the same key over anything else is none over a record.
const DOMAIN: &[u8] = b"overlay-gw membership record v1\0";

const SIGNATURE: usize = 64;

/// The secret half of an overlay's signing key, which only the administrator has. Wiped when dropped, never printed.
#[derive(Clone)]
pub struct SigningKey(Zeroizing<[u8; 32]>);

impl SigningKey {
    /// A key out of 32 bytes of entropy, or the raw bytes of an existing key.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads what [`SigningKey::to_base64`] writes; white space around it is ignored.
    ///
    /// # Errors
    /// When the text is not the base64 of 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        decode_key(text).map(Self)
    }

    /// The key as a file holds it, without a line end.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0.as_slice()))
    }

    /// The public half, which every member has.
    #[must_use]
    pub fn public(&self) -> SigningPublicKey {
        SigningPublicKey(self.dalek().verifying_key().to_bytes())
    }

    /// Signs a record for the overlay with this CIDR.
    ///
    /// # Errors
    /// When it is not well formed, or longer than [`MAX_RECORD_BYTES`].
    pub fn sign(&self, record: Record, overlay: Ipv4Net) -> Result<SignedRecord, SignError> {
        record.check()?;
        let body = codec::encode(&record);
        let length = body.len() + SIGNATURE;
        if length > MAX_RECORD_BYTES {
            return Err(RecordError::TooLong(length).into());
        }
        let signature = self.dalek().sign(&signed_bytes(&body, overlay)).to_bytes();
        Ok(SignedRecord { record, body, signature })
    }

    /// dalek's own key wipes itself as well.
    fn dalek(&self) -> ed25519_dalek::SigningKey {
        ed25519_dalek::SigningKey::from_bytes(&self.0)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(redacted)")
    }
}

/// Why a record was not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record cannot be signed: {0}")]
pub struct SignError(#[from] pub RecordError);

/// The public half of an overlay's signing key: a point that signatures can be verified with. Displayed in base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SigningPublicKey([u8; 32]);

impl SigningPublicKey {
    /// The key of these bytes.
    ///
    /// # Errors
    /// When they are no point of the curve, or one of small order, for which anybody can make signatures.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        match VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(bytes)),
            _ => Err(KeyError::NoSigningKey),
        }
    }

    /// The raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for SigningPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for SigningPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningPublicKey({self})")
    }
}

impl FromStr for SigningPublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode_key(text).and_then(|key| Self::from_bytes(*key))
    }
}

/// A well-formed record with a signature that nobody has verified yet: only [`super::Book::merge`] and
/// [`SignedRecord::is_signed_by`] do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRecord {
    record: Record,
    body: Vec<u8>,
    signature: [u8; SIGNATURE],
}

impl SignedRecord {
    /// Reads a record, as it lies in a control message.
    ///
    /// # Errors
    /// When the bytes are no well-formed record. The signature is not looked at.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(RecordError::TooLong(bytes.len()));
        }
        let (body, signature) = bytes.split_last_chunk().ok_or(RecordError::Length)?;
        Ok(Self { record: codec::decode(body)?, body: body.to_vec(), signature: *signature })
    }

    /// The record as bytes, at most [`MAX_RECORD_BYTES`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [self.body.as_slice(), &self.signature].concat()
    }

    /// What it says, if it is believed.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Whether `key` signed it for the overlay with this CIDR. Strictly: no signature that another implementation would refuse
    /// passes.
    #[must_use]
    pub fn is_signed_by(&self, key: &SigningPublicKey, overlay: Ipv4Net) -> bool {
        let signature = Signature::from_bytes(&self.signature);
        let message = signed_bytes(&self.body, overlay);
        VerifyingKey::from_bytes(&key.0).is_ok_and(|key| key.verify_strict(&message, &signature).is_ok())
    }

    /// Whether both say the same, whatever their signatures.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        self.body == other.body
    }
}

/// In base64, on one line.
impl fmt::Display for SignedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.to_bytes()))
    }
}

impl FromStr for SignedRecord {
    type Err = RecordError;

    fn from_str(text: &str) -> Result<Self, RecordError> {
        let text = text.trim();
        // Looked at before it is decoded: base64 takes four bytes for three.
        if text.len() > MAX_RECORD_BYTES.div_ceil(3) * 4 {
            return Err(RecordError::TooLong(text.len() / 4 * 3));
        }
        let bytes = STANDARD.decode(text).map_err(|_| RecordError::NotBase64)?;
        Self::from_bytes(&bytes)
    }
}

fn signed_bytes(body: &[u8], overlay: Ipv4Net) -> Vec<u8> {
    [DOMAIN, &overlay.network().octets(), &[overlay.prefix_len()], body].concat()
}
