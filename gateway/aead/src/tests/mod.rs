//! Whatever is sealed here is what aws-lc seals, and the other way round, in each form that this processor has.

pub mod poly;

use crate::TAG;
use crate::imp::Key;
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use proptest::prelude::*;

fn reference(key: &[u8; 32], nonce: [u8; 12], text: &[u8]) -> (Vec<u8>, [u8; TAG]) {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).unwrap());
    let mut sealed = text.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut sealed).unwrap();
    (sealed, tag.as_ref().try_into().unwrap())
}

fn same(key: [u8; 32], nonce: [u8; 12], text: &[u8]) -> Result<(), TestCaseError> {
    let (theirs, wanted) = reference(&key, nonce, text);
    for ours in Key::each(&key) {
        let mut sealed = text.to_vec();
        let tag = ours.seal(&nonce, &mut sealed);
        prop_assert_eq!((&sealed, tag), (&theirs, wanted));
        prop_assert!(ours.open(&nonce, &mut sealed, &tag));
        prop_assert_eq!(sealed, text);
    }
    Ok(())
}

#[test]
fn every_length_up_to_three_packets() {
    for len in 0..4300_usize {
        let text: Vec<u8> = (0..len).map(|n| (n * 31 + len) as u8).collect();
        same([len as u8; 32], [7; 12], &text).unwrap();
    }
}

proptest! {
    #[test]
    fn any_text_any_key(key: [u8; 32], nonce: [u8; 12], text in prop::collection::vec(any::<u8>(), 0..3000)) {
        same(key, nonce, &text)?;
    }

    #[test]
    fn a_bit_that_changed_is_noticed_and_the_text_stays(
        key: [u8; 32], nonce: [u8; 12], text in prop::collection::vec(any::<u8>(), 0..1600), bit: prop::sample::Index,
    ) {
        for ours in Key::each(&key) {
            let mut sealed = text.clone();
            let mut tag = ours.seal(&nonce, &mut sealed);
            let bit = bit.index((sealed.len() + TAG) * 8);
            let byte = sealed.iter_mut().chain(&mut tag).nth(bit / 8).unwrap();
            *byte ^= 1 << (bit % 8);
            let before = sealed.clone();
            prop_assert!(!ours.open(&nonce, &mut sealed, &tag));
            prop_assert_eq!(sealed, before);
        }
    }
}
