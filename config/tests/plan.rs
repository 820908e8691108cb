//! Plans: packs that load, and every mistake at its flag.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod example;

use std::collections::{BTreeSet, HashMap};

use example::Memory;
use overlay_config::membership::{Book, Merge, RecordLines};
use overlay_config::plan::{Kept, Later, PackFile, Plan, PlanHub, PlanMember, PlanNode};
use overlay_config::{
    Config, DEFAULT_OVERLAY, DEFAULT_SLOT_PREFIX, Diagnostics, HostFacts, Overrides, Source, load_hub,
    load_node,
};

/// The recipe: three nodes, a hub, a domain controller's network behind a plain WireGuard member.
fn plan() -> Plan {
    let node = |text: &str| text.parse::<PlanNode>().unwrap();
    Plan {
        overlay: DEFAULT_OVERLAY,
        slot_prefix: DEFAULT_SLOT_PREFIX,
        nodes: vec![
            node("cluster-1=56"),
            node("cluster-2=172.16.8.64@198.51.100.7:4000"),
            node("cluster-3=72"),
        ],
        hubs: vec!["hub-a=198.51.100.1:51820".parse::<PlanHub>().unwrap()],
        routes: vec!["172.16.0.0/24=hub-a".parse().unwrap()],
        dns: vec!["172.16.0.1".parse().unwrap()],
        members: vec!["dc=172.16.8.80/29,172.16.0.0/24".parse::<PlanMember>().unwrap()],
    }
}

/// Bytes that count up, so that every key is another one.
fn counting(from: u32) -> impl FnMut(&mut [u8]) {
    let mut next = from;
    move |bytes| {
        for byte in bytes {
            next += 1;
            *byte = (next % 251) as u8;
        }
    }
}

fn packs(plan: &Plan) -> Result<Vec<PackFile>, Diagnostics> {
    plan.packs(&mut counting(0))
}

/// The members that the pack's records bring into its configuration.
fn with_records(files: &[PackFile], name: &str, config: &Config) -> Config {
    let mut book = Book::of(&config.overlay).unwrap();
    let file = files.iter().find(|file| file.path == format!("{name}/members.records")).unwrap();
    let lines = RecordLines::parse(file.contents.as_bytes());
    assert_eq!(lines.bad, []);
    for (_, record) in &lines.records {
        assert_eq!(book.merge(record), Merge::New);
    }
    let applied = config.with_members(&book);
    assert_eq!(applied.warnings, []);
    applied.config
}

fn load(files: &[PackFile], name: &str, hub: bool) -> Result<Config, Diagnostics> {
    let folder = |file: &PackFile| file.path.strip_prefix(&format!("{name}/")).map(str::to_owned);
    let inside: HashMap<_, _> = files
        .iter()
        .filter_map(|file| Some((folder(file)?, (file.contents.as_bytes().to_vec(), file.secret))))
        .collect();
    let source =
        Source { name: format!("{name}/config.toml"), bytes: inside.get("config.toml").unwrap().0.clone() };
    let (flags, files, host) = (Overrides::default(), Memory(inside), HostFacts::default());
    if hub {
        load_hub(&source, &flags, &files, &host)
    } else {
        load_node(Some(&source), &flags, &files, &host)
    }
}

