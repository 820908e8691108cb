//! Paths with real processes: sealed relay, two hubs and what can happen to one of them, direct paths.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use overlay_tests::case;
use overlay_tests::delay::Distance;
use overlay_tests::flow::{Flow, Tally};
use overlay_tests::harness::{Case, full};
use overlay_tests::node::Node;
use overlay_tests::overlay::{HUB, Member, Overlay, PORT, SECOND_HUB};
use overlay_tests::wait::{until, until_in};
use overlay_tests::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, a_hub_carries_what_it_cannot_read_and_a_plain_member_beside_it),
        case!(functional, nodes_that_can_reach_each_other_find_the_direct_path),
        case!(functional, nodes_behind_two_translators_find_the_direct_path),
        case!(functional, status_warns_when_one_hub_is_left),
        case!(timed, a_hub_that_is_killed_costs_at_most_one_beat),
        case!(timed, a_hub_that_is_frozen_costs_at_most_one_beat),
        case!(timed, a_hub_whose_network_is_cut_costs_at_most_one_beat),
        case!(timed, one_direction_that_is_cut_costs_at_most_one_beat),
        case!(timed, a_hub_that_restarts_with_empty_memory_costs_at_most_one_beat),
        case!(timed, hubs_that_see_different_members_cost_at_most_one_beat),
        case!(timed, both_hubs_that_are_lost_and_come_back_are_found_again),
        case!(timed, a_hub_that_is_drained_costs_nothing),
        case!(timed, a_drain_between_a_near_and_a_far_hub_costs_nothing),
    ]
}

/// The cluster's heartbeat.
const BEAT: u16 = 3343;

/// How often each fault is tried.
fn runs() -> usize {
    if full() { 20 } else { 2 }
}

fn address(slot: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, 8, slot + 1)
}

const SLOTS: [u8; 3] = [56, 64, 72];

/// Two hubs and three nodes, started.
fn cluster(world: &World) -> Overlay {
    let mut overlay = Overlay::plan_with_two_hubs(world, &SLOTS);
    overlay.start();
    overlay.wait_end_to_end();
    overlay
}

/// Some time below `most`, by the clock.
fn chance(most: Duration) -> Duration {
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    most * (nanos % 997) / 997
}

/// A beat a second each way, and a hundred.
struct Beats([(u32, Flow); 4]);

impl Beats {
    fn start(overlay: &Overlay) -> Self {
        let flow = |from: u8, to: u8, port, rate| {
            let target = SocketAddrV4::new(address(to), port);
            let (from, to) = (&overlay.node(from).node, &overlay.node(to).node);
            (rate, Flow::start(from, None, to, target, rate))
        };
        // The slow beats come at times of their own, which neither each other's nor a fault's follow from.
        let first = flow(56, 64, BEAT, 1);
        thread::sleep(chance(Duration::from_secs(1)));
        let second = flow(64, 56, BEAT, 1);
        Self([first, second, flow(56, 64, 4000, 100), flow(64, 56, 4000, 100)])
    }

    fn stop(self) -> Vec<(u32, Tally)> {
        self.0.into_iter().map(|(rate, flow)| (rate, flow.stop())).collect()
    }
}

/// What each run of a fault has cost: for each of its flows the rate, the datagrams lost, and the longest time without one.
#[derive(Default)]
struct Costs(Vec<(u32, usize, Duration)>);

impl Costs {
    /// A row of a table: runs, then for each rate the median and the most of what a flow lost, then the longest gaps of the faster one.
    fn print(&self, what: &str) {
        let flows = |wanted: u32| self.0.iter().filter(move |(rate, ..)| *rate == wanted);
        let lost = |rate| {
            let mut lost: Vec<usize> = flows(rate).map(|(_, lost, _)| *lost).collect();
            lost.sort_unstable();
            format!("{} | {}", lost[lost.len() / 2], lost[lost.len() - 1])
        };
        let mut gaps: Vec<u128> = flows(100).map(|(_, _, gap)| gap.as_millis()).collect();
        gaps.sort_unstable();
        let runs = flows(1).count() / 2;
        let (median, most) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
        println!("| {what} | {runs} | {} | {} | {median} ms | {most} ms |", lost(1), lost(100));
    }

