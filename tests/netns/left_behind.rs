//! What others put on the device stays, whatever happens to us; what we put there goes, whatever happened to us.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use overlay_tests::case;
use overlay_tests::gateway::{Gateway, client};
use overlay_tests::harness::{Case, full, seed};
use overlay_tests::host_state::HostState;
use overlay_tests::overlay::Overlay;
use overlay_tests::wait::until;
use overlay_tests::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, foreign_address_survives_reload_restart_exit_and_kill),
        case!(functional, foreign_address_survives_the_removal_of_ours),
        case!(functional, foreign_route_and_rule_survive),
        case!(functional, what_is_ours_comes_back_when_somebody_takes_it_away),
        case!(functional, device_that_somebody_deletes_comes_back_with_all_that_is_ours),
        case!(functional, listener_that_somebody_else_brings_back_is_his),
        case!(functional, down_clears_the_one_that_is_meant),
        case!(functional, foreign_address_taken_away_is_not_brought_back),
        case!(functional, members_leave_the_host_byte_for_byte_as_it_was),
        case!(functional, killed_at_any_moment_it_restarts_and_ends_clean),
    ]
}

const FOREIGN: &str = "172.16.8.60/29";

fn foreign_address_survives_reload_restart_exit_and_kill(world: &World) {
    let mut overlay = Overlay::started(world, &[56]);
    let node = overlay.node(56).node.clone();
    let there = || node.addresses("Overlay").iter().any(|address| address == FOREIGN);
    node.ok(&format!("ip addr add {FOREIGN} dev Overlay"));

    overlay.node(56).gw().client("reload").exits(0);
    assert!(there(), "after reload");

    let member = overlay.node_mut(56);
    let ended = member.take().stop();
    assert_eq!(node.addresses("Overlay"), [FOREIGN], "only ours went");
    assert!(!node.has_carrier("Overlay"), "nobody answers behind it");
    let said = ended.stderr.lines().any(|line| line.contains("172.16.8.60"));
    assert!(said, "a line says why the device stays:\n{}", ended.stderr);

    member.start();
    assert!(there(), "after restart");
    assert_eq!(member.gw().status().0["device"]["adopted"], true);
    assert_eq!(member.gw().status().listener("172.16.8.60"), Some("host"));

    member.take().kill();
    assert!(there(), "after kill -9");
    member.start();
    assert!(there(), "after the start after kill -9");
    member.take().end_by(Signal::SIGTERM);
    assert!(there(), "after SIGTERM");

    let down = client(&node, "down");
    assert!(matches!(down.code, Some(0 | 3)), "{}", down.both());
    assert_eq!(node.addresses("Overlay"), [FOREIGN], "after down");

    // The cluster takes its address away: the next start and end leave nothing.
    node.ok(&format!("ip addr del {FOREIGN} dev Overlay"));
    member.start();
    member.take().stop();
    assert!(!node.has_link("Overlay"));
}

fn foreign_address_survives_the_removal_of_ours(world: &World) {
    let node = world.node("cluster-1", 11);
    let gw = Gateway::start(&node, "up --slot 56");
    node.ok(&format!("ip addr add {FOREIGN} dev Overlay"));
    // Without promote_secondaries this would take every other address of the /29 along.
    node.ok("ip addr del 172.16.8.57/29 dev Overlay");
    assert!(node.addresses("Overlay").iter().any(|address| address == FOREIGN));
    gw.stop();
    assert_eq!(node.addresses("Overlay"), [FOREIGN]);
}

fn foreign_route_and_rule_survive(world: &World) {
    let node = world.node("cluster-1", 11);
    let gw = Gateway::start(&node, "up --slot 56");
    node.ok(&format!("ip addr add {FOREIGN} dev Overlay"));
    node.ok("ip route add 192.0.2.0/24 dev Overlay metric 77");
    node.ok("ip rule add from 172.16.8.60 lookup 77");
    gw.client("reload");
    gw.stop();
    assert!(node.ok("ip route show 192.0.2.0/24").contains("metric 77"), "{}", node.ok("ip route"));
    assert!(node.ok("ip rule").contains("172.16.8.60"));
}

fn what_is_ours_comes_back_when_somebody_takes_it_away(world: &World) {
    let node = world.node("cluster-1", 11);
    let gw = Gateway::start(&node, "up --slot 56");
    let routes = || node.ok("ip route show dev Overlay proto static");
    let before = routes();
    node.ok("ip link set Overlay down");
    until("the routes went with the link", || routes().is_empty());
    node.ok("ip link set Overlay up");
    until("they are back", || routes() == before);
    node.ok("ip addr del 172.16.8.57/29 dev Overlay");
    until("the address and the routes from it are back", || {
        node.addresses("Overlay").iter().any(|address| address == "172.16.8.57/29") && routes() == before
    });
    node.reaches("172.16.8.56");
    // A link that is down by the operator's will stays so.
    node.ok("ip link set Overlay down");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(routes().is_empty() && !node.has_carrier("Overlay"));
    gw.stop();
    assert!(!node.has_link("Overlay"));
}

fn device_that_somebody_deletes_comes_back_with_all_that_is_ours(world: &World) {
    let node = world.node("cluster-1", 11);
    let gw = Gateway::start(&node, "up --slot 56");
    gw.client("listener add 172.16.8.59").exits(0);
    let routes = || node.ok("ip route show dev Overlay");
    let before = routes();
    node.ok("ip link delete Overlay");
    until("device, addresses and routes are back", || {
        node.addresses("Overlay").len() == 3 && routes() == before && node.has_carrier("Overlay")
    });
    node.reaches("172.16.8.56");
    until("the listener is known", || gw.status().listener("172.16.8.59") == Some("command"));
    gw.stop();
    assert!(!node.has_link("Overlay"));
}

