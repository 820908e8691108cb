//! The underlay: IPv4 and IPv6, names, roaming, silent peers, and routes that go away under the tunnel.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use overlay_tests::case;
use overlay_tests::flow::Flow;
use overlay_tests::harness::Case;
use overlay_tests::keys::Keys;
use overlay_tests::overlay::{HUB, Overlay, PORT};
use overlay_tests::wait::{PATIENCE, holds_for, until, until_in};
use overlay_tests::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(background, silent_hub_is_tried_for_ever),
        case!(functional, ready_does_not_wait_for_hub_or_dns),
        case!(functional, hub_that_starts_late_is_found),
        case!(functional, underlay_may_be_ipv6),
        case!(functional, datagrams_that_the_host_cannot_send_are_counted),
        case!(functional, name_that_cannot_be_resolved_at_start_is_resolved_later),
        case!(functional, name_is_resolved_again_when_the_peer_is_silent),
        case!(functional, name_server_that_does_not_answer_delays_nothing),
        case!(functional, preshared_key_is_needed_on_both_sides),
        case!(functional, hub_that_restarts_is_found_again),
        case!(functional, direct_peers_need_no_hub),
        case!(functional, tunnels_own_datagrams_never_enter_the_overlay),
        case!(functional, datagrams_of_strangers_are_counted_and_harmless),
        case!(timed, node_that_roams_keeps_its_flows),
    ]
}

fn ready_does_not_wait_for_hub_or_dns(world: &World) {
    let mut overlay = Overlay::plan(world, &[56]);
    let absent = Keys::new();
    let member = overlay.node_mut(56);
    member.file.section(
        "[[hubs]]",
        &[
            "name = \"hub-b\"",
            &format!("public_key = \"{}\"", absent.public),
            "endpoint = \"hub-b.example:51820\"",
        ],
    );
    // A name server that swallows every question.
    member.node.resolv_conf("nameserver 10.99.0.77\n");
    member.start();
    member.node.reaches("172.16.8.56");
    member.gw().client("status").exits(2);
    member.take().stop();
}

fn hub_that_starts_late_is_found(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64]);
    for member in &mut overlay.nodes {
        member.start();
    }
    holds_for(Duration::from_secs(20), "there is no session without a hub", || {
        !overlay.node(56).gw().status().session(HUB)
    });
    overlay.hub.start();
    overlay.wait_sessions();
    overlay.node(56).node.reaches("172.16.8.65");
}

fn silent_hub_is_tried_for_ever(world: &World) {
    // boringtun gives up after 90 seconds of attempts.
    let mut overlay = Overlay::plan(world, &[56, 64]);
    for member in &mut overlay.nodes {
        member.start();
    }
    holds_for(Duration::from_secs(110), "there is no session without a hub", || {
        std::thread::sleep(Duration::from_secs(1));
        !overlay.node(56).gw().status().session(HUB)
    });
    overlay.hub.start();
    overlay.wait_sessions();
    overlay.node(56).node.reaches("172.16.8.65");
    // And again, after a session that was lost.
    overlay.hub.take().stop();
    until_in(Duration::from_secs(300), "the session is seen to be gone", || {
        !overlay.node(56).gw().status().session(HUB)
    });
    overlay.hub.start();
    overlay.wait_sessions();
    overlay.node(56).node.reaches("172.16.8.65");
}

fn hub_that_restarts_is_found_again(world: &World) {
    let mut overlay = Overlay::started(world, &[56, 64]);
    overlay.node(56).node.reaches("172.16.8.65");
    overlay.hub.take().kill();
    overlay.hub.start();
    // Both sides speak, as a cluster's heartbeats do: WireGuard notices a dead session only where something is sent.
    let heartbeats =
        || overlay.node(56).node.pings("172.16.8.65") & overlay.node(64).node.pings("172.16.8.57");
    until_in(Duration::from_secs(60), "traffic flows again", heartbeats);
}

fn datagrams_that_the_host_cannot_send_are_counted(world: &World) {
    let mut overlay = Overlay::plan(world, &[56]);
    let member = overlay.node_mut(56);
    member.file.replace("endpoint", "endpoint = \"203.0.113.1:51820\"");
    member.start();
    // No route leads there any more.
    member.node.ok("ip route add unreachable 203.0.113.1");
    until("they are counted", || member.gw().drops("underlay_unreachable") > 0);
}

