//! What boringtun calls `ring`: as much of ring's interface as it uses.
//!
//! boringtun seals and opens through ring's ChaCha20-Poly1305 and lets nobody else do it, nor hand out a session's keys. So that
//! packets can be sealed faster without a changed copy of boringtun, the workspace puts this crate in ring's place
//! (`[patch.crates-io]`). Where the processor has AVX-512 or AVX2, [`overlay_aead`] does the work of data messages; everything else is
//! aws-lc-rs, which has ring's interface, is kept by AWS, and is as quick as ring at sealing and quicker at opening.
#![forbid(unsafe_code)]

pub use aws_lc_rs::{constant_time, error};

/// Authenticated encryption (ring's `aead`).
pub mod aead {
    use aws_lc_rs::aead as fallback;
    pub use aws_lc_rs::aead::{Aad, Algorithm, CHACHA20_POLY1305, Nonce};

    use crate::error::Unspecified;

    /// A key that is tied to an algorithm, and to nothing else.
    #[derive(Debug)]
    pub struct UnboundKey {
        any: fallback::UnboundKey,
        ours: Option<overlay_aead::Key>,
    }

    impl UnboundKey {
        /// A key for `algorithm`.
        ///
        /// # Errors
        /// When it has not the length that the algorithm wants.
        pub fn new(algorithm: &'static Algorithm, key: &[u8]) -> Result<Self, Unspecified> {
            let any = fallback::UnboundKey::new(algorithm, key)?;
            let chosen = Some(key).filter(|_| *algorithm == CHACHA20_POLY1305);
            let ours = chosen.and_then(|key| overlay_aead::Key::new(key.try_into().ok()?));
            Ok(Self { any, ours })
        }
    }

    /// A key whose nonces are the caller's affair.
    #[derive(Debug)]
    pub struct LessSafeKey {
        any: fallback::LessSafeKey,
        ours: Option<overlay_aead::Key>,
    }

    /// What proves that a text is authentic.
    #[derive(Clone, Copy, Debug)]
    pub struct Tag([u8; overlay_aead::TAG]);

    impl AsRef<[u8]> for Tag {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl LessSafeKey {
        /// The key, to be used with nonces of the caller's.
        #[must_use]
        pub fn new(key: UnboundKey) -> Self {
            Self { any: fallback::LessSafeKey::new(key.any), ours: key.ours }
        }

        /// Our own key, where it is for this text.
        #[inline]
        fn ours(&self, aad: &[u8], len: usize) -> Option<&overlay_aead::Key> {
            self.ours.as_ref().filter(|key| aad.is_empty() && key.is_worth_while(len))
        }

        /// Seals `in_out` in place and returns its tag.
        ///
        /// # Errors
        /// When it is too long for the algorithm.
        #[inline]
        pub fn seal_in_place_separate_tag<A: AsRef<[u8]>>(
            &self,
            nonce: Nonce,
            aad: Aad<A>,
            in_out: &mut [u8],
        ) -> Result<Tag, Unspecified> {
            if let Some(key) = self.ours(aad.as_ref(), in_out.len()) {
                return key.seal(nonce.as_ref(), in_out).map(Tag).ok_or(Unspecified);
            }
            let tag = self.any.seal_in_place_separate_tag(nonce, aad, in_out)?;
            tag.as_ref().try_into().map(Tag).map_err(|_| Unspecified)
        }

        /// Opens `in_out`, which ends with its tag, in place, and returns the text.
        ///
        /// # Errors
        /// When it is not authentic.
        #[inline]
        pub fn open_in_place<'a, A: AsRef<[u8]>>(
            &self,
            nonce: Nonce,
            aad: Aad<A>,
            in_out: &'a mut [u8],
        ) -> Result<&'a mut [u8], Unspecified> {
            if let Some(key) = self.ours(aad.as_ref(), in_out.len()) {
                let (text, tag) = in_out.split_last_chunk_mut().ok_or(Unspecified)?;
                return if key.open(nonce.as_ref(), text, tag) { Ok(text) } else { Err(Unspecified) };
            }
            self.any.open_in_place(nonce, aad, in_out)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
    use aws_lc_rs::aead as library;

    /// With associated data the library works, without it ours where the processor can: neither is to be told from the other.
    #[test]
    fn what_is_sealed_here_is_what_the_library_seals() {
        let ours = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[3; 32]).unwrap());
        let theirs =
            library::LessSafeKey::new(library::UnboundKey::new(&CHACHA20_POLY1305, &[3; 32]).unwrap());
        for (aad, len) in [(&b""[..], 0), (b"", 64), (b"", 1420), (b"hash", 0), (b"hash", 32)] {
            let (mut here, mut there) = (vec![9; len], vec![9; len]);
            let nonce = || Nonce::assume_unique_for_key([5; 12]);
            let tag = ours.seal_in_place_separate_tag(nonce(), Aad::from(aad), &mut here).unwrap();
            theirs.seal_in_place_append_tag(nonce(), Aad::from(aad), &mut there).unwrap();
            here.extend_from_slice(tag.as_ref());
            assert_eq!(here, there);
            let mut forged = here.clone();
            assert_eq!(ours.open_in_place(nonce(), Aad::from(aad), &mut here).unwrap(), vec![9; len]);
            *forged.last_mut().unwrap() ^= 1;
            assert!(ours.open_in_place(nonce(), Aad::from(aad), &mut forged).is_err());
            assert!(ours.open_in_place(nonce(), Aad::from(aad), &mut [0; 15]).is_err());
        }
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        assert!(UnboundKey::new(&CHACHA20_POLY1305, &[3; 31]).is_err());
    }
}
