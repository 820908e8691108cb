//! End-to-end sessions through a hub that forwards without opening.

use crate::packets::udp;
use crate::world::{
    Datagram, NODES, World, addr, at, cluster, cold_cluster, hub, net, node, to_hub, to_node,
    to_speaking_hub, to_speaking_node,
};
use overlay_engine::packet::DatagramBatch;
use overlay_engine::peer::path::Way;
use overlay_engine::peer::{PeerSettings, Sealing};
use overlay_engine::{DropReason, EngineSettings, Output, RoleSettings};
use std::net::SocketAddr;
use std::time::Duration;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Whether a packet from each node reaches each other one.
fn all_reach_all(world: &mut World, nodes: &[usize]) -> bool {
    let mut all = true;
    for (n, from) in nodes.iter().enumerate() {
        for (m, to) in nodes.iter().enumerate().filter(|(m, _)| *m != n) {
            world.send(*from, &udp(addr(NODES[n] + 1), addr(NODES[m] + 1), b"through the hub"));
            all &= world.inbox(*to).len() == 1;
        }
    }
    all
}

#[test]
fn nodes_have_sessions_of_their_own_through_a_hub_within_a_second() {
    let mut c = cold_cluster(1, Sealing::Required);
    c.world.run(ms(1000));
    for n in 0..3 {
        for m in (0..3).filter(|m| *m != n) {
            assert!(c.world.session(c.nodes[n], c.nodes[m]), "{n} {m}");
            let paths = c.world.link(c.nodes[n], c.nodes[m]).paths.unwrap();
            assert!(matches!(paths.current(), Some(Way::Via(_))));
        }
    }
    assert!(all_reach_all(&mut c.world, &c.nodes));
    for id in c.hubs.iter().chain(&c.nodes) {
        assert_eq!(
            c.world.all_drops(*id).iter().filter(|(why, _)| *why != DropReason::RelayAbsent).count(),
            0,
            "{:?}",
            c.world.all_drops(*id)
        );
    }
}

#[test]
fn the_hub_forwards_what_it_cannot_open() {
    let mut c = cluster(1);
    let before = c.world.link(c.hubs[0], c.nodes[0]);
    let from = c.world.sent.len();
    c.world.send(c.nodes[0], &udp(addr(57), addr(65), b"secret"));
    assert_eq!(c.world.inbox(c.nodes[1]).len(), 1);
    let flown = &c.world.sent[from..];
    assert_eq!(flown.len(), 2);
    assert_eq!((flown[0].to, flown[1].from, flown[1].to), (at(1), at(1), at(64)));
    assert_eq!(flown[0].bytes, flown[1].bytes, "as it came");
    let after = c.world.link(c.hubs[0], c.nodes[0]);
    assert_eq!(after.rx_packets, before.rx_packets, "nothing came out of the hub's own session");
    assert_eq!(after.forwarded.0, before.forwarded.0 + 1);
}

#[test]
fn both_sides_at_once_end_up_with_one_session() {
    let mut c = cold_cluster(1, Sealing::Required);
    c.world.run(ms(200));
    // A packet each way in the same moment, before there is a session.
    let (a, b) = (c.nodes[0], c.nodes[1]);
    c.world.queue(a, &[udp(addr(57), addr(65), b"from a")]);
    c.world.queue(b, &[udp(addr(65), addr(57), b"from b")]);
    c.world.deliver();
    c.world.run(ms(900));
    assert_eq!((c.world.inbox(a).len(), c.world.inbox(b).len()), (1, 1));
    assert!(all_reach_all(&mut c.world, &c.nodes));
}

#[test]
fn a_session_is_renewed_through_the_hub_while_traffic_flows() {
    let mut c = cluster(1);
    let first = c.world.link(c.nodes[0], c.nodes[1]).established.unwrap();
    for _ in 0..400 {
        c.world.run(ms(500));
        c.world.send(c.nodes[0], &udp(addr(57), addr(65), b"x"));
        assert_eq!(c.world.inbox(c.nodes[1]).len(), 1);
    }
    assert!(c.world.link(c.nodes[0], c.nodes[1]).established.unwrap() > first + Duration::from_secs(100));
}