    /// Beats flow and something happens to the hub in use, whose name is given.
    #[track_caller]
    fn of(
        &mut self,
        overlay: &mut Overlay,
        what: &str,
        most_beats: usize,
        fault: impl FnOnce(&mut Overlay, &str),
    ) {
        let before = overlay.hub_in_use();
        let beats = Beats::start(overlay);
        beats.0[2].1.wait_more(100);
        thread::sleep(chance(Duration::from_secs(1)));
        fault(overlay, &before);
        beats.0[2].1.wait_more(300);
        thread::sleep(Duration::from_secs(1));
        for (rate, tally) in beats.stop() {
            let most = if rate == 1 { most_beats } else { most_beats * 100 };
            // Who waits for a beat has missed one that comes too late.
            let missed = tally.lost.len() + tally.late as usize;
            assert!(missed <= most, "{what}, {rate}/s: {tally:?}");
            self.0.push((rate, missed, tally.longest_gap.saturating_sub(tally.pause)));
        }
    }

    /// As [`Costs::of`], when traffic has to go on over the other hub.
    #[track_caller]
    fn survives(
        &mut self,
        overlay: &mut Overlay,
        what: &str,
        most_beats: usize,
        fault: impl FnOnce(&mut Overlay, &str),
    ) {
        let before = overlay.hub_in_use();
        let changes = |overlay: &Overlay| {
            overlay.node(56).gw().status().peer("cluster-64").unwrap()["path_changes"].as_u64().unwrap()
        };
        let moved = changes(overlay);
        self.of(overlay, what, most_beats, fault);
        assert_ne!(overlay.hub_in_use(), before, "the path in use was the one that broke");
        assert!(changes(overlay) > moved);
    }
}

fn a_hub_that_is_killed_costs_at_most_one_beat(world: &World) {
    let mut overlay = cluster(world);
    let mut costs = Costs::default();
    for _ in 0..runs() {
        costs.survives(&mut overlay, "killed", 1, |overlay, hub| overlay.hub_mut(hub).take().kill());
        let broken = if overlay.hub.runs() { SECOND_HUB } else { HUB };
        overlay.hub_mut(broken).start();
        overlay.wait_sessions();
        recovered(&overlay, broken);
    }
    costs.print("killed");
}

fn a_hub_that_restarts_with_empty_memory_costs_at_most_one_beat(world: &World) {
    let mut overlay = cluster(world);
    let mut costs = Costs::default();
    for _ in 0..runs() {
        let hub = overlay.hub_in_use();
        costs.of(&mut overlay, "restarted", 1, |overlay, hub| {
            overlay.hub_mut(hub).take().kill();
            overlay.hub_mut(hub).start();
        });
        recovered(&overlay, &hub);
    }
    costs.print("restarted with empty memory");
}

/// One hub loses one of two nodes, the other hub a third: those that still have a hub in common lose at most one beat.
fn hubs_that_see_different_members_cost_at_most_one_beat(world: &World) {
    let mut overlay = cluster(world);
    let mut costs = Costs::default();
    for _ in 0..runs() {
        let hub = overlay.hub_in_use();
        let other = if hub == HUB { SECOND_HUB } else { HUB };
        let routes = |overlay: &mut Overlay, verb: &str| {
            for (hub, node) in [(hub.as_str(), 64), (other, 72)] {
                let machine = overlay.hub_mut(hub).node.clone();
                machine.ok(&format!("ip route {verb} unreachable 10.99.0.{node}/32"));
                overlay.node(node).node.ok(&format!("ip route {verb} unreachable {}/32", machine.ipv4()));
            }
        };
        costs.survives(&mut overlay, "different members", 1, |overlay, _| routes(overlay, "add"));
        overlay.node(72).node.reaches("172.16.8.57");
        routes(&mut overlay, "del");
        recovered(&overlay, &hub);
        recovered(&overlay, other);
    }
    costs.print("hubs that see different members");
}

