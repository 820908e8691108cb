//! Many nodes and two hubs, each a process of its own in a machine of its own: do all reach all, and what do idle nodes cost?

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use overlay_tests::case;
use overlay_tests::gateway::Gateway;
use overlay_tests::harness::{Case, full};
use overlay_tests::mesh::Mesh;
use overlay_tests::overlay::{HUB, Member, Overlay, SECOND_HUB};
use overlay_tests::wait::{PATIENCE, until_in};
use overlay_tests::world::World;

pub fn cases() -> Vec<Case> {
    vec![case!(timed, many_nodes_reach_one_another_and_a_hub_that_dies_costs_each_pair_at_most_one_beat)]
}

/// The cluster's heartbeat.
const BEAT: u16 = 3343;

/// What a node may send to one hub in a second while nobody sends anything: 64 of them stay below 300.
const DATAGRAMS_A_SECOND: f64 = 300.0 / 64.0;

/// Slots of four addresses, the first of which is the gateway's: 64 of them fill a /24.
fn slots() -> Vec<u8> {
    let count: u8 = if full() { 64 } else { 16 };
    (0..count).map(|slot| slot * 4).collect()
}

/// Two hubs and many nodes, which reach each other only through one of them.
fn plan(world: &World) -> Overlay {
    let mut overlay = Overlay::plan_with_two_hubs(world, &slots());
    for member in [&mut overlay.hub].into_iter().chain(&mut overlay.second).chain(&mut overlay.nodes) {
        member.file.line("[overlay]", "slot_prefix = 30");
    }
    overlay
}

fn many_nodes_reach_one_another_and_a_hub_that_dies_costs_each_pair_at_most_one_beat(world: &World) {
    let mut overlay = plan(world);
    let count = overlay.nodes.len();
    let began = Instant::now();
    overlay.start_at_once();
    until_in(PATIENCE * 3, "each node has a session with each other member", || {
        overlay.nodes.iter().all(|node| has_all_sessions(node.gw(), count + 1))
    });
    println!("{count} nodes: all sessions after {:.1} s", began.elapsed().as_secs_f64());

    // Nobody sends anything.
    let mut idle = Idle::default();
    until_in(PATIENCE, "what a hub hears from idle nodes is no more than their probes", || {
        idle = Idle::measure(&mut overlay, Duration::from_secs(if full() { 10 } else { 3 }));
        idle.hubs.iter().all(|&(datagrams, _)| datagrams <= DATAGRAMS_A_SECOND * count as f64)
    });
    for (name, (datagrams, busy)) in [HUB, SECOND_HUB].iter().zip(&idle.hubs) {
        println!(
            "{count} idle nodes: {name} hears {datagrams:.1} datagrams/s, {:.2} % of a core",
            busy * 100.0
        );
    }
    println!(
        "{count} idle nodes: a node uses {:.2} % of a core, the busiest {:.2} %",
        idle.mean() * 100.0,
        idle.most() * 100.0
    );
    assert!(
        idle.mean() <= idle.hubs[0].1 * 2.0,
        "an idle node is no more work than a hub of all of them: {idle:?}"
    );

    // Everybody watches everybody.
    let places: Vec<_> = overlay
        .nodes
        .iter()
        .map(|node| (node.node.clone(), node.address().parse::<Ipv4Addr>().unwrap()))
        .collect();
    let mesh = Mesh::start(&places, BEAT);
    until_in(PATIENCE, "everybody reaches everybody", || mesh.silent() == 0);
    let start = mesh.mark();
    until_in(PATIENCE, "beats flow", || mesh.since(&start) >= 2);

    // The hub that more of them use dies.
    let mut uses = [HUB, SECOND_HUB].map(|hub| (paths_via(&overlay, hub), hub));
    uses.sort_unstable();
    let [_, (using, dies)] = uses;
    assert!(using > 0, "{uses:?}");
    overlay.hub_mut(dies).take().kill();
    let fault = mesh.mark();
    until_in(PATIENCE, "beats flow after the fault", || mesh.since(&fault) >= 4);
    until_in(PATIENCE, "nobody goes by the hub that died", || paths_via(&overlay, dies) == 0);
    let losses = mesh.stop(&start);
    let pairs = count * (count - 1);
    println!(
        "{count} nodes: {dies} killed, which {using} of {pairs} directed pairs used; beats lost by that many pairs: {}",
        losses
            .pairs
            .iter()
            .enumerate()
            .map(|(lost, pairs)| format!("{lost}: {pairs}"))
            .collect::<Vec<_>>()
            .join(", ")
    );
    let name = |place: usize| overlay.nodes[place].name.as_str();
    let worst: Vec<_> = losses.worst.iter().take(5).map(|&(from, to)| (name(from), name(to))).collect();
    assert!(losses.most() <= 1, "one beat a second, at most one lost: {:?}, {worst:?}", losses.pairs);
}

