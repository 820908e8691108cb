//! wireguard-go as a plain member behind our hub.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use overlay_tests::case;
use overlay_tests::flow::Flow;
use overlay_tests::harness::Case;
use overlay_tests::iperf3::Iperf3;
use overlay_tests::keys::Keys;
use overlay_tests::overlay::{Overlay, PORT};
use overlay_tests::wait::{until, until_in};
use overlay_tests::wireguard::{Peer, WireGuard};
use overlay_tests::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(background, rekey_goes_unnoticed_through_the_hub),
        case!(functional, member_and_nodes_reach_each_other),
        case!(functional, hub_opens_the_session_when_it_knows_the_endpoint),
        case!(functional, preshared_key_and_keepalive_of_the_hub),
        case!(functional, member_that_roams_is_followed),
        case!(functional, two_plain_members_reach_each_other),
    ]
}

/// A plain member that owns slot `slot`, on 10.99.0.`slot`; the hub's file gets its entry, with these lines more.
fn plain_member(world: &World, overlay: &mut Overlay, slot: u8, more: &[&str]) -> WireGuard {
    let keys = Keys::new();
    overlay.hub.file.section(
        "[[peers]]",
        &[
            &format!("name = \"plain-{slot}\""),
            &format!("public_key = \"{}\"", keys.public),
            &format!("allowed_ips = [\"172.16.8.{slot}/29\"]"),
        ],
    );
    for line in more {
        overlay.hub.file.line("[[peers]]", line);
    }
    WireGuard::start(&world.node(&format!("plain-{slot}"), slot), keys, &format!("172.16.8.{}/29", slot + 1))
}

/// What the plain member says of the hub.
fn hub_peer(overlay: &Overlay) -> Peer<'_> {
    Peer {
        public: &overlay.hub.keys.public,
        allowed_ips: "172.16.8.0/24",
        endpoint: Some(format!("{}:{PORT}", overlay.hub.node.ipv4())),
        ..Peer::default()
    }
}

fn member_and_nodes_reach_each_other(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64]);
    let plain = plain_member(world, &mut overlay, 80, &[]);
    plain.peer(&hub_peer(&overlay));
    overlay.start();
    plain.node.reaches("172.16.8.57");
    plain.node.reaches("172.16.8.65");
    plain.node.reaches("172.16.8.56");
    overlay.node(56).node.reaches("172.16.8.81");
    overlay.node(56).node.ok("ping -n -c 2 -i 0.2 -W 5 -s 20000 172.16.8.81");
    let status = overlay.hub.gw().status();
    let peer = status.peer("plain-80").unwrap();
    assert_eq!(peer["session"], true, "{peer:#}");
    assert_eq!(peer["kind"], "wireguard", "{peer:#}");
    let one = &overlay.node(56).node;
    assert!(Iperf3::serve(&plain.node).received(one, "-t 2", "172.16.8.81") > 1 << 20);
}

fn hub_opens_the_session_when_it_knows_the_endpoint(world: &World) {
    let mut overlay = Overlay::plan(world, &[56]);
    let plain = plain_member(world, &mut overlay, 80, &["endpoint = \"10.99.0.80:51820\""]);
    plain.peer(&Peer { endpoint: None, ..hub_peer(&overlay) });
    overlay.start();
    overlay.node(56).node.reaches("172.16.8.81");
    assert_eq!(plain.endpoint(&overlay.hub.keys.public), "10.99.0.1:51820");
}

fn preshared_key_and_keepalive_of_the_hub(world: &World) {
    let mut overlay = Overlay::plan(world, &[56]);
    let preshared = Keys::preshared();
    overlay.hub.node.write("plain.psk", &preshared);
    let more = ["preshared_key_file = \"plain.psk\"", "persistent_keepalive = 1"];
    let plain = plain_member(world, &mut overlay, 80, &more);
    plain.peer(&Peer { preshared: Some(&preshared), ..hub_peer(&overlay) });
    overlay.start();
    plain.node.reaches("172.16.8.57");
    let hub = overlay.hub.keys.public.clone();
    let before = plain.received(&hub);
    until_in(Duration::from_secs(20), "keepalives of 32 bytes arrive", || {
        plain.received(&hub) >= before + 4 * 32
    });
    // The same member with another preshared key is a stranger.
    plain.node.ok(&format!("wg set wg0 peer {hub} remove"));
    plain.peer(&Peer { preshared: Some(&Keys::preshared()), ..hub_peer(&overlay) });
    assert!(!plain.node.pings("172.16.8.57"));
    assert!(!plain.node.pings("172.16.8.57"));
    assert_eq!(plain.latest_handshake(&hub), 0);
}

fn member_that_roams_is_followed(world: &World) {
    let mut overlay = Overlay::plan(world, &[56]);
    let plain = plain_member(world, &mut overlay, 80, &[]);
    plain.peer(&hub_peer(&overlay));
    overlay.start();
    plain.node.reaches("172.16.8.57");
    plain.node.roam(180);
    plain.node.reaches("172.16.8.57");
    overlay.node(56).node.reaches("172.16.8.81");
    until("the hub says so", || {
        overlay.hub.gw().status().endpoint("plain-80").as_deref() == Some("10.99.0.180:51820")
    });
    // Its port changes as well, as behind a NAT that forgot it.
    plain.node.ok("wg set wg0 listen-port 40000");
    plain.node.reaches("172.16.8.57");
    overlay.node(56).node.reaches("172.16.8.81");
}

fn two_plain_members_reach_each_other(world: &World) {
    let mut overlay = Overlay::plan(world, &[]);
    let one = plain_member(world, &mut overlay, 80, &[]);
    let two = plain_member(world, &mut overlay, 88, &[]);
    for plain in [&one, &two] {
        plain.peer(&Peer { keepalive: 5, ..hub_peer(&overlay) });
    }
    overlay.start();
    one.node.reaches("172.16.8.89");
    two.node.reaches("172.16.8.81");
}

fn rekey_goes_unnoticed_through_the_hub(world: &World) {
    let mut overlay = Overlay::plan(world, &[56]);
    let plain = plain_member(world, &mut overlay, 80, &[]);
    plain.peer(&hub_peer(&overlay));
    overlay.start();
    plain.node.reaches("172.16.8.57");
    let hub = overlay.hub.keys.public.clone();
    let first = plain.latest_handshake(&hub);
    let to = |last| SocketAddrV4::new(Ipv4Addr::new(172, 16, 8, last), 3343);
    let inward = Flow::start(&plain.node, None, &overlay.node(56).node, to(57), 20);
    let outward = Flow::start(&overlay.node(56).node, None, &plain.node, to(81), 20);
    // REKEY_AFTER_TIME is 120 s, REJECT_AFTER_TIME 180 s: past both, every key in use is a second one.
    let over = std::time::Instant::now();
    until_in(Duration::from_secs(260), "more than REJECT_AFTER_TIME passes", || {
        std::thread::sleep(Duration::from_secs(1));
        over.elapsed() > Duration::from_secs(200)
    });
    assert!(plain.latest_handshake(&hub) >= first + 100, "{first} {}", plain.latest_handshake(&hub));
    for (name, flow) in [("inward", inward), ("outward", outward)] {
        let tally = flow.stop();
        println!(
            "{name}: {} sent, {} lost, longest gap {:?}",
            tally.sent,
            tally.lost.len(),
            tally.longest_gap
        );
        tally.nothing_lost();
    }
}
