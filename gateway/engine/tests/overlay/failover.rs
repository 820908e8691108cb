//! Several hubs and direct paths: what breaks, and how soon traffic goes on.

use crate::packets::udp;
use crate::world::{Cluster, Id, NODES, World, addr, at, cluster, cluster_hub, cluster_node, cold_cluster};
use overlay_engine::peer::Sealing;
use overlay_engine::peer::path::Way;
use overlay_engine::{DropReason, Event};
use std::net::SocketAddr;
use std::time::Duration;

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// What became of a beat every 10 ms each way between the first two nodes.
#[derive(Debug, Default)]
pub struct Beats {
    pub sent: usize,
    pub lost: usize,
    /// From the first to the last that was lost, in ms.
    pub gap: u64,
}

pub fn beat(c: &mut Cluster, time: Duration) -> Beats {
    let (a, b) = (c.nodes[0], c.nodes[1]);
    let (mut beats, mut first, start) = (Beats::default(), None, c.world.now);
    while c.world.now - start < time {
        c.world.run(ms(10));
        for (from, to, packet) in
            [(a, b, udp(addr(57), addr(65), b"beat")), (b, a, udp(addr(65), addr(57), b"beat"))]
        {
            c.world.send(from, &packet);
            beats.sent += 1;
            if c.world.inbox(to).is_empty() {
                beats.lost += 1;
                let t = (c.world.now - start).as_millis() as u64;
                beats.gap = t - *first.get_or_insert(t) + 10;
            }
        }
    }
    beats
}

pub fn way(world: &World, from: Id, to: Id) -> Way {
    world.link(from, to).paths.unwrap().current().unwrap()
}

/// The hub, as the nodes number it, by which the first node reaches the second.
fn hub_in_use(c: &Cluster) -> usize {
    match way(&c.world, c.nodes[0], c.nodes[1]) {
        Way::Via(hub) => c.hubs[hub as usize],
        Way::Direct(_) => panic!("direct"),
    }
}

/// Breaks something at each of several phases of the probes; traffic must go on within 800 ms.
fn survives(what: &str, fault: impl Fn(&mut Cluster)) {
    for phase in 0..13 {
        let mut c = cluster(2);
        c.world.run(ms(20 * phase));
        assert_eq!(beat(&mut c, ms(500)).lost, 0, "before the fault");
        fault(&mut c);
        let beats = beat(&mut c, ms(3000));
        assert!(beats.lost > 0, "{what}: the fault was on the path in use");
        assert!(beats.gap < 800, "{what}, phase {phase}: {beats:?}");
        let later = beat(&mut c, ms(2000));
        assert_eq!(later.lost, 0, "{what}: {later:?}");
    }
}

#[test]
fn a_hub_that_dies_costs_less_than_800_ms() {
    survives("killed", |c| {
        let hub = hub_in_use(c);
        c.world.kill(hub);
    });
}

#[test]
fn one_direction_of_one_leg_is_enough_of_a_fault() {
    survives("node to hub", |c| {
        let (node, hub) = (c.nodes[0], hub_in_use(c));
        c.world.cut_one_way(node, hub);
    });
    survives("hub to node", |c| {
        let (node, hub) = (c.nodes[0], hub_in_use(c));
        c.world.cut_one_way(hub, node);
    });
    survives("the other's leg", |c| {
        let (node, hub) = (c.nodes[1], hub_in_use(c));
        c.world.cut_one_way(hub, node);
    });
}

#[test]
fn a_hub_that_was_frozen_is_taken_again_without_harm() {
    let mut c = cluster(2);
    let hub = hub_in_use(&c);
    c.world.kill(hub);
    assert!(beat(&mut c, ms(3000)).gap < 800);
    c.world.thaw(hub);
    assert_eq!(beat(&mut c, Duration::from_secs(90)).lost, 0);
    let leg = c.world.of(c.nodes[0]).peers().into_iter().filter_map(|peer| peer.link.leg);
    assert!(leg.into_iter().all(|leg| leg.up));
}

#[test]
fn a_hub_that_restarts_without_memory_serves_again() {
    for hubs in [1, 2] {
        let mut c = cluster(hubs);
        let hub = hub_in_use(&c);
        c.world.kill(hub);
        c.world.run(ms(100));
        c.world.restart(hub, 1, cluster_hub(1));
        let beats = beat(&mut c, ms(5000));
        assert!(beats.gap < if hubs == 1 { 2000 } else { 800 }, "{hubs}: {beats:?}");
        assert_eq!(beat(&mut c, ms(2000)).lost, 0);
        assert!(c.world.link(hub, c.nodes[0]).confirmed.is_some());
    }
}