fn underlay_may_be_ipv6(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64]);
    let hub = overlay.hub.node.clone();
    let endpoint = format!("[{}]:{PORT}", hub.ipv6());
    overlay.node_mut(56).file.replace("endpoint", &format!("endpoint = \"{endpoint}\""));
    overlay.start();
    let (six, four) = (overlay.node(56), overlay.node(64));
    six.node.reaches(four.address());
    four.node.reaches(six.address());
    assert_eq!(six.gw().status().endpoint(HUB), Some(endpoint));
    let seen = overlay.hub.gw().status();
    assert_eq!(seen.endpoint("cluster-56"), Some(format!("[{}]:{PORT}", six.node.ipv6())));
    assert_eq!(
        seen.endpoint("cluster-64"),
        Some(format!("{}:{PORT}", four.node.ipv4())),
        "and no mapped address"
    );
    six.node.ok("ping -n -c 2 -i 0.2 -W 5 -s 8000 172.16.8.65");
}

fn name_that_cannot_be_resolved_at_start_is_resolved_later(world: &World) {
    let mut overlay = Overlay::plan(world, &[56]);
    overlay.node_mut(56).file.replace("endpoint", "endpoint = \"hub.example:51820\"");
    overlay.hub.start();
    overlay.node_mut(56).start();
    let node = overlay.node(56);
    holds_for(Duration::from_secs(3), "nobody knows where the hub is", || !node.gw().status().session(HUB));
    node.node.hosts("127.0.0.1 localhost\n10.99.0.1 hub.example\n");
    node.gw().wait_session_in(Duration::from_secs(90), HUB);
    assert_eq!(node.gw().status().endpoint(HUB).as_deref(), Some("10.99.0.1:51820"));
}

fn name_is_resolved_again_when_the_peer_is_silent(world: &World) {
    let mut overlay = Overlay::plan(world, &[56]);
    overlay.node_mut(56).file.replace("endpoint", "endpoint = \"hub.example:51820\"");
    overlay.hub.start();
    let node = overlay.node_mut(56);
    node.node.hosts("10.99.0.77 hub.example\n");
    node.start();
    holds_for(Duration::from_secs(3), "nobody answers there", || !node.gw().status().session(HUB));
    node.node.hosts("10.99.0.1 hub.example\n");
    node.gw().wait_session_in(Duration::from_secs(90), HUB);
}

fn name_server_that_does_not_answer_delays_nothing(world: &World) {
    // One hub by name, whose name server is silent for minutes, must not hold up the other one.
    let mut overlay = Overlay::plan(world, &[56, 64]);
    let absent = Keys::new();
    for member in &mut overlay.nodes {
        member.node.resolv_conf("nameserver 10.99.0.77\noptions timeout:30 attempts:5\n");
        member.file.section(
            "[[hubs]]",
            &[
                "name = \"hub-b\"",
                &format!("public_key = \"{}\"", absent.public),
                "endpoint = \"hub-b.example:51820\"",
            ],
        );
    }
    overlay.start();
    overlay.node(56).node.reaches("172.16.8.65");
    let node = overlay.node_mut(56);
    node.take().stop();
}

fn preshared_key_is_needed_on_both_sides(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64]);
    let (good, bad) = (Keys::preshared(), Keys::preshared());
    let hub = &mut overlay.hub;
    hub.node.write("good.psk", &good);
    // The peers' sections end the hub's file: this goes to the last one, that of slot 64.
    hub.file.line("[[peers]]", "preshared_key_file = \"good.psk\"");
    let node = overlay.node_mut(64);
    node.node.write("hub.psk", &bad);
    node.file.line("[[hubs]]", "preshared_key_file = \"hub.psk\"");
    overlay.hub.start();
    for member in &mut overlay.nodes {
        member.start();
    }
    overlay.node(56).gw().wait_session(HUB);
    holds_for(Duration::from_secs(6), "no session with another preshared key", || {
        !overlay.hub.gw().status().session("cluster-64")
    });
    let node = overlay.node_mut(64);
    node.node.write("hub.psk", &good);
    node.gw().client("reload").exits(0);
    node.gw().wait_session(HUB);
    overlay.node(64).node.reaches("172.16.8.57");
}

fn direct_peers_need_no_hub(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64]);
    let facts: Vec<_> = overlay
        .nodes
        .iter()
        .map(|member| {
            (member.name.clone(), member.keys.public.clone(), member.slot.unwrap(), member.node.ipv4())
        })
        .collect();
    for (member, (name, public, slot, address)) in overlay.nodes.iter_mut().zip(facts.iter().rev()) {
        member.file.section(
            "[[peers]]",
            &[
                &format!("name = \"{name}\""),
                &format!("public_key = \"{public}\""),
                &format!("slot = {slot}"),
                &format!("endpoint = \"{address}:{PORT}\""),
            ],
        );
        member.start();
    }
    overlay.node(56).node.reaches("172.16.8.65");
    overlay.node(64).node.reaches("172.16.8.56");
    let shown = overlay.node(56).gw().client("status --json").exits(1).json();
    assert_eq!(shown["state"], "degraded", "the hub is still missing");
    let status = overlay.node(56).gw().status();
    assert!(status.session("cluster-64"));
    assert_eq!(status.peer("cluster-64").unwrap()["slot"], "172.16.8.64/29");
    assert_eq!(status.peer("cluster-64").unwrap()["kind"], "node");
}