#[test]
fn a_node_whose_nat_rebinds_is_confirmed_at_its_new_endpoint_before_anything_is_forwarded() {
    let mut c = cluster(1);
    let (a, b, hub) = (c.nodes[0], c.nodes[1], c.hubs[0]);
    let new: SocketAddr = ([203, 0, 113, 56], 4000).into();
    c.world.rebind(a, new);
    // The first datagram from there is sealed for the other node: the hub knows nothing of that endpoint.
    c.world.send(a, &udp(addr(57), addr(65), b"x"));
    assert_eq!(c.world.drops(hub, DropReason::RelayUnconfirmed), 1);
    assert!(c.world.inbox(b).is_empty());
    c.world.run(ms(300));
    assert_eq!(c.world.link(hub, a).confirmed, Some(new));
    assert!(all_reach_all(&mut c.world, &c.nodes));
}

#[test]
fn a_hub_sends_no_packets_to_a_new_endpoint_before_it_has_echoed_a_nonce() {
    let mut c = cold_cluster(1, Sealing::Never);
    c.world.run(ms(2000));
    let (a, b, hub) = (c.nodes[0], c.nodes[1], c.hubs[0]);
    assert!(all_reach_all(&mut c.world, &c.nodes));
    let new: SocketAddr = ([203, 0, 113, 56], 4000).into();
    c.world.rebind(a, new);
    c.world.queue(a, &[udp(addr(57), addr(65), &[1; 1000])]);
    let moved = c.world.intercept();
    moved.iter().for_each(|datagram| c.world.arrives(hub, datagram));
    let question = c.world.intercept();
    assert!(question.iter().any(|d| d.to == new), "the hub asks");
    c.world.queue(b, &[udp(addr(65), addr(57), &[1; 1000])]);
    let early = c.world.intercept();
    early.iter().for_each(|datagram| c.world.arrives(hub, datagram));
    let early = c.world.intercept();
    assert!(
        early.iter().any(|d| d.to == at(56)) && early.iter().all(|d| d.to != new),
        "the old one still counts"
    );
    c.world.release(question);
    c.world.send(b, &udp(addr(65), addr(57), b"x"));
    assert_eq!(c.world.inbox(a).len(), 1);
    assert_eq!(c.world.drops(hub, DropReason::EndpointUnconfirmed), 0);
}

#[test]
fn a_stranger_cannot_send_through_a_hub_nor_be_sent_to() {
    let mut c = cluster(1);
    let (a, hub) = (c.nodes[0], c.hubs[0]);
    c.world.queue(a, &[udp(addr(57), addr(65), b"x")]);
    let genuine = c.world.intercept().remove(0);
    let stranger: SocketAddr = "203.0.113.9:9".parse().unwrap();
    let sent = c.world.sent.len();
    c.world.arrives(hub, &Datagram { from: stranger, ..genuine.clone() });
    assert_eq!((c.world.sent.len(), c.world.drops(hub, DropReason::RelayUnconfirmed)), (sent, 1));
    // A member's own message with the hub, caught and replayed from elsewhere: the hub asks, and forwards nothing.
    c.world.run(ms(260));
    c.world.act(a);
    let confirmed = c.world.link(hub, a).confirmed;
    let own = loop {
        c.world.now += ms(10);
        c.world.act(a);
        if let Some(own) = c.world.intercept().into_iter().find(|d| d.to == at(1) && d.bytes[7] & 0x80 != 0) {
            break own;
        }
    };
    c.world.arrives(hub, &Datagram { from: stranger, ..own.clone() });
    assert_eq!(c.world.link(hub, a).confirmed, confirmed);
    let sent_to_stranger = |datagrams: Vec<Datagram>| -> usize {
        datagrams.iter().filter(|d| d.to == stranger).map(|d| d.bytes.len()).sum()
    };
    assert_eq!(sent_to_stranger(c.world.intercept()), own.bytes.len(), "the question, and no more than came");
    c.world.arrives(hub, &Datagram { from: stranger, ..genuine });
    assert_eq!(c.world.drops(hub, DropReason::RelayUnconfirmed), 2);
    // Whatever falls due, and whoever sends to the node through the hub: nothing goes there.
    c.world.cut(a, hub);
    for _ in 0..300 {
        c.world.now += ms(100);
        c.world.act(hub);
        assert_eq!(sent_to_stranger(c.world.intercept()), 0);
    }
    c.world.mend();
    c.world.run(ms(3000));
    // To the node it still goes where the node was.
    c.world.send(c.nodes[1], &udp(addr(65), addr(57), b"x"));
    assert_eq!(c.world.inbox(a).len(), 1);
}

