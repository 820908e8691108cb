//! Signed membership: which records are believed, which of them count, and that their order does not matter.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use overlay_config::membership::{
    Book, Digest, Invalid, Listing, MAX_RECORD_BYTES, Merge, Record, RecordError, RecordKind, RecordLines,
    SignedRecord, SigningKey, Standing,
};
use overlay_config::{DEFAULT_OVERLAY, Endpoint, PublicKey, Slot};
use proptest::prelude::*;

fn administrator() -> SigningKey {
    SigningKey::from_bytes([42; 32])
}

fn book() -> Book {
    Book::new(administrator().public(), DEFAULT_OVERLAY, 29)
}

fn slot(octet: u8) -> Slot {
    Slot::new(Ipv4Net::new(Ipv4Addr::new(172, 16, 8, octet), 29).unwrap()).unwrap()
}

fn node(key: u8, octet: u8, serial: u64) -> Record {
    Record {
        public_key: PublicKey([key; 32]),
        name: format!("cluster-{octet}"),
        kind: RecordKind::Node(slot(octet)),
        serial,
        revoked: false,
        hubs: Vec::new(),
        networks: Vec::new(),
        endpoints: Vec::new(),
    }
}

fn hub(key: u8, name: &str, serial: u64) -> Record {
    Record {
        name: name.into(),
        kind: RecordKind::Hub,
        endpoints: vec!["198.51.100.1:51820".parse().unwrap()],
        ..node(key, 0, serial)
    }
}

fn sign(record: Record) -> SignedRecord {
    administrator().sign(record, DEFAULT_OVERLAY).unwrap()
}

fn names(book: &Book) -> Vec<(&str, u64)> {
    book.members().into_iter().map(|record| (record.name.as_str(), record.serial)).collect()
}

#[test]
fn a_record_signed_by_another_key_or_for_another_overlay_is_not_believed() {
    let mut book = book();
    let other = SigningKey::from_bytes([43; 32]);
    assert_eq!(book.merge(&other.sign(node(1, 56, 9), DEFAULT_OVERLAY).unwrap()), Merge::BadSignature);
    let elsewhere = "172.16.0.0/16".parse().unwrap();
    assert_eq!(book.merge(&administrator().sign(node(1, 56, 9), elsewhere).unwrap()), Merge::BadSignature);
    assert_eq!(book, self::book());
    assert_eq!(book.merge(&sign(node(1, 56, 9))), Merge::New);
}

#[test]
fn the_higher_serial_wins_and_a_revocation_is_one() {
    let mut book = book();
    assert_eq!(book.merge(&sign(node(1, 56, 1))), Merge::New);
    assert_eq!(book.merge(&sign(node(1, 56, 1))), Merge::Known);
    let moved = Record { endpoints: vec!["198.51.100.7:1".parse().unwrap()], ..node(1, 56, 3) };
    assert_eq!(book.merge(&sign(moved.clone())), Merge::Newer { replaced: Box::new(node(1, 56, 1)) });
    assert_eq!(book.merge(&sign(node(1, 56, 2))), Merge::Older { held: 3 });
    assert_eq!(book.members(), [&moved]);
    assert!(!book.merge(&sign(moved.revocation(4))).is_refused());
    assert_eq!(names(&book), []);
    assert_eq!(book.standing(&PublicKey([1; 32])), Standing::Revoked { serial: 4 });
    assert_eq!(book.merge(&sign(moved)), Merge::Older { held: 4 }, "what was revoked does not come back");
    assert!(!book.merge(&sign(node(1, 56, 5))).is_refused(), "unless it is signed anew");
    assert_eq!(names(&book), [("cluster-56", 5)]);
}

#[test]
fn a_rebuilt_node_takes_its_slot_over_and_an_older_claim_does_not() {
    let mut book = book();
    book.merge(&sign(node(1, 56, 3)));
    let taken = |held| Merge::SlotTaken { by: "cluster-56".into(), held };
    assert_eq!(book.merge(&sign(node(2, 56, 2))), taken(3), "older");
    assert_eq!(book.merge(&sign(node(3, 56, 3))), taken(3), "as new");
    assert_eq!(book.members(), [&node(1, 56, 3)], "the incumbent is untouched");
    assert_eq!(book.merge(&sign(node(4, 56, 4))), Merge::Newer { replaced: Box::new(node(1, 56, 3)) });
    assert_eq!(book.members(), [&node(4, 56, 4)]);
    let displaced = Standing::Displaced { by: "cluster-56".into(), serial: 4 };
    assert_eq!(book.standing(&PublicKey([1; 32])), displaced);
    assert_eq!(book.standing(&PublicKey([3; 32])), Standing::Unknown, "the same serial twice leaves nothing");
}