fn tunnels_own_datagrams_never_enter_the_overlay(world: &World) {
    let hub = world.far_node(HUB, 1);
    let mut overlay = Overlay::plan_with_hub_on(hub, world, &[56, 64]);
    overlay.node_mut(56).file.line("[[hubs]]", "persistent_keepalive = 1");
    overlay.start();
    let node = overlay.node(56);
    node.node.reaches("172.16.8.65");
    assert_eq!(node.gw().drops("own_datagram"), 0);
    // The host loses its default route: the only one left goes into the overlay.
    node.node.ok("ip route del default via 10.99.0.254 dev eth0 metric 100");
    assert_eq!(node.node.json("ip -j route get 10.98.0.1")[0]["dev"], "Overlay");
    until("they are recognised", || node.gw().drops("own_datagram") > 0);
    // With traffic, which each time becomes one of them. One that was sealed into one more would make a loop, and thousands.
    let before = node.gw().drops("own_datagram");
    let to = SocketAddrV4::new(Ipv4Addr::new(172, 16, 8, 65), 3343);
    let flow = Flow::start(&node.node, None, &overlay.node(64).node, to, 500);
    until("traffic becomes such datagrams", || node.gw().drops("own_datagram") > before + 300);
    let tally = flow.stop();
    let after = node.gw().drops("own_datagram");
    assert!(after - before < 2 * tally.sent, "{before} to {after} for {} packets", tally.sent);
    let peer = node.gw().status();
    node.node.ok("ip route add default via 10.99.0.254 dev eth0 metric 100");
    until_in(PATIENCE * 2, "traffic flows again", || node.node.pings("172.16.8.65"));
    println!("{:#}", peer.0["drops"]);
}

fn datagrams_of_strangers_are_counted_and_harmless(world: &World) {
    let overlay = Overlay::started(world, &[56, 64]);
    let hub = overlay.hub.node.ipv4();
    let stranger = world.node("stranger", 20);
    stranger.inside(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        for kind in 0..=5_u8 {
            for length in [0, 1, 3, 4, 16, 31, 32, 64, 92, 147, 148, 149, 1400, 9000] {
                let mut datagram = vec![0xa5; length];
                if let Some(start) = datagram.get_mut(..4) {
                    start.copy_from_slice(&[kind, 0, 0, 0]);
                }
                let _ = socket.send_to(&datagram, (hub, PORT));
                let _ = socket.send_to(&datagram, (Ipv4Addr::new(10, 99, 0, 56), PORT));
            }
        }
    });
    for member in [&overlay.hub, overlay.node(56)] {
        until("they are counted", || member.gw().status().all_drops() >= 20);
    }
    overlay.node(56).node.reaches("172.16.8.65");
    overlay.node(64).node.reaches("172.16.8.57");
}

fn node_that_roams_keeps_its_flows(world: &World) {
    let overlay = Overlay::started(world, &[56, 64]);
    let (roams, stays) = (overlay.node(56), overlay.node(64));
    roams.node.reaches(stays.address());
    let flow = Flow::start(
        &roams.node,
        None,
        &stays.node,
        SocketAddrV4::new(Ipv4Addr::new(172, 16, 8, 65), 3343),
        500,
    );
    let back = Flow::start(
        &stays.node,
        None,
        &roams.node,
        SocketAddrV4::new(Ipv4Addr::new(172, 16, 8, 57), 3343),
        500,
    );
    flow.wait_more(300);
    back.wait_more(300);
    roams.node.roam(156);
    flow.wait_more(500);
    back.wait_more(500);
    until("the hub has learnt where it is", || {
        overlay
            .hub
            .gw()
            .status()
            .endpoint("cluster-56")
            .is_some_and(|endpoint| endpoint.starts_with("10.99.0.156:"))
    });
    let (there, back) = (flow.stop(), back.stop());
    println!("there: {} of {} lost, gap {:?}", there.lost.len(), there.sent, there.longest_gap);
    println!("back: {} of {} lost, gap {:?}", back.lost.len(), back.sent, back.longest_gap);
    // What is sent while the addresses change may be lost; a heartbeat a second is not missed.
    assert!(there.longest_gap < Duration::from_secs(1), "{:?}", there.longest_gap);
    assert!(back.longest_gap < Duration::from_secs(1), "{:?}", back.longest_gap);
    assert!(roams.gw().status().session(HUB));
}