#[test]
fn both_hubs_lost_and_back() {
    let mut c = cluster(2);
    for hub in c.hubs.clone() {
        c.world.kill(hub);
    }
    let beats = beat(&mut c, ms(20_000));
    assert_eq!(beats.lost, beats.sent);
    for hub in c.hubs.clone() {
        c.world.thaw(hub);
    }
    let beats = beat(&mut c, ms(10_000));
    assert!(beats.gap < 6000, "{beats:?}");
    assert_eq!(beat(&mut c, ms(2000)).lost, 0);
}

#[test]
fn a_hub_that_is_drained_is_left_without_a_lost_packet() {
    let mut c = cluster(2);
    let hub = hub_in_use(&c);
    c.world.of(hub).set_draining(true);
    let beats = beat(&mut c, ms(3000));
    assert_eq!(beats.lost, 0, "{beats:?}");
    assert_ne!(hub_in_use(&c), hub);
    c.world.kill(hub);
    assert_eq!(beat(&mut c, ms(3000)).lost, 0);
    // The other one is to be left as well, with nowhere to go: it is kept.
    let other = hub_in_use(&c);
    c.world.of(other).set_draining(true);
    assert_eq!(beat(&mut c, ms(3000)).lost, 0);
}

#[test]
fn hubs_that_see_different_members_are_used_for_whom_they_see() {
    let mut c = cold_cluster(2, Sealing::Required);
    // The first hub never hears of the second node.
    let (hub, node) = (c.hubs[0], c.nodes[1]);
    c.world.cut(hub, node);
    c.world.run(ms(3000));
    assert_eq!(beat(&mut c, ms(1000)).lost, 0);
    let (a, b, other) = (c.nodes[0], c.nodes[1], c.nodes[2]);
    assert_eq!(way(&c.world, a, b), Way::Via(1));
    assert_eq!(way(&c.world, b, a), Way::Via(1));
    assert!(c.world.session(a, other));
}

/// Nodes that can reach each other directly, know where they are, and tell each other.
pub fn neighbours() -> Cluster {
    let mut c = cold_cluster(1, Sealing::Required);
    c.world.walls.clear();
    for (n, id) in c.nodes.iter().enumerate() {
        c.world.of(*id).set_local_addresses(vec![at(NODES[n])]);
    }
    c
}

#[test]
fn a_direct_path_is_found_used_and_left_again() {
    let mut c = neighbours();
    c.world.run(ms(1000));
    assert_eq!(beat(&mut c, Duration::from_secs(6)).lost, 0, "the move costs nothing");
    let (a, b) = (c.nodes[0], c.nodes[1]);
    assert_eq!((way(&c.world, a, b), way(&c.world, b, a)), (Way::Direct(at(64)), Way::Direct(at(56))));
    let forwarded = c.world.link(c.hubs[0], a).forwarded.0;
    assert_eq!(beat(&mut c, ms(500)).lost, 0);
    assert_eq!(c.world.link(c.hubs[0], a).forwarded.0, forwarded, "the hub sees nothing of it");
    c.world.cut(a, b);
    let beats = beat(&mut c, ms(3000));
    assert!(beats.lost > 0 && beats.gap < 800, "{beats:?}");
    assert!(matches!(way(&c.world, a, b), Way::Via(_)));
    // It is well again: back, after a stable spell, a handshake, and not sooner than a minute.
    c.world.mend();
    assert_eq!(beat(&mut c, Duration::from_secs(20)).lost, 0);
    assert!(matches!(way(&c.world, a, b), Way::Via(_)));
    assert_eq!(beat(&mut c, Duration::from_secs(60)).lost, 0);
    assert_eq!(way(&c.world, a, b), Way::Direct(at(64)));
}

#[test]
fn a_hub_that_dies_is_nothing_to_a_direct_path() {
    let mut c = neighbours();
    c.world.run(ms(6000));
    let hub = c.hubs[0];
    c.world.kill(hub);
    assert_eq!(beat(&mut c, Duration::from_secs(30)).lost, 0);
}

