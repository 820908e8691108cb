//! What `plan` makes, as it is shipped: packs with signed records, faults, and a start without anybody to ask.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use overlay_tests::case;
use overlay_tests::flow::Flow;
use overlay_tests::gateway::{Gateway, Status, client};
use overlay_tests::harness::{Case, program};
use overlay_tests::node::Node;
use overlay_tests::overlay::{HUB, SECOND_HUB};
use overlay_tests::process::Process;
use overlay_tests::wait::until;
use overlay_tests::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, nodes_start_without_any_hub_from_their_own_disk),
        case!(functional, a_rebuilt_node_is_reached_by_a_third_that_was_there_all_the_time),
        case!(functional, a_revocation_counts_at_once_even_when_the_host_refuses_what_follows_from_it),
        case!(functional, status_that_is_watched_shows_what_changes),
        case!(timed, a_hub_of_signed_packs_that_is_killed_costs_at_most_one_beat),
    ]
}

/// Two hubs, and two nodes that can be reached directly, by `plan`.
struct Packs {
    out: PathBuf,
    desk: Node,
}

impl Packs {
    fn new(world: &World, desk: &Node, nodes: &str) -> Self {
        let out = world.path("packs");
        let line = format!(
            "plan --overlay 172.16.8.0/24 {nodes} --hub hub-a=10.99.0.1:51820 --hub hub-b=10.99.0.2:51820 --out {}",
            out.display()
        );
        client(desk, &line).exits(0);
        Self { out, desk: desk.clone() }
    }

    fn config(&self, name: &str) -> PathBuf {
        self.out.join(name).join("config.toml")
    }

    /// The file with the record of a node that is added later.
    #[track_caller]
    fn add(&self, node: &str) -> String {
        let line = format!("plan add-node --out {} --node {node} --json", self.out.display());
        client(&self.desk, &line).exits(0).json()["record"].as_str().expect("a record").to_owned()
    }
}

fn knows(status: &Status, name: &str) -> bool {
    status.peer(name).is_some()
}

fn nodes_start_without_any_hub_from_their_own_disk(world: &World) {
    let hubs = [world.node(HUB, 1), world.node(SECOND_HUB, 2)];
    let [one, three] = [world.node("cluster-1", 56), world.node("cluster-3", 72)];
    let packs = Packs::new(world, &hubs[0], "--node cluster-1=56@10.99.0.56:51820");
    let started =
        [Gateway::hub(&hubs[0], &packs.config(HUB)), Gateway::hub(&hubs[1], &packs.config(SECOND_HUB))];
    let first = Gateway::up(&one, &packs.config("cluster-1"));
    first.wait_session(HUB);
    // No pack of the first names the third: its record comes through the overlay, and is kept.
    let record = packs.add("cluster-3=72@10.99.0.72:51820");
    let third = Gateway::up(&three, &packs.config("cluster-3"));
    started[0].client(&format!("peer add {record}")).exits(0);
    first.wait_session("cluster-3");
    until("both know it", || knows(&first.status(), "cluster-3") && knows(&third.status(), "cluster-1"));
    one.reaches("172.16.8.73");
    let kept = "/var/lib/overlay-gw/Overlay/members.records";
    until("it is on the disk", || one.ok(&format!("cat {kept}")).contains("cluster-3"));
    for hub in started {
        hub.kill();
    }
    first.kill();
    third.kill();
    let first = Gateway::up(&one, &packs.config("cluster-1"));
    let third = Gateway::up(&three, &packs.config("cluster-3"));
    first.wait_session("cluster-3");
    one.reaches("172.16.8.73");
    three.reaches("172.16.8.57");
    assert!(!first.status().session(HUB) && !third.status().session(SECOND_HUB));
    assert_eq!(first.status().peer("cluster-3").unwrap()["path"], "direct");
}

fn a_rebuilt_node_is_reached_by_a_third_that_was_there_all_the_time(world: &World) {
    let hubs = [world.node(HUB, 1), world.node(SECOND_HUB, 2)];
    let [old, two, new] = [world.node("old", 56), world.node("cluster-2", 64), world.node("new", 57)];
    let packs = Packs::new(world, &hubs[0], "--node cluster-1=56 --node cluster-2=64");
    let [hub, _second] =
        [Gateway::hub(&hubs[0], &packs.config(HUB)), Gateway::hub(&hubs[1], &packs.config(SECOND_HUB))];
    let first = Gateway::up(&old, &packs.config("cluster-1"));
    let other = Gateway::up(&two, &packs.config("cluster-2"));
    other.wait_session("cluster-1");
    two.reaches("172.16.8.57");
    let key = |gateway: &Gateway| gateway.status().peer("cluster-1").map(|peer| peer["public_key"].clone());
    let before = key(&other);
    first.kill();
    let record = packs.add("cluster-1=56 --replace");
    let rebuilt = Gateway::up(&new, &packs.config("cluster-1"));
    hub.client(&format!("peer add {record}")).exits(0);
    until("the third knows the new key", || key(&other).is_some_and(|key| Some(key) != before));
    other.wait_session("cluster-1");
    rebuilt.wait_session("cluster-2");
    two.reaches("172.16.8.57");
    new.reaches("172.16.8.65");
}

