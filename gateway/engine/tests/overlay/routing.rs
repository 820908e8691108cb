//! Who may send what, and where it goes.

use crate::packets::{self, Says, hop, ping, says, udp};
use crate::world::{BEYOND, HUB, PLAIN, World, addr, direct, hub, node, recipe, to_hub, to_node, to_plain};
use overlay_engine::DropReason;
use std::net::Ipv4Addr;

const CONTROLLER: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);

#[test]
fn a_node_pings_a_node_through_the_hub() {
    let mut r = recipe();
    assert!([r.a, r.b, r.c].iter().all(|&node| r.world.session(node, r.hub) && r.world.session(r.hub, node)));
    let request = ping(addr(57), addr(65), 1, b"across");
    r.world.send(r.a, &request);
    assert_eq!(r.world.received(r.b), hop(&hop(&request)));
    r.world.send(r.b, &ping(addr(65), addr(57), 2, b"back"));
    assert_eq!(packets::source(&r.world.received(r.a)), addr(65));
    assert!(r.world.inbox(r.c).is_empty());
}

#[test]
fn the_domain_controllers_behind_a_plain_member_are_reached_and_answer() {
    let mut r = recipe();
    r.world.send(r.a, &udp(addr(57), CONTROLLER, b"query"));
    assert_eq!(packets::destination(&r.world.received(r.plain)), CONTROLLER);
    r.world.send(r.plain, &udp(CONTROLLER, addr(57), b"answer"));
    assert_eq!(packets::source(&r.world.received(r.a)), CONTROLLER);
}

#[test]
fn a_host_sends_only_from_its_own_slot() {
    let mut r = recipe();
    let foreign = [addr(65), addr(63), CONTROLLER, Ipv4Addr::new(192, 168, 1, 1), Ipv4Addr::LOCALHOST];
    r.world.sends(r.a, &foreign.map(|source| udp(source, addr(73), b"x")));
    assert_eq!(r.world.drops(r.a, DropReason::ForeignSource), foreign.len() as u64);
    assert!(r.world.inbox(r.c).is_empty() && r.world.inbox(r.a).is_empty());
}

#[test]
fn a_host_cannot_speak_as_the_gateway() {
    let mut r = recipe();
    r.world.sends(r.a, &[udp(addr(56), addr(65), b"x"), ping(addr(56), addr(57), 1, b"x")]);
    assert_eq!(r.world.all_drops(r.a), [(DropReason::GatewaySource, 2)]);
    assert!(r.world.inbox(r.b).is_empty());
}

#[test]
fn a_hub_lets_through_only_what_a_member_owns() {
    let mut r = recipe();
    let foreign = [addr(57), addr(64), addr(88), Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::UNSPECIFIED];
    r.world.sends(r.plain, &foreign.map(|source| udp(source, addr(73), b"forged")));
    assert!(r.world.inbox(r.c).is_empty());
    assert_eq!(r.world.all_drops(r.hub), [(DropReason::ForeignSource, foreign.len() as u64)]);
    r.world.send(r.plain, &udp(addr(81), addr(73), b"own"));
    assert_eq!(r.world.inbox(r.c).len(), 1);
}

#[test]
fn a_member_with_a_wide_network_may_not_send_from_the_slot_of_another() {
    // As WireGuard does: an address belongs to the peer with the longest network around it.
    let mut world = World::new();
    let hub = world.engine(HUB, hub(vec![to_node(56), to_node(64), to_plain(PLAIN, &["172.16.0.0/16"])]));
    let a = world.engine(56, node(56, vec![to_hub(HUB, &["172.16.0.0/16"])]));
    world.of(a).set_live(Some(vec![addr(57)]));
    let plain = world.plain(PLAIN, HUB);
    world.settle();
    world.send(plain, &udp(addr(65), addr(57), b"as 64"));
    assert!(world.inbox(a).is_empty());
    assert_eq!(world.drops(hub, DropReason::ForeignSource), 1);
    world.send(plain, &udp(CONTROLLER, addr(57), b"its own"));
    assert_eq!(packets::source(&world.received(a)), CONTROLLER);
}

#[test]
fn nobody_may_send_to_a_node_from_the_slot_of_that_node() {
    for (kind, networks) in [("hub", "172.16.0.0/16"), ("hub", "0.0.0.0/0"), ("plain", "172.16.0.0/16")] {
        let mut world = World::new();
        let peer = if kind == "hub" { to_hub(PLAIN, &[networks]) } else { to_plain(PLAIN, &[networks]) };
        let a = world.engine(56, node(56, vec![peer]));
        world.of(a).set_live(Some(vec![addr(57)]));
        let plain = world.plain(PLAIN, 56);
        world.settle();
        world.sends(plain, &[addr(56), addr(57), addr(59)].map(|source| udp(source, addr(57), b"x")));
        assert!(world.inbox(a).is_empty(), "{kind} {networks}");
        assert_eq!(world.drops(a, DropReason::ForeignSource), 3);
        world.send(plain, &udp(CONTROLLER, addr(57), b"its own"));
        assert_eq!(world.inbox(a).len(), 1);
    }
}

