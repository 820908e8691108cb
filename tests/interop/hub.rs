//! wireguard-go as the hub, with overlay-gw nodes behind it: the kernel of that machine routes between them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use overlay_tests::case;
use overlay_tests::flow::Flow;
use overlay_tests::harness::Case;
use overlay_tests::iperf3::Iperf3;
use overlay_tests::keys::Keys;
use overlay_tests::overlay::{HUB, Overlay, PORT};
use overlay_tests::wait::{holds_for, until, until_in};
use overlay_tests::wireguard::{Peer, WireGuard};
use overlay_tests::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, nodes_reach_each_other_through_it),
        case!(functional, preshared_key_and_keepalive),
        case!(functional, hub_that_moves_is_followed),
        case!(timed, nodes_that_roam_keep_their_flows),
    ]
}

/// wireguard-go on the hub's machine, with a peer per node; the nodes' files say that it is a plain one.
fn plain_hub(overlay: &mut Overlay, preshared: Option<&str>, keepalive: u16) -> WireGuard {
    let wg = WireGuard::start(&overlay.hub.node, overlay.hub.keys.clone(), "172.16.8.254/32");
    wg.node.ok("sysctl -qw net.ipv4.ip_forward=1");
    for member in &mut overlay.nodes {
        let slot = member.slot.unwrap();
        wg.peer(&Peer {
            public: &member.keys.public,
            allowed_ips: &format!("172.16.8.{slot}/29"),
            preshared,
            keepalive,
            ..Peer::default()
        });
        member.file.line("[[hubs]]", "kind = \"wireguard\"");
        if let Some(preshared) = preshared {
            member.node.write("hub.psk", preshared);
            member.file.line("[[hubs]]", "preshared_key_file = \"hub.psk\"");
        }
    }
    wg
}

fn start(overlay: &mut Overlay) {
    for member in &mut overlay.nodes {
        member.start();
    }
    for member in &overlay.nodes {
        member.gw().wait_session(HUB);
    }
}

fn nodes_reach_each_other_through_it(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64]);
    let wg = plain_hub(&mut overlay, None, 0);
    start(&mut overlay);
    let (one, two) = (overlay.node(56), overlay.node(64));
    one.node.reaches("172.16.8.65");
    two.node.reaches("172.16.8.57");
    two.node.reaches("172.16.8.56");
    wg.node.reaches("172.16.8.57");
    one.node.ok("ping -n -c 2 -i 0.2 -W 5 -s 20000 172.16.8.65");
    let status = one.gw().status();
    let peer = status.peer(HUB).unwrap();
    assert_eq!(peer["session"], true);
    assert!(wg.latest_handshake(&one.keys.public) > 0);
    assert!(Iperf3::serve(&two.node).received(&one.node, "-t 2", "172.16.8.65") > 1 << 20);
}

fn preshared_key_and_keepalive(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64]);
    let preshared = Keys::preshared();
    let wg = plain_hub(&mut overlay, Some(&preshared), 0);
    let other = overlay.node_mut(64);
    other.node.write("hub.psk", &Keys::preshared());
    let keeps = overlay.node_mut(56);
    keeps.file.line("[[hubs]]", "persistent_keepalive = 1");
    keeps.start();
    overlay.node_mut(64).start();
    let (keeps, other) = (overlay.node(56), overlay.node(64));
    keeps.gw().wait_session(HUB);
    keeps.node.reaches("172.16.8.254");
    // Idle from now on: only keepalives (32 bytes each) arrive.
    let before = wg.received(&keeps.keys.public);
    until_in(Duration::from_secs(20), "keepalives arrive", || {
        wg.received(&keeps.keys.public) >= before + 4 * 32
    });
    holds_for(Duration::from_secs(5), "no session with another preshared key", || {
        wg.latest_handshake(&other.keys.public) == 0 && !other.gw().status().session(HUB)
    });
}

fn hub_that_moves_is_followed(world: &World) {
    let mut overlay = Overlay::plan(world, &[56]);
    let wg = plain_hub(&mut overlay, None, 0);
    start(&mut overlay);
    let node = overlay.node(56);
    node.node.reaches("172.16.8.254");
    wg.node.roam(101);
    // It speaks first from its new address; the node answers to where it was spoken to from.
    until("the hub reaches the node from its new address", || wg.node.pings("172.16.8.57"));
    until("the node knows", || node.gw().status().endpoint(HUB) == Some(format!("10.99.0.101:{PORT}")));
    node.node.reaches("172.16.8.254");
}

fn nodes_that_roam_keep_their_flows(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64]);
    let wg = plain_hub(&mut overlay, None, 0);
    start(&mut overlay);
    let (roams, stays) = (overlay.node(56), overlay.node(64));
    roams.node.reaches("172.16.8.65");
    let to = SocketAddrV4::new(Ipv4Addr::new(172, 16, 8, 65), 3343);
    let flow = Flow::start(&roams.node, None, &stays.node, to, 500);
    flow.wait_more(300);
    roams.node.roam(156);
    flow.wait_more(500);
    assert!(
        wg.endpoint(&roams.keys.public).starts_with("10.99.0.156:"),
        "{}",
        wg.endpoint(&roams.keys.public)
    );
    let tally = flow.stop();
    println!("{} of {} lost, gap {:?}", tally.lost.len(), tally.sent, tally.longest_gap);
    assert!(tally.longest_gap < Duration::from_secs(1), "{:?}", tally.longest_gap);
}