/// Nothing can arrive meanwhile; but nobody has to do anything for it to go on.
fn both_hubs_that_are_lost_and_come_back_are_found_again(world: &World) {
    let mut overlay = cluster(world);
    let mut gaps = Vec::new();
    for _ in 0..runs() {
        let beats = Beats::start(&overlay);
        beats.0[2].1.wait_more(100);
        for hub in [HUB, SECOND_HUB] {
            overlay.hub_mut(hub).take().kill();
        }
        // Lost for long enough that nobody answers a handshake.
        for (node, hub) in overlay.nodes.iter().flat_map(|node| [(node, HUB), (node, SECOND_HUB)]) {
            until("the loss is noticed", || leg_is_up(node, hub) == Some(false));
        }
        for hub in [HUB, SECOND_HUB] {
            overlay.hub_mut(hub).start();
        }
        let back = Instant::now();
        for (_, flow) in &beats.0[2..] {
            flow.wait_more(1);
        }
        gaps.push(back.elapsed().as_millis());
        drop(beats);
        recovered(&overlay, HUB);
        recovered(&overlay, SECOND_HUB);
    }
    gaps.sort_unstable();
    let (median, most) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    println!(
        "both hubs lost and back, {} runs: traffic after {median} ms (median), {most} ms (most)",
        gaps.len()
    );
}

fn leg_is_up(node: &Member, hub: &str) -> Option<bool> {
    node.gw().status().peer(hub)?["paths"][0]["up"].as_bool()
}

/// A hub that is back is tried again soon: boringtun by itself would take 15 s to notice that a session is gone.
const BACK: Duration = Duration::from_secs(10);

/// Waits until the leg of each node to that hub carries again.
#[track_caller]
fn recovered(overlay: &Overlay, hub: &str) {
    for node in &overlay.nodes {
        until_in(BACK, "the leg carries again", || leg_is_up(node, hub) == Some(true));
        for other in overlay.nodes.iter().filter(|other| other.name != node.name) {
            until_in(Duration::from_secs(20), "and the way through it", || {
                let status = node.gw().status();
                let ways = status.peer(&other.name).unwrap()["paths"].as_array().unwrap().clone();
                ways.iter().any(|way| way["via"] == hub && way["up"] == true)
            });
        }
    }
}

fn a_hub_that_is_frozen_costs_at_most_one_beat(world: &World) {
    let mut overlay = cluster(world);
    let mut costs = Costs::default();
    for _ in 0..runs() {
        let hub = overlay.hub_in_use();
        costs.survives(&mut overlay, "frozen", 1, |overlay, hub| {
            overlay.hub_mut(hub).gw_mut().process().signal(Signal::SIGSTOP);
        });
        overlay.hub_mut(&hub).gw_mut().process().signal(Signal::SIGCONT);
        recovered(&overlay, &hub);
    }
    costs.print("frozen");
}

fn a_hub_whose_network_is_cut_costs_at_most_one_beat(world: &World) {
    let mut overlay = cluster(world);
    let mut costs = Costs::default();
    for _ in 0..runs() {
        let hub = overlay.hub_in_use();
        costs.survives(&mut overlay, "network cut", 1, |overlay, hub| {
            overlay.hub_mut(hub).node.ok("ip link set dev eth0 down");
        });
        overlay.hub_mut(&hub).node.ok("ip link set dev eth0 up");
        recovered(&overlay, &hub);
    }
    costs.print("network cut");
}