#[test]
fn two_hubs_in_front_of_the_same_network_may_both_bring_its_packets() {
    let mut world = World::new();
    let a = world.engine(56, node(56, vec![to_hub(1, &[BEYOND]), to_hub(2, &[BEYOND])]));
    world.of(a).set_live(Some(vec![addr(57)]));
    let hubs = [world.plain(1, 56), world.plain(2, 56)];
    world.settle();
    for hub in hubs {
        world.sends(hub, &[udp(CONTROLLER, addr(57), b"x"), udp(addr(65), addr(57), b"x")]);
        assert_eq!(world.inbox(a).len(), 2);
    }
    assert_eq!(world.all_drops(a), []);
}

#[test]
fn a_direct_peer_may_send_from_its_slot_and_from_no_other() {
    let mut world = World::new();
    let a = world.engine(56, node(56, vec![direct(56, 64)]));
    world.of(a).set_live(Some(vec![addr(57)]));
    let b = world.plain(64, 56);
    world.settle();
    world.sends(b, &[addr(65), addr(73), addr(57), CONTROLLER].map(|source| udp(source, addr(57), b"x")));
    assert_eq!(packets::source(&world.received(a)), addr(65));
    assert_eq!(world.all_drops(a), [(DropReason::ForeignSource, 3)]);
}

#[test]
fn a_packet_for_another_slot_ends_at_a_node() {
    let mut world = World::new();
    let a = world.engine(56, node(56, vec![direct(56, 64)]));
    world.of(a).set_live(Some(vec![addr(57), addr(73)]));
    let b = world.plain(64, 56);
    world.settle();
    world.sends(b, &[udp(addr(65), addr(73), b"x"), udp(addr(65), addr(65), b"x")]);
    assert!(world.inbox(a).is_empty() && world.inbox(b).is_empty());
    assert_eq!(world.all_drops(a), [(DropReason::NotMine, 2)]);
}

#[test]
fn what_is_no_ipv4_stays_out_of_the_tunnel_and_out_of_the_host() {
    let mut r = recipe();
    let mut six = vec![0; 40];
    six[0] = 0x60;
    r.world.sends(r.a, &[six.clone(), vec![0x45; 10], vec![0xff]]);
    assert_eq!(r.world.drops(r.a, DropReason::NotIpv4), 2);
    assert_eq!(r.world.drops(r.a, DropReason::Malformed), 1);
    r.world.send(r.plain, &six);
    assert_eq!(r.world.all_drops(r.hub), [(DropReason::NotIpv4, 1)]);
}

#[test]
fn two_nodes_with_a_direct_session_use_it_and_the_hub_when_they_have_none() {
    let mut world = World::new();
    let h = world.engine(HUB, hub(vec![to_node(56), to_node(64)]));
    let [a, b] = [(56, 64), (64, 56)].map(|(me, other)| {
        let id = world.engine(me, node(me, vec![to_hub(HUB, &[]), direct(me, other)]));
        world.of(id).set_live(Some(vec![addr(me + 1)]));
        id
    });
    let packet = udp(addr(57), addr(65), b"x");
    world.cut(a, b);
    world.settle();
    world.send(a, &packet);
    assert_eq!(world.received(b), hop(&hop(&packet)), "by the hub");

    world.mend();
    world.pass(std::time::Duration::from_secs(5));
    assert!(world.session(a, b) && world.session(b, a));
    let relayed = world.link(h, a).rx_packets;
    world.send(a, &packet);
    assert_eq!(world.received(b), hop(&packet), "directly");
    assert_eq!(world.link(h, a).rx_packets, relayed);

    // The direct session ends (its secrets changed): the hub carries again.
    let mut other = direct(56, 64);
    other.preshared_key = Some(overlay_config::PresharedKey::from_bytes([9; 32]));
    world.of(a).reconfigure(node(56, vec![to_hub(HUB, &[]), other]), world.now);
    world.send(a, &packet);
    assert_eq!(world.received(b), hop(&hop(&packet)), "by the hub again");
}

#[test]
fn a_second_hub_carries_when_the_first_has_no_session() {
    let mut world = World::new();
    let hubs = [1, 2].map(|number| world.engine(number, hub(vec![to_node(56), to_node(64)])));
    let [a, b] = [56, 64].map(|me| {
        let id = world.engine(me, node(me, vec![to_hub(1, &[]), to_hub(2, &[])]));
        world.of(id).set_live(Some(vec![addr(me + 1)]));
        id
    });
    world.cut(a, hubs[0]);
    world.settle();
    world.send(a, &udp(addr(57), addr(65), b"x"));
    assert_eq!(world.inbox(b).len(), 1);
    assert_eq!((world.link(hubs[0], a).rx_packets, world.link(hubs[1], a).rx_packets), (0, 1));
}

#[test]
fn an_answer_of_the_gateway_goes_back_by_the_hub() {
    let mut r = recipe();
    r.world.send(r.plain, &ping(CONTROLLER, addr(56), 5, b"dc"));
    assert_eq!(says(&r.world.received(r.plain)), Says::EchoReply { sequence: 5, data: b"dc".to_vec() });
}