fn a_revocation_counts_at_once_even_when_the_host_refuses_what_follows_from_it(world: &World) {
    let hubs = [world.node(HUB, 1), world.node(SECOND_HUB, 2)];
    let [one, two] = [world.node("cluster-1", 56), world.node("cluster-2", 64)];
    let packs = Packs::new(world, &hubs[0], "--node cluster-1=56 --node cluster-2=64");
    let hub = Gateway::hub(&hubs[0], &packs.config(HUB));
    let second = Gateway::up(&two, &packs.config("cluster-2"));
    // The first has a route through the second, by its own file.
    let file = packs.config("cluster-1");
    let text = fs::read_to_string(&file).unwrap();
    let key = second.status().0["public_key"].as_str().unwrap().to_owned();
    let peer = format!(
        "[[peers]]\nname = \"cluster-2\"\npublic_key = \"{key}\"\nallowed_ips = [\"10.50.0.0/24\"]\n"
    );
    fs::write(&file, format!("{text}\n{peer}")).unwrap();
    let mut first = Gateway::up(&one, &file);
    first.wait_session(HUB);
    let route = || one.ok("ip route show 10.50.0.0/24");
    assert!(route().contains("Overlay"), "{}", route());
    // What is ours on the host cannot be written down any more: so nothing of it may be changed.
    let folder = "/var/lib/overlay-gw/Overlay";
    one.ok(&format!("mount --bind {folder} {folder}"));
    one.ok(&format!("mount -o remount,ro,bind {folder}"));
    let line = format!("plan revoke --out {} --node cluster-2 --json", packs.out.display());
    let record = client(&hubs[0], &line).exits(0).json()["record"].as_str().unwrap().to_owned();
    hub.client(&format!("peer remove {record}")).exits(0);
    until("it is out", || !knows(&first.status(), "cluster-2"));
    // The route may have gone before its entry could; that is what is tried again.
    first
        .process()
        .wait_stderr(Duration::from_secs(10), |line| line.contains("signed records are not in force yet"));
    one.ok(&format!("mount -o remount,rw,bind {folder}"));
    first.process().wait_stderr(Duration::from_secs(10), |line| line.contains("signed records are in force"));
    assert_eq!(route(), "");
    assert!(first.status().session(HUB));
}

fn status_that_is_watched_shows_what_changes(world: &World) {
    let hubs = [world.node(HUB, 1), world.node(SECOND_HUB, 2)];
    let one = world.node("cluster-1", 56);
    let packs = Packs::new(world, &hubs[0], "--node cluster-1=56");
    let first = Gateway::up(&one, &packs.config("cluster-1"));
    let mut command = one.command(program());
    command.args(["status", "--watch", "--json"]);
    let mut watch: Process = one.spawn_command("watch", command, "overlay-gw status --watch");
    let limit = Duration::from_secs(10);
    watch.wait_stdout(limit, |line| {
        line.contains("\"state\": \"down\"") || line.contains("\"state\":\"down\"")
    });
    let _hubs =
        [Gateway::hub(&hubs[0], &packs.config(HUB)), Gateway::hub(&hubs[1], &packs.config(SECOND_HUB))];
    watch.wait_stdout(limit, |line| line.contains("\"state\": \"ok\"") || line.contains("\"state\":\"ok\""));
    assert!(watch.runs(), "it goes on until somebody ends it");
    first.stop();
    // Without a service there is nothing to watch.
    assert_eq!(watch.wait(limit), Some(3), "{}", watch.said());
}

fn a_hub_of_signed_packs_that_is_killed_costs_at_most_one_beat(world: &World) {
    let hubs = [world.node(HUB, 1), world.node(SECOND_HUB, 2)];
    let [one, two] = [world.node("cluster-1", 56), world.node("cluster-2", 64)];
    // Nothing passes between them but through a hub.
    for (node, other) in [(&one, 64), (&two, 56)] {
        node.ok(&format!("ip route add blackhole 10.99.0.{other}/32"));
    }
    let packs = Packs::new(world, &hubs[0], "--node cluster-1=56 --node cluster-2=64");
    let start = |n: usize| Gateway::hub(&hubs[n], &packs.config([HUB, SECOND_HUB][n]));
    let mut running = [Some(start(0)), Some(start(1))];
    let first = Gateway::up(&one, &packs.config("cluster-1"));
    let second = Gateway::up(&two, &packs.config("cluster-2"));
    for hub in [HUB, SECOND_HUB] {
        first.wait_session(hub);
        second.wait_session(hub);
    }
    first.wait_session("cluster-2");
    one.reaches("172.16.8.65");
    let in_use = || first.status().peer("cluster-2").unwrap()["path"].as_str().unwrap_or_default().to_owned();
    for _ in 0..2 {
        let broken = usize::from(in_use().contains(SECOND_HUB));
        assert!(in_use().contains([HUB, SECOND_HUB][broken]), "{}", in_use());
        let flow = |from: &Node, to: &Node, last, port, rate| {
            Flow::start(from, None, to, SocketAddrV4::new(Ipv4Addr::new(172, 16, 8, last), port), rate)
        };
        let beats = flow(&one, &two, 65, 3343, 1);
        thread::sleep(Duration::from_millis(370));
        let back = flow(&two, &one, 57, 3343, 1);
        thread::sleep(Duration::from_millis(2_500));
        running[broken].take().unwrap().kill();
        thread::sleep(Duration::from_secs(4));
        for tally in [beats.stop(), back.stop()] {
            assert!(tally.lost.len() + tally.late as usize <= 1, "{tally:?}");
        }
        // The records came through one hub, or from the disk: the members are the same, whichever hub is there.
        assert!(knows(&second.status(), "cluster-1"));
        running[broken] = Some(start(broken));
        first.wait_session([HUB, SECOND_HUB][broken]);
        second.wait_session([HUB, SECOND_HUB][broken]);
        thread::sleep(Duration::from_secs(2));
    }
}
