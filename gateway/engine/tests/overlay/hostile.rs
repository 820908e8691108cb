//! What strangers and broken networks send: replays, corruption, floods.

use crate::packets::udp;
use crate::world::{
    Datagram, HUB, World, addr, at, hub, node, private, public, recipe, to_hub, to_node, to_speaking_node,
};
use overlay_engine::control::{self, Capabilities, Header, Message};
use overlay_engine::peer::Sealing;
use overlay_engine::peer::tunnel::{Identity, Tunnel, TunnelSettings};
use overlay_engine::{DropReason, Event};
use std::time::{Duration, Instant};

/// What `number` would say first to the hub.
fn initiation(number: u8) -> Vec<u8> {
    let settings = TunnelSettings {
        public_key: public(HUB),
        preshared_key: None,
        keepalive: None,
        index: 1,
        initiates: true,
        warm: true,
        expects_keepalives: false,
    };
    let now = Instant::now();
    let mut tunnel = Tunnel::new(&Identity::new(private(number)), &settings, now, 1);
    let mut buffer = [0; 200];
    let len = tunnel.tick(now, true, &mut buffer).unwrap();
    buffer[..len].to_vec()
}

fn bytes(datagrams: &[Datagram]) -> usize {
    datagrams.iter().map(|d| d.bytes.len()).sum()
}

#[test]
fn a_replayed_data_message_is_rejected() {
    let mut r = recipe();
    r.world.queue(r.a, &[udp(addr(57), addr(65), b"once")]);
    let datagram = r.world.intercept().remove(0);
    for _ in 0..3 {
        r.world.arrives(r.hub, &datagram);
        r.world.deliver();
    }
    assert_eq!(r.world.inbox(r.b).len(), 1);
    assert_eq!(r.world.all_drops(r.hub), [(DropReason::Unauthentic, 2)]);
}

#[test]
fn an_initiation_alone_moves_no_endpoint_and_earns_one_answer() {
    // After a restart the hub knows no timestamps: what was heard on the wire before is good again, from anywhere.
    let mut world = World::new();
    let hub = world.engine(HUB, hub(vec![to_node(56), to_node(64)]));
    let node = world.engine(64, node(64, vec![to_hub(HUB, &[])]));
    let old = Datagram { from: at(200), to: at(HUB), bytes: initiation(56) };
    world.arrives(hub, &old);
    world.pass(Duration::from_secs(60));
    let answers: Vec<_> = world.sent.iter().filter(|d| d.to == at(200)).collect();
    assert_eq!((answers.len(), bytes(&answers.into_iter().cloned().collect::<Vec<_>>())), (1, 92));
    assert_eq!(world.of(hub).peers()[0].link.endpoint, None);
    // A handshake that is carried to its end does say where the peer is.
    assert_eq!(world.link(hub, node).endpoint, Some(at(64)));
}

#[test]
fn messages_out_of_order_are_all_accepted() {
    let mut r = recipe();
    let packets: Vec<_> = (0..50).map(|n| udp(addr(57), addr(65), &[n; 20])).collect();
    r.world.queue(r.a, &packets);
    let mut datagrams = r.world.intercept();
    datagrams.reverse();
    r.world.release(datagrams);
    assert_eq!(r.world.inbox(r.b).len(), 50);
}

#[test]
fn a_replayed_handshake_changes_nothing_and_is_not_answered() {
    let mut r = recipe();
    let first: Vec<_> = r.world.sent.iter().filter(|d| d.bytes.len() != 32).cloned().collect();
    let before = (r.world.link(r.hub, r.a), r.world.link(r.a, r.hub));
    for datagram in &first {
        let elsewhere = Datagram { from: at(200), ..datagram.clone() };
        let to = r.world.parties.iter().position(|party| party.at == datagram.to).unwrap();
        r.world.arrives(to, &elsewhere);
        assert!(r.world.intercept().is_empty(), "a message of {} bytes", datagram.bytes.len());
    }
    assert_eq!((r.world.link(r.hub, r.a), r.world.link(r.a, r.hub)), before);
}

#[test]
fn a_message_with_any_bit_changed_is_rejected() {
    let mut r = recipe();
    for n in 0..400 {
        r.world.queue(r.a, &[udp(addr(57), addr(65), &[7; 18])]);
        let mut datagram = r.world.intercept().remove(0);
        assert_eq!(datagram.bytes.len(), 78);
        let bit = n * 157 % (78 * 8);
        datagram.bytes[bit / 8] ^= 1 << (bit % 8);
        r.world.arrives(r.hub, &datagram);
        assert!(r.world.intercept().is_empty(), "bit {bit}");
    }
    let dropped: u64 = r.world.all_drops(r.hub).iter().map(|(_, n)| n).sum();
    assert_eq!(dropped, 400);
    assert!(r.world.inbox(r.b).is_empty());
}

