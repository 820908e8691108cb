//! Peers that are somewhere else now, and strangers who only make it seem so: they copy datagrams and are quicker.

use crate::failover::{beat, ms, neighbours, way};
use crate::packets::udp;
use crate::world::{
    Cluster, Datagram, World, addr, at, cluster, cold_cluster, direct, hub, node, to_node, to_speaking_hub,
};
use overlay_engine::DropReason;
use overlay_engine::peer::path::Way;
use overlay_engine::peer::{PeerSettings, Sealing};
use std::net::SocketAddr;
use std::time::Duration;

/// Where the copies come from, of what is for whom.
fn stranger(n: u8) -> SocketAddr {
    ([192, 0, 2, n], 4_000).into()
}

/// More than the longest message that is no packet's.
const DATA: usize = 200;

/// Everything that is for anybody comes sooner from a stranger.
fn copy_all(world: &mut World) {
    let copies = world.parties.iter().enumerate().map(|(n, party)| (party.at, stranger(n as u8)));
    world.copies = copies.collect();
}

/// Sends packets each way between the first two nodes, large enough to be told from what gateways say; how many are lost.
fn talk(c: &mut Cluster, time: Duration) -> usize {
    let (a, b) = (c.nodes[0], c.nodes[1]);
    let (mut lost, start) = (0, c.world.now);
    while c.world.now - start < time {
        c.world.run(ms(20));
        for (from, to, packet) in
            [(a, b, udp(addr(57), addr(65), &[7; DATA])), (b, a, udp(addr(65), addr(57), &[7; DATA]))]
        {
            c.world.send(from, &packet);
            lost += usize::from(c.world.inbox(to).is_empty());
        }
    }
    lost
}

/// What strangers were sent: no packet, and not more than `most` bytes a second for each of them.
fn strangers_learn_nothing(world: &World, from: usize, seconds: u64) {
    for n in 0..world.parties.len() as u8 {
        let sent: Vec<_> = world.sent[from..].iter().filter(|d| d.to == stranger(n)).collect();
        assert!(sent.iter().all(|d| d.bytes.len() < DATA), "a packet was sent to the stranger before {n}");
        // Nor what tells the other side that its response was read.
        assert!(sent.iter().all(|d| d.bytes.len() != 32), "a keepalive was sent to the stranger before {n}");
        let bytes: usize = sent.iter().map(|d| d.bytes.len()).sum();
        assert!(bytes as u64 <= seconds * 2_500, "{bytes} bytes to the stranger before {n}");
    }
}

#[test]
fn who_copies_what_hubs_and_nodes_say_and_is_quicker_leads_nothing_away() {
    for hubs in [1, 2] {
        let mut c = cluster(hubs);
        copy_all(&mut c.world);
        let from = c.world.sent.len();
        assert_eq!(talk(&mut c, Duration::from_secs(20)), 0);
        strangers_learn_nothing(&c.world, from, 20);
        for (n, hub) in c.hubs.iter().enumerate() {
            for node in &c.nodes {
                assert_eq!(c.world.link(*node, *hub).endpoint, Some(at(n as u8 + 1)));
                assert_eq!(c.world.link(*hub, *node).endpoint, Some(c.world.parties[*node].at));
            }
        }
    }
}

#[test]
fn who_copies_everything_from_the_first_moment_on_leads_nothing_away() {
    let mut c = cold_cluster(2, Sealing::Required);
    copy_all(&mut c.world);
    // The first packets wait for the sessions.
    c.world.send(c.nodes[0], &udp(addr(57), addr(65), &[7; DATA]));
    c.world.run(ms(2000));
    assert_eq!(c.world.inbox(c.nodes[1]).len(), 1);
    assert_eq!(talk(&mut c, Duration::from_secs(5)), 0);
    strangers_learn_nothing(&c.world, 0, 7);
}

#[test]
fn routed_packets_stay_where_the_hub_and_the_node_are() {
    let mut c = cold_cluster(1, Sealing::Never);
    copy_all(&mut c.world);
    c.world.run(ms(3000));
    let from = c.world.sent.len();
    assert_eq!(talk(&mut c, Duration::from_secs(10)), 0);
    strangers_learn_nothing(&c.world, from, 10);
    assert_eq!(c.world.drops(c.hubs[0], DropReason::EndpointUnconfirmed), 0);
}