#[test]
fn an_address_where_nobody_answers_gets_three_probes() {
    let mut c = cold_cluster(1, Sealing::Required);
    let nowhere: SocketAddr = ([203, 0, 113, 9], 9).into();
    let inside = SocketAddr::new(addr(65).into(), 51820);
    c.world.of(c.nodes[0]).set_local_addresses(vec![nowhere, inside]);
    c.world.run(Duration::from_secs(30));
    for to in [nowhere, inside] {
        for (from, most) in [(at(64), 3), (at(72), 3), (at(56), 0)] {
            let sent: Vec<_> =
                c.world.sent.iter().filter(|d| d.to == to && d.from == from).map(|d| d.bytes.len()).collect();
            let expected = if to == nowhere { most } else { 0 };
            assert_eq!(sent.len(), expected, "{from} to {to}");
            assert!(sent.iter().all(|len| *len < 128), "small");
        }
    }
}

#[test]
fn what_happens_is_told() {
    let mut c = cluster(2);
    let drain = |world: &World, id: Id| std::iter::from_fn(|| world.of(id).poll_event()).collect::<Vec<_>>();
    let up = drain(&c.world, c.nodes[0]);
    assert!(up.contains(&Event::HubChanged { hub: "peer-1".into(), up: true }), "{up:?}");
    let hub = hub_in_use(&c);
    c.world.kill(hub);
    c.world.run(ms(1000));
    let told = drain(&c.world, c.nodes[0]);
    let path = Event::PathChanged { peer: "peer-64".into(), via: Some("peer-2".into()), emergency: true };
    assert!(told.contains(&Event::HubChanged { hub: "peer-1".into(), up: false }), "{told:?}");
    assert!(told.contains(&path), "{told:?}");
    let paths = c.world.link(c.nodes[0], c.nodes[1]).paths.unwrap();
    assert_eq!((paths.changes(), paths.missed_heartbeats()), (1, 1));
}

#[test]
fn beats_that_were_missed_while_there_was_no_other_hub_are_counted_when_it_is_back() {
    let mut c = cluster(1);
    c.world.run(ms(3000));
    c.world.kill(c.hubs[0]);
    c.world.run(ms(5000));
    c.world.thaw(c.hubs[0]);
    c.world.run(ms(3000));
    for (from, to) in [(0, 1), (1, 0)] {
        let paths = c.world.link(c.nodes[from], c.nodes[to]).paths.unwrap();
        assert_eq!(paths.changes(), 0);
        assert!((5..=6).contains(&paths.missed_heartbeats()), "{:?}", paths.outage());
    }
}

#[test]
fn idle_legs_cost_a_hub_four_probes_a_second_for_each_node() {
    let mut c = cluster(1);
    c.world.run(ms(3000));
    let from = c.world.sent.len();
    c.world.run(Duration::from_secs(60));
    let to_hub = c.world.sent[from..].iter().filter(|d| d.to == at(1)).count();
    assert!(to_hub <= 3 * 60 * 5, "{to_hub} in a minute from three nodes");
    assert!(c.world.all_drops(c.hubs[0]).iter().all(|(why, _)| *why == DropReason::RelayAbsent));
}

#[test]
fn a_node_that_restarts_is_met_again() {
    for n in [0, 1] {
        let mut c = cluster(2);
        let id = c.nodes[n];
        c.world.kill(id);
        c.world.run(ms(300));
        c.world.restart(id, NODES[n], cluster_node(NODES[n], 2, Sealing::Required));
        c.world.of(id).set_live(Some(vec![addr(NODES[n] + 1)]));
        let beats = beat(&mut c, ms(8000));
        assert!(beats.gap < 3000, "node {n}: {beats:?}");
        assert_eq!(beat(&mut c, ms(1000)).lost, 0);
    }
}

#[test]
fn a_peer_that_restarts_finds_the_hub_that_reaches_the_other() {
    let mut c = cluster(2);
    let (node, hub) = (c.nodes[0], c.hubs[0]);
    c.world.cut(node, hub);
    beat(&mut c, Duration::from_secs(5));
    // It does not know yet which hubs reach the first node, and the first hub is its own first choice.
    let other = c.nodes[1];
    c.world.kill(other);
    c.world.run(ms(500));
    c.world.restart(other, NODES[1], cluster_node(NODES[1], 2, Sealing::Preferred));
    c.world.of(other).set_live(Some(vec![addr(NODES[1] + 1)]));
    beat(&mut c, Duration::from_secs(5));
    let beats = beat(&mut c, Duration::from_secs(10));
    assert_eq!(beats.lost, 0, "{beats:?}");
}