#[test]
fn a_slot_that_moved_on_does_not_fall_back_to_who_had_it_before() {
    let mut book = book();
    book.merge(&sign(node(1, 56, 1)));
    book.merge(&sign(node(2, 56, 2)));
    book.merge(&sign(node(2, 64, 3)));
    assert_eq!(names(&book), [("cluster-64", 3)]);
    assert_eq!(book.merge(&sign(node(2, 56, 2))), Merge::Older { held: 3 });
    assert_eq!(names(&book), [("cluster-64", 3)]);
}

#[test]
fn of_two_with_one_name_the_newer_is_the_member() {
    let mut book = book();
    book.merge(&sign(hub(1, "hub-a", 1)));
    book.merge(&sign(Record { name: "HUB-A".into(), ..node(2, 56, 2) }));
    assert_eq!(names(&book), [("HUB-A", 2)]);
    assert_eq!(book.standing(&PublicKey([1; 32])), Standing::Displaced { by: "HUB-A".into(), serial: 2 });
}

#[test]
fn what_cannot_be_in_the_overlay_is_refused_though_it_is_signed() {
    let mut book = book();
    let outside = Slot::new("10.0.0.0/29".parse().unwrap()).unwrap();
    let wide = Slot::new("172.16.8.64/28".parse().unwrap()).unwrap();
    for slot in [outside, wide] {
        let record = Record { kind: RecordKind::Node(slot), ..node(1, 56, 1) };
        assert_eq!(book.merge(&sign(record)), Merge::Invalid(Invalid::Slot(slot, DEFAULT_OVERLAY)));
    }
    let net = "172.16.0.0/16".parse().unwrap();
    let record = Record { networks: vec![net], ..node(1, 56, 1) };
    assert_eq!(book.merge(&sign(record)), Merge::Invalid(Invalid::Network(net, DEFAULT_OVERLAY)));
    let record = Record { endpoints: vec!["172.16.8.57:1".parse().unwrap()], ..node(1, 56, 1) };
    assert!(matches!(book.merge(&sign(record)), Merge::Invalid(Invalid::Endpoint(..))));
    assert_eq!(book, self::book());
}

#[test]
fn what_is_not_well_formed_is_not_signed() {
    let fails = |record: Record| administrator().sign(record, DEFAULT_OVERLAY).unwrap_err().0;
    let many = |n| (0..n).map(|i| format!("hub-{i}")).collect();
    assert_eq!(fails(Record { name: "a/b".into(), ..node(1, 56, 1) }), RecordError::Name("a/b".into()));
    assert_eq!(fails(Record { hubs: many(9), ..node(1, 56, 1) }), RecordError::Many(9, "hubs", 8));
    assert_eq!(fails(Record { hubs: many(1), ..hub(1, "hub-a", 1) }), RecordError::HubOfHubs);
    assert_eq!(fails(Record { endpoints: Vec::new(), ..hub(1, "hub-a", 1) }), RecordError::NoEndpoint);
    let default = Record { networks: vec!["0.0.0.0/0".parse().unwrap()], ..node(1, 56, 1) };
    assert!(matches!(fails(default), RecordError::Network(_)));
    let scoped = Endpoint::Address("[fe80::1%3]:1".parse().unwrap());
    assert!(matches!(fails(Record { endpoints: vec![scoped], ..node(1, 56, 1) }), RecordError::Endpoint(_)));
    let long = |c: &str| format!("{0}.{0}.{0}.{1}:1", c.repeat(63), c.repeat(50)).parse().unwrap();
    let endpoints = vec![long("a"), long("b"), long("c"), long("d")];
    assert!(matches!(fails(Record { endpoints, ..node(1, 56, 1) }), RecordError::TooLong(_)));
}

