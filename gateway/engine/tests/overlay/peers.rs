//! Sessions: how they begin, what waits for them, and where a peer is.

use crate::packets::{udp, udp_ports};
use crate::world::{
    Datagram, HUB, PLAIN, World, addr, at, direct, hub, node, recipe, to_hub, to_node, to_plain,
};
use overlay_engine::DropReason;
use overlay_engine::peer::PeerSettings;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// A node and a hub that have not met yet.
fn strangers() -> (World, usize, usize) {
    let mut world = World::new();
    let hub = world.engine(HUB, hub(vec![to_node(56), to_plain(PLAIN, &["172.16.8.80/29"])]));
    let a = world.engine(56, node(56, vec![to_hub(HUB, &[])]));
    world.of(a).set_live(Some(vec![addr(57)]));
    (world, hub, a)
}

#[test]
fn one_handshake_is_enough_and_says_when_it_was() {
    let (mut world, hub, a) = strangers();
    assert!(!world.session(a, hub));
    world.pass(Duration::from_millis(100));
    assert!(world.session(a, hub) && world.session(hub, a));
    assert_eq!(world.sent.iter().map(|d| d.bytes.len()).collect::<Vec<_>>(), [148, 92, 32]);
    assert_eq!(world.link(hub, a).endpoint, Some(at(56)), "a hub learns where its member is");
    assert_eq!(world.link(hub, a).last_received, Some(world.now));
    assert!(world.link(a, hub).established.is_some());
}

#[test]
fn a_preshared_key_must_be_the_same_on_both_sides() {
    for (theirs, works) in [
        (Some(overlay_config::PresharedKey::from_bytes([5; 32])), true),
        (Some(overlay_config::PresharedKey::from_bytes([6; 32])), false),
        (None, false),
    ] {
        let mut world = World::new();
        let mut member = to_node(56);
        member.preshared_key = theirs;
        let hub = world.engine(HUB, hub(vec![member]));
        let mut peer = to_hub(HUB, &[]);
        peer.preshared_key = Some(overlay_config::PresharedKey::from_bytes([5; 32]));
        let a = world.engine(56, node(56, vec![peer]));
        // Many handshakes: boringtun's ring of eight is full of sessions that nobody confirmed, the current one's place too.
        for _ in 0..300 {
            world.pass(Duration::from_millis(200));
            assert!(
                works || !world.session(a, hub) && !world.session(hub, a),
                "no keys in common, no session"
            );
        }
        assert_eq!(world.session(a, hub), works);
        assert_eq!(world.session(hub, a), works);
    }
}

#[test]
fn packets_wait_for_a_session_and_are_delivered_once() {
    let (mut world, hub, a) = strangers();
    let plain = world.plain(PLAIN, HUB);
    world.queue(a, &[udp(addr(57), addr(81), b"first"), udp(addr(57), addr(81), b"second")]);
    world.pass(Duration::from_millis(300));
    let inbox = world.inbox(plain);
    assert_eq!(inbox.iter().map(|p| &p[28..]).collect::<Vec<_>>(), [&b"first"[..], b"second"]);
    assert_eq!(world.link(a, hub).tx_packets, 2);
    world.pass(Duration::from_secs(2));
    assert!(world.inbox(plain).is_empty());
    assert_eq!(world.all_drops(a), []);
}

#[test]
fn packets_wait_a_second_at_most() {
    let (mut world, hub, a) = strangers();
    let plain = world.plain(PLAIN, HUB);
    world.cut(a, hub);
    world.send(a, &udp(addr(57), addr(81), b"stale"));
    world.pass(Duration::from_millis(1200));
    assert_eq!(world.drops(a, DropReason::Stale), 1);
    world.mend();
    world.pass(Duration::from_secs(3));
    assert!(world.session(a, hub) && world.inbox(plain).is_empty());
}

#[test]
fn a_fresh_packet_is_not_lost_behind_a_stale_one() {
    let (mut world, hub, a) = strangers();
    let plain = world.plain(PLAIN, HUB);
    world.settle();
    world.of(a).reconfigure(node(56, vec![]), world.now);
    world.of(a).reconfigure(node(56, vec![to_hub(HUB, &[])]), world.now);
    world.tick();
    let handshake = world.intercept();
    assert!(!world.session(a, hub) && handshake.len() == 1);
    world.send(a, &udp(addr(57), addr(81), b"small and stale"));
    world.now += Duration::from_millis(900);
    world.send(a, &udp(addr(57), addr(81), &[7; 1000]));
    world.now += Duration::from_millis(200);
    world.release(handshake);
    assert_eq!(world.inbox(plain).iter().map(Vec::len).collect::<Vec<_>>(), [1028]);
    assert_eq!(world.drops(a, DropReason::Stale), 1);
}

