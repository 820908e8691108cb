//! TAP mode: the gateway on Ethernet. It answers ARP where a router would, and never where a host's duplicate check would see a false one.

use std::time::Duration;

use overlay_tests::case;
use overlay_tests::gateway::Gateway;
use overlay_tests::harness::Case;
use overlay_tests::host_state::HostState;
use overlay_tests::node::Node;
use overlay_tests::overlay::Overlay;
use overlay_tests::wait::until;
use overlay_tests::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, arp_for_the_gateway_is_answered_with_a_stable_local_mac),
        case!(functional, arp_probe_is_never_answered),
        case!(functional, arp_for_other_slots_is_answered_for_own_is_not),
        case!(functional, gratuitous_arp_is_learnt_and_not_answered),
        case!(functional, nodes_reach_each_other_over_tap),
        case!(functional, tap_and_tun_nodes_mix),
        case!(functional, listeners_come_and_go_on_tap),
        case!(functional, tap_leaves_the_host_as_it_was),
        case!(functional, gateway_answers_icmp_on_tap),
    ]
}

/// The MAC address that answers ARP for `target`, with how many of three questions were answered.
fn arping(node: &Node, target: &str) -> (Option<String>, usize) {
    let shown = node.run(&format!("arping -I Overlay -c 3 -w 5 {target}")).stdout;
    let replies: Vec<&str> = shown.lines().filter(|line| line.contains("reply from")).collect();
    let mac = replies.first().and_then(|line| line.split(['[', ']']).nth(1)).map(str::to_lowercase);
    (mac, replies.len())
}

#[track_caller]
fn tap(world: &World, slots: &[u8]) -> Overlay {
    let mut overlay = Overlay::plan(world, slots);
    for member in &mut overlay.nodes {
        member.file.section("[device]", &["mode = \"tap\""]);
    }
    overlay.start();
    overlay
}

fn arp_for_the_gateway_is_answered_with_a_stable_local_mac(world: &World) {
    let node = world.node("cluster-1", 11);
    let gw = Gateway::start(&node, "up --slot 56 --mode tap");
    let link = node.json("ip -j -d link show dev Overlay");
    assert_eq!(link[0]["linkinfo"]["info_data"]["type"], "tap");
    let (mac, replies) = arping(&node, "172.16.8.56");
    let mac = mac.expect("a reply");
    assert!(replies >= 3, "unicast refreshes are answered as well: {replies}");
    let first = u8::from_str_radix(&mac[..2], 16).unwrap();
    assert_eq!(first & 3, 2, "{mac} is locally administered and unicast");
    assert_ne!(Some(mac.as_str()), link[0]["address"].as_str(), "it is not the host's own");
    node.reaches("172.16.8.56");
    assert!(node.ok("ip neigh show dev Overlay").contains(&mac), "{}", node.ok("ip neigh"));
    gw.stop();
    let gw = Gateway::start(&node, "up --slot 56 --mode tap");
    assert_eq!(arping(&node, "172.16.8.56").0, Some(mac.clone()), "the same after a restart");
    gw.stop();
    let elsewhere = world.node("elsewhere", 12);
    let gw = Gateway::start(&elsewhere, "up --slot 56 --mode tap");
    assert_eq!(
        arping(&elsewhere, "172.16.8.56").0,
        Some(mac.clone()),
        "the same on another host: it comes from overlay and slot"
    );
    gw.stop();
    let gw = Gateway::start(&elsewhere, "up --slot 64 --mode tap");
    assert_ne!(arping(&elsewhere, "172.16.8.64").0, Some(mac), "another slot has another");
    gw.stop();
}

fn arp_probe_is_never_answered(world: &World) {
    let node = world.node("cluster-1", 11);
    let gw = Gateway::start(&node, "up --slot 56 --mode tap");
    assert_eq!(arping(&node, "172.16.8.56").1, 3);
    for last in 57..=62 {
        // arping -D exits with 0 when nobody answers its probe (RFC 5227): the address is free.
        let probe = node.run(&format!("arping -D -q -I Overlay -c 2 -w 3 172.16.8.{last}"));
        assert_eq!(probe.code, Some(0), "172.16.8.{last} is taken for a duplicate: {}", probe.both());
    }
    gw.stop();
}

fn arp_for_other_slots_is_answered_for_own_is_not(world: &World) {
    let overlay = tap(world, &[56, 64]);
    let node = &overlay.node(56).node;
    let (gateway, _) = arping(node, "172.16.8.56");
    assert!(gateway.is_some());
    for other in ["172.16.8.65", "172.16.8.66", "172.16.8.64"] {
        assert_eq!(arping(node, other).0, gateway, "proxy ARP for {other}");
    }
    for own in ["172.16.8.59", "172.16.8.62"] {
        assert_eq!(arping(node, own), (None, 0), "nobody has {own}");
    }
}