#[test]
fn a_cut_message_is_rejected() {
    let mut r = recipe();
    for len in 0..78 {
        r.world.queue(r.a, &[udp(addr(57), addr(65), &[7; 18])]);
        let mut datagram = r.world.intercept().remove(0);
        datagram.bytes.truncate(len);
        r.world.arrives(r.hub, &datagram);
        assert!(r.world.intercept().is_empty(), "{len} bytes");
    }
}

#[test]
fn a_stranger_gets_no_answer() {
    let mut world = World::new();
    let hub = world.engine(HUB, hub(vec![to_node(56)]));
    let stranger = Datagram { from: at(99), to: at(HUB), bytes: initiation(99) };
    for _ in 0..10 {
        world.arrives(hub, &stranger);
    }
    assert!(world.intercept().is_empty());
    assert_eq!(world.all_drops(hub), [(DropReason::UnknownPeer, 10)]);
}

#[test]
fn a_flood_of_handshakes_gets_cookies_and_never_more_bytes_than_it_sent() {
    let mut world = World::new();
    let hub = world.engine(HUB, hub(vec![to_node(56)]));
    let mut received = 0;
    for n in 0..2000_u16 {
        let number = if n % 2 == 0 { 99 } else { 56 };
        let from = (std::net::Ipv4Addr::from(0xC633_6400 + u32::from(n)), 7).into();
        let datagram = Datagram { from, to: at(HUB), bytes: initiation(number) };
        let before = world.sent.len();
        world.arrives(hub, &datagram);
        let answers = &world.sent[before..];
        received += datagram.bytes.len();
        assert!(answers.len() <= 1 && bytes(answers) < datagram.bytes.len());
        assert!(answers.iter().all(|answer| answer.to == from));
    }
    let cookies = world.sent.iter().filter(|d| d.bytes.len() == 64).count();
    // 50 and 2 for the member pass in a second; boringtun counts the real ones, of which this takes one or two.
    assert!(cookies >= 1500, "{cookies} cookies");
    assert_eq!(world.drops(hub, DropReason::UnderLoad), cookies as u64);
    assert!(bytes(&world.sent) * 2 < received);
}

#[test]
fn a_member_gets_through_a_flood_with_its_cookie() {
    let mut world = World::new();
    let h = world.engine(HUB, hub(vec![to_node(56)]));
    let a = world.engine(56, node(56, vec![to_hub(HUB, &[])]));
    let flood = Datagram { from: at(99), to: at(HUB), bytes: initiation(99) };
    for _ in 0..12 {
        for _ in 0..200 {
            world.arrives(h, &flood);
        }
        world.intercept();
        world.pass(Duration::from_millis(100));
    }
    assert!(world.sent.iter().any(|d| d.to == at(56) && d.bytes.len() == 64), "it was asked for a cookie");
    assert!(world.session(a, h) && world.session(h, a));
}

#[test]
fn a_flood_of_rubbish_is_counted_and_not_answered() {
    let mut r = recipe();
    let mut random = fastrand::Rng::with_seed(4);
    for n in 0..5000_u32 {
        let mut bytes: Vec<u8> = (0..random.usize(0..200)).map(|_| random.u8(..)).collect();
        // Of the four message types, with the lengths that belong to them, for indices that exist.
        let kind = random.u8(0..6);
        bytes.resize([bytes.len(), 148, 92, 64, bytes.len().max(32), bytes.len()][usize::from(kind)], 0);
        if bytes.len() >= 12 {
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
            bytes[4..8].copy_from_slice(&random.u32(0..5 * 256).to_le_bytes());
        }
        r.world.arrives(r.hub, &Datagram { from: at(99), to: at(HUB), bytes });
        assert!(r.world.intercept().is_empty());
        let dropped: u64 = r.world.all_drops(r.hub).iter().map(|(_, n)| n).sum();
        assert_eq!(dropped, u64::from(n) + 1);
    }
    assert_eq!(r.world.link(r.hub, r.a).endpoint, Some(at(56)));
}

#[test]
fn a_full_batch_drops_and_counts_and_the_next_one_works() {
    use overlay_engine::Output;
    use overlay_engine::packet::PacketBatch;
    let mut r = recipe();
    let mut batch = PacketBatch::with_capacity(1 << 18, 200);
    for _ in 0..200 {
        batch.push((), &udp(addr(57), addr(65), &[0; 1000]));
    }
    // Room for one packet, and what every output has besides.
    let mut out = Output::for_batch(1000, 1);
    r.world.of(r.a).handle_host(r.world.now, &mut batch, &mut out);
    let sent = out.net.len() as u64;
    assert!(sent < 200);
    assert_eq!(r.world.all_drops(r.a), [(DropReason::NoBuffer, 200 - sent)]);
    r.world.send(r.a, &udp(addr(57), addr(65), b"x"));
    assert_eq!(r.world.inbox(r.b).len(), 1);
}

