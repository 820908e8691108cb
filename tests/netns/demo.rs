//! `overlay-gw demo`: the whole product in a minute, and nothing left of it.

use std::time::Duration;

use nix::sys::signal::Signal;
use overlay_tests::case;
use overlay_tests::gateway::Gateway;
use overlay_tests::harness::{Case, program, skip};
use overlay_tests::host_state::HostState;
use overlay_tests::node::Node;
use overlay_tests::process::run;
use overlay_tests::wait::until;
use overlay_tests::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, demo_shows_the_product_and_cleans_up),
        case!(functional, demo_is_ended_by_ctrl_c_at_any_moment),
        case!(functional, demo_keep_stays_until_ctrl_c),
        case!(functional, demo_works_without_root),
    ]
}

fn processes(node: &Node) -> usize {
    node.run("pgrep -c overlay-gw").stdout.trim().parse().unwrap_or(0)
}

fn demo_shows_the_product_and_cleans_up(world: &World) {
    let node = world.node("laptop", 11);
    let before = HostState::of(&node);
    let mut command = node.command(program());
    command.arg("demo");
    let shown = run(command, "overlay-gw demo", Duration::from_secs(120)).exits(0);
    let said = shown.both();
    for part in ["172.16.8.56", "172.16.8.65", "172.16.8.59"] {
        assert!(said.contains(part), "{part} is shown:\n{said}");
    }
    assert_eq!(processes(&node), 0, "no process is left");
    before.unchanged(&node);
}

fn demo_is_ended_by_ctrl_c_at_any_moment(world: &World) {
    let node = world.node("laptop", 11);
    let before = HostState::of(&node);
    for lines in [1, 3, 6] {
        let mut demo = Gateway::spawn(&node, "demo");
        until("it has said something", || {
            let process = demo.process();
            let said = process.stdout().len() + process.stderr().len();
            assert!(said >= lines || process.runs(), "{}", process.said());
            said >= lines
        });
        let ended = demo.end_by(Signal::SIGINT);
        assert!(matches!(ended.code, Some(0 | 1)), "it ends in order: {:?} {}", ended.code, ended.stderr);
        until("no process is left", || processes(&node) == 0);
        before.unchanged(&node);
    }
}

fn demo_keep_stays_until_ctrl_c(world: &World) {
    let node = world.node("laptop", 11);
    let before = HostState::of(&node);
    let mut demo = Gateway::spawn(&node, "demo --keep");
    until("it says that it waits", || {
        let said = demo.process().said();
        said.contains("Ctrl-C") && said.contains("172.16.8.59")
    });
    assert!(demo.process().runs());
    let ended = demo.end_by(Signal::SIGINT);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    until("no process is left", || processes(&node) == 0);
    before.unchanged(&node);
}

fn demo_works_without_root(world: &World) {
    let node = world.node("laptop", 11);
    // nobody, with no capability at all, as on a desktop, where everybody may open /dev/net/tun.
    let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups";
    let holds = node.run(&format!("{nobody} unshare --user --map-root-user --net true"));
    if holds.code != Some(0) {
        skip(&format!("this kernel gives no user namespace to nobody: {}", holds.stderr.trim()));
    }
    node.ok("mknod -m 666 /run/tun c 10 200");
    node.ok("mount --bind /run/tun /dev/net/tun");
    // The program itself may lie where only root looks.
    node.ok(&format!("cp {} /run/overlay-gw-demo", program().display()));
    node.ok("chmod 755 /run/overlay-gw-demo");
    let shown =
        node.run_in(Duration::from_secs(120), &format!("{nobody} /run/overlay-gw-demo demo")).exits(0);
    assert!(shown.both().contains("172.16.8.56"), "{}", shown.both());
}