#[test]
fn what_waits_at_the_answering_side_leaves_with_the_first_message_of_the_session_whatever_it_is() {
    let mut world = World::new();
    let a = world.engine(56, node(56, vec![direct(56, 64)]));
    let b = world.engine(64, node(64, vec![direct(64, 56)]));
    world.of(a).set_live(Some(vec![addr(57)]));
    world.of(b).set_live(Some(vec![addr(65)]));
    world.send(a, &udp(addr(57), addr(65), b"from a"));
    world.send(b, &udp(addr(65), addr(57), b"from b"));
    world.now += Duration::from_millis(100);
    world.tick();
    let initiation = world.intercept();
    world.arrives(b, &initiation[0]);
    let response = world.intercept();
    world.arrives(a, &response[0]);
    let mut confirmation = world.intercept();
    assert_eq!(confirmation.iter().map(|d| d.bytes.len()).collect::<Vec<_>>(), [32, 32 + 34]);
    // The keepalive is lost: data is the first that b sees of the session.
    confirmation.remove(0);
    world.release(confirmation);
    assert_eq!(world.inbox(b).len(), 1);
    assert_eq!(world.inbox(a).len(), 1, "what b had waiting");
}

#[test]
fn few_packets_wait_however_many_are_sent() {
    let (mut world, hub, a) = strangers();
    world.cut(a, hub);
    for _ in 0..50 {
        world.sends(a, &vec![udp(addr(57), addr(81), &[0; 1300]); 100]);
    }
    assert_eq!(world.drops(a, DropReason::NoSession), 5000 - 8);
    world.pass(Duration::from_millis(1200));
    assert_eq!(world.drops(a, DropReason::Stale), 8);
    assert!(world.sent.iter().all(|d| d.bytes.len() == 148), "nothing but handshakes left the node");
}

#[test]
fn a_silent_peer_is_tried_for_ever_and_not_too_often() {
    let (mut world, hub, a) = strangers();
    world.cut(a, hub);
    world.pass(Duration::from_secs(600));
    let attempts = world.sent.len();
    assert!((120..=220).contains(&attempts), "{attempts} in ten minutes");
    world.mend();
    world.pass(Duration::from_secs(6));
    assert!(world.session(a, hub));
}

#[test]
fn a_peer_whose_endpoint_is_not_known_gets_nothing_until_it_is() {
    let mut world = World::new();
    let h = world.engine(HUB, hub(vec![to_node(56)]));
    let mut named = to_hub(HUB, &[]);
    named.endpoint = None;
    let a = world.engine(56, node(56, vec![named]));
    world.pass(Duration::from_secs(20));
    assert!(world.sent.is_empty());
    world.of(a).set_endpoint(&world.parties[h].key, at(HUB));
    world.pass(Duration::from_millis(100));
    assert!(world.session(a, h), "at once");
}

#[test]
fn an_endpoint_roams_with_the_first_authentic_message() {
    let mut r = recipe();
    r.world.queue(r.a, &[udp(addr(57), addr(65), b"from elsewhere")]);
    let mut datagram = r.world.intercept().remove(0);
    datagram.from = SocketAddr::new("2001:db8::9".parse().unwrap(), 999);
    r.world.arrives(r.hub, &datagram);
    assert_eq!(r.world.link(r.hub, r.a).endpoint, Some(datagram.from));
    r.world.deliver();
    r.world.queue(r.b, &[udp(addr(65), addr(57), b"answer")]);
    r.world.deliver();
    assert_eq!(r.world.sent.last().map(|d| d.to), Some(datagram.from));
}

#[test]
fn a_message_that_is_not_authentic_moves_nobody() {
    let mut r = recipe();
    r.world.queue(r.a, &[udp(addr(57), addr(65), b"x")]);
    let genuine = r.world.intercept().remove(0);
    let elsewhere: SocketAddr = "203.0.113.9:9".parse().unwrap();
    let mut forged = Datagram { from: elsewhere, ..genuine.clone() };
    *forged.bytes.last_mut().unwrap() ^= 1;
    r.world.arrives(r.hub, &forged);
    assert_eq!(r.world.link(r.hub, r.a).endpoint, Some(at(56)));
    r.world.arrives(r.hub, &genuine);
    r.world.arrives(r.hub, &Datagram { from: elsewhere, ..genuine });
    assert_eq!(r.world.link(r.hub, r.a).endpoint, Some(at(56)), "nor does a replay");
    assert_eq!(r.world.drops(r.hub, DropReason::Unauthentic), 2);
}

