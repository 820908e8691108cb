//! The synthetic gateway's ICMP: what it answers, with what, how often, and what it never answers.

use std::net::Ipv4Addr;
use std::time::Duration;

use overlay_tests::case;
use overlay_tests::gateway::Gateway;
use overlay_tests::harness::Case;
use overlay_tests::iperf3::Iperf3;
use overlay_tests::overlay::Overlay;
use overlay_tests::packet::{Ear, Forger, Heard, Packet};
use overlay_tests::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, echo_is_answered_at_every_size),
        case!(functional, gateway_of_another_node_answers_at_every_size),
        case!(functional, traceroute_shows_the_gateway_first),
        case!(functional, time_exceeded_quotes_the_packet),
        case!(functional, destination_that_no_route_covers_is_net_unreachable),
        case!(functional, errors_are_rate_limited),
        case!(functional, errors_broadcasts_multicasts_and_later_fragments_are_not_answered),
        case!(functional, packet_too_big_with_df_gets_the_tunnels_mtu),
        case!(functional, packet_too_big_without_df_is_fragmented),
        case!(functional, path_mtu_is_found_by_tcp),
        case!(functional, every_packet_size_arrives_unharmed),
    ]
}

const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 16, 8, 56);
const NODE: Ipv4Addr = Ipv4Addr::new(172, 16, 8, 57);
/// Behind the default route of the device, and behind no route of the overlay.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// How long silence has to last before it counts.
const QUIET: Duration = Duration::from_secs(1);

fn echo_is_answered_at_every_size(world: &World) {
    let node = world.node("cluster-1", 11);
    let gw = Gateway::start(&node, "up --slot 56");
    node.reaches(GATEWAY);
    for size in [0, 1, 55, 56, 57, 1391, 1392, 1393, 1472, 8000, 40_001, 65_506, 65_507] {
        let done = node.run(&format!("ping -n -c 2 -i 0.2 -W 5 -s {size} {GATEWAY}"));
        assert_eq!(done.code, Some(0), "{size} bytes: {}", done.both());
        assert!(!done.stdout.contains("wrong data byte"), "{size} bytes: {}", done.stdout);
    }
    gw.stop();
}

fn gateway_of_another_node_answers_at_every_size(world: &World) {
    let overlay = Overlay::started(world, &[56, 64]);
    let node = &overlay.node(56).node;
    for target in ["172.16.8.64", "172.16.8.65"] {
        node.reaches(target);
        for size in [0, 1392, 1393, 9000, 65_507] {
            let done = node.run(&format!("ping -n -c 5 -i 0.2 -W 5 -s {size} {target}"));
            assert_eq!(done.code, Some(0), "{size} bytes to {target}: {}", done.both());
            assert!(!done.stdout.contains("wrong data byte"), "{size} bytes: {}", done.stdout);
        }
    }
}

fn traceroute_shows_the_gateway_first(world: &World) {
    let overlay = Overlay::started(world, &[56, 64]);
    let node = &overlay.node(56).node;
    node.reaches("172.16.8.65");
    for method in ["", "-I"] {
        let shown = node.ok(&format!("traceroute -n -q 1 -w 5 -m 8 {method} 172.16.8.65"));
        let hops: Vec<&str> =
            shown.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(hops.first(), Some(&"172.16.8.56"), "{shown}");
        assert_eq!(hops.last(), Some(&"172.16.8.65"), "{shown}");
        let shown = node.ok(&format!("traceroute -n -q 1 -w 5 -m 8 {method} 172.16.8.56"));
        assert_eq!(shown.lines().skip(1).count(), 1, "the gateway is one hop away: {shown}");
        assert!(shown.contains("1  172.16.8.56"), "{shown}");
    }
}

fn time_exceeded_quotes_the_packet(world: &World) {
    let overlay = Overlay::started(world, &[56, 64]);
    let node = &overlay.node(56).node;
    let ear = Ear::new(node);
    let target = Ipv4Addr::new(172, 16, 8, 65);
    let body = [0x5a; 64];
    Forger::new(node, "Overlay").send(&Packet::udp(NODE, target, 9, &body).ttl(1));
    let heard = ear.hear(Duration::from_secs(5), |heard| heard.kind == 11).expect("time exceeded");
    assert_eq!((heard.from, heard.to, heard.code), (GATEWAY, NODE, 0));
    assert_eq!(heard.quoted_destination(), Some(target));
    // RFC 792 asks for 8 bytes beyond the header, RFC 1812 4.3.2.3 for as much as fits in 576.
    assert!(heard.quote.len() >= 20 + 8 + body.len(), "only {} bytes are quoted", heard.quote.len());
    assert_eq!(heard.quote[20..28], [0x9c, 0x40, 0, 9, 0, 72, 0, 0], "the UDP header as it was sent");
    assert_eq!(heard.quote[8], 1, "the time to live as it was sent");
}