/// Whether there is a session with each of so many peers.
fn has_all_sessions(gateway: &Gateway, peers: usize) -> bool {
    let status = gateway.status();
    let listed = status.0["peers"].as_array().unwrap();
    assert_eq!(listed.len(), peers);
    listed.iter().all(|peer| peer["session"] == true)
}

/// How many paths between nodes go by that hub, those back counted by themselves.
fn paths_via(overlay: &Overlay, hub: &str) -> usize {
    let via = format!("via {hub}");
    let paths = |node: &Member| {
        let status = node.gw().status();
        status.0["peers"].as_array().unwrap().iter().filter(|peer| peer["path"] == via.as_str()).count()
    };
    overlay.nodes.iter().map(paths).sum()
}

/// What everybody does in a time without packets.
#[derive(Debug, Default)]
struct Idle {
    /// For each hub the datagrams that arrive in a second, and its share of a core.
    hubs: Vec<(f64, f64)>,
    /// For each node its share of a core.
    nodes: Vec<f64>,
}

impl Idle {
    fn measure(overlay: &mut Overlay, time: Duration) -> Self {
        let before = Self::totals(overlay);
        let began = Instant::now();
        thread::sleep(time);
        let after = Self::totals(overlay);
        let seconds = began.elapsed().as_secs_f64();
        let nodes = after.nodes.iter().zip(&before.nodes).map(|(after, before)| (after - before) / seconds);
        let hubs = after.hubs.iter().zip(&before.hubs);
        let hubs =
            hubs.map(|(after, before)| ((after.0 - before.0) / seconds, (after.1 - before.1) / seconds));
        Self { hubs: hubs.collect(), nodes: nodes.collect() }
    }

    /// Datagrams and seconds of the processor, since each of them began.
    fn totals(overlay: &mut Overlay) -> Self {
        let hubs = [&mut overlay.hub].into_iter().chain(&mut overlay.second);
        Self {
            hubs: hubs.map(|hub| (arrived(hub), processor_time(hub))).collect(),
            nodes: overlay.nodes.iter_mut().map(processor_time).collect(),
        }
    }

    fn mean(&self) -> f64 {
        self.nodes.iter().sum::<f64>() / self.nodes.len() as f64
    }

    fn most(&self) -> f64 {
        self.nodes.iter().copied().fold(0.0, f64::max)
    }
}

/// Datagrams that have arrived at this machine: UdpInDatagrams (RFC 4113).
fn arrived(member: &Member) -> f64 {
    let counters = member.node.ok("cat /proc/net/snmp");
    let mut udp = counters.lines().filter_map(|line| line.strip_prefix("Udp: ")).map(|line| line.split(' '));
    let (mut names, mut values) = (udp.next().unwrap(), udp.next().unwrap());
    let place = names.position(|name| name == "InDatagrams").unwrap();
    values.nth(place).unwrap().parse().unwrap()
}

/// The seconds for which the program has run on a processor (proc_pid_stat(5)).
fn processor_time(member: &mut Member) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", member.gw_mut().process().id())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    // Fields 14 and 15 of all, of which two are cut off here.
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap().unwrap();
    ticks / hertz as f64
}
