//! Sixty-four nodes and two hubs: everybody has a session with everybody, and a hub's end is soon over.

use crate::packets::udp;
use crate::world::{Id, World, at, hub, node, public, to_speaking_hub, to_speaking_node};
use ipnet::Ipv4Net;
use overlay_config::{Mode, Slot};
use overlay_engine::peer::{PeerSettings, Sealing};
use overlay_engine::{EngineSettings, RoleSettings};
use std::net::Ipv4Addr;
use std::time::Duration;

const NODES: u8 = 64;
const FIRST: u8 = 100;

/// Bytes of the datagrams of a probe, and of one that asks for the path's MTU. Keepalives and handshakes that boringtun begins go by the
/// machine's clock: where all of this takes longer than it pretends to, there are many of them, and they say nothing.
const PROBES: [usize; 2] = [96, 1452];

fn slot(n: u8) -> Slot {
    Slot::new(Ipv4Net::new(Ipv4Addr::from(0xAC10_0800 + u32::from(n) * 8), 29).unwrap()).unwrap()
}

fn settings(mut settings: EngineSettings, n: Option<u8>) -> EngineSettings {
    settings.overlay = "172.16.8.0/22".parse().unwrap();
    if let Some(n) = n {
        settings.role = RoleSettings::Node { slot: slot(n), mode: Mode::Tun };
    }
    settings
}

/// Node `n` as `me` sees it.
fn member(me: Option<u8>, n: u8) -> PeerSettings {
    let net = slot(n).net();
    PeerSettings {
        name: format!("node-{n}"),
        public_key: public(FIRST + n),
        slot: Some(net),
        networks: vec![net],
        initiates: me.is_some_and(|me| me < n),
        ..to_speaking_node(if me.is_some() { 56 } else { 1 }, 64, Sealing::Required)
    }
}

fn overlay() -> (World, [Id; 2], Vec<Id>) {
    let mut world = World::new();
    let hubs = [1, 2].map(|number| {
        let members = (0..NODES).map(|n| member(None, n)).collect();
        world.engine(number, settings(hub(members), None))
    });
    let nodes = (0..NODES).map(|n| {
        let others = (0..NODES).filter(|other| *other != n).map(|other| member(Some(n), other));
        let peers = [1, 2].map(to_speaking_hub).into_iter().chain(others).collect();
        let id = world.engine(FIRST + n, settings(node(56, peers), Some(n)));
        world.of(id).set_live(Some(vec![slot(n).address()]));
        id
    });
    let nodes: Vec<Id> = nodes.collect();
    let places = (0..NODES).map(|n| at(FIRST + n));
    world.walls = places.clone().flat_map(|a| places.clone().map(move |b| (a, b))).collect();
    (world, hubs, nodes)
}

/// How many of all pairs, each way, do not reach each other. One way right after the other: what is not answered leads to
/// handshakes by boringtun's own clock, which is the machine's, and on a busy one all of it takes longer than it pretends to.
fn unreached(world: &mut World, nodes: &[Id]) -> usize {
    let members: Vec<_> = (0..NODES).zip(nodes).collect();
    let mut unreached = 0;
    for (n, one) in members.iter().enumerate() {
        for other in &members[n + 1..] {
            for ((a, from), (b, to)) in [(one, other), (other, one)] {
                world.send(**from, &udp(slot(*a).address(), slot(*b).address(), b"x"));
                unreached += usize::from(world.inbox(**to).len() != 1);
            }
        }
    }
    unreached
}

#[test]
fn all_pairs_of_sixty_four_nodes_reach_each_other_and_lose_a_hub_for_less_than_a_second() {
    let (mut world, hubs, nodes) = overlay();
    world.run(Duration::from_secs(5));
    // What it costs a hub while nobody has anything to say.
    world.run(Duration::from_secs(3));
    world.sent.clear();
    world.run(Duration::from_secs(10));
    let to_hub = world.sent.iter().filter(|datagram| datagram.to == at(1));
    let probes = to_hub.filter(|datagram| PROBES.contains(&datagram.bytes.len())).count();
    // Four a second and node, and at least those.
    assert!((2560..3000).contains(&probes), "{probes} in ten seconds");
    assert_eq!(unreached(&mut world, &nodes), 0);
    world.kill(hubs[0]);
    world.run(Duration::from_millis(750));
    assert_eq!(unreached(&mut world, &nodes), 0);
}