#[test]
fn a_direct_path_is_not_led_away_either() {
    let mut c = neighbours();
    c.world.run(ms(8000));
    let (a, b) = (c.nodes[0], c.nodes[1]);
    assert_eq!(way(&c.world, a, b), Way::Direct(at(64)));
    copy_all(&mut c.world);
    let from = c.world.sent.len();
    assert_eq!(talk(&mut c, Duration::from_secs(20)), 0);
    assert_eq!((way(&c.world, a, b), way(&c.world, b, a)), (Way::Direct(at(64)), Way::Direct(at(56))));
    strangers_learn_nothing(&c.world, from, 20);
}

#[test]
fn two_without_a_hub_are_not_led_away_from_their_first_message_on() {
    let speaking = |me, other, endpoint| PeerSettings {
        speaks_control: true,
        sealing: Sealing::Required,
        endpoint,
        ..direct(me, other)
    };
    // Only one of them knows where the other is.
    for (known, other) in [(Some(at(64)), None), (None, Some(at(56))), (Some(at(64)), Some(at(56)))] {
        let mut world = World::new();
        let nodes = [(56, 64, known), (64, 56, other)].map(|(me, peer, endpoint)| {
            let speaking = PeerSettings { initiates: endpoint.is_some(), ..speaking(me, peer, endpoint) };
            let id = world.engine(me, node(me, vec![speaking]));
            world.of(id).set_live(Some(vec![addr(me + 1)]));
            id
        });
        copy_all(&mut world);
        let mut c = Cluster { world, hubs: Vec::new(), nodes: nodes.into() };
        c.world.run(ms(2000));
        assert_eq!(talk(&mut c, Duration::from_secs(10)), 0, "{known:?} {other:?}");
        strangers_learn_nothing(&c.world, 0, 12);
    }
}

#[test]
fn a_hub_that_is_elsewhere_now_is_found_within_a_second_or_so() {
    for phase in 0..6 {
        let mut c = cluster(1);
        c.world.run(ms(1000 + 50 * phase));
        let (hub, node) = (c.hubs[0], c.nodes[0]);
        c.world.rebind(hub, at(9));
        let gap = beat(&mut c, Duration::from_secs(5)).gap;
        // Its members are silent for it: it calls them after 700 ms, and they ask it where it is.
        assert!(gap < 1_000, "{gap}");
        assert_eq!(c.world.link(node, hub).endpoint, Some(at(9)));
        assert_eq!(beat(&mut c, Duration::from_secs(5)).lost, 0);
    }
}

#[test]
fn a_node_that_is_elsewhere_now_is_found_at_once_by_its_hub_and_within_a_second_by_a_direct_peer() {
    for phase in 0..6 {
        let mut c = cluster(1);
        c.world.run(ms(1000 + 50 * phase));
        let a = c.nodes[0];
        c.world.rebind(a, at(9));
        let gap = beat(&mut c, Duration::from_secs(5)).gap;
        assert!(gap < 400, "{gap}");
        let mut c = neighbours();
        c.world.run(ms(8000 + 50 * phase));
        let (a, b) = (c.nodes[0], c.nodes[1]);
        assert_eq!(way(&c.world, b, a), Way::Direct(at(56)));
        c.world.rebind(a, at(9));
        let gap = beat(&mut c, Duration::from_secs(5)).gap;
        assert!(gap < 800, "{gap}");
    }
}

#[test]
fn who_cannot_be_asked_is_where_the_last_datagram_came_from() {
    // A hub of the version before, which never says hello, and has a public address before it that changes.
    let mut world = World::new();
    let hub_id = world.engine(1, hub(vec![to_node(56), to_node(64)]));
    let nodes = [56, 64].map(|me| {
        let id = world.engine(me, node(me, vec![to_speaking_hub(1)]));
        world.of(id).set_live(Some(vec![addr(me + 1)]));
        id
    });
    world.run(ms(3000));
    world.queue(nodes[1], &[udp(addr(65), addr(57), b"x")]);
    let mut datagrams = world.intercept();
    world.arrives(hub_id, &datagrams.remove(0));
    world.rebind(hub_id, at(9));
    let from_elsewhere = world.intercept().into_iter().map(|datagram| Datagram { from: at(9), ..datagram });
    world.release(from_elsewhere.collect());
    assert_eq!(world.link(nodes[0], hub_id).endpoint, Some(at(9)));
}
