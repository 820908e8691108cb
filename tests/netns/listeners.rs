//! Listeners: addresses that come and go while traffic flows, ours and the cluster's, and what connects to them.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use overlay_tests::case;
use overlay_tests::flow::Flow;
use overlay_tests::harness::{Case, full};
use overlay_tests::node::Node;
use overlay_tests::overlay::{Member, Overlay};
use overlay_tests::packet::{Ear, Forger, Packet};
use overlay_tests::wait::{until, value_in};
use overlay_tests::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, listener_is_added_listed_and_removed),
        case!(functional, address_of_another_program_is_learnt_and_listed_as_the_hosts),
        case!(functional, listener_outside_the_slot_is_refused),
        case!(functional, connection_to_an_offline_listener_is_refused_at_once),
        case!(functional, refuse_unreachable_and_silent_do_as_they_say),
        case!(functional, datagram_to_an_offline_listener_is_host_unreachable),
        case!(functional, listener_survives_a_restart_until_it_is_removed),
        case!(functional, listeners_are_known_to_the_others_and_two_of_one_address_are_told),
        case!(timed, floating_address_is_reached_where_it_has_moved_within_a_second),
        case!(timed, whom_the_hub_routes_for_reaches_a_floating_address_where_it_has_moved),
        case!(timed, added_listener_connects_within_100_ms),
        case!(timed, listeners_come_and_go_under_traffic_without_a_loss),
    ]
}

const LISTENER: Ipv4Addr = Ipv4Addr::new(172, 16, 8, 59);
const PORT: u16 = 1433;

fn connect(from: &Node, address: Ipv4Addr, limit: Duration) -> io::Result<TcpStream> {
    from.inside(|| TcpStream::connect_timeout(&SocketAddr::from((address, PORT)), limit))
}

/// A server on every address of the node, present and future, as an SQL Server listens.
fn serve(on: &Node) -> TcpListener {
    on.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap())
}

fn listener_is_added_listed_and_removed(world: &World) {
    let overlay = Overlay::started(world, &[56, 64]);
    let (node, other) = (overlay.node(56), overlay.node(64));
    node.gw().client("listener add 172.16.8.59").exits(0);
    assert!(node.node.addresses("Overlay").iter().any(|address| address == "172.16.8.59/29"));
    assert_eq!(node.gw().status().listener("172.16.8.59"), Some("command"));
    let list = node.gw().client("listener list").exits(0).stdout;
    assert!(list.contains("172.16.8.59"), "{list}");
    let list = node.gw().client("listener list --json").exits(0);
    assert!(list.json().to_string().contains("172.16.8.59"), "{}", list.stdout);
    other.node.reaches("172.16.8.59");

    // Twice is once.
    node.gw().client("listener add 172.16.8.59").exits(0);
    node.gw().client("listener remove 172.16.8.59").exits(0);
    assert!(!node.node.addresses("Overlay").iter().any(|address| address == "172.16.8.59/29"));
    assert_eq!(node.gw().status().listener("172.16.8.59"), None);
    let again = node.gw().client("listener remove 172.16.8.59");
    assert_eq!(again.code, Some(4), "it is none: {}", again.both());
}

fn address_of_another_program_is_learnt_and_listed_as_the_hosts(world: &World) {
    let overlay = Overlay::started(world, &[56, 64]);
    let (node, other) = (overlay.node(56), overlay.node(64));
    node.node.ok("ip addr add 172.16.8.60/29 dev Overlay");
    until("it is learnt", || node.gw().status().listener("172.16.8.60") == Some("host"));
    other.node.reaches("172.16.8.60");
    // What the cluster brought online is the cluster's to take offline.
    let refused = node.gw().client("listener remove 172.16.8.60").exits(4);
    assert!(refused.stderr.contains("172.16.8.60"), "{}", refused.stderr);
    assert!(node.node.addresses("Overlay").iter().any(|address| address == "172.16.8.60/29"));
    node.node.ok("ip addr del 172.16.8.60/29 dev Overlay");
    until("it is forgotten", || node.gw().status().listener("172.16.8.60").is_none());
    // An address without the slot's prefix is one too: keepalived and pacemaker add /32.
    node.node.ok("ip addr add 172.16.8.61/32 dev Overlay");
    until("a /32 is learnt", || node.gw().status().listener("172.16.8.61") == Some("host"));
    other.node.reaches("172.16.8.61");
}

