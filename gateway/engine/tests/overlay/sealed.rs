//! End-to-end sessions through a hub that forwards without opening.

use crate::packets::udp;
use crate::world::{
    NODES, World, addr, at, cluster, cluster_hub, cluster_node, cold_cluster, hub, node, public, to_hub,
    to_speaking_hub, to_speaking_node,
};
use overlay_engine::DropReason;
use overlay_engine::peer::Sealing;
use overlay_engine::peer::path::Way;
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
