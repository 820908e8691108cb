//! New settings for a running engine.

use crate::packets::{Says, says, udp};
use crate::world::{BEYOND, HUB, PLAIN, addr, at, hub, node, recipe, to_hub, to_node, to_plain};
use overlay_engine::DropReason;
use std::time::Duration;

#[test]
fn peers_that_stay_keep_session_endpoint_and_counters() {
    let mut r = recipe();
    r.world.send(r.a, &udp(addr(57), addr(65), b"x"));
    let before = r.world.link(r.hub, r.a);
    let sent = r.world.sent.len();
    // In another order, with one more, and with more networks for one of them.
    let members = vec![to_plain(PLAIN, &[BEYOND]), to_node(96), to_node(72), to_node(64), to_node(56)];
    r.world.of(r.hub).reconfigure(hub(members), r.world.now);
    assert_eq!(r.world.link(r.hub, r.a), before);
    r.world.inbox(r.b);
    r.world.send(r.a, &udp(addr(57), addr(65), b"x"));
    assert_eq!(r.world.inbox(r.b).len(), 1);
    assert_eq!(r.world.sent.len(), sent + 2, "no handshake");
}

#[test]
fn a_peer_that_is_gone_can_neither_send_nor_be_sent_to() {
    let mut r = recipe();
    let stay = vec![to_node(56), to_node(72)];
    r.world.of(r.hub).reconfigure(hub(stay.clone()), r.world.now);
    r.world.send(r.b, &udp(addr(65), addr(57), b"from the dead"));
    assert!(r.world.inbox(r.a).is_empty());
    assert_eq!(r.world.all_drops(r.hub), [(DropReason::NotWireguard, 1)]);
    r.world.send(r.a, &udp(addr(57), addr(65), b"to the dead"));
    assert!(r.world.inbox(r.b).is_empty());
    assert_eq!(r.world.drops(r.hub, DropReason::NoRoute), 1);
    assert!(matches!(says(&r.world.received(r.a)), Says::Error { kind: 3, code: 0, .. }));
    // Its place, and with it its receiver indices, goes to another: still nobody takes its old session for it.
    let again = [stay, vec![to_node(88)]].concat();
    r.world.of(r.hub).reconfigure(hub(again), r.world.now);
    r.world.send(r.b, &udp(addr(65), addr(57), b"from the dead"));
    assert!(r.world.inbox(r.a).is_empty());
    assert_eq!(r.world.drops(r.hub, DropReason::Unauthentic), 1);
}

#[test]
fn a_new_member_is_there_at_once() {
    let mut r = recipe();
    let d = r.world.engine(96, node(96, vec![to_hub(HUB, &[])]));
    r.world.of(d).set_live(Some(vec![addr(97)]));
    r.world.settle();
    assert!(!r.world.session(d, r.hub));
    assert!(r.world.drops(r.hub, DropReason::UnknownPeer) > 0);
    let members = [56, 64, 72, 96].map(to_node).into();
    r.world.of(r.hub).reconfigure(hub(members), r.world.now);
    r.world.pass(Duration::from_secs(1));
    r.world.inbox(d);
    r.world.send(r.a, &udp(addr(57), addr(97), b"welcome"));
    assert_eq!(r.world.inbox(d).len(), 1);
}

#[test]
fn another_preshared_key_ends_the_session() {
    let mut r = recipe();
    let mut changed = to_node(56);
    changed.preshared_key = Some(overlay_config::PresharedKey::from_bytes([1; 32]));
    r.world.of(r.hub).reconfigure(hub(vec![changed, to_node(64)]), r.world.now);
    assert!(!r.world.session(r.hub, r.a) && r.world.session(r.hub, r.b));
    r.world.send(r.a, &udp(addr(57), addr(65), b"x"));
    assert!(r.world.inbox(r.b).is_empty());
}

#[test]
fn a_new_endpoint_is_used_at_once_and_one_that_was_learnt_survives() {
    let mut r = recipe();
    let mut moved = to_hub(HUB, &[]);
    moved.endpoint = Some(at(99));
    r.world.of(r.a).reconfigure(node(56, vec![moved]), r.world.now);
    r.world.send(r.a, &udp(addr(57), addr(65), b"x"));
    assert_eq!(r.world.sent.last().map(|d| d.to), Some(at(99)));
    assert!(r.world.session(r.a, r.hub), "the session is the same");
    r.world.of(r.hub).reconfigure(hub(vec![to_node(56)]), r.world.now);
    assert_eq!(r.world.link(r.hub, r.a).endpoint, Some(at(56)));
}

#[test]
fn routes_and_mtu_take_effect_with_the_next_packet() {
    let mut r = recipe();
    let controller = udp(addr(57), std::net::Ipv4Addr::new(172, 16, 0, 1), b"x");
    r.world.of(r.a).reconfigure(node(56, vec![to_hub(HUB, &[])]), r.world.now);
    r.world.send(r.a, &controller);
    assert_eq!(r.world.drops(r.a, DropReason::NoRoute), 1);
    let mut settings = node(56, vec![to_hub(HUB, &[BEYOND])]);
    settings.mtu = 1280;
    r.world.of(r.a).reconfigure(settings, r.world.now);
    r.world.send(r.a, &controller);
    assert_eq!(r.world.inbox(r.plain).len(), 1);
    r.world.send(r.a, &udp(addr(57), addr(65), &[0; 1300]));
    assert_eq!(r.world.inbox(r.b).len(), 2, "cut to 1280");
}

#[test]
fn another_pace_of_keepalives_keeps_the_session() {
    let mut r = recipe();
    let before = r.world.link(r.a, r.hub).established;
    let mut eager = to_hub(HUB, &[]);
    eager.keepalive = Some(1);
    r.world.of(r.a).reconfigure(node(56, vec![eager]), r.world.now);
    assert_eq!(r.world.link(r.a, r.hub).established, before);
    let sent = r.world.sent.len();
    r.world.pass(Duration::from_secs(5));
    let keepalives =
        r.world.sent.iter().skip(sent).filter(|d| d.from == at(56) && d.bytes.len() == 32).count();
    assert!((4..=6).contains(&keepalives), "{keepalives}");
}