/// Three nodes that know each other, of which 56 and 64 may have .192 to .207.
fn with_floating(world: &World) -> Overlay {
    let mut overlay = plan_with_floating(world);
    overlay.start();
    overlay
}

fn plan_with_floating(world: &World) -> Overlay {
    let mut overlay = Overlay::plan(world, &[56, 64, 72]);
    overlay.introduce(false);
    for file in overlay.nodes.iter_mut().map(|node| &mut node.file).chain([&mut overlay.hub.file]) {
        file.line("[overlay]", "floating = [{ cidr = \"172.16.8.192/28\", slots = [56, 64] }]");
    }
    overlay
}

fn listeners_are_known_to_the_others_and_two_of_one_address_are_told(world: &World) {
    let overlay = with_floating(world);
    let [a, b] = [overlay.node(56), overlay.node(64)];
    a.node.ok("ip addr add 172.16.8.59/29 dev Overlay");
    let told = || {
        let status = b.gw().status().0;
        let peers = status["peers"].as_array().cloned().unwrap_or_default();
        let peer = peers.into_iter().find(|peer| peer["name"] == a.name.as_str());
        peer.map(|peer| peer["listeners"].to_string())
    };
    until("the other knows it", || told().as_deref() == Some("[\"172.16.8.59\"]"));
    let warned = |node: &Member| node.gw().status().0["warnings"].to_string().contains("address-conflict");
    assert!(!warned(a) && !warned(b));
    b.node.ok("ip addr add 172.16.8.59/32 dev Overlay");
    until("both are warned", || warned(a) && warned(b));
    b.node.ok("ip addr del 172.16.8.59/32 dev Overlay");
    until("it is over", || !warned(a) && !warned(b));
}

const VIP: Ipv4Addr = Ipv4Addr::new(172, 16, 8, 200);

/// The floating address moves between two nodes, and after each move `client` connects to it within a second.
#[track_caller]
fn follows(client: &Node, a: &Node, b: &Node) {
    let _servers = [serve(a), serve(b)];
    let holders = [a, b, a, b];
    for (n, holder) in holders.iter().enumerate() {
        if n > 0 {
            holders[n - 1].ok("ip addr del 172.16.8.200/32 dev Overlay");
        }
        let start = Instant::now();
        holder.ok("ip addr add 172.16.8.200/32 dev Overlay");
        let mut connected = connect(client, VIP, Duration::from_millis(100));
        while connected.is_err() && start.elapsed() < Duration::from_secs(10) {
            connected = connect(client, VIP, Duration::from_millis(100));
        }
        let took = start.elapsed();
        assert!(connected.is_ok() && took < Duration::from_secs(1), "move {n}: {took:?}, {connected:?}");
    }
}

fn floating_address_is_reached_where_it_has_moved_within_a_second(world: &World) {
    let overlay = with_floating(world);
    let [a, b, client] = [56, 64, 72].map(|slot| &overlay.node(slot).node);
    for other in [56, 64] {
        client.reaches(overlay.node(other).address());
    }
    follows(client, a, b);
    let owner = overlay.node(72).gw().status().0["floating"][0].clone();
    assert_eq!(owner["owner"], overlay.node(64).name.as_str(), "{owner}");
}

fn whom_the_hub_routes_for_reaches_a_floating_address_where_it_has_moved(world: &World) {
    let mut overlay = plan_with_floating(world);
    let plain = overlay.add_plain_member(world, 5);
    overlay.start();
    let [a, b] = [56, 64].map(|slot| &overlay.node(slot).node);
    plain.node.reaches("172.16.8.57");
    follows(&plain.node, a, b);
    let owner = overlay.hub.gw().status().0["floating"][0].clone();
    assert_eq!(owner["owner"], overlay.node(64).name.as_str(), "{owner}");
}