fn destination_that_no_route_covers_is_net_unreachable(world: &World) {
    let node = world.node("cluster-1", 11);
    let gw = Gateway::start(&node, "up --slot 56");
    let ear = Ear::new(&node);
    Forger::new(&node, "Overlay").send(&Packet::udp(NODE, NOWHERE, 9, b"anyone?"));
    let heard = ear.hear(Duration::from_secs(5), |heard| heard.kind == 3).expect("an unreachable");
    assert_eq!((heard.from, heard.to, heard.code), (GATEWAY, NODE, 0), "net unreachable, from the gateway");
    assert_eq!(heard.quoted_destination(), Some(NOWHERE));
    let shown = node.run(&format!("ping -n -c 1 -W 5 -I Overlay {NOWHERE}"));
    assert!(shown.stdout.contains("Destination Net Unreachable"), "{}", shown.stdout);
    assert!(shown.stdout.contains("From 172.16.8.56"), "{}", shown.stdout);
    assert!(gw.drops("no_route") >= 2, "{:#}", gw.status().0["drops"]);
    gw.stop();
}

fn errors_are_rate_limited(world: &World) {
    let node = world.node("cluster-1", 11);
    let gw = Gateway::start(&node, "up --slot 56");
    let ear = Ear::new(&node);
    let forger = Forger::new(&node, "Overlay");
    let sent = 5000_u64;
    for number in 0..sent {
        forger.send(&Packet::udp(NODE, NOWHERE, 9, &number.to_be_bytes()));
        // A TUN queue holds 500 packets; what it drops asks for no error.
        if number % 100 == 99 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let errors = ear.hear_all(QUIET, |heard| heard.kind == 3).len() as u64;
    let seen = gw.drops("no_route");
    println!("{errors} errors for {seen} of {sent} packets");
    assert!(seen > sent / 4, "only {seen} of {sent} packets came to the gateway");
    assert!(errors >= 1 && errors < seen / 2, "{errors} errors for {seen} packets");
    // And the limit passes.
    node.reaches(GATEWAY);
    forger.send(&Packet::udp(NODE, NOWHERE, 9, b"again"));
    assert!(ear.hear(Duration::from_secs(5), |heard| heard.kind == 3).is_some());
    gw.stop();
}

fn errors_broadcasts_multicasts_and_later_fragments_are_not_answered(world: &World) {
    let node = world.node("cluster-1", 11);
    let gw = Gateway::start(&node, "up --slot 56");
    let ear = Ear::new(&node);
    let forger = Forger::new(&node, "Overlay");
    let answered = |heard: &Heard| heard.from == GATEWAY;
    // The instrument works: the same kind of packet, sent as a question that may be answered, is.
    forger.send(&Packet::udp(NODE, NOWHERE, 9, b"first fragment").fragment(0, true));
    assert!(ear.hear(Duration::from_secs(5), answered).is_some(), "a first fragment is answered");

    let quoted = [
        0, 0, 0, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 203, 0, 113, 9, 172, 16, 8, 57, 0, 9, 0, 9, 0,
        8, 0, 0,
    ];
    let broadcast = Ipv4Addr::new(172, 16, 8, 63);
    let question = [0x77, 1, 0, 1];
    let silent = [
        ("unreachable", Packet::icmp(NODE, NOWHERE, 3, 1, &quoted)),
        ("time exceeded", Packet::icmp(NODE, NOWHERE, 11, 0, &quoted)),
        ("time exceeded whose time is exceeded", Packet::icmp(NODE, NOWHERE, 11, 0, &quoted).ttl(1)),
        ("redirect", Packet::icmp(NODE, NOWHERE, 5, 1, &quoted)),
        ("parameter problem", Packet::icmp(NODE, NOWHERE, 12, 0, &quoted)),
        ("source quench", Packet::icmp(NODE, NOWHERE, 4, 0, &quoted)),
        ("later fragment", Packet::udp(NODE, NOWHERE, 9, b"later fragment..").fragment(1480, true)),
        ("last fragment", Packet::udp(NODE, NOWHERE, 9, b"last fragment").fragment(1480, false)),
        ("echo to the slot's broadcast", Packet::icmp(NODE, broadcast, 8, 0, &question)),
        ("echo to everyone", Packet::icmp(NODE, Ipv4Addr::BROADCAST, 8, 0, &question)),
        ("echo to all hosts", Packet::icmp(NODE, Ipv4Addr::new(224, 0, 0, 1), 8, 0, &question)),
        ("datagram to the slot's broadcast", Packet::udp(NODE, broadcast, 137, b"who?")),
        ("datagram to everyone", Packet::udp(NODE, Ipv4Addr::BROADCAST, 67, b"who?")),
        ("multicast", Packet::udp(NODE, Ipv4Addr::new(239, 1, 2, 3), 9, b"all")),
        (
            "multicast whose time is exceeded",
            Packet::udp(NODE, Ipv4Addr::new(239, 1, 2, 3), 9, b"all").ttl(1),
        ),
        ("unreachable to the gateway", Packet::icmp(NODE, GATEWAY, 3, 3, &quoted)),
    ];
    for (what, packet) in silent {
        forger.send(&packet);
        let heard = ear.hear(Duration::from_millis(300), answered);
        assert!(heard.is_none(), "{what} must not be answered: {heard:?}");
    }
    node.reaches(GATEWAY);
    gw.stop();
}

fn packet_too_big_with_df_gets_the_tunnels_mtu(world: &World) {
    let overlay = Overlay::started(world, &[56, 64]);
    let node = &overlay.node(56).node;
    node.reaches("172.16.8.65");
    // By hand, as an administrator does who wants jumbo frames and forgets the tunnel.
    node.ok("ip link set Overlay mtu 1600");
    let ear = Ear::new(node);
    let shown = node.run("ping -n -M do -c 1 -W 5 -s 1500 172.16.8.65");
    let heard = ear
        .hear(Duration::from_secs(5), |heard| heard.kind == 3)
        .unwrap_or_else(|| panic!("{}", shown.both()));
    assert_eq!((heard.from, heard.code, heard.mtu), (GATEWAY, 4, 1420), "fragmentation needed");
    assert_eq!(heard.quoted_destination(), Some(Ipv4Addr::new(172, 16, 8, 65)));
    assert!(shown.stdout.contains("mtu = 1420") || shown.stdout.contains("mtu=1420"), "{}", shown.both());
    // The kernel has learnt it.
    assert!(
        node.ok("ip route get 172.16.8.65").contains("mtu 1420"),
        "{}",
        node.ok("ip route get 172.16.8.65")
    );
    node.ok("ping -n -M do -c 1 -W 5 -s 1392 172.16.8.65");
}

fn packet_too_big_without_df_is_fragmented(world: &World) {
    let overlay = Overlay::started(world, &[56, 64]);
    let node = &overlay.node(56).node;
    node.reaches("172.16.8.65");
    node.ok("ip link set Overlay mtu 1600");
    for size in [1393, 1400, 1471, 1500, 1571, 1572] {
        let shown = node.run(&format!("ping -n -M dont -c 2 -i 0.2 -W 5 -s {size} 172.16.8.65"));
        assert_eq!(shown.code, Some(0), "{size} bytes: {}", shown.both());
        assert!(!shown.stdout.contains("wrong data byte"), "{size} bytes: {}", shown.stdout);
    }
}

fn path_mtu_is_found_by_tcp(world: &World) {
    let overlay = Overlay::started(world, &[56, 64]);
    let (client, server) = (overlay.node(56), overlay.node(64));
    client.node.reaches(server.address());
    for member in [client, server] {
        member.node.ok("ip link set Overlay mtu 1600");
    }
    let done = Iperf3::serve(&server.node).run(&client.node, "-t 2", &server.address());
    assert!(done["end"]["sum_received"]["bytes"].as_u64().unwrap() > 1 << 20, "{done:#}");
    let found = &done["intervals"][1]["streams"][0]["pmtu"];
    assert_eq!(found, 1420, "{done:#}");
}

fn every_packet_size_arrives_unharmed(world: &World) {
    let overlay = Overlay::started(world, &[56, 64]);
    let node = &overlay.node(56).node;
    node.reaches("172.16.8.65");
    // ping's own sweep: sizes from 0 to the largest that the tunnel takes whole, compared byte by byte.
    for size in (0..=1392).step_by(29).chain([1391, 1392]) {
        let shown = node.run(&format!("ping -n -M do -c 1 -W 5 -s {size} 172.16.8.65"));
        assert_eq!(shown.code, Some(0), "{size} bytes: {}", shown.both());
        assert!(!shown.stdout.contains("wrong data byte"), "{size} bytes: {}", shown.stdout);
    }
}