fn said(plan: &Plan) -> String {
    match plan.check() {
        Ok(warnings) => Diagnostics(warnings).to_string(),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn every_pack_loads_without_a_word_and_knows_all_the_others() {
    let mut plan = plan();
    plan.hubs.push("hub-b=hub-b.example:443".parse().unwrap());
    let files = packs(&plan).unwrap();
    let mut keys = BTreeSet::new();
    for name in ["cluster-1", "cluster-2", "cluster-3"] {
        let config = load(&files, name, false).unwrap();
        assert_eq!(config.warnings, []);
        assert_eq!((config.hubs.len(), config.peers.len()), (2, 0));
        let config = with_records(&files, name, &config);
        assert_eq!((config.hubs.len(), config.peers.len()), (2, 2));
        assert_eq!(config.overlay.dns, plan.dns);
        assert_eq!(config.overlay.routes, plan.routes);
        assert!(config.peers.iter().all(|peer| peer.endpoint.is_some() == (peer.name == "cluster-2")));
        keys.insert(config.private_key().unwrap().public());
    }
    assert_eq!(load(&files, "cluster-2", false).unwrap().listen().port, 4000);
    for (name, port, routes) in [("hub-a", 51820, 1), ("hub-b", 443, 0)] {
        let config = load(&files, name, true).unwrap();
        assert_eq!(config.warnings, []);
        assert_eq!((config.listen().port, config.overlay.routes.len()), (port, routes));
        let config = with_records(&files, name, &config);
        let names: Vec<_> = config.peers.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(names, ["dc", "cluster-1", "cluster-2", "cluster-3"]);
        assert_eq!(config.hubs, [], "hubs have no sessions with each other");
        keys.insert(config.private_key().unwrap().public());
        keys.extend(config.peers.iter().map(|peer| peer.public_key));
    }
    assert_eq!(keys.len(), 6, "each of the six has a key of its own, the same in every pack");
}

#[test]
fn secrets_are_marked_and_nothing_else_holds_one() {
    let files = packs(&plan()).unwrap();
    let paths: Vec<_> = files.iter().map(|file| (file.path.as_str(), file.secret)).collect();
    assert_eq!(
        paths,
        [
            ("cluster-1/config.toml", false),
            ("cluster-1/cluster-1.key", true),
            ("cluster-1/members.records", false),
            ("cluster-2/config.toml", false),
            ("cluster-2/cluster-2.key", true),
            ("cluster-2/members.records", false),
            ("cluster-3/config.toml", false),
            ("cluster-3/cluster-3.key", true),
            ("cluster-3/members.records", false),
            ("hub-a/config.toml", false),
            ("hub-a/hub-a.key", true),
            ("hub-a/members.records", false),
            ("dc/overlay.conf", true),
            ("members.records", false),
            ("overlay.toml", false),
            ("overlay.signing-key", true),
        ]
    );
    let keys: Vec<_> = files.iter().filter(|file| file.path.ends_with("key")).collect();
    assert_eq!(keys.len(), 5);
    for open in files.iter().filter(|file| !file.secret) {
        assert!(keys.iter().all(|key| !open.contents.contains(key.contents.trim())), "{}", open.path);
    }
    let signing = files.last().unwrap().contents.trim().to_owned();
    assert!(
        files.iter().rev().skip(1).all(|file| !file.contents.contains(&signing)),
        "it stays out of every pack"
    );
}

#[test]
fn a_nodes_pack_reads_like_this() {
    insta::assert_snapshot!(packs(&plan()).unwrap()[0].contents.as_str(), @r#"
    # cluster-1: a node of the overlay 172.16.8.0/24, slot 172.16.8.56/29.
    # 172.16.8.56 is its gateway, 172.16.8.57 its address, 172.16.8.58 the one with the default gateway.
    # Copy this folder to that machine, keep cluster-1.key to its owner (mode 0600), and start it:
    #     overlay-gw up --config cluster-1/config.toml
    # members.records holds the other members, signed. Later ones come through the overlay, or by `overlay-gw peer add`.

    version = 1

    [node]
    name = "cluster-1"
    slot = 56
    private_key_file = "cluster-1.key"
    listen_port = 51820

    [overlay]
    cidr = "172.16.8.0/24"
    slot_prefix = 29
    dns = ["172.16.0.1"]
    routes = [{ cidr = "172.16.0.0/24", via = "hub-a" }]
    signing_key = "C0eCPnEJXdWb54rCccV27zifh7ZFYasHz5pOvNAtIEE="

    [[hubs]]
    name = "hub-a"
    public_key = "JE/juWPomd0pW6/84kjTUw86mnR5ugYwAmgOv+etrUk="
    endpoint = "198.51.100.1:51820"
    persistent_keepalive = 25
    "#);
}

#[test]
fn a_hubs_pack_reads_like_this() {
    insta::assert_snapshot!(packs(&plan()).unwrap()[9].contents.as_str(), @r#"
    # hub-a: a hub of the overlay 172.16.8.0/24, reached at 198.51.100.1:51820.
    # Copy this folder to that machine, keep hub-a.key to its owner (mode 0600), and start it:
    #     overlay-gw hub --config hub-a/config.toml
    # members.records holds the other members, signed. Later ones come through the overlay, or by `overlay-gw peer add`.

    version = 1

    [hub]
    name = "hub-a"
    private_key_file = "hub-a.key"
    listen_port = 51820

    [overlay]
    cidr = "172.16.8.0/24"
    slot_prefix = 29
    dns = ["172.16.0.1"]
    routes = [{ cidr = "172.16.0.0/24", via = "hub-a" }]
    signing_key = "C0eCPnEJXdWb54rCccV27zifh7ZFYasHz5pOvNAtIEE="

    [[peers]]
    name = "dc"
    public_key = "iDGGuAC0HVzwQpaV2ps8xPMo680YSm5IL6V4wQPwbHc="
    allowed_ips = ["172.16.8.80/29", "172.16.0.0/24"]
    "#);
}

#[test]
fn a_plain_members_conf_reads_like_this() {
    insta::assert_snapshot!(packs(&plan()).unwrap()[12].contents.as_str(), @"
    # dc: a plain WireGuard member of the overlay 172.16.8.0/24, at hub-a.
    # Start it with: wg-quick up ./overlay.conf (this file, mode 0600)
    # 172.16.0.0/24 is behind it: let it forward (sysctl net.ipv4.ip_forward=1).

    [Interface]
    PrivateKey = gIKDhIWGh4iJiouMjY6PkJGSk5SVlpeYmZqbnJ2en2A=
    Address = 172.16.8.81/29

    [Peer]
    # hub-a
    PublicKey = JE/juWPomd0pW6/84kjTUw86mnR5ugYwAmgOv+etrUk=
    Endpoint = 198.51.100.1:51820
    AllowedIPs = 172.16.8.0/24
    PersistentKeepalive = 25
    ");
}

#[test]
fn several_hubs_are_said() {
    insta::assert_snapshot!({
    let mut plan = plan();
    plan.hubs.push("hub-b=hub-b.example:443".parse().unwrap());
    let files = packs(&plan).unwrap();
    let head = |path: &str| {
        let file = files.iter().find(|file| file.path == path).unwrap();
        file.contents.lines().take_while(|line| line.starts_with('#')).collect::<Vec<_>>().join("\n")
    };
    ["cluster-1/config.toml", "hub-b/config.toml", "dc/overlay2.conf"].map(head).join("\n\n")
}, @"
    # cluster-1: a node of the overlay 172.16.8.0/24, slot 172.16.8.56/29.
    # 172.16.8.56 is its gateway, 172.16.8.57 its address, 172.16.8.58 the one with the default gateway.
    # It keeps a session with each of the 2 hubs: hub-a, hub-b.
    # Copy this folder to that machine, keep cluster-1.key to its owner (mode 0600), and start it:
    #     overlay-gw up --config cluster-1/config.toml
    # members.records holds the other members, signed. Later ones come through the overlay, or by `overlay-gw peer add`.

    # hub-b: a hub of the overlay 172.16.8.0/24, reached at hub-b.example:443.
    # It is one of 2 hubs (hub-a, hub-b). Each has a pack of its own and the same members, but only its own routes.
    # Copy this folder to that machine, keep hub-b.key to its owner (mode 0600), and start it:
    #     overlay-gw hub --config hub-b/config.toml
    # members.records holds the other members, signed. Later ones come through the overlay, or by `overlay-gw peer add`.

    # dc: a plain WireGuard member of the overlay 172.16.8.0/24, at hub-b.
    # Start it with: wg-quick up ./overlay2.conf (this file, mode 0600)
    # There is one such file for each of the 2 hubs (hub-a, hub-b): use one at a time.
    # 172.16.0.0/24 is behind it: let it forward (sysctl net.ipv4.ip_forward=1).
    ");
}

#[test]
fn a_valid_plan_is_silent() {
    insta::assert_snapshot!(said(&plan()), @"");
}

#[test]
fn a_plan_has_all_its_mistakes_reported_at_their_flags() {
    insta::assert_snapshot!(said(&Plan {
    slot_prefix: 29,
    overlay: "172.16.8.0/24".parse().unwrap(),
    nodes: ["cluster-1=60", "cluster-2=64", "cluster-3=64", "Cluster-2=300", "a/b=80", "direct=88@172.16.8.57:1"].iter().map(|text| text.parse().unwrap()).collect(),
    hubs: vec!["cluster-1=hub.example:1".parse().unwrap()],
    routes: ["172.16.8.0/24=cluster-1", "10.0.0.0/8=cluster-2", "10.1.0.0/16=hub"].iter().map(|text| text.parse().unwrap()).collect(),
    dns: vec!["172.16.8.63".parse().unwrap()],
    members: vec!["dc=172.16.8.64/29,192.168.7.0/24".parse().unwrap(), PlanMember { name: "none".into(), allowed_ips: Vec::new() }],
}), @"
    --node: error: slot 60 is not a multiple of 8
        a /29 begins at a multiple of its 8 addresses: take 56 or 64
    --node: error: slot 300 is not the last octet of an address
        take 0 to 255, or name the slot by its first address, such as `172.16.8.0`
    --node: error: `a/b` cannot be a name: it also names files
        use letters, digits, `-`, `_` and `.`, beginning with a letter or digit, at most 63
    --member: error: 192.168.7.0/24 of member `dc` is beyond the overlay, and no route leads there
        add `--route 192.168.7.0/24=cluster-1`
    --member: error: member `none` has no network
        write `none=172.16.8.80/29`, with what it owns
    --route: error: 10.0.0.0/8 goes via `cluster-2`, which is no hub
        in a plan, networks are behind hubs: route it via the hub that carries it
    --route: error: 10.1.0.0/16 goes via `hub`, and no hub has that name
        in a plan, networks are behind hubs: route it via the hub that carries it
    --node: error: the name `Cluster-2` is taken twice: by node `cluster-2` (--node) and by node `Cluster-2`
        give each member a name of its own; upper and lower case count as the same
    --hub: error: the name `cluster-1` is taken twice: by node `cluster-1` (--node) and by hub `cluster-1`
        give each member a name of its own; upper and lower case count as the same
    --node: error: slot 172.16.8.64/29 is taken twice: by node `cluster-2` (--node) and by node `cluster-3`
        give each node a slot of its own: free is, for instance, 172.16.8.8/29
    --member: error: 172.16.8.64/29 of member `dc` overlaps slot 172.16.8.64/29 of node `cluster-3` (--node)
        take a part of the overlay that no slot uses: free is, for instance, 172.16.8.8/29
    --route: error: the route 172.16.8.0/24 overlaps the overlay 172.16.8.0/24
        routes are for networks beyond the overlay: remove it, the overlay itself needs none
    --node: error: the endpoint 172.16.8.57:1 of node `direct` is inside the overlay 172.16.8.0/24
        the tunnel cannot run through itself: enter the address that the machine has outside the overlay
    --dns: error: the DNS server 172.16.8.63 is the broadcast address of slot 172.16.8.56/29: no host has it
        enter the address of the DNS server itself, such as a domain controller's
    ");
}

#[test]
fn a_plan_of_nothing() {
    insta::assert_snapshot!(said(&Plan { nodes: Vec::new(), hubs: Vec::new(), members: Vec::new(), overlay: "172.16.8.9/24".parse().unwrap(), slot_prefix: 31, ..plan() }), @"
    --slot-prefix: error: slots cannot be a /31
        take 24 to 30; 29 gives each node a gateway, two addresses and 4 listeners
    --overlay: error: 172.16.8.9/24 is not the first address of a /24
        write `172.16.8.0/24`, or `172.16.8.9/32` for that one address
    --node: error: the plan has no node
        add each one, such as `--node cluster-1=56`
    --route: error: 172.16.0.0/24 goes via `hub-a`, and no hub has that name
        in a plan, networks are behind hubs: route it via the hub that carries it
    ");
}

#[test]
fn nodes_that_cannot_meet_and_a_network_that_nobody_has() {
    insta::assert_snapshot!(said(&Plan { hubs: Vec::new(), routes: Vec::new(), dns: Vec::new(), members: Vec::new(), ..plan() }) + "\n" + &said(&Plan { members: Vec::new(), ..plan() }), @"
    --hub: warning: there is no hub, and more than one node without an endpoint: these cannot meet
        add `--hub hub-a=198.51.100.1:51820`, or endpoints: `--node cluster-1=56@198.51.100.7:51820`
    --route: warning: 172.16.0.0/24 is behind `hub-a`, and no member of the plan has it
        add the router of that network: `--member NAME=172.16.0.0/24`
    ");
}

/// Files by path: the bytes, and whether only their owner may read them.
type Folder = HashMap<String, (Vec<u8>, bool)>;

/// The output folder of [`plan`], in memory.
fn folder() -> Folder {
    let files = packs(&plan()).unwrap().into_iter();
    files.map(|file| (file.path, (file.contents.as_bytes().to_vec(), file.secret))).collect()
}

fn kept(folder: &Folder) -> Result<Kept, Diagnostics> {
    Kept::open("packs", &Memory(folder.clone()))
}

/// As the program does: the records in their place, the others beside.
fn written(folder: &mut Folder, later: &Later) {
    for file in later.pack.iter().chain([&later.news, &later.records]) {
        folder.insert(file.path.clone(), (file.contents.as_bytes().to_vec(), file.secret));
    }
}

fn add(folder: &Folder, node: &str, replace: bool) -> Result<Later, Diagnostics> {
    kept(folder).unwrap().add_node(&node.parse().unwrap(), replace, &mut counting(7))
}

#[test]
fn a_later_node_gets_a_pack_that_loads_and_its_record_is_news_to_the_others() {
    let mut folder = folder();
    let later = add(&folder, "cluster-4=88@198.51.100.9:4000", false).unwrap();
    let paths: Vec<_> = later.pack.iter().map(|file| (file.path.as_str(), file.secret)).collect();
    let expected = [
        ("cluster-4/config.toml", false),
        ("cluster-4/cluster-4.key", true),
        ("cluster-4/members.records", false),
    ];
    assert_eq!(paths, expected);
    assert_eq!((later.ended.as_slice(), later.warnings.as_slice()), (&[][..], &[][..]));
    let config = load(&later.pack, "cluster-4", false).unwrap();
    assert_eq!(config.warnings, []);
    assert_eq!(config.overlay.dns, plan().dns);
    assert_eq!(config.overlay.routes, plan().routes);
    assert_eq!(config.listen().port, 4000);
    let config = with_records(&later.pack, "cluster-4", &config);
    assert_eq!((config.hubs.len(), config.peers.len()), (1, 3));

    let hub = load(&packs(&plan()).unwrap(), "hub-a", true).unwrap();
    let mut book = Book::of(&hub.overlay).unwrap();
    for (_, record) in RecordLines::parse(&folder["hub-a/members.records"].0).records {
        book.merge(&record);
    }
    let news = RecordLines::parse(later.news.contents.as_bytes()).records;
    assert_eq!(news.len(), 1);
    assert_eq!(book.merge(&news[0].1), Merge::New);
    assert_eq!(book.members().len(), 5);

    written(&mut folder, &later);
    let revoked = kept(&folder).unwrap().revoke("Cluster-4").unwrap();
    assert_eq!(revoked.news.path, "cluster-4.record");
    assert_eq!(revoked.ended[0].name, "cluster-4");
    let news = RecordLines::parse(revoked.news.contents.as_bytes()).records;
    assert!(matches!(book.merge(&news[0].1), Merge::Newer { .. }));
    assert_eq!(book.members().len(), 4);
    written(&mut folder, &revoked);
    assert!(!add(&folder, "cluster-4=88", false).unwrap().pack.is_empty(), "name and slot are free again");
}

#[test]
fn a_rebuilt_node_takes_name_and_slot_over_and_the_old_keys_are_revoked() {
    let mut folder = folder();
    let later = add(&folder, "cluster-1=64", true).unwrap();
    let ended: Vec<_> = later.ended.iter().map(|record| record.name.as_str()).collect();
    assert_eq!(ended, ["cluster-1", "cluster-2"], "who had the name, and who had the slot");
    let news = RecordLines::parse(later.news.contents.as_bytes()).records;
    let said: Vec<_> = news.iter().map(|(_, record)| record.record().to_string()).collect();
    let expected = [
        "node cluster-1, slot 172.16.8.56/29, serial 5, revoked",
        "node cluster-2, slot 172.16.8.64/29, serial 6, revoked",
        "node cluster-1, slot 172.16.8.64/29, serial 7",
    ];
    assert_eq!(said, expected);
    written(&mut folder, &later);
    let members = kept(&folder).unwrap();
    let names: Vec<_> = members.members().iter().map(|record| record.name.clone()).collect();
    assert_eq!(names, ["hub-a", "cluster-1", "cluster-3"]);
}

#[test]
fn mistakes_in_later_changes_are_told() {
    let folder = folder();
    let said = |result: Result<Later, Diagnostics>| result.unwrap_err().to_string();
    let revoke = |name: &str| said(kept(&folder).unwrap().revoke(name));
    insta::assert_snapshot!([
        said(add(&folder, "cluster-1=88", false)),
        said(add(&folder, "cluster-4=56", false)),
        said(add(&folder, "cluster-4=88", true)),
        said(add(&folder, "hub-a=88", true)),
        said(add(&folder, "cluster-4=80", false)),
        said(add(&folder, "cluster-4=60", false)),
        said(add(&folder, "cluster-4=96@172.16.8.57:1", false)),
        revoke("cluster-9"),
        revoke("dc"),
    ].join("\n"), @"
    --node: error: `cluster-1` is a member already: node cluster-1, slot 172.16.8.56/29, serial 2
        take another name and slot, or add --replace if this machine takes its place (its key is revoked)
    --node: error: slot 56 is taken: node cluster-1, slot 172.16.8.56/29, serial 2
        take another name and slot, or add --replace if this machine takes its place (its key is revoked)
    --node: error: there is no node `cluster-4` and none in slot 88
        leave --replace out
    --node: error: there is no node `hub-a` and none in slot 88
        leave --replace out
    --member: error: 172.16.8.80/29 of member `dc` overlaps slot 172.16.8.80/29 of node `cluster-4` (--node)
        take a part of the overlay that no slot uses: free is, for instance, 172.16.8.8/29
    --node: error: slot 60 is not a multiple of 8
        a /29 begins at a multiple of its 8 addresses: take 56 or 64
    --node: error: the endpoint 172.16.8.57:1 of node `cluster-4` is inside the overlay 172.16.8.0/24
        the tunnel cannot run through itself: enter the address that the machine has outside the overlay
    --node: error: no member is called `cluster-9`
        did you mean `cluster-3`?
    --node: error: `dc` is a plain WireGuard member, and has no signed record
        remove it from [[peers]] in each hub's file, and `overlay-gw reload`
    ");
}

#[test]
fn a_damaged_plan_folder_is_told_before_anything_is_made() {
    let said = |change: &dyn Fn(&mut Folder)| {
        let mut folder = folder();
        change(&mut folder);
        kept(&folder).map(|_| ()).unwrap_err().to_string()
    };
    insta::assert_snapshot!([
        said(&|folder| _ = folder.remove("overlay.toml")),
        said(&|folder| _ = folder.remove("overlay.signing-key")),
        said(&|folder| folder.get_mut("overlay.signing-key").unwrap().1 = false),
        said(&|folder| folder.get_mut("overlay.signing-key").unwrap().0 = b"AAAA".to_vec()),
        said(&|folder| _ = folder.insert("overlay.signing-key".into(), folder["hub-a/hub-a.key"].clone())),
        said(&|folder| folder.get_mut("members.records").unwrap().0.truncate(200)),
        said(&|folder| folder.get_mut("overlay.toml").unwrap().0.extend(b"\nmut = 1\n")),
    ].join("\n"), @"
    packs/overlay.toml: error: there is no such file
        name the folder that `overlay-gw plan --out DIR` wrote: it holds the signing key and the records
    packs/overlay.signing-key: error: there is no such file
        name the folder that `overlay-gw plan --out DIR` wrote: it holds the signing key and the records
    packs/overlay.signing-key: error: others can read the overlay's signing key
        chmod 600 packs/overlay.signing-key
    packs/overlay.signing-key: error: the signing key cannot be read: it holds 3 bytes, not 32
        restore the file from a backup
    packs/overlay.signing-key: error: this is not the signing key of the overlay, whose public half stands in overlay.toml
        restore both files from the same backup
    packs/members.records: error: line 3: it is cut off, or has more bytes than it says
        restore the file from a backup
    packs/overlay.toml:17:1: error: unknown key `mut` in [[peers]]
        known keys are: name, public_key, slot, allowed_ips, endpoint, preshared_key_file, persistent_keepalive
    ");
}