fn one_direction_that_is_cut_costs_at_most_one_beat(world: &World) {
    let mut overlay = cluster(world);
    let mut costs = Costs::default();
    for _ in 0..runs() {
        let hub = overlay.hub_in_use();
        // The hub hears the second node, which does not hear the hub.
        costs.survives(&mut overlay, "one direction cut", 1, |overlay, hub| {
            overlay.hub_mut(hub).node.ok("ip route add unreachable 10.99.0.64/32");
        });
        overlay.hub_mut(&hub).node.ok("ip route del unreachable 10.99.0.64/32");
        recovered(&overlay, &hub);
    }
    costs.print("one direction cut");
}

fn a_hub_that_is_drained_costs_nothing(world: &World) {
    let mut overlay = cluster(world);
    let mut costs = Costs::default();
    for _ in 0..runs() {
        let hub = overlay.hub_in_use();
        costs.survives(&mut overlay, "drained", 0, |overlay, hub| {
            let said = overlay.hub_mut(hub).gw().client("hub drain --json").exits(0).json();
            assert_eq!((said["draining"].as_bool(), said["told"].as_u64()), (Some(true), Some(3)));
        });
        let drained = overlay.hub_mut(&hub).gw().status();
        assert!(drained.0["warnings"].to_string().contains("draining"), "{:#}", drained.0);
        let forwarded = |overlay: &mut Overlay, hub: &str| {
            let status = overlay.hub_mut(hub).gw().status();
            let peers = status.0["peers"].as_array().unwrap().clone();
            peers.iter().map(|peer| peer["forwarded_packets"].as_u64().unwrap()).sum::<u64>()
        };
        let before = forwarded(&mut overlay, &hub);
        overlay.node(56).node.reaches("172.16.8.65");
        overlay.node(72).node.reaches("172.16.8.65");
        assert_eq!(forwarded(&mut overlay, &hub), before, "nothing goes through it any more");
        overlay.hub_mut(&hub).gw().client("hub drain --stop").exits(0);
        recovered(&overlay, &hub);
    }
    costs.print("drained");
    overlay.node(56).gw().client("hub drain").exits(4);
}

/// The hubs' round trips are 1 ms and 40 ms. From the near one to the far one there is a pause, and back again packets overtake
/// those that are still under way: neither may cost one.
fn a_drain_between_a_near_and_a_far_hub_costs_nothing(world: &World) {
    const FRONT: u16 = 51_900;
    let mut overlay = Overlay::plan_with_two_hubs(world, &SLOTS);
    let _distances =
        [(HUB, Duration::from_micros(500)), (SECOND_HUB, Duration::from_millis(20))].map(|(hub, one_way)| {
            let machine = overlay.hub_mut(hub).node.clone();
            for node in &mut overlay.nodes {
                let front = |port| format!("endpoint = \"{}:{port}\"", machine.ipv4());
                node.file.replace(&front(PORT), &front(FRONT));
            }
            Distance::start(&machine, FRONT, PORT, one_way)
        });
    overlay.start();
    overlay.wait_end_to_end();
    // Once in each direction.
    let mut costs = Costs::default();
    for _ in 0..2 {
        let hub = overlay.hub_in_use();
        costs.survives(&mut overlay, &format!("{hub} drained"), 0, |overlay, hub| {
            overlay.hub_mut(hub).gw().client("hub drain").exits(0);
        });
        overlay.hub_mut(&hub).gw().client("hub drain --stop").exits(0);
        recovered(&overlay, &hub);
    }
    costs.print("drained, hubs at 1 ms and 40 ms");
}