fn listener_outside_the_slot_is_refused(world: &World) {
    let overlay = Overlay::started(world, &[56]);
    let node = overlay.node(56);
    let before = node.node.addresses("Overlay");
    for wrong in [
        "172.16.8.56",
        "172.16.8.57",
        "172.16.8.58",
        "172.16.8.63",
        "172.16.8.67",
        "10.0.0.1",
        "fd00::1",
        "cluster",
    ] {
        let refused = node.gw().client(&format!("listener add {wrong}")).exits(4);
        assert!(refused.stderr.contains(wrong), "it names {wrong}: {}", refused.stderr);
    }
    assert_eq!(node.node.addresses("Overlay"), before);
}

fn connection_to_an_offline_listener_is_refused_at_once(world: &World) {
    let overlay = Overlay::started(world, &[56, 64]);
    let (node, other) = (overlay.node(56), overlay.node(64));
    let _server = serve(&node.node);
    other.node.reaches(node.address());
    let start = Instant::now();
    let refused = connect(&other.node, LISTENER, Duration::from_secs(10)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    // The kernel would ask again after a second: this was the answer to the first question.
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    let drops = node.gw().status();
    assert!(drops.all_drops() > 0, "it is counted, by the node that owns the slot: {:#}", drops.0["drops"]);

    node.gw().client("listener add 172.16.8.59").exits(0);
    connect(&other.node, LISTENER, Duration::from_secs(10)).unwrap();
    node.gw().client("listener remove 172.16.8.59").exits(0);
    let refused = connect(&other.node, LISTENER, Duration::from_secs(10)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "removed again");
}

fn refuse_unreachable_and_silent_do_as_they_say(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64, 72]);
    overlay.node_mut(56).file.line("[overlay]", "refuse = \"unreachable\"");
    overlay.node_mut(72).file.line("[overlay]", "refuse = \"silent\"");
    overlay.start();
    let other = &overlay.node(64).node;
    other.reaches("172.16.8.57");
    other.reaches("172.16.8.73");
    let ear = Ear::new(other);
    let refused = connect(other, LISTENER, Duration::from_secs(20)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::HostUnreachable, "{refused}");
    let heard = ear.hear(Duration::from_secs(1), |heard| heard.kind == 3).expect("an unreachable");
    assert_eq!(
        (heard.from, heard.code),
        (Ipv4Addr::new(172, 16, 8, 56), 1),
        "host unreachable, from that node's gateway"
    );
    let silent = connect(other, Ipv4Addr::new(172, 16, 8, 75), Duration::from_secs(3)).unwrap_err();
    assert_eq!(silent.kind(), ErrorKind::TimedOut, "{silent}");
    assert!(ear.hear(Duration::from_millis(200), |heard| heard.kind == 3).is_none());
}

fn datagram_to_an_offline_listener_is_host_unreachable(world: &World) {
    let overlay = Overlay::started(world, &[56, 64]);
    let other = &overlay.node(64).node;
    other.reaches("172.16.8.57");
    let ear = Ear::new(other);
    let forger = Forger::new(other, "Overlay");
    forger.send(&Packet::udp(Ipv4Addr::new(172, 16, 8, 65), LISTENER, 9, b"anyone?"));
    let heard = ear.hear(Duration::from_secs(5), |heard| heard.kind == 3).expect("an unreachable");
    assert_eq!((heard.from, heard.code), (Ipv4Addr::new(172, 16, 8, 56), 1));
    assert_eq!(heard.quoted_destination(), Some(LISTENER));
    let shown = other.run("ping -n -c 1 -W 5 172.16.8.59").stdout;
    assert!(shown.contains("From 172.16.8.56") && shown.contains("Destination Host Unreachable"), "{shown}");
}

