//! The file and the signed members together: what each adds, and what stays when they do not agree.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod example;

use example::{HUB, Memory, NODE, edited, key, source};
use overlay_config::membership::{Applied, Book, Merge, Record, RecordKind, SigningKey};
use overlay_config::{Config, Diagnostics, HostFacts, Overrides, PublicKey, Slot, load_hub, load_node};

fn administrator() -> SigningKey {
    SigningKey::from_bytes([42; 32])
}

fn with_key(text: &str, more: &[(&str, &str)]) -> String {
    let cidr = "cidr = \"172.16.8.0/24\"";
    let signed = format!("{cidr}\nsigning_key = \"{}\"", administrator().public());
    edited(text, &[&[(cidr, signed.as_str())], more].concat())
}

fn node(more: &[(&str, &str)]) -> Config {
    let source = source(with_key(NODE, more));
    load_node(Some(&source), &Overrides::default(), &Memory::examples(), &HostFacts::default()).unwrap()
}

fn hub() -> Config {
    let source = source(with_key(HUB, &[]));
    load_hub(&source, &Overrides::default(), &Memory::examples(), &HostFacts::default()).unwrap()
}

fn member(name: &str, octet: u8, serial: u64) -> Record {
    let net = format!("172.16.8.{octet}/29").parse().unwrap();
    Record {
        public_key: key(name).public(),
        name: name.into(),
        kind: RecordKind::Node(Slot::new(net).unwrap()),
        serial,
        revoked: false,
        hubs: Vec::new(),
        networks: Vec::new(),
        endpoints: Vec::new(),
    }
}

fn at_hub(name: &str, serial: u64) -> Record {
    let endpoints = vec!["198.51.100.2:51820".parse().unwrap()];
    Record { kind: RecordKind::Hub, endpoints, ..member(name, 0, serial) }
}

/// With the records in this order, each signed with the next serial.
fn applied(config: &Config, records: impl IntoIterator<Item = Record>) -> Applied {
    let mut book = Book::of(&config.overlay).unwrap();
    for (record, serial) in records.into_iter().zip(1..) {
        let signed = administrator().sign(Record { serial, ..record }, config.overlay.cidr).unwrap();
        assert!(matches!(book.merge(&signed), Merge::New | Merge::Newer { .. }));
    }
    config.with_members(&book)
}

fn names(applied: &Applied) -> (Vec<&str>, Vec<&str>) {
    let hubs = applied.config.hubs.iter().map(|hub| hub.name.as_str());
    (hubs.collect(), applied.config.peers.iter().map(|peer| peer.name.as_str()).collect())
}

fn said(applied: &Applied) -> String {
    Diagnostics(applied.warnings.clone()).to_string()
}

#[test]
fn records_add_the_members_that_the_file_leaves_out() {
    let records = [member("cluster-3", 72, 0), at_hub("hub-b", 0), member("cluster-1", 56, 0)];
    let applied = applied(&node(&[]), records);
    assert_eq!(names(&applied), (vec!["hub-a", "hub-b"], vec!["cluster-2", "cluster-3"]));
    assert_eq!(said(&applied), "");
}

#[test]
fn a_record_of_a_key_in_the_file_adds_what_the_file_leaves_out() {
    let endpoints = vec!["198.51.100.7:51820".parse().unwrap()];
    let networks = vec!["10.1.0.0/16".parse().unwrap()];
    let records = [
        Record { name: "another".into(), endpoints: endpoints.clone(), ..member("cluster-2", 64, 0) },
        Record { networks: networks.clone(), ..at_hub("hub-a", 0) },
    ];
    let records = records.map(|record| {
        if record.is_hub() { record } else { Record { public_key: key("cluster-2").public(), ..record } }
    });
    let applied = applied(&node(&[]), records);
    assert_eq!(names(&applied), (vec!["hub-a"], vec!["cluster-2"]), "it is called as in the file");
    assert_eq!(applied.config.peers[0].endpoint, endpoints.first().cloned());
    assert_eq!(applied.config.hubs[0].allowed_ips, networks);
    assert_eq!(applied.config.hubs[0].endpoint.to_string(), "198.51.100.1:51820");
    assert_eq!(said(&applied), "");
}