#[test]
fn a_counter_at_its_end_is_refused_before_it_is_opened() {
    let mut r = recipe();
    r.world.queue(r.a, &[udp(addr(57), addr(65), b"x")]);
    let mut datagram = r.world.intercept().remove(0);
    datagram.bytes[8..16].copy_from_slice(&(u64::MAX - 5).to_le_bytes());
    r.world.arrives(r.hub, &datagram);
    assert_eq!(r.world.all_drops(r.hub), [(DropReason::NotWireguard, 1)]);
}

#[test]
fn secrets_are_not_shown() {
    let mut settings = crate::world::to_node(56);
    settings.preshared_key = Some(overlay_config::PresharedKey::from_bytes([171; 32]));
    assert!(!format!("{settings:?}").contains("171"));
}

#[test]
fn a_key_that_was_revoked_is_told_why_and_nobody_can_be_flooded_with_that() {
    let mut world = World::new();
    let hub_id = world.engine(HUB, hub(vec![to_node(64)]));
    let out = world.engine(56, node(56, vec![to_hub(HUB, &[])]));
    let record = vec![7; 140];
    world.of(hub_id).set_revoked([(public(56), record.clone())].into());
    world.settle();
    let heard: Vec<_> = std::iter::from_fn(|| world.of(out).poll_event()).collect();
    assert_eq!(heard, [Event::Notice { record: record.clone() }]);
    assert!(!world.session(out, hub_id));
    assert_eq!(world.drops(hub_id, DropReason::UnknownPeer), 1);
    // Not to a member, or a stranger, nor one that is longer than what it answers.
    for (number, revoked) in [(64, record.clone()), (99, record.clone()), (56, vec![7; 145])] {
        world.of(hub_id).set_revoked([(public(56), revoked)].into());
        let knock = Datagram { from: at(200), to: at(HUB), bytes: initiation(number) };
        world.arrives(hub_id, &knock);
        let answers = world.intercept();
        assert!(answers.iter().all(|answer| answer.bytes[0] == 2 && number == 64), "{number}");
    }
    // Whoever sends many initiations from the address of somebody else has few of them answered.
    world.of(hub_id).set_revoked([(public(56), record.clone())].into());
    let knock = initiation(56);
    for _ in 0..50 {
        world.arrives(hub_id, &Datagram { from: at(200), to: at(HUB), bytes: knock.clone() });
    }
    let answers = world.intercept();
    assert!(answers.len() <= 10 && bytes(&answers) <= 10 * 148, "{}", answers.len());
    // A node hears it from its hub alone, and not without end.
    let notice = |from| Datagram { from, to: at(56), bytes: [b"ovg\x01".as_slice(), &record].concat() };
    world.arrives(out, &notice(at(200)));
    assert_eq!(world.of(out).poll_event(), None);
    for _ in 0..50 {
        world.arrives(out, &notice(at(HUB)));
    }
    assert!((1..=10).contains(&std::iter::from_fn(|| world.of(out).poll_event()).count()));
}

#[test]
fn a_member_that_says_that_hardly_anything_passes_has_its_packets_cut_no_smaller_than_1200() {
    let mut world = World::new();
    let hub_id = world.engine(HUB, hub(vec![to_speaking_node(HUB, 56, Sealing::Never)]));
    let liar = world.plain(56, HUB);
    world.settle();
    let mut sequence = 0;
    let mut say = |world: &mut World, message: Message<'_>| {
        sequence += 1;
        let mut packet = vec![0; control::MAX_MESSAGE];
        let len = control::write(Header { epoch: 7, sequence }, &message, &mut packet).unwrap();
        packet.truncate(len);
        world.send(liar, &packet);
    };
    say(&mut world, Message::Hello { capabilities: Capabilities::PROBES, seen: 0 });
    for (told, taken) in [(1_300, 1_300), (1, 1_200), (576, 1_200), (u16::MAX, u16::MAX)] {
        say(&mut world, Message::Probe { number: told.into(), mtu: Some(told) });
        assert_eq!(world.link(hub_id, liar).mtu, Some(taken), "{told}");
    }
    say(&mut world, Message::Probe { number: 9, mtu: None });
    assert_eq!(world.link(hub_id, liar).mtu, None);
}