#[test]
fn nothing_is_forwarded_to_a_slot_that_nobody_has() {
    let mut c = cluster(1);
    let (a, hub) = (c.nodes[0], c.hubs[0]);
    c.world.queue(a, &[udp(addr(57), addr(65), b"x")]);
    let mut datagram = c.world.intercept().remove(0);
    // Another ordinal in its label.
    datagram.bytes[6] ^= 0x40;
    let before = c.world.drops(hub, DropReason::RelayAbsent);
    c.world.arrives(hub, &datagram);
    assert_eq!(c.world.drops(hub, DropReason::RelayAbsent), before + 1);
}

#[test]
fn cookies_pass_through_the_hub() {
    let mut c = cold_cluster(1, Sealing::Required);
    let (a, b) = (c.nodes[0], c.nodes[1]);
    c.world.kill(a);
    c.world.run(ms(1500));
    c.world.thaw(a);
    // Under load: more handshakes than are let through without a cookie.
    let flood = |c: &mut crate::world::Cluster| {
        let mut stranger = crate::world::stranger(99, 64);
        for _ in 0..100 {
            let mut buffer = [0; 200];
            let len = stranger.initiate(c.world.now, &mut buffer).unwrap();
            let from = "203.0.113.9:9".parse().unwrap();
            c.world.arrives(b, &Datagram { from, to: at(64), bytes: buffer[..len].to_vec() });
        }
        c.world.intercept();
    };
    for _ in 0..30 {
        flood(&mut c);
        c.world.run(ms(100));
    }
    assert!(c.world.drops(b, DropReason::UnderLoad) > 0);
    assert!(
        c.world.sent.iter().any(|d| d.from == at(1) && d.to == at(56) && d.bytes[0] == 3),
        "a cookie, forwarded"
    );
    assert!(c.world.session(a, b), "with the cookie it is let in");
}

#[test]
fn a_node_without_control_messages_is_reached_routed_and_only_where_that_is_allowed() {
    for (sealing, reached) in [(Sealing::Preferred, true), (Sealing::Required, false)] {
        let mut world = World::new();
        // The second node, and what the hub knows of it, are of the version before: they never say hello.
        let hub_id = world.engine(
            1,
            hub(vec![to_speaking_node(1, 56, Sealing::Never), to_speaking_node(1, 64, Sealing::Never)]),
        );
        let a = world.engine(56, node(56, vec![to_speaking_hub(1), to_speaking_node(56, 64, sealing)]));
        let b = world.engine(64, node(64, vec![to_hub(1, &[])]));
        world.of(a).set_live(Some(vec![addr(57)]));
        world.of(b).set_live(Some(vec![addr(65)]));
        world.run(ms(8000));
        assert!(world.link(hub_id, a).speaks && !world.link(hub_id, b).speaks);
        world.send(a, &udp(addr(57), addr(65), b"x"));
        assert_eq!(world.inbox(b).len(), usize::from(reached), "{sealing:?}");
        world.send(b, &udp(addr(65), addr(57), b"x"));
        assert_eq!(world.inbox(a).len(), usize::from(reached), "{sealing:?}");
    }
}

#[test]
fn a_hub_of_the_version_before_routes() {
    let mut world = World::new();
    let hub_id = world.engine(1, hub(vec![to_node(56), to_node(64)]));
    let [a, b] = [(56, 64), (64, 56)].map(|(me, other)| {
        let id = world
            .engine(me, node(me, vec![to_speaking_hub(1), to_speaking_node(me, other, Sealing::Preferred)]));
        world.of(id).set_live(Some(vec![addr(me + 1)]));
        id
    });
    world.run(ms(4000));
    world.send(a, &udp(addr(57), addr(65), b"x"));
    world.send(b, &udp(addr(65), addr(57), b"x"));
    assert_eq!((world.inbox(a).len(), world.inbox(b).len()), (1, 1));
    let seen = world.link(hub_id, a);
    assert!(seen.rx_packets > 0 && !seen.speaks);
    assert!(world.drops(hub_id, DropReason::ControlUnexpected) > 0, "the hellos that it does not answer");
}

#[test]
fn a_wireguard_server_as_second_hub_routes_when_the_first_is_lost() {
    let mut world = World::new();
    let members = || [56, 64].map(|n| to_speaking_node(1, n, Sealing::Never)).into();
    let first = world.engine(1, hub(members()));
    // The second is a router that has never heard of control messages, and is configured as such.
    world.engine(2, hub(vec![to_node(56), to_node(64)]));
    let [a, b] = [(56, 64), (64, 56)].map(|(me, other)| {
        let peers = vec![to_speaking_hub(1), to_hub(2, &[]), to_speaking_node(me, other, Sealing::Preferred)];
        let id = world.engine(me, node(me, peers));
        world.of(id).set_live(Some(vec![addr(me + 1)]));
        id
    });
    world.walls = [(at(56), at(64)), (at(64), at(56))].into();
    world.run(ms(3000));
    assert!(world.session(a, b));
    world.kill(first);
    world.run(ms(2000));
    world.send(a, &udp(addr(57), addr(65), b"x"));
    assert_eq!(world.inbox(b).len(), 1);
}