#[test]
fn a_network_that_the_files_route_leads_to_is_not_added_twice() {
    let record = Record { networks: vec!["172.16.0.0/24".parse().unwrap()], ..at_hub("hub-a", 0) };
    let applied = applied(&node(&[]), [record]);
    assert_eq!(applied.config, node(&[]));
    assert_eq!(said(&applied), "");
}

#[test]
fn the_files_word_stays_where_a_record_says_otherwise() {
    let other = |name: &str, as_key: &str, octet| Record { name: name.into(), ..member(as_key, octet, 0) };
    let records = [
        other("Cluster-2", "k-x", 88),
        other("y", "k-y", 64),
        other("z", "k-z", 56),
        other("hub-a", "k-q", 96),
        Record { networks: vec!["172.16.0.0/25".parse().unwrap()], ..member("n", 104, 0) },
    ];
    let applied = applied(&node(&[]), records);
    assert_eq!(names(&applied), (vec!["hub-a"], vec!["cluster-2", "n"]));
    assert_eq!(applied.config.peers[1].allowed_ips, []);
    insta::assert_snapshot!(said(&applied), @"
    members.records: warning: the record of node z, slot 172.16.8.56/29, serial 3 is not used: its slot is 172.16.8.56/29 of cluster-1 here
        the file's word stays on this machine: remove it there, and the record counts
    members.records: warning: the record of node y, slot 172.16.8.64/29, serial 2 is not used: its slot is 172.16.8.64/29 of cluster-2 here
        the file's word stays on this machine: remove it there, and the record counts
    members.records: warning: the record of node Cluster-2, slot 172.16.8.88/29, serial 1 is not used: its name is another key's here
        the file's word stays on this machine: remove it there, and the record counts
    members.records: warning: the record of node hub-a, slot 172.16.8.96/29, serial 4 is not used: its name is another key's here
        the file's word stays on this machine: remove it there, and the record counts
    members.records: warning: the record of node n, slot 172.16.8.104/29, serial 5 is not used: its network 172.16.0.0/25 overlaps 172.16.0.0/24 of hub-a here
        the file's word stays on this machine: remove it there, and the record counts
    ");
}

#[test]
fn a_revocation_takes_a_member_of_the_file_out() {
    let revoked = |record: Record| record.revocation(0);
    let applied = applied(&node(&[]), [revoked(at_hub("hub-a", 0)), revoked(member("cluster-2", 64, 0))]);
    assert_eq!(names(&applied), (vec![], vec![]));
    insta::assert_snapshot!(said(&applied), @"
    members.records: warning: the hub `hub-a` of the file was revoked (serial 1), and is left out
        remove it from the file; `overlay-gw plan add-node` makes a member again, with a new key
    members.records: warning: the peer `cluster-2` of the file was revoked (serial 2), and is left out
        remove it from the file; `overlay-gw plan add-node` makes a member again, with a new key
    ");
}

#[test]
fn with_membership_by_file_the_records_say_nothing() {
    let config = node(&[("dns", "membership = \"file\"\ndns")]);
    let records = [member("cluster-3", 72, 0), member("cluster-2", 64, 0).revocation(0)];
    assert_eq!(applied(&config, records).config, config);
}

#[test]
fn a_hub_has_members_and_no_sessions_with_other_hubs() {
    let records = [member("cluster-2", 64, 0), at_hub("hub-b", 0), at_hub("hub-a", 0)];
    let applied = applied(&hub(), records);
    assert_eq!(names(&applied), (vec![], vec!["cluster-1", "dc", "cluster-2"]));
    assert_eq!(said(&applied), "");
}

#[test]
fn a_node_meets_the_others_only_at_the_hubs_of_its_own_record() {
    let own = Record { hubs: vec!["hub-c".into()], ..member("cluster-1", 56, 0) };
    let applied = applied(&node(&[]), [own, at_hub("hub-b", 0), at_hub("hub-c", 0)]);
    assert_eq!(names(&applied).0, ["hub-a", "hub-c"]);
}

#[test]
fn who_has_this_nodes_slot_by_record_is_no_peer() {
    let applied =
        applied(&node(&[]), [Record { public_key: PublicKey([9; 32]), ..member("cluster-1", 56, 0) }]);
    assert_eq!(names(&applied).1, ["cluster-2"]);
}
