//! The cipher alone: ours where the processor has AVX-512 or AVX2, and the library behind it.

use crate::packets::SIZES;
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use criterion::{Criterion, Throughput};

pub fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("aead");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        let mut text = vec![0; size];
        if let Some(key) = overlay_aead::Key::new(&[7; 32]) {
            let form = key.form();
            group.bench_function(format!("seal/{form}/{size}"), |b| b.iter(|| key.seal(&[1; 12], &mut text)));
            let sealed = text.clone();
            let tag = key.seal(&[1; 12], &mut text).unwrap();
            let (sealed, mut text) = (text.clone(), sealed);
            group.bench_function(format!("open/{form}/{size}"), |b| {
                b.iter(|| {
                    text.copy_from_slice(&sealed);
                    assert!(key.open(&[1; 12], &mut text, &tag));
                });
            });
        }
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).unwrap());
        let nonce = || Nonce::assume_unique_for_key([1; 12]);
        group.bench_function(format!("seal/aws_lc/{size}"), |b| {
            b.iter(|| key.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut text).unwrap());
        });
        let mut sealed = text.clone();
        key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut sealed).unwrap();
        let mut opened = sealed.clone();
        group.bench_function(format!("open/aws_lc/{size}"), |b| {
            b.iter(|| {
                opened.copy_from_slice(&sealed);
                key.open_in_place(nonce(), Aad::empty(), &mut opened).unwrap();
            });
        });
    }
}