#[test]
fn a_file_of_records_reports_its_bad_lines_and_keeps_the_others() {
    let (one, two) = (sign(node(1, 56, 1)), sign(node(2, 64, 2)));
    let text = RecordLines::write([&one, &two]);
    assert!(text.contains("# node cluster-64, slot 172.16.8.64/29, serial 2\n"), "{text}");
    let broken = text.replace(&one.to_string(), "AAAA\n\u{fffd}").replace('\n', "\r\n");
    let lines = RecordLines::parse(broken.as_bytes());
    assert_eq!(lines.records, [(6, two.clone())]);
    let bad: Vec<_> = lines.bad.iter().map(ToString::to_string).collect();
    assert_eq!(bad, ["line 3: it is cut off, or has more bytes than it says", "line 4: it is not base64"]);
    let whole = RecordLines::parse(text.as_bytes());
    assert_eq!(whole.records, [(3, one), (5, two)]);
    assert_eq!(whole.bad, []);
}

#[test]
fn secrets_are_never_printed() {
    assert_eq!(format!("{:?}", administrator()), "SigningKey(redacted)");
}

#[test]
fn two_full_books_find_their_differences_in_bounded_messages() {
    let overlay: Ipv4Net = "10.64.0.0/16".parse().unwrap();
    let key = administrator();
    let record = |index: u32, serial| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        bytes[8] = 1;
        let net = Ipv4Net::new(Ipv4Addr::from(0x0a40_0000 + index * 8), 29).unwrap();
        let kind = RecordKind::Node(Slot::new(net).unwrap());
        let record =
            Record { public_key: PublicKey(bytes), name: format!("n{index}"), kind, ..node(1, 56, serial) };
        key.sign(record, overlay).unwrap()
    };
    let new = || Book::new(key.public(), overlay, 29);
    let (mut a, mut b) = (new(), new());
    let mut differ = 0;
    for index in 0..8192_u32 {
        let serial = u64::from(index) + 1;
        // Some are missing over there, some here, some are older over there, some here.
        let (here, there) = match index % 1000 {
            0 => (Some(serial), None),
            1 => (None, Some(serial)),
            2 => (Some(9000 + serial), Some(serial)),
            3 => (Some(serial), Some(9000 + serial)),
            _ => (Some(serial), Some(serial)),
        };
        differ += usize::from(here != there);
        for (book, serial) in [(&mut a, here), (&mut b, there)] {
            serial.map(|serial| book.merge(&record(index, serial)));
        }
    }
    let (mut listings, mut records) = (0, 0);
    let theirs = Digest::from_bytes(&b.digest().to_bytes());
    for from in a.digest().differences(&theirs).collect::<Vec<_>>() {
        let mut from = Some(from);
        while let Some(at) = from {
            let bytes = b.listing(at).to_bytes();
            assert!(bytes.len() <= Listing::MAX_BYTES);
            let listing = Listing::from_bytes(&bytes).unwrap();
            listings += 1;
            let wanted: Vec<_> = a.wanted(&listing).collect();
            let missing: Vec<_> = a.missing(&listing).cloned().collect();
            records += wanted.len() + missing.len();
            for id in wanted {
                assert!(!a.merge(b.find(&id).unwrap()).is_refused());
            }
            for signed in missing {
                assert!(!b.merge(&signed).is_refused());
            }
            from = listing.next();
        }
    }
    assert_eq!(a, b);
    assert_eq!(a.digest().differences(&b.digest()).count(), 0);
    assert_eq!(records, differ, "only what differs travels");
    assert!((64..=3 * 64).contains(&listings), "{listings}");
}

fn record() -> impl Strategy<Value = Record> {
    let endpoint = prop_oneof![
        (any::<[u8; 2]>(), 1..=u16::MAX).prop_map(|([c, d], port)| format!("198.51.{c}.{d}:{port}")),
        (any::<u16>(), 1..=u16::MAX).prop_map(|(last, port)| format!("[2001:db8::{last:x}]:{port}")),
        ("[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z]{2,6})?", 1..=u16::MAX)
            .prop_map(|(host, port)| format!("{host}:{port}")),
    ];
    let endpoint = endpoint.prop_map(|text| text.parse::<Endpoint>().unwrap());
    let network = (any::<u16>(), 16..=32_u8).prop_map(|(at, prefix)| {
        Ipv4Net::new(Ipv4Addr::from(0x0a00_0000 | u32::from(at) << 8), prefix).unwrap()
    });
    let network = network.prop_map(|net| net.trunc());
    let name = "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,20}[a-z]".prop_filter("a device", |name| {
        !["con", "prn", "aux", "nul"].contains(&name.split('.').next().unwrap().to_ascii_lowercase().as_str())
            && !name.to_ascii_lowercase().starts_with("com")
            && !name.to_ascii_lowercase().starts_with("lpt")
    });
    let lists = (
        proptest::collection::vec(name.clone(), 0..4),
        proptest::collection::vec(network, 0..5),
        proptest::collection::vec(endpoint, 1..4),
    );
    (any::<[u8; 32]>(), name, 0..32_u8, any::<u64>(), any::<[bool; 2]>(), lists).prop_map(
        |(key, name, at, serial, [is_hub, revoked], (hubs, networks, endpoints))| Record {
            public_key: PublicKey(key),
            name,
            kind: if is_hub { RecordKind::Hub } else { RecordKind::Node(slot(at * 8)) },
            serial,
            revoked,
            hubs: if is_hub { Vec::new() } else { hubs },
            networks,
            endpoints,
        },
    )
}

