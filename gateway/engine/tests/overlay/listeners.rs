//! Addresses that come and go: refused by the node whose slot they are in while they are not on its device.

use crate::packets::{self, Says, hop, ping, says, syn, udp};
use crate::world::{HUB, World, addr, hub, node, recipe, to_hub, to_node};
use overlay_engine::DropReason;
use overlay_engine::gateway::Refusal;

const OFFLINE: u8 = 68;

#[test]
fn a_connection_to_an_offline_listener_is_reset_at_once() {
    let mut r = recipe();
    r.world.send(r.a, &syn(addr(57), addr(OFFLINE)));
    let reset = r.world.received(r.a);
    assert_eq!(says(&reset), Says::Reset { acknowledges: 1001 });
    assert_eq!(packets::source(&reset), addr(OFFLINE), "in the listener's name");
    assert_eq!(r.world.drops(r.b, DropReason::ListenerOffline), 1);
    assert!(r.world.inbox(r.b).is_empty());
}

#[test]
fn what_is_no_tcp_gets_host_unreachable_from_the_gateway_of_the_slot() {
    let mut r = recipe();
    for packet in [udp(addr(57), addr(OFFLINE), b"x"), ping(addr(57), addr(OFFLINE), 1, b"x")] {
        r.world.send(r.a, &packet);
        let error = r.world.received(r.a);
        let quote = hop(&hop(&packet));
        assert_eq!(says(&error), Says::Error { kind: 3, code: 1, mtu: 0, quote });
        assert_eq!(packets::source(&error), addr(64));
    }
}

#[test]
fn a_listener_is_reached_as_soon_as_it_is_live_and_refused_as_soon_as_it_is_not() {
    let mut r = recipe();
    let attempt = syn(addr(57), addr(OFFLINE));
    for _ in 0..3 {
        r.world.of(r.b).set_live(Some(vec![addr(OFFLINE), addr(65)]));
        r.world.send(r.a, &attempt);
        assert_eq!(r.world.received(r.b), hop(&hop(&attempt)));
        assert!(r.world.inbox(r.a).is_empty());
        r.world.of(r.b).set_live(Some(vec![addr(65)]));
        r.world.send(r.a, &attempt);
        assert!(matches!(says(&r.world.received(r.a)), Says::Reset { .. }));
        assert!(r.world.inbox(r.b).is_empty());
    }
}

#[test]
fn while_nobody_knows_what_is_live_there_is_silence() {
    let mut r = recipe();
    r.world.of(r.b).set_live(None);
    r.world.sends(r.a, &[syn(addr(57), addr(65)), udp(addr(57), addr(OFFLINE), b"x")]);
    assert!(r.world.inbox(r.a).is_empty() && r.world.inbox(r.b).is_empty());
    assert_eq!(r.world.all_drops(r.b), [(DropReason::ListenerUnknown, 2)]);
    r.world.send(r.a, &ping(addr(57), addr(64), 1, b""));
    assert!(matches!(says(&r.world.received(r.a)), Says::EchoReply { .. }), "the gateway is always there");
}

#[test]
fn the_policy_chooses_between_reset_unreachable_and_silence() {
    for (refuse, answers) in [(Refusal::Reset, 2), (Refusal::Unreachable, 2), (Refusal::Silent, 0)] {
        let mut world = World::new();
        world.engine(HUB, hub(vec![to_node(56), to_node(64)]));
        let a = world.engine(56, node(56, vec![to_hub(HUB, &[])]));
        let mut settings = node(64, vec![to_hub(HUB, &[])]);
        settings.refuse = refuse;
        let b = world.engine(64, settings);
        world.of(a).set_live(Some(vec![addr(57)]));
        world.of(b).set_live(Some(vec![addr(65)]));
        world.settle();
        world.sends(a, &[syn(addr(57), addr(OFFLINE)), udp(addr(57), addr(OFFLINE), b"x")]);
        let inbox = world.inbox(a);
        assert_eq!(inbox.len(), answers, "{refuse:?}");
        if let Some(first) = inbox.first() {
            assert_eq!(matches!(says(first), Says::Reset { .. }), refuse == Refusal::Reset);
        }
        assert!(
            inbox.iter().skip(1).all(|packet| matches!(says(packet), Says::Error { kind: 3, code: 1, .. }))
        );
        assert_eq!(world.drops(b, DropReason::ListenerOffline), 2);
    }
}

#[test]
fn the_host_itself_is_refused_for_an_address_of_its_slot_that_it_does_not_have() {
    let mut r = recipe();
    r.world.send(r.a, &syn(addr(57), addr(61)));
    assert_eq!(says(&r.world.received(r.a)), Says::Reset { acknowledges: 1001 });
    assert_eq!(r.world.drops(r.a, DropReason::ListenerOffline), 1);
}

#[test]
fn a_reset_is_never_answered_with_a_reset() {
    let mut r = recipe();
    r.world.send(r.a, &syn(addr(57), addr(OFFLINE)));
    let reset = r.world.received(r.a);
    // Sent on to an address that is offline at the other end, the reset must end there.
    let onward =
        packets::changed(&reset, |h| (h.source, h.destination) = (addr(57).octets(), addr(69).octets()));
    r.world.send(r.a, &onward);
    assert!(r.world.inbox(r.a).is_empty());
}