fn listener_survives_a_restart_until_it_is_removed(world: &World) {
    let mut overlay = Overlay::started(world, &[56]);
    let member = overlay.node_mut(56);
    member.gw().client("listener add 172.16.8.59").exits(0);
    member.take().kill();
    member.start();
    assert_eq!(member.gw().status().listener("172.16.8.59"), Some("command"), "recorded as ours");
    // As the machine stops and starts: nothing is left on the host, and it comes back.
    member.take().stop();
    assert!(!member.node.has_link("Overlay"));
    member.start();
    assert_eq!(member.gw().status().listener("172.16.8.59"), Some("command"), "remembered");
    member.gw().client("listener remove 172.16.8.59").exits(0);
    member.take().kill();
    member.start();
    assert_eq!(member.gw().status().listener("172.16.8.59"), None);
    member.take().stop();
    assert!(!member.node.has_link("Overlay"));
}

fn added_listener_connects_within_100_ms(world: &World) {
    let overlay = Overlay::started(world, &[56, 64]);
    let (node, other) = (overlay.node(56), overlay.node(64));
    let _server = serve(&node.node);
    other.node.reaches(node.address());
    let ways = [("listener add", "a command of ours"), ("ip addr add", "another program")];
    for (way, who) in ways {
        let mut took = Vec::new();
        for _ in 0..if full() { 30 } else { 9 } {
            // Nothing connects before.
            let refused = connect(&other.node, LISTENER, Duration::from_secs(5)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            if way == "listener add" {
                node.gw().client("listener add 172.16.8.59").exits(0);
            } else {
                node.node.ok("ip addr add 172.16.8.59/29 dev Overlay");
            }
            let start = Instant::now();
            other.node.inside(|| {
                let address = SocketAddr::from((LISTENER, PORT));
                while TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_err() {
                    assert!(start.elapsed() < Duration::from_secs(10), "it never connects");
                }
            });
            took.push(start.elapsed());
            if way == "listener add" {
                node.gw().client("listener remove 172.16.8.59").exits(0);
            } else {
                node.node.ok("ip addr del 172.16.8.59/29 dev Overlay");
            }
            let gone =
                || connect(&other.node, LISTENER, Duration::from_secs(2)).err().map(|error| error.kind());
            value_in(Duration::from_secs(5), "it is refused again", || {
                (gone() == Some(ErrorKind::ConnectionRefused)).then_some(())
            });
        }
        took.sort();
        println!("{who}: {took:?}");
        // The median: a machine that had something else to do for once does not decide.
        assert!(took[took.len() / 2] <= Duration::from_millis(100), "{who}: {took:?}");
    }
}

fn listeners_come_and_go_under_traffic_without_a_loss(world: &World) {
    let overlay = Overlay::started(world, &[56, 64]);
    let (node, other) = (overlay.node(56), overlay.node(64));
    other.node.reaches(node.address());
    node.node.reaches(other.address());
    let to =
        |member: &overlay_tests::overlay::Member| SocketAddrV4::new(member.address().parse().unwrap(), 3343);
    let inward = Flow::start(&other.node, None, &node.node, to(node), 1200);
    let outward = Flow::start(&node.node, None, &other.node, to(other), 1200);
    inward.wait_more(500);
    outward.wait_more(500);
    for _ in 0..if full() { 40 } else { 8 } {
        node.gw().client("listener add 172.16.8.59").exits(0);
        node.node.ok("ip addr add 172.16.8.60/29 dev Overlay");
        inward.wait_more(100);
        node.gw().client("listener remove 172.16.8.59").exits(0);
        node.node.ok("ip addr del 172.16.8.60/29 dev Overlay");
        outward.wait_more(100);
    }
    // A flow to a listener itself, from the moment it is there.
    node.gw().client("listener add 172.16.8.59").exits(0);
    let start = Instant::now();
    let listener = Flow::start(&other.node, None, &node.node, SocketAddrV4::new(LISTENER, 3344), 1000);
    listener.wait_more(500);
    println!("500 datagrams to the listener within {:?}", start.elapsed());
    for (name, flow) in [("inward", inward), ("outward", outward), ("to the listener", listener)] {
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