#[test]
fn an_endpoint_inside_the_overlay_is_ignored() {
    let mut r = recipe();
    let inside = SocketAddr::new(IpAddr::V4(addr(65)), 51820);
    let mapped = SocketAddr::new(IpAddr::V6(addr(65).to_ipv6_mapped()), 51820);
    for from in [inside, mapped] {
        r.world.of(r.a).set_endpoint(&r.world.parties[r.hub].key, from);
        assert_eq!(r.world.link(r.a, r.hub).endpoint, Some(at(HUB)));
        r.world.queue(r.a, &[udp(addr(57), addr(65), b"x")]);
        let mut datagram = r.world.intercept().remove(0);
        datagram.from = from;
        r.world.arrives(r.hub, &datagram);
        assert_eq!(r.world.link(r.hub, r.a).endpoint, Some(at(56)));
    }
    assert_eq!(r.world.all_drops(r.hub), [(DropReason::EndpointInOverlay, 2)]);
}

#[test]
fn the_tunnels_own_datagrams_never_enter_the_tunnel() {
    let mut r = recipe();
    let (own, IpAddr::V4(endpoint)) = (at(56).port(), at(HUB).ip()) else { panic!("IPv4 here") };
    let tunnelled = r.world.sent.len();
    // The host lost its route to the underlay: the source may be any of its addresses.
    for source in [addr(58), Ipv4Addr::new(198, 51, 100, 56)] {
        r.world.send(r.a, &udp_ports(source, own, endpoint, at(HUB).port(), b"sealed"));
    }
    assert_eq!(r.world.all_drops(r.a), [(DropReason::OwnDatagram, 2)]);
    assert!(r.world.inbox(r.a).is_empty() && r.world.sent.len() == tunnelled);
}

#[test]
fn own_datagrams_are_recognised_when_the_socket_speaks_ipv6() {
    let mut r = recipe();
    let mapped = SocketAddr::new(IpAddr::V6(Ipv4Addr::new(198, 51, 100, 1).to_ipv6_mapped()), 51820);
    r.world.of(r.a).set_endpoint(&r.world.parties[r.hub].key, mapped);
    r.world.send(r.a, &udp_ports(addr(58), 51820, Ipv4Addr::new(198, 51, 100, 1), 51820, b"sealed"));
    assert_eq!(r.world.all_drops(r.a), [(DropReason::OwnDatagram, 1)]);
}

#[test]
fn own_datagrams_among_others_of_a_batch_do_not_stop_it() {
    let mut r = recipe();
    let others = udp(addr(57), addr(65), b"x");
    let own = udp_ports(addr(58), at(56).port(), Ipv4Addr::new(198, 51, 100, HUB), 51820, b"sealed");
    let (done, waits) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        r.world.sends(r.a, &[others.clone(), own, others]);
        let _ = done.send((r.world.inbox(r.b).len(), r.world.all_drops(r.a)));
    });
    let (received, drops) = waits.recv_timeout(Duration::from_secs(10)).expect("the engine waits for itself");
    assert_eq!((received, drops), (2, vec![(DropReason::OwnDatagram, 1)]));
}

#[test]
fn a_member_of_whom_nothing_was_ever_heard_costs_a_few_packets() {
    let mut r = recipe();
    r.world.of(r.hub).reconfigure(hub(vec![to_node(56), to_node(88)]), r.world.now);
    for _ in 0..20 {
        r.world.sends(r.a, &vec![udp(addr(57), addr(89), &[1; 500]); 50]);
    }
    assert_eq!(r.world.drops(r.hub, DropReason::NoSession), 1000 - 8);
}

#[test]
fn a_process_that_was_stopped_does_first_what_was_due() {
    let mut world = World::new();
    let member = PeerSettings { keepalive: Some(5), ..to_node(56) };
    let hub = world.engine(HUB, hub(vec![member]));
    let a = world.engine(56, node(56, vec![to_hub(HUB, &[])]));
    world.settle();
    world.queue(a, &[udp(addr(57), addr(65), b"x")]);
    let datagram = world.intercept().remove(0);
    world.now += Duration::from_secs(6);
    let before = world.sent.len();
    world.arrives(hub, &datagram);
    let keepalives = world.sent.iter().skip(before).filter(|d| d.bytes.len() == 32);
    assert_eq!(keepalives.count(), 1, "the keepalive was due a second ago");
}
