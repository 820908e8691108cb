//! IPv4: the view agrees with etherparse wherever both read, and a hop less keeps the checksum as right as it was.
#![no_main]

use etherparse::Ipv4HeaderSlice;
use libfuzzer_sys::fuzz_target;
use overlay_engine::packet::ipv4::{Ipv4, decrement_ttl};

fuzz_target!(|bytes: &[u8]| {
    let theirs = Ipv4HeaderSlice::from_slice(bytes);
    let mut copy = bytes.to_vec();
    let Ok(view) = Ipv4::parse(bytes) else {
        // What etherparse reads and we do not has a total length that is less than its header, or not there.
        if let Ok(header) = theirs {
            let total = usize::from(header.total_len());
            assert!(total < header.slice().len() || total > bytes.len());
        }
        return;
    };
    let theirs = theirs.expect("etherparse reads it as well");
    assert_eq!((view.source(), view.destination()), (theirs.source_addr(), theirs.destination_addr()));
    assert_eq!((view.ttl(), view.protocol()), (theirs.ttl(), theirs.protocol().0));
    assert_eq!(
        (view.dont_fragment(), view.more_fragments()),
        (theirs.dont_fragment(), theirs.more_fragments())
    );
    assert_eq!(view.fragment_offset() / 8, theirs.fragments_offset().value());
    assert_eq!((view.header(), view.options()), (theirs.slice(), theirs.options()));
    assert_eq!(view.header().len() + view.payload().len(), view.bytes().len());
    assert_eq!(view.bytes().len(), usize::from(theirs.total_len()));
    let right = theirs.header_checksum() == theirs.to_header().calc_header_checksum();
    // 0x0000 and 0xffff are the same number in one's complement (RFC 1071).
    // etherparse forgets the reserved flag when it reckons.
    if !matches!(theirs.header_checksum(), 0 | 0xffff) && bytes[6] & 0x80 == 0 {
        assert_eq!(view.header_checksum_ok(), right);
    }
    let moved = decrement_ttl(&mut copy);
    assert_eq!(moved, view.ttl() > 1);
    let after = Ipv4::parse(&copy).expect("as long as before");
    assert_eq!(after.ttl(), view.ttl() - u8::from(moved));
    assert_eq!(after.header_checksum_ok(), view.header_checksum_ok());
    assert_eq!((after.payload(), after.options()), (view.payload(), view.options()));
});