fn gratuitous_arp_is_learnt_and_not_answered(world: &World) {
    let overlay = tap(world, &[56, 64]);
    let (node, other) = (&overlay.node(56).node, &overlay.node(64).node);
    other.reaches("172.16.8.57");
    let mut heard = node.spawn("tcpdump", "tcpdump -Z root -l -n -e -i Overlay arp");
    heard.wait_stderr(Duration::from_secs(20), |line| line.contains("listening on"));
    // The host's MAC changes, as a bond's or a virtual machine's does; it announces itself, both ways that RFC 5227 knows.
    node.ok("ip link set Overlay address 02:11:22:33:44:55");
    node.ok("ip addr add 172.16.8.60/29 dev Overlay");
    node.run("arping -U -I Overlay -c 2 -w 3 -s 172.16.8.57 172.16.8.57");
    node.run("arping -A -I Overlay -c 2 -w 3 -s 172.16.8.60 172.16.8.60");
    heard.wait_stdout(Duration::from_secs(10), |line| line.contains("172.16.8.60"));
    let said = heard.stdout().join("\n");
    let answered =
        said.lines().filter(|line| line.contains("Reply 172.16.8.60") || line.contains("Reply 172.16.8.57"));
    let foreign: Vec<&str> = answered.filter(|line| !line.contains("02:11:22:33:44:55 >")).collect();
    assert!(foreign.is_empty(), "an announcement was answered: {foreign:?}");
    // Frames now go to the new MAC, or the kernel would not take them.
    other.reaches("172.16.8.57");
    other.reaches("172.16.8.60");
}

fn nodes_reach_each_other_over_tap(world: &World) {
    let overlay = tap(world, &[56, 64]);
    let (client, server) = (overlay.node(56), overlay.node(64));
    client.node.reaches(server.address());
    server.node.reaches(client.address());
    client.node.reaches(server.gateway_address());
    client.node.ok("ping -n -c 2 -i 0.2 -W 5 -s 20000 172.16.8.65");
    let dir = server.node.path("www");
    std::fs::create_dir_all(&dir).unwrap();
    let body: Vec<u8> =
        (0..2_000_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(dir.join("file"), &body).unwrap();
    let serve = format!("python3 -m http.server 8080 --bind 172.16.8.65 --directory {}", dir.display());
    let _serving = server.node.spawn("http", &serve);
    until("the server listens", || server.node.ok("ss -Htln").contains(":8080 "));
    let copy = client.node.path("copy");
    let fetch = format!("curl -sS --fail --max-time 100 -o {} http://172.16.8.65:8080/file", copy.display());
    client.node.run_in(Duration::from_secs(110), &fetch).ok();
    assert!(std::fs::read(&copy).unwrap() == body, "the file arrives unharmed");
}

fn tap_and_tun_nodes_mix(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64]);
    overlay.node_mut(56).file.section("[device]", &["mode = \"tap\""]);
    overlay.start();
    overlay.node(56).node.reaches("172.16.8.65");
    overlay.node(64).node.reaches("172.16.8.57");
    overlay.node(64).node.reaches("172.16.8.56");
}

fn listeners_come_and_go_on_tap(world: &World) {
    let overlay = tap(world, &[56, 64]);
    let (node, other) = (overlay.node(56), overlay.node(64));
    other.node.reaches("172.16.8.57");
    node.gw().client("listener add 172.16.8.59").exits(0);
    node.node.ok("ip addr add 172.16.8.60/29 dev Overlay");
    other.node.reaches("172.16.8.59");
    other.node.reaches("172.16.8.60");
    assert_eq!(node.gw().status().listener("172.16.8.60"), Some("host"));
    node.gw().client("listener remove 172.16.8.59").exits(0);
    let shown = other.node.run("ping -n -c 1 -W 5 172.16.8.59").stdout;
    assert!(shown.contains("Destination Host Unreachable"), "{shown}");
}

fn tap_leaves_the_host_as_it_was(world: &World) {
    let node = world.node("cluster-1", 11);
    let before = HostState::of(&node);
    let gw = Gateway::start(&node, "up --slot 56 --mode tap");
    node.reaches("172.16.8.56");
    gw.kill();
    let gw = Gateway::start(&node, "up --slot 56 --mode tap");
    assert_eq!(gw.status().0["device"]["adopted"], true);
    assert_eq!(gw.status().0["device"]["mode"], "tap");
    node.reaches("172.16.8.56");
    gw.stop();
    before.unchanged(&node);
}

fn gateway_answers_icmp_on_tap(world: &World) {
    let node = world.node("cluster-1", 11);
    let gw = Gateway::start(&node, "up --slot 56 --mode tap");
    node.reaches("172.16.8.56");
    node.ok("ping -n -c 2 -i 0.2 -W 5 -s 65507 172.16.8.56");
    let shown = node.run("ping -n -c 1 -W 5 -I Overlay 203.0.113.9").stdout;
    assert!(shown.contains("From 172.16.8.56") && shown.contains("Destination Net Unreachable"), "{shown}");
    gw.stop();
}
