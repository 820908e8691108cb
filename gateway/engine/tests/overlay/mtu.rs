//! Paths that take less than the devices do, and say nothing when something is too large for them.

use crate::failover::neighbours;
use crate::packets::{Says, changed, says, syn_with_mss, udp};
use crate::world::{Cluster, Id, NODES, World, addr, at, cluster, cluster_hub, cluster_node, cold_cluster};
use etherparse::{TcpOptionElement, TcpSlice};
use overlay_engine::DropReason;
use overlay_engine::peer::path::Way;
use overlay_engine::peer::{PeerKind, Sealing};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

/// What a link of 1,280 leaves to UDP over IPv4, and of that to a packet.
const NARROW: usize = 1_280 - 28;
const PACKET: usize = NARROW - 32;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A packet of so many bytes that must not be fragmented.
fn whole(from: Ipv4Addr, to: Ipv4Addr, bytes: usize) -> Vec<u8> {
    changed(&udp(from, to, &vec![7; bytes - 28]), |header| header.dont_fragment = true)
}

/// The MTU that the gateway of `from` names when a full packet for `to` is too large.
#[track_caller]
fn named(world: &mut World, from: Id, packet: &[u8]) -> u16 {
    world.send(from, packet);
    match says(&world.received(from)) {
        Says::Error { kind: 3, code: 4, mtu, .. } => mtu,
        other => panic!("{other:?}"),
    }
}

/// The largest packet that may not be fragmented and arrives, of all up to the device's MTU.
#[track_caller]
fn passes(world: &mut World, from: (Id, u8), to: (Id, u8)) -> usize {
    let packets: Vec<_> = (1_200..=1_420).map(|len| whole(addr(from.1), addr(to.1), len)).collect();
    packets.chunks(50).for_each(|some| world.sends(from.0, some));
    world.inbox(from.0);
    world.inbox(to.0).iter().map(Vec::len).max().unwrap()
}

fn mss(packet: &[u8]) -> Option<u16> {
    let tcp = TcpSlice::from_slice(&packet[20..]).unwrap();
    assert_eq!(
        tcp.checksum(),
        tcp.calc_checksum_ipv4(packet[12..16].try_into().unwrap(), packet[16..20].try_into().unwrap())
            .unwrap()
    );
    tcp.options_iterator().flatten().find_map(|option| match option {
        TcpOptionElement::MaximumSegmentSize(mss) => Some(mss),
        _ => None,
    })
}

/// Whether what was found is what there is, but for the last few bytes.
#[track_caller]
fn is_found(found: usize) {
    assert!((PACKET - 3..=PACKET).contains(&found), "{found} of {PACKET}");
}

/// The gateway names what passes, and that much does.
#[track_caller]
fn is_narrow(world: &mut World, from: (Id, u8), to: (Id, u8)) {
    // What was said a moment ago counts against the gateway's limit.
    world.run(seconds(1));
    is_found(usize::from(named(world, from.0, &whole(addr(from.1), addr(to.1), 1_420))));
    is_found(passes(world, from, to));
}

/// A cluster whose first node, or second, sits behind a narrow link to every hub.
fn behind_a_narrow_link(hubs: u8, node: usize) -> Cluster {
    let mut c = cold_cluster(hubs, Sealing::Required);
    for hub in c.hubs.clone() {
        c.world.narrow(c.nodes[node], hub, NARROW);
    }
    c.world.run(seconds(10));
    c
}

#[test]
fn a_path_that_takes_everything_is_not_held_back() {
    let mut c = cluster(2);
    c.world.run(seconds(10));
    let (a, b) = (c.nodes[0], c.nodes[1]);
    assert_eq!(passes(&mut c.world, (a, 57), (b, 65)), 1_420);
    c.world.send(a, &syn_with_mss(addr(57), addr(65), 1_380));
    assert_eq!(mss(&c.world.received(b)), Some(1_380));
    let idle = c.world.sent.len();
    c.world.run(seconds(60));
    let large = c.world.sent[idle..].iter().filter(|d| d.bytes.len() > 1_000).count();
    assert!(large <= 6 * 13, "{large} large probes in a minute on six legs");
}