/// Few keys, slots and names, so that they collide; each serial once, as the signer promises.
fn crowd() -> impl Strategy<Value = Vec<SignedRecord>> {
    let one = (0..6_u8, 0..4_u8, 0..3_u8, any::<bool>());
    proptest::collection::vec(one, 0..14).prop_map(|all| {
        let record = |(serial, (key, seat, name, revoked)): (usize, (u8, u8, u8, bool))| {
            let record = if seat == 3 {
                hub(key + 1, &format!("hub-{name}"), serial as u64)
            } else {
                Record { name: format!("node-{name}"), ..node(key + 1, seat * 8, serial as u64) }
            };
            sign(Record { revoked, ..record })
        };
        all.into_iter().enumerate().map(record).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_record_reads_back_as_itself_from_bytes_and_from_text(record in record()) {
        let signed = sign(record.clone());
        let bytes = signed.to_bytes();
        prop_assert!(bytes.len() <= MAX_RECORD_BYTES);
        let read = SignedRecord::from_bytes(&bytes).unwrap();
        prop_assert_eq!(read.record(), &record);
        prop_assert_eq!(&read, &signed);
        prop_assert!(read.is_signed_by(&administrator().public(), DEFAULT_OVERLAY));
        prop_assert_eq!(signed.to_string().parse::<SignedRecord>().unwrap(), signed);
    }

    #[test]
    fn a_record_with_any_bit_changed_is_not_believed(record in record(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut bytes = sign(record).to_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        if let Ok(forged) = SignedRecord::from_bytes(&bytes) {
            prop_assert_eq!(book().merge(&forged), Merge::BadSignature);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(SignedRecord::from_bytes(&bytes).is_err());
        _ = RecordLines::parse(&bytes);
        if let Some(listing) = Listing::from_bytes(&bytes) {
            let book = book();
            prop_assert_eq!(book.missing(&listing).count(), 0);
            prop_assert_eq!(listing.to_bytes(), bytes);
        }
    }

    #[test]
    fn neither_order_nor_repetition_matters(
        (first, second) in crowd().prop_flat_map(|all| {
            let twice: Vec<_> = all.iter().chain(&all).cloned().collect();
            (Just(all), Just(twice).prop_shuffle())
        }),
    ) {
        let (mut a, mut b) = (book(), book());
        for signed in &first {
            a.merge(signed);
        }
        for signed in &second {
            b.merge(signed);
        }
        prop_assert_eq!(&a, &b);
        prop_assert_eq!(a.digest(), b.digest());
        prop_assert_eq!(a.members(), b.members());
    }

    #[test]
    fn no_two_members_share_a_key_a_slot_or_a_name_and_none_is_revoked(all in crowd()) {
        let mut book = book();
        let mut incumbents: Vec<Record> = Vec::new();
        for signed in &all {
            let outcome = book.merge(signed);
            let members: Vec<Record> = book.members().into_iter().cloned().collect();
            for (at, member) in members.iter().enumerate() {
                prop_assert!(!member.revoked);
                prop_assert_eq!(book.standing(&member.public_key), Standing::Member);
                for other in members.iter().skip(at + 1) {
                    prop_assert_ne!(member.public_key, other.public_key);
                    prop_assert_ne!(member.name.to_ascii_lowercase(), other.name.to_ascii_lowercase());
                    prop_assert!(member.slot().is_none() || member.slot() != other.slot());
                }
            }
            if matches!(outcome, Merge::BadSignature | Merge::Invalid(_) | Merge::Known) {
                prop_assert_eq!(&members, &incumbents);
            }
            incumbents = members;
        }
    }
}
