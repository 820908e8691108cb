//! Addresses that are shared: what is live is told to the others, and a floating address is where it was claimed last.

use crate::packets::{Says, hop, ping, says, udp};
use crate::world::{Cluster, HUB, addr, cluster_hub, cluster_node, net, slot, to_plain};
use crate::world::{Id, World, at};
use overlay_config::Floating;
use overlay_engine::claim::Belongs;
use overlay_engine::peer::Sealing;
use overlay_engine::{DropReason, EngineSettings, Event};
use std::net::Ipv4Addr;
use std::time::Duration;

const VIP: u8 = 200;
const PLAIN: u8 = 80;
const NODES: [u8; 3] = crate::world::NODES;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Nodes 56 and 64 may have .192 to .207; 72 may not.
fn with_floating(mut settings: EngineSettings) -> EngineSettings {
    settings.floating = vec![Floating { cidr: net("172.16.8.192/28"), slots: vec![slot(56), slot(64)] }];
    settings
}

fn cluster() -> Cluster {
    let mut world = World::new();
    let hub = world.engine(HUB, with_floating(cluster_hub(HUB)));
    let nodes: Vec<_> = NODES
        .iter()
        .map(|n| world.engine(*n, with_floating(cluster_node(*n, 1, Sealing::Required))))
        .collect();
    world.walls = NODES.iter().flat_map(|a| NODES.map(|b| (at(*a), at(b)))).collect();
    let mut c = Cluster { world, hubs: vec![hub], nodes };
    for n in 0..3 {
        has(&c, n, &[]);
    }
    c.world.run(Duration::from_secs(2));
    c
}

/// The node has its own two addresses and `more` on its device.
fn has(c: &Cluster, node: usize, more: &[u8]) {
    let own = [NODES[node] + 1, NODES[node] + 2];
    let live: Vec<_> = own.iter().chain(more).map(|last| addr(*last)).collect();
    c.world.of(c.nodes[node]).set_live(Some(live));
}

/// The nodes whose hosts get a packet that node `from` sends to the floating address.
fn reached(c: &mut Cluster, from: usize) -> Vec<usize> {
    let packet = udp(addr(NODES[from] + 1), addr(VIP), b"to whoever has it");
    c.world.send(c.nodes[from], &packet);
    let nodes = c.nodes.clone();
    // A hub that routes is a hop as well.
    let came = |got: &Vec<u8>| *got == hop(&packet) || *got == hop(&hop(&packet));
    (0..3).filter(|n| c.world.inbox(nodes[*n]).iter().any(came)).collect()
}

fn listeners(c: &Cluster, at: usize, of: usize) -> Vec<Ipv4Addr> {
    let key = c.world.parties[c.nodes[of]].key;
    let peers = c.world.of(c.nodes[at]).peers();
    peers.into_iter().find(|peer| peer.peer.settings.public_key == key).unwrap().listeners
}

#[test]
fn what_is_live_is_known_to_the_others_within_200_ms() {
    let mut c = cluster();
    assert_eq!(listeners(&c, 1, 0), [addr(57), addr(58)], "told when the session began");
    has(&c, 0, &[59, 61]);
    c.world.run(ms(200));
    for other in 1..3 {
        assert_eq!(listeners(&c, other, 0), [57, 58, 59, 61].map(addr));
    }
    has(&c, 0, &[61]);
    c.world.run(ms(200));
    assert_eq!(listeners(&c, 2, 0), [57, 58, 61].map(addr));
}

#[test]
fn what_was_lost_on_the_way_is_told_again_and_a_restarted_node_is_told_anew() {
    let mut c = cluster();
    c.world.cut_one_way(c.nodes[0], c.hubs[0]);
    has(&c, 0, &[59]);
    c.world.run(ms(100));
    c.world.mend();
    c.world.run(ms(400));
    assert_eq!(listeners(&c, 1, 0), [57, 58, 59].map(addr));
    c.world.restart(c.nodes[1], 64, with_floating(cluster_node(64, 1, Sealing::Required)));
    has(&c, 1, &[]);
    c.world.run(Duration::from_secs(20));
    assert_eq!(listeners(&c, 1, 0), [57, 58, 59].map(addr));
}