#[test]
fn a_hub_cannot_speak_for_a_node_that_has_its_own_session() {
    let mut c = cluster(1);
    let (a, b, hub_id) = (c.nodes[0], c.nodes[1], c.hubs[0]);
    // A node that the hub is in league with sends, with the source of another, through the hub's routes.
    c.world.of(hub_id).reconfigure(
        hub(vec![
            to_speaking_node(1, 56, Sealing::Never),
            to_speaking_node(1, 72, Sealing::Never),
            crate::world::to_plain(80, &["172.16.8.64/29"]),
        ]),
        c.world.now,
    );
    let plain = c.world.plain(80, 1);
    c.world.pass(ms(300));
    c.world.send(plain, &udp(addr(65), addr(57), b"as the second node"));
    assert!(c.world.inbox(a).is_empty());
    assert_eq!(c.world.drops(a, DropReason::ForeignSource), 1);
    assert!(c.world.session(a, b));
}

#[test]
fn no_local_process_speaks_as_a_gateway() {
    let mut c = cluster(1);
    let header = overlay_engine::control::Header { epoch: 1, sequence: 1 };
    let mut packet = vec![0; overlay_engine::control::MAX_MESSAGE];
    let hello = overlay_engine::control::Message::Notice { draining: true };
    let len = overlay_engine::control::write(header, &hello, &mut packet).unwrap();
    packet.truncate(len);
    let sent = c.world.sent.len();
    c.world.send(c.nodes[0], &packet);
    assert_eq!(c.world.drops(c.nodes[0], DropReason::ReservedAddress), 1);
    assert_eq!(c.world.sent.len(), sent);
    // Nor does a plain member of a hub.
    let mut r = crate::world::recipe();
    r.world.send(r.plain, &packet);
    assert_eq!(r.world.drops(r.hub, DropReason::ControlUnexpected), 1);
}

#[test]
fn relay_routed_keeps_the_hub_in_between() {
    let mut c = cold_cluster(1, Sealing::Never);
    c.world.run(ms(2000));
    let before = c.world.link(c.hubs[0], c.nodes[0]).rx_packets;
    c.world.send(c.nodes[0], &udp(addr(57), addr(65), b"x"));
    assert_eq!(c.world.inbox(c.nodes[1]).len(), 1);
    assert_eq!(c.world.link(c.hubs[0], c.nodes[0]).rx_packets, before + 1, "opened by the hub");
}

#[test]
fn a_member_that_is_removed_loses_its_seat() {
    let mut c = cluster(1);
    let hub_id = c.hubs[0];
    let members = [56, 72].map(|n| to_speaking_node(1, n, Sealing::Never)).into();
    c.world.of(hub_id).reconfigure(hub(members), c.world.now);
    c.world.send(c.nodes[0], &udp(addr(57), addr(65), b"x"));
    c.world.send(c.nodes[1], &udp(addr(65), addr(57), b"x"));
    assert!(c.world.inbox(c.nodes[1]).is_empty() && c.world.inbox(c.nodes[0]).is_empty());
    c.world.send(c.nodes[0], &udp(addr(57), addr(73), b"x"));
    assert_eq!(c.world.inbox(c.nodes[2]).len(), 1);
}

#[test]
fn a_large_overlay_has_sessions_on_demand() {
    let mut world = World::new();
    let hub_id = world.engine(1, hub([56, 64].map(|n| to_speaking_node(1, n, Sealing::Never)).into()));
    let cold = |me, other| PeerSettings { warm: false, ..to_speaking_node(me, other, Sealing::Required) };
    let a = world.engine(56, node(56, vec![to_speaking_hub(1), cold(56, 64)]));
    let b = world.engine(64, node(64, vec![to_speaking_hub(1), cold(64, 56)]));
    world.of(b).set_live(Some(vec![addr(65)]));
    world.run(ms(3000));
    assert!(!world.session(a, b));
    world.send(a, &udp(addr(57), addr(65), b"x"));
    world.run(ms(200));
    assert!(world.session(a, b) && world.inbox(b).len() == 1);
    assert_eq!(world.link(hub_id, a).rx_packets, 0);
}