#[test]
fn a_narrow_leg_is_measured_and_both_ends_are_told_what_passes() {
    // Whichever end the narrow link is at: the one measures, the other is told.
    for node in [0, 1] {
        let mut c = behind_a_narrow_link(2, node);
        let (a, b, other) = (c.nodes[0], c.nodes[1], c.nodes[2]);
        is_narrow(&mut c.world, (a, 57), (b, 65));
        is_narrow(&mut c.world, (b, 65), (a, 57));
        // The third node has no narrow link: with it the other of the two speaks as ever.
        let (wide, from) = if node == 0 { (b, 65) } else { (a, 57) };
        assert_eq!(passes(&mut c.world, (wide, from), (other, 73)), 1_420);
        assert_eq!(c.world.drops(a, DropReason::Malformed), 0);
    }
}

#[test]
fn what_the_other_end_says_of_its_leg_counts_at_once() {
    let mut c = cold_cluster(1, Sealing::Required);
    c.world.narrow(c.nodes[1], c.hubs[0], NARROW);
    let mut seen = BTreeSet::new();
    for _ in 0..1_000 {
        c.world.run(Duration::from_millis(10));
        let link = c.world.link(c.nodes[0], c.nodes[1]);
        let told = link.paths.as_ref().and_then(|paths| paths.told()?.hubs().next()?.mtu);
        if let Some(told) = told {
            assert_eq!(link.mtu, Some(told));
            seen.insert(told);
        }
    }
    assert!(seen.len() > 1, "{seen:?}");
    is_found(usize::from(*seen.last().unwrap()));
}

#[test]
fn what_may_be_fragmented_is_and_arrives() {
    let mut c = behind_a_narrow_link(1, 0);
    let (a, b) = (c.nodes[0], c.nodes[1]);
    c.world.send(a, &udp(addr(57), addr(65), &[9; 1_392]));
    let got = c.world.inbox(b);
    assert_eq!(got.len(), 2);
    assert!(got.iter().all(|packet| packet.len() <= PACKET));
    assert_eq!(got.iter().map(|packet| packet.len() - 20).sum::<usize>(), 1_400);
}

#[test]
fn tcp_offers_what_the_path_takes_whoever_begins() {
    let mut c = behind_a_narrow_link(1, 0);
    let (a, b) = (c.nodes[0], c.nodes[1]);
    for (from, to, packet) in
        [(a, b, syn_with_mss(addr(57), addr(65), 1_380)), (b, a, syn_with_mss(addr(65), addr(57), 1_380))]
    {
        c.world.send(from, &packet);
        let offered = mss(&c.world.received(to)).unwrap();
        is_found(usize::from(offered) + 40);
    }
    c.world.send(a, &syn_with_mss(addr(57), addr(65), 536));
    assert_eq!(mss(&c.world.received(b)), Some(536));
}

#[test]
fn a_move_to_a_narrow_path_says_so_at_once_and_the_way_back_opens_again() {
    let mut c = cold_cluster(2, Sealing::Required);
    c.world.narrow(c.nodes[0], c.hubs[1], NARROW);
    c.world.run(seconds(10));
    let (a, b) = (c.nodes[0], c.nodes[1]);
    assert_eq!(c.world.link(a, b).paths.unwrap().current(), Some(Way::Via(0)));
    assert_eq!(passes(&mut c.world, (a, 57), (b, 65)), 1_420);
    let hub = c.hubs[0];
    c.world.kill(hub);
    c.world.run(seconds(1));
    // The narrow one was measured before it was needed.
    is_narrow(&mut c.world, (a, 57), (b, 65));
    is_narrow(&mut c.world, (b, 65), (a, 57));
    c.world.thaw(hub);
    c.world.run(seconds(90));
    c.world.kill(c.hubs[1]);
    c.world.run(seconds(1));
    assert_eq!(passes(&mut c.world, (a, 57), (b, 65)), 1_420);
    assert_eq!(passes(&mut c.world, (b, 65), (a, 57)), 1_420);
}