#[test]
fn a_floating_address_is_reached_where_it_is_and_moves_within_a_second() {
    let mut c = cluster();
    assert!(reached(&mut c, 2).is_empty());
    assert_eq!(c.world.drops(c.nodes[2], DropReason::FloatingUnowned), 1);
    has(&c, 0, &[VIP]);
    c.world.run(ms(200));
    assert_eq!((reached(&mut c, 2), reached(&mut c, 1)), (vec![0], vec![0]));
    // It answers in its own name.
    let answer = udp(addr(VIP), addr(73), b"answer");
    c.world.send(c.nodes[0], &answer);
    assert_eq!(c.world.received(c.nodes[2]), hop(&answer));
    for to in [1, 0, 1] {
        // It appears on the other before it goes from the one.
        has(&c, to, &[VIP]);
        c.world.run(ms(200));
        assert_eq!(reached(&mut c, 2), [to], "the later claim");
        has(&c, 1 - to, &[]);
        c.world.run(ms(200));
        assert_eq!(reached(&mut c, 2), [to]);
    }
    let floating = c.world.of(c.nodes[2]).floating();
    assert_eq!((floating.len(), floating[0].epoch), (1, 4));
    has(&c, 1, &[]);
    c.world.run(ms(200));
    assert!(reached(&mut c, 2).is_empty());
    assert!(c.world.of(c.nodes[2]).conflicts().is_empty());
}

#[test]
fn an_owner_that_cannot_be_reached_loses_it_to_one_that_can() {
    let mut c = cluster();
    has(&c, 1, &[VIP]);
    c.world.run(ms(200));
    has(&c, 0, &[VIP]);
    c.world.run(ms(200));
    assert_eq!(reached(&mut c, 2), [0], "the higher epoch");
    c.world.kill(c.nodes[0]);
    let mut waited = 0;
    while reached(&mut c, 2).is_empty() {
        c.world.run(ms(100));
        waited += 100;
        assert!(waited <= 2500, "{waited} ms");
    }
    assert_eq!(reached(&mut c, 2), [1]);
}

#[test]
fn after_a_partition_the_lower_slot_has_it_for_everybody() {
    let mut c = cluster();
    for n in [0, 1] {
        c.world.cut(c.nodes[n], c.hubs[0]);
    }
    has(&c, 0, &[VIP]);
    has(&c, 1, &[VIP]);
    c.world.run(Duration::from_secs(2));
    c.world.mend();
    c.world.run(Duration::from_secs(20));
    for from in [1, 2] {
        let owners = c.world.of(c.nodes[from]).floating();
        assert_eq!(owners[0].peer.as_deref(), Some("peer-56"), "{owners:?}");
        assert_eq!(owners[0].epoch, 1);
    }
    assert_eq!(reached(&mut c, 2), [0]);
}

#[test]
fn who_is_not_eligible_can_neither_have_it_nor_speak_in_its_name() {
    let mut c = cluster();
    // Its own file says that it may: the others' do not.
    let mut bold = with_floating(cluster_node(72, 1, Sealing::Required));
    bold.floating[0].slots = vec![slot(72)];
    c.world.restart(c.nodes[2], 72, bold);
    has(&c, 2, &[VIP]);
    c.world.run(Duration::from_secs(20));
    assert!(c.world.drops(c.nodes[0], DropReason::ClaimRefused) > 0);
    assert!(reached(&mut c, 0).is_empty());
    c.world.send(c.nodes[2], &udp(addr(VIP), addr(57), b"forged"));
    assert!(c.world.inbox(c.nodes[0]).is_empty());
    assert_eq!(c.world.drops(c.nodes[0], DropReason::ForeignSource), 1);
    // Nor does a host send in the name of an address that it does not have.
    c.world.send(c.nodes[1], &udp(addr(VIP), addr(57), b"not here"));
    assert_eq!(c.world.drops(c.nodes[1], DropReason::ForeignSource), 1);
}

#[test]
fn one_address_on_two_nodes_is_told_once_on_each_and_until_it_is_over() {
    let mut c = cluster();
    has(&c, 0, &[59, VIP]);
    has(&c, 1, &[59, VIP]);
    c.world.run(Duration::from_secs(4));
    for n in 0..3 {
        let engine = c.world.of(c.nodes[n]);
        let conflicts = engine.conflicts();
        let seen: Vec<_> = conflicts.iter().map(|conflict| (conflict.address, conflict.here)).collect();
        assert_eq!(seen, [(addr(59), n < 2), (addr(VIP), n < 2)], "{conflicts:?}");
        let belongs = if n == 0 { Belongs::Here } else { Belongs::To("peer-56".into()) };
        assert_eq!((&conflicts[0].belongs, &conflicts[1].belongs), (&belongs, &Belongs::Floating));
        let events = std::iter::from_fn(|| engine.poll_event());
        assert_eq!(events.filter(|event| matches!(event, Event::AddressConflict(_))).count(), 2);
    }
    // Nodes whose packets hubs route hear of nobody: it is their hub that tells.
    let hub = c.world.of(c.hubs[0]);
    let seen: Vec<_> = hub.conflicts().iter().map(|conflict| (conflict.address, conflict.here)).collect();
    assert_eq!(seen, [(addr(59), false), (addr(VIP), false)]);
    let events = std::iter::from_fn(|| hub.poll_event());
    assert_eq!(events.filter(|event| matches!(event, Event::AddressConflict(_))).count(), 2);
    has(&c, 1, &[]);
    c.world.run(ms(200));
    assert!((0..3).all(|n| c.world.of(c.nodes[n]).conflicts().is_empty()));
}

