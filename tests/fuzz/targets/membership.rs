//! Membership: hostile records and listings are refused or read, and change nothing in a book that has not signed them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overlay_config::membership::{
    Book, Digest, Listing, MAX_RECORD_BYTES, Merge, RecordLines, SignedRecord, SigningKey,
};
use overlay_config::{Config, DEFAULT_OVERLAY, HostFacts, Overrides, load_node};

/// No key file is named.
struct None;

impl overlay_config::Files for None {
    fn read(&self, _: &std::path::Path) -> Result<overlay_config::FileText, overlay_config::FileError> {
        Err(overlay_config::FileError::Missing)
    }
}

fn node(key: &SigningKey) -> Config {
    let text = format!(
        "version = 1\n[node]\nname = \"n\"\nslot = 56\n[overlay]\nsigning_key = \"{}\"\n",
        key.public()
    );
    let source = overlay_config::Source { name: "config.toml".into(), bytes: text.into_bytes() };
    load_node(Some(&source), &Overrides::default(), &None, &HostFacts::default()).expect("a valid file")
}

fuzz_target!(|bytes: &[u8]| {
    let key = SigningKey::from_bytes([7; 32]);
    let empty = Book::new(key.public(), DEFAULT_OVERLAY, 29);
    let mut book = empty.clone();
    if let Ok(forged) = SignedRecord::from_bytes(bytes) {
        assert_eq!(forged.to_bytes(), bytes);
        assert_eq!(forged.to_string().parse::<SignedRecord>().as_ref(), Ok(&forged));
        assert_eq!(book.merge(&forged), Merge::BadSignature);
        assert_eq!(book, empty);
    }
    // As if the administrator had signed it: what its body says holds for any body.
    let padded = [bytes, &[0; 64]].concat();
    if let Ok(unsigned) = SignedRecord::from_bytes(&padded) {
        let signed = key.sign(unsigned.record().clone(), DEFAULT_OVERLAY).expect("well formed");
        assert!(signed.to_bytes().len() <= MAX_RECORD_BYTES);
        assert_eq!(signed.record(), unsigned.record());
        assert!(signed.to_bytes().starts_with(bytes), "what can be written in two ways");
        let taken = matches!(book.merge(&signed), Merge::New);
        assert_eq!(book.merge(&signed).is_refused(), !taken);
        assert_eq!(book.members().len(), usize::from(taken && !signed.record().revoked));
        let applied = node(&key).with_members(&book);
        assert!(applied.config.peers.len() + applied.config.hubs.len() <= 1);
    }
    if let Some(listing) = Listing::from_bytes(bytes) {
        assert_eq!(listing.to_bytes(), bytes);
        assert!(book.missing(&listing).count() <= 1);
        _ = book.wanted(&listing).count();
        _ = listing.next();
    }
    if let Some(digest) = bytes.first_chunk().map(Digest::from_bytes) {
        for from in book.digest().differences(&digest) {
            let listing = book.listing(from);
            assert_eq!(Listing::from_bytes(&listing.to_bytes()), Some(listing));
        }
    }
    let lines = RecordLines::parse(bytes);
    assert!(lines.bad.iter().all(|bad| bad.line > 0 && !bad.to_string().is_empty()));
    let written = RecordLines::write(lines.records.iter().map(|(_, record)| record));
    assert_eq!(RecordLines::parse(written.as_bytes()).records.len(), lines.records.len());
});