fn a_hub_carries_what_it_cannot_read_and_a_plain_member_beside_it(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64]);
    let plain = overlay.add_plain_member(world, 5);
    overlay.introduce(true);
    overlay.start();
    overlay.wait_end_to_end();
    let opened = |overlay: &Overlay| {
        let status = overlay.hub.gw().status();
        let count = |peer: &str, what: &str| status.peer(peer).unwrap()[what].as_u64().unwrap();
        (count("cluster-56", "rx_packets"), count("cluster-56", "forwarded_packets"))
    };
    let before = opened(&overlay);
    overlay.node(56).node.ok("ping -c 20 -i 0.01 -W 2 172.16.8.65");
    let after = opened(&overlay);
    assert_eq!(after.0, before.0, "the hub has opened nothing of it");
    assert!(after.1 >= before.1 + 20, "{before:?} {after:?}");
    assert_eq!(overlay.node(56).gw().status().peer("cluster-64").unwrap()["path"], "via hub-a");
    // The plain member is reached as ever: routed, through the same hub.
    plain.node.reaches("172.16.8.57");
    overlay.node(64).node.reaches("172.16.8.81");
    assert!(opened(&overlay).0 > after.0);
    for member in overlay.nodes.iter().chain([&overlay.hub]) {
        assert_eq!(member.gw().status().drops("foreign_source"), 0);
    }
}

fn nodes_that_can_reach_each_other_find_the_direct_path(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64]);
    overlay.introduce(false);
    overlay.start();
    overlay.wait_end_to_end();
    for (node, peer) in [(56, "cluster-64"), (64, "cluster-56")] {
        let gw = overlay.node(node).gw();
        until_in(Duration::from_secs(20), "the direct path is in use", || {
            gw.status().peer(peer).unwrap()["path"] == "direct"
        });
    }
    overlay.node(56).node.reaches("172.16.8.65");
    overlay.hub.take().kill();
    overlay.node(56).node.reaches("172.16.8.65");
    overlay.node(64).node.reaches("172.16.8.57");
}

/// What stands before the node from now on: a translator that shows its port as another, and lets in only who was sent something before
/// (RFC 4787: endpoint-independent mapping, address and port-dependent filtering).
fn translate(node: &Node) -> String {
    let seen_at = format!("{}:{}", node.ipv4(), 40_000);
    let rules = format!(
        "table ip translator {{\n\
         chain out {{ type nat hook postrouting priority 100; oifname eth0 udp sport {PORT} snat to {seen_at}; }}\n\
         chain in {{ type filter hook input priority 0; iifname eth0 udp dport {{ {PORT}, 40000 }} ct state new drop; }}\n}}\n"
    );
    let path = node.write("translator.nft", &rules);
    node.ok(&format!("nft -f {}", path.display()));
    seen_at
}

fn nodes_behind_two_translators_find_the_direct_path(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64]);
    overlay.introduce(false);
    let seen_at = [56, 64].map(|slot| translate(&overlay.node(slot).node));
    overlay.start();
    overlay.wait_end_to_end();
    for (node, peer, seen_at) in [(56, "cluster-64", &seen_at[1]), (64, "cluster-56", &seen_at[0])] {
        let gw = overlay.node(node).gw();
        until_in(Duration::from_secs(20), "the direct path is in use", || {
            gw.status().peer(peer).unwrap()["path"] == "direct"
        });
        assert_eq!(gw.status().peer(peer).unwrap()["endpoint"], seen_at.as_str());
    }
    overlay.hub.take().kill();
    overlay.node(56).node.reaches("172.16.8.65");
    overlay.node(64).node.reaches("172.16.8.57");
}

fn status_warns_when_one_hub_is_left(world: &World) {
    let mut overlay = cluster(world);
    let codes = |overlay: &Overlay| overlay.node(56).gw().status().0["warnings"].to_string();
    assert!(!codes(&overlay).contains("one-hub-left"), "{}", codes(&overlay));
    overlay.hub_mut(SECOND_HUB).take().kill();
    until("status warns", || codes(&overlay).contains("one-hub-left"));
    overlay.hub_mut(SECOND_HUB).start();
    until_in(Duration::from_secs(20), "and no longer", || !codes(&overlay).contains("one-hub-left"));
}