#[test]
fn a_direct_path_has_an_mtu_of_its_own() {
    let mut c = neighbours();
    let (a, b) = (c.nodes[0], c.nodes[1]);
    c.world.narrow(a, b, NARROW);
    c.world.run(seconds(20));
    assert_eq!(c.world.link(a, b).paths.unwrap().current(), Some(Way::Direct(at(64))));
    is_narrow(&mut c.world, (a, 57), (b, 65));
    c.world.cut(a, b);
    c.world.run(seconds(2));
    assert_eq!(passes(&mut c.world, (a, 57), (b, 65)), 1_420, "through the hub");
}

#[test]
fn a_direct_path_that_is_narrow_one_way_is_so_for_who_sends_that_way() {
    let mut c = neighbours();
    let (a, b) = (c.nodes[0], c.nodes[1]);
    c.world.narrow_one_way(a, b, NARROW);
    c.world.run(seconds(20));
    is_narrow(&mut c.world, (a, 57), (b, 65));
    assert_eq!(passes(&mut c.world, (b, 65), (a, 57)), 1_420);
    // The other side's offer is what the first one's segments are made by.
    c.world.send(b, &syn_with_mss(addr(65), addr(57), 1_380));
    is_found(usize::from(mss(&c.world.received(a)).unwrap()) + 40);
}

#[test]
fn a_path_that_shrinks_is_noticed() {
    let mut c = cluster(1);
    c.world.run(seconds(10));
    let (a, b) = (c.nodes[0], c.nodes[1]);
    c.world.narrow(a, c.hubs[0], NARROW);
    c.world.run(seconds(20));
    is_narrow(&mut c.world, (a, 57), (b, 65));
    assert_eq!(c.world.link(a, b).paths.unwrap().changes(), 0, "the path itself carries as before");
}

#[test]
fn a_hub_that_routes_knows_what_its_members_take() {
    let mut c = cold_cluster(1, Sealing::Never);
    let (a, b, hub) = (c.nodes[0], c.nodes[1], c.hubs[0]);
    c.world.narrow(b, hub, NARROW);
    c.world.run(seconds(10));
    // The hub says it to the host, for the first node has a leg that takes all.
    is_found(usize::from(named(&mut c.world, a, &whole(addr(57), addr(65), 1_420))));
    assert_eq!(c.world.drops(hub, DropReason::TooBig), 1);
    is_narrow(&mut c.world, (a, 57), (b, 65));
    is_found(usize::from(named(&mut c.world, b, &whole(addr(65), addr(57), 1_420))));
    c.world.send(a, &syn_with_mss(addr(57), addr(65), 1_380));
    is_found(usize::from(mss(&c.world.received(b)).unwrap()) + 40);
    // It restarts, and hears it again.
    c.world.kill(hub);
    c.world.restart(hub, 1, cluster_hub(1));
    c.world.run(seconds(5));
    is_found(usize::from(named(&mut c.world, a, &whole(addr(57), addr(65), 1_420))));
    assert!(c.world.of(hub).peers().iter().all(|peer| peer.peer.settings.kind == PeerKind::Node));
}

#[test]
fn a_node_that_restarts_measures_anew() {
    let mut c = behind_a_narrow_link(1, 0);
    let (a, b) = (c.nodes[0], c.nodes[1]);
    c.world.kill(a);
    c.world.mend();
    c.world.restart(a, NODES[0], cluster_node(NODES[0], 1, Sealing::Required));
    c.world.of(a).set_live(Some(vec![addr(57)]));
    c.world.run(seconds(5));
    assert_eq!(passes(&mut c.world, (a, 57), (b, 65)), 1_420);
    assert_eq!(passes(&mut c.world, (b, 65), (a, 57)), 1_420);
}