#[test]
fn a_member_that_sends_without_any_regard_is_held_back_and_the_others_are_not() {
    let mut c = cluster(1);
    let (a, b, hub) = (c.nodes[0], c.nodes[1], c.hubs[0]);
    let sealed = |world: &mut World, from, source, to| {
        world.queue(from, &[udp(addr(source), addr(to), b"x")]);
        let mut datagram = world.intercept().remove(0);
        // The hub does not look inside.
        datagram.bytes.resize(1_400, 7);
        datagram
    };
    let datagrams = [sealed(&mut c.world, a, 57, 65), sealed(&mut c.world, b, 65, 57)];
    let now = c.world.now;
    let mut out = Output::for_batch(1 << 16, 64);
    let mut forwarded = |world: &World, datagram: &Datagram, now, count: usize| {
        let mut batch = DatagramBatch::with_capacity(1 << 16, 40);
        while batch.len() < 40 {
            assert!(batch.push(datagram.from, &datagram.bytes));
        }
        let mut passed = 0;
        for _ in 0..count / 40 {
            out.clear();
            world.of(hub).handle_underlay(now, &batch, &mut out);
            passed += out.net.len();
        }
        passed
    };
    // 64 MB at once, and then 1.25 GB a second.
    let burst = 64_000_000 / 1_400;
    assert_eq!(forwarded(&c.world, &datagrams[0], now, 50_000), burst);
    assert_eq!(c.world.drops(hub, DropReason::RelayLimited), (50_000 - burst) as u64);
    assert_eq!(forwarded(&c.world, &datagrams[1], now, 400), 400, "another member has a budget of its own");
    let later = forwarded(&c.world, &datagrams[0], now + ms(10), 20_000);
    assert!((8_900..9_000).contains(&later), "{later}");
}

#[test]
fn after_a_silence_of_minutes_the_next_packet_opens_a_session() {
    let mut world = World::new();
    world.engine(1, hub([56, 64].map(|n| to_speaking_node(1, n, Sealing::Never)).into()));
    let cold = |me, other| PeerSettings { warm: false, ..to_speaking_node(me, other, Sealing::Required) };
    let a = world.engine(56, node(56, vec![to_speaking_hub(1), cold(56, 64)]));
    let b = world.engine(64, node(64, vec![to_speaking_hub(1), cold(64, 56)]));
    world.of(b).set_live(Some(vec![addr(65)]));
    world.run(ms(3000));
    for _ in 0..3 {
        world.send(a, &udp(addr(57), addr(65), b"x"));
        world.run(ms(200));
        assert_eq!(world.inbox(b).len(), 1);
        world.run(Duration::from_secs(250));
    }
}

#[test]
fn who_speaks_with_more_nodes_than_there_are_labels_speaks_with_all_of_them_in_time() {
    const NODES: u16 = 1_100;
    let mut world = World::new();
    let at = |n: u16| SocketAddr::from(([203, 0, (n >> 8) as u8, n as u8], 51820));
    let slot = |n: u16| net(&format!("10.1.{}.{}/29", n >> 5, (n & 31) << 3));
    let peers = (1..=NODES).map(|n| PeerSettings {
        name: format!("node-{n}"),
        public_key: key_of(n),
        slot: Some(slot(n)),
        networks: vec![slot(n)],
        endpoint: Some(at(n)),
        initiates: true,
        ..PeerSettings { warm: false, ..to_speaking_node(56, 64, Sealing::Required) }
    });
    let own = overlay_config::Slot::new(slot(0)).unwrap();
    let settings = EngineSettings {
        role: RoleSettings::Node { slot: own, mode: overlay_config::Mode::Tun },
        overlay: net("10.1.0.0/16"),
        ..node(56, peers.collect())
    };
    let a = world.engine(56, settings);
    // Nobody is there: each is asked a few times.
    let mut asked = std::collections::HashSet::new();
    for n in 1..=NODES {
        let to = slot(n).network();
        let to = std::net::Ipv4Addr::from(u32::from(to) + 1);
        world.send(a, &udp(own.address(), to, b"x"));
        world.run(ms(500));
        asked.extend(world.sent.drain(..).map(|datagram| datagram.to));
    }
    assert_eq!(asked.len(), usize::from(NODES));
}

/// The public key of one of many nodes.
fn key_of(n: u16) -> [u8; 32] {
    let mut key = [9; 32];
    key[4..6].copy_from_slice(&n.to_be_bytes());
    overlay_engine::peer::tunnel::Identity::new(key).public()
}