#[test]
fn a_reload_moves_no_address_and_takes_one_from_who_may_have_it_no_more() {
    let mut c = cluster();
    has(&c, 0, &[VIP]);
    c.world.run(ms(200));
    let node = |number| with_floating(cluster_node(number, 1, Sealing::Required));
    for (n, number) in NODES.into_iter().enumerate() {
        c.world.of(c.nodes[n]).reconfigure(node(number), c.world.now);
    }
    assert_eq!(reached(&mut c, 2), [0]);
    c.world.send(c.nodes[2], &ping(addr(73), addr(56), 1, b""));
    assert!(matches!(says(&c.world.received(c.nodes[2])), Says::EchoReply { .. }));
    for (n, number) in NODES.into_iter().enumerate() {
        let mut settings = node(number);
        settings.floating[0].slots = vec![slot(64)];
        c.world.of(c.nodes[n]).reconfigure(settings, c.world.now);
    }
    assert!(reached(&mut c, 2).is_empty());
}

/// A member without control messages reaches a floating address where it is, and so do nodes whose packets are routed: the hub hears
/// who has it.
#[test]
fn whom_hubs_route_for_reaches_a_floating_address_as_well() {
    for sealing in [Sealing::Required, Sealing::Never] {
        let mut settings = cluster_hub(HUB);
        settings.peers.push(to_plain(PLAIN, &["172.16.8.80/29"]));
        let mut world = World::new();
        let hub = world.engine(HUB, with_floating(settings.clone()));
        let nodes = NODES.map(|n| world.engine(n, with_floating(cluster_node(n, 1, sealing)))).into();
        let plain = world.plain(PLAIN, HUB);
        let mut c = Cluster { world, hubs: vec![hub], nodes };
        for n in 0..3 {
            has(&c, n, &[]);
        }
        c.world.settle();
        c.world.run(Duration::from_secs(2));
        is_reached_by_plain(&mut c, plain, &[]);
        assert!(reached(&mut c, 2).is_empty());
        assert_eq!(
            c.world.drops(hub, DropReason::FloatingUnowned),
            if sealing == Sealing::Never { 2 } else { 1 }
        );
        for (to, from) in [(0, 1), (1, 0), (0, 1)] {
            has(&c, to, &[VIP]);
            has(&c, from, &[]);
            c.world.run(ms(200));
            is_reached_by_plain(&mut c, plain, &[to]);
            assert_eq!(reached(&mut c, 2), [to]);
        }
        // An owner that died loses it, though it had it last.
        has(&c, 1, &[VIP]);
        c.world.run(ms(200));
        let dead = c.nodes[1 - usize::from(sealing == Sealing::Never)];
        c.world.kill(dead);
        c.world.run(ms(2_000));
        let left = usize::from(sealing == Sealing::Never);
        is_reached_by_plain(&mut c, plain, &[left]);
        // A hub that has forgotten everything hears of it anew.
        c.world.kill(hub);
        c.world.restart(hub, HUB, with_floating(settings));
        c.world.run(Duration::from_secs(5));
        let floating = c.world.of(hub).floating();
        assert_eq!(floating[0].peer, Some(format!("peer-{}", NODES[left])));
        // A node with sessions of its own finds out when it has something to say.
        if sealing == Sealing::Never {
            assert_eq!(reached(&mut c, 2), [left]);
        }
    }
}

/// The member without control messages reaches the floating address on these nodes, and is answered in its name.
#[track_caller]
fn is_reached_by_plain(c: &mut Cluster, plain: Id, on: &[usize]) {
    let packet = udp(addr(PLAIN + 1), addr(VIP), b"to whoever has it");
    c.world.send(plain, &packet);
    let nodes = c.nodes.clone();
    let got = |c: &mut Cluster, n: usize| c.world.inbox(nodes[n]).contains(&hop(&packet));
    assert_eq!((0..3).filter(|n| got(c, *n)).collect::<Vec<_>>(), on);
    for n in on {
        let answer = udp(addr(VIP), addr(PLAIN + 1), b"answer");
        c.world.send(nodes[*n], &answer);
        assert_eq!(c.world.received(plain), hop(&hop(&answer)));
    }
}