fn listener_that_somebody_else_brings_back_is_his(world: &World) {
    let node = world.node("cluster-1", 11);
    let gw = Gateway::start(&node, "up --slot 56");
    gw.client("listener add 172.16.8.60").exits(0);
    node.ok(&format!("ip addr del {FOREIGN} dev Overlay"));
    until("it is gone", || gw.status().listener("172.16.8.60").is_none());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(gw.status().listener("172.16.8.60"), None, "it is not brought back");
    node.ok(&format!("ip addr add {FOREIGN} dev Overlay"));
    until("it is learnt", || gw.status().listener("172.16.8.60") == Some("host"));
    gw.client("listener remove 172.16.8.60").exits(4);
    gw.stop();
    assert_eq!(node.addresses("Overlay"), [FOREIGN]);
}

fn down_clears_the_one_that_is_meant(world: &World) {
    let node = world.node("cluster-1", 11);
    let socket = "--control /run/overlay-gw/Lan.sock";
    let lan = format!("up --slot 172.20.4.64 --overlay 172.20.0.0/16 --device Lan --listen 51821 {socket}");
    let one = Gateway::start(&node, "up --slot 56");
    Gateway::start(&node, &lan).kill();
    client(&node, &format!("down {socket}")).exits(0);
    assert!(!node.has_link("Lan") && node.has_link("Overlay"));
    client(&node, &format!("down {socket}")).exits(3);
    node.reaches("172.16.8.56");
    // Both were killed: the socket says which one is meant.
    Gateway::start(&node, &lan).kill();
    one.kill();
    client(&node, &format!("down {socket}")).exits(0);
    assert!(!node.has_link("Lan") && node.has_link("Overlay"));
    client(&node, "down").exits(0);
    assert!(!node.has_link("Overlay"));
}

fn foreign_address_taken_away_is_not_brought_back(world: &World) {
    let node = world.node("cluster-1", 11);
    let gw = Gateway::start(&node, "up --slot 56");
    node.ok(&format!("ip addr add {FOREIGN} dev Overlay"));
    until("it is learnt", || gw.status().listener("172.16.8.60") == Some("host"));
    node.ok(&format!("ip addr del {FOREIGN} dev Overlay"));
    until("it is forgotten", || gw.status().listener("172.16.8.60").is_none());
    gw.kill();
    let gw = Gateway::start(&node, "up --slot 56");
    assert!(!node.addresses("Overlay").iter().any(|address| address == FOREIGN));
    assert_eq!(gw.status().listener("172.16.8.60"), None);
    gw.stop();
    assert!(!node.has_link("Overlay"));
}

fn members_leave_the_host_byte_for_byte_as_it_was(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64]);
    let hub = overlay.hub.node.clone();
    let node = overlay.node(56).node.clone();
    let (hub_before, node_before) = (HostState::of(&hub), HostState::of(&node));
    let file = &mut overlay.node_mut(56).file;
    file.line("[overlay]", "routes = [{ cidr = \"172.16.0.0/24\", via = \"hub-a\" }]");
    file.line("[overlay]", "dns = [\"172.16.0.1\"]");
    overlay.start();
    node.reaches(overlay.node(64).address());
    overlay.node(56).gw().client("listener add 172.16.8.59").exits(0);
    overlay.node(56).gw().client("listener add 172.16.8.61").exits(0);
    overlay.node(56).gw().client("listener remove 172.16.8.61").exits(0);
    overlay.node_mut(56).take().stop();
    overlay.hub.take().stop();
    node_before.unchanged(&node);
    hub_before.unchanged(&hub);
}

fn killed_at_any_moment_it_restarts_and_ends_clean(world: &World) {
    let node = world.node("cluster-1", 11);
    let before = HostState::of(&node);
    let mut random = Random(seed() | 1);
    let timed = Instant::now();
    Gateway::start(&node, "up --slot 56").stop();
    let whole = timed.elapsed().max(Duration::from_millis(20));
    before.unchanged(&node);
    for round in 0..if full() { 60 } else { 12 } {
        // From before anything was done to after everything was undone.
        let part = random.next();
        // Squared: most that can go wrong is in the first milliseconds.
        let at = whole.mul_f64(part * part);
        let stops = random.next() < 0.3;
        let start = Instant::now();
        let mut gw = Gateway::spawn(&node, "up --slot 56");
        if stops && part > 0.7 {
            gw.wait_ready();
            gw.process().signal(Signal::SIGINT);
            std::thread::sleep(at.saturating_sub(whole / 2));
        } else {
            std::thread::sleep(at.saturating_sub(start.elapsed()));
        }
        gw.kill();
        println!("round {round}: killed after {:?}; left: {:?}", start.elapsed(), node.addresses("Overlay"));
        if random.next() < 0.5 {
            let gw = Gateway::start(&node, "up --slot 56");
            node.reaches("172.16.8.56");
            gw.stop();
        } else {
            let done = client(&node, "down");
            assert!(matches!(done.code, Some(0 | 3)), "{}", done.both());
        }
        before.unchanged(&node);
    }
}

/// A random number generator (xorshift64*), for moments that a printed seed can repeat.
struct Random(u64);

impl Random {
    /// From 0 up to 1.
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
