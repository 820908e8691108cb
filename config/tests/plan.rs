//! Plans: packs that load, and every mistake at its flag.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod example;

use std::collections::{BTreeSet, HashMap};

use example::Memory;
use overlay_config::plan::{PackFile, Plan, PlanHub, PlanMember, PlanNode};
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
fn packs(plan: &Plan) -> Result<Vec<PackFile>, Diagnostics> {
    let mut next = 0_u32;
    plan.packs(&mut |bytes| {
        for byte in bytes {
            next += 1;
            *byte = (next % 251) as u8;
        }
    })
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
        let names: Vec<_> = config.peers.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(names, ["cluster-1", "cluster-2", "cluster-3", "dc"]);
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
            ("cluster-2/config.toml", false),
            ("cluster-2/cluster-2.key", true),
            ("cluster-3/config.toml", false),
            ("cluster-3/cluster-3.key", true),
            ("hub-a/config.toml", false),
            ("hub-a/hub-a.key", true),
            ("dc/overlay.conf", true),
        ]
    );
    let keys: Vec<_> = files.iter().filter(|file| file.path.ends_with(".key")).collect();
    for open in files.iter().filter(|file| !file.secret) {
        assert!(keys.iter().all(|key| !open.contents.contains(key.contents.trim())), "{}", open.path);
    }
}

#[test]
fn a_nodes_pack_reads_like_this() {
    insta::assert_snapshot!(packs(&plan()).unwrap()[0].contents.as_str(), @r#"
    # cluster-1: a node of the overlay 172.16.8.0/24, slot 172.16.8.56/29.
    # 172.16.8.56 is its gateway, 172.16.8.57 its address, 172.16.8.58 the one with the default gateway.
    # Copy this folder to that machine, keep cluster-1.key to its owner (mode 0600), and start it:
    #     overlay-gw up --config cluster-1/config.toml

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

    [[hubs]]
    name = "hub-a"
    public_key = "JE/juWPomd0pW6/84kjTUw86mnR5ugYwAmgOv+etrUk="
    endpoint = "198.51.100.1:51820"
    persistent_keepalive = 25

    [[peers]]
    name = "cluster-2"
    public_key = "WGmv9FBUlzLLqu1eXfmzCm2jHLDldCutWtShp2jxpns="
    slot = 64
    endpoint = "198.51.100.7:4000"

    [[peers]]
    name = "cluster-3"
    public_key = "ZLEBsdC+WocEvQePmJUAH8A+jp+VIvGI3RKNmEbUhGY="
    slot = 72
    "#);
}

#[test]
fn a_hubs_pack_reads_like_this() {
    insta::assert_snapshot!(packs(&plan()).unwrap()[6].contents.as_str(), @r#"
    # hub-a: a hub of the overlay 172.16.8.0/24, reached at 198.51.100.1:51820.
    # Copy this folder to that machine, keep hub-a.key to its owner (mode 0600), and start it:
    #     overlay-gw hub --config hub-a/config.toml

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

    [[peers]]
    name = "cluster-1"
    public_key = "B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9/AsrhtHHw="
    slot = 56

    [[peers]]
    name = "cluster-2"
    public_key = "WGmv9FBUlzLLqu1eXfmzCm2jHLDldCutWtShp2jxpns="
    slot = 64
    endpoint = "198.51.100.7:4000"

    [[peers]]
    name = "cluster-3"
    public_key = "ZLEBsdC+WocEvQePmJUAH8A+jp+VIvGI3RKNmEbUhGY="
    slot = 72

    [[peers]]
    name = "dc"
    public_key = "iDGGuAC0HVzwQpaV2ps8xPMo680YSm5IL6V4wQPwbHc="
    allowed_ips = ["172.16.8.80/29", "172.16.0.0/24"]
    "#);
}

#[test]
fn a_plain_members_conf_reads_like_this() {
    insta::assert_snapshot!(packs(&plan()).unwrap()[8].contents.as_str(), @"
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

    # hub-b: a hub of the overlay 172.16.8.0/24, reached at hub-b.example:443.
    # It is one of 2 hubs (hub-a, hub-b). Each has a pack of its own and the same members, but only its own routes.
    # Copy this folder to that machine, keep hub-b.key to its owner (mode 0600), and start it:
    #     overlay-gw hub --config hub-b/config.toml

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
