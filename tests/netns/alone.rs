//! `overlay-gw up --slot 56` with no file at all: the device, the gateway, and what is left when it ends.

use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use overlay_tests::case;
use overlay_tests::gateway::{Gateway, client};
use overlay_tests::harness::Case;
use overlay_tests::host_state::HostState;
use overlay_tests::node::Node;
use overlay_tests::wait::until;
use overlay_tests::world::World;
use serde_json::Value;

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, up_with_no_file_makes_key_device_and_routes_and_answers),
        case!(functional, ctrl_c_leaves_the_host_as_it_was),
        case!(functional, sigterm_leaves_the_host_as_it_was),
        case!(functional, default_route_never_wins_over_the_hosts_own),
        case!(functional, second_up_says_who_runs_already),
        case!(functional, status_of_a_node_alone_is_ok),
        case!(functional, commands_without_a_service_exit_with_3),
        case!(functional, usage_errors_exit_with_4),
        case!(functional, control_socket_is_for_its_owner_only),
        case!(functional, control_socket_is_for_the_group_that_the_file_names),
        case!(functional, killed_service_is_adopted_with_its_device),
        case!(functional, persist_leaves_all_in_place_and_down_clears_it),
        case!(functional, down_ends_a_running_service),
        case!(functional, down_after_kill_clears_exactly_what_was_added),
        case!(functional, flags_choose_device_overlay_and_port),
        case!(functional, several_sockets_and_none_named_are_listed),
        case!(functional, key_is_made_once),
        case!(functional, a_state_folder_that_somebody_else_made_is_refused_and_left_alone),
        case!(functional, file_in_the_place_of_the_control_socket_is_left_alone),
        case!(functional, service_manager_is_told_ready),
    ]
}

/// Routes of the device, as `ip -j route` shows them, of all tables.
fn routes(node: &Node, device: &str) -> Vec<Value> {
    let all = node.json("ip -j -4 route show table all");
    all.as_array().unwrap().iter().filter(|route| route["dev"] == device).cloned().collect()
}

fn up_with_no_file_makes_key_device_and_routes_and_answers(world: &World) {
    let node = world.node("cluster-1", 11);
    let mut gw = Gateway::start(&node, "up --slot 56");
    assert!(gw.process().stderr().iter().any(|line| line == "ready"));
    assert_eq!(
        gw.process().stderr().iter().filter(|line| line.contains("ready")).count(),
        1,
        "once, and alone"
    );

    let key = "/var/lib/overlay-gw/Overlay/private.key";
    assert_eq!(node.ok(&format!("stat -c %a {key}")).trim(), "600");
    assert_eq!(node.ok(&format!("cat {key}")).trim().len(), 44, "base64 as `wg genkey` prints it");

    assert_eq!(node.addresses("Overlay"), ["172.16.8.57/29", "172.16.8.58/29"]);
    let link = node.json("ip -j -d link show dev Overlay");
    assert_eq!(link[0]["mtu"], 1420);
    assert_eq!(link[0]["linkinfo"]["info_kind"], "tun");
    assert_eq!(link[0]["linkinfo"]["info_data"]["type"], "tun");
    assert_eq!(node.sysctl("net/ipv4/conf/Overlay/promote_secondaries").as_deref(), Some("1"));

    let routes = routes(&node, "Overlay");
    assert!(routes.iter().any(|route| route["dst"] == "172.16.8.0/24"), "{routes:#?}");
    let default: Vec<_> = routes.iter().filter(|route| route["dst"] == "default").collect();
    assert_eq!(default.len(), 1, "{routes:#?}");
    assert_eq!(default[0]["gateway"], "172.16.8.56");
    assert_eq!(default[0]["metric"], 9999);

    node.reaches("172.16.8.56");
    node.reaches("172.16.8.57");
    node.reaches("172.16.8.58");
    gw.stop();
}

fn ctrl_c_leaves_the_host_as_it_was(world: &World) {
    ends_clean(world, Signal::SIGINT);
}

fn sigterm_leaves_the_host_as_it_was(world: &World) {
    ends_clean(world, Signal::SIGTERM);
}

#[track_caller]
fn ends_clean(world: &World, signal: Signal) {
    let node = world.node("cluster-1", 11);
    let before = HostState::of(&node);
    let gw = Gateway::start(&node, "up --slot 56");
    node.reaches("172.16.8.56");
    let ended = gw.end_by(signal);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(!node.has_link("Overlay"));
    assert_eq!(node.run("find /run/overlay-gw -name *.sock").stdout, "", "its control socket is gone");
    before.unchanged(&node);
}

fn default_route_never_wins_over_the_hosts_own(world: &World) {
    let node = world.node("cluster-1", 11);
    let internet = "ip -j route get 203.0.113.7";
    let before = node.json(internet);
    let gw = Gateway::start(&node, "up --slot 56");
    assert_eq!(node.json(internet), before);
    // A host whose own default route has a metric of its own, as DHCP clients and NetworkManager give.
    node.ok("ip route replace default via 10.99.0.254 dev eth0 metric 1024");
    assert_eq!(node.json(internet)[0]["dev"], "eth0");
    assert_eq!(node.json("ip -j route get 172.16.8.64")[0]["dev"], "Overlay");
    gw.stop();
}

fn second_up_says_who_runs_already(world: &World) {
    let node = world.node("cluster-1", 11);
    let mut gw = Gateway::start(&node, "up --slot 56");
    let second = client(&node, "up --slot 56").exits(4);
    let pid = gw.process().id().to_string();
    assert!(second.stderr.contains(&pid), "process {pid} is named: {}", second.stderr);
    assert!(second.stderr.contains("Overlay"), "{}", second.stderr);
    assert!(!second.stderr.lines().any(|line| line == "ready"), "{}", second.stderr);
    assert_eq!(node.addresses("Overlay"), ["172.16.8.57/29", "172.16.8.58/29"]);
    node.reaches("172.16.8.56");
    gw.stop();
}

fn status_of_a_node_alone_is_ok(world: &World) {
    let node = world.node("cluster-1", 11);
    let gw = Gateway::start(&node, "up --slot 56");
    let shown = gw.client("status --json").exits(0).json();
    assert_eq!(shown["version"], 1);
    assert_eq!(shown["role"], "node");
    assert_eq!(shown["instance"], "Overlay");
    assert_eq!(shown["state"], "ok");
    assert_eq!(shown["overlay"], "172.16.8.0/24");
    assert_eq!(shown["slot"], "172.16.8.56/29");
    assert_eq!(shown["gateway"], "172.16.8.56");
    assert_eq!(shown["address"], "172.16.8.57");
    assert!(shown["name"].is_string(), "{shown:#}");
    assert!(shown["uptime_s"].as_f64().unwrap() >= 0.0);
    assert_eq!(shown["device"]["name"], "Overlay");
    assert_eq!(shown["device"]["mode"], "tun");
    assert_eq!(shown["device"]["mtu"], 1420);
    assert_eq!(shown["device"]["adopted"], false);
    assert_eq!(shown["listeners"], Value::Array(vec![]));
    assert_eq!(shown["peers"], Value::Array(vec![]));
    assert!(shown["drops"].is_object() && shown["warnings"].is_array(), "{shown:#}");
    let table = gw.client("status").exits(0).stdout;
    assert!(table.contains("172.16.8.56") && table.contains("Overlay"), "{table}");
    gw.stop();
}

fn commands_without_a_service_exit_with_3(world: &World) {
    let node = world.node("cluster-1", 11);
    for command in ["status", "status --json", "listener list", "listener add 172.16.8.59", "reload", "down"]
    {
        let done = client(&node, command).exits(3);
        assert!(!done.stderr.trim().is_empty(), "`{command}` says that no service runs");
    }
}

fn usage_errors_exit_with_4(world: &World) {
    let node = world.node("cluster-1", 11);
    for command in [
        "",
        "upp",
        "up --slto 56",
        "up --slot",
        "listener",
        "listener add",
        "up --config",
        "up --mode bridge --slot 56",
    ] {
        client(&node, command).exits(4);
    }
    for command in ["--help", "--version", "up --help"] {
        client(&node, command).exits(0);
    }
    assert!(!node.has_link("Overlay"));
}

fn control_socket_is_for_its_owner_only(world: &World) {
    let node = world.node("cluster-1", 11);
    let gw = Gateway::start(&node, "up --slot 56");
    assert_eq!(node.ok("stat -c %a:%u:%F /run/overlay-gw/Overlay.sock").trim(), "600:0:socket");
    gw.stop();
}

fn control_socket_is_for_the_group_that_the_file_names(world: &World) {
    let node = world.node("cluster-1", 11);
    let file = |group: &str| {
        let text =
            format!("version = 1\n[node]\nname = \"cluster-1\"\nslot = 56\n[control]\ngroup = \"{group}\"\n");
        node.write("config.toml", &text).display().to_string()
    };
    let refused = client(&node, &format!("up --config {}", file("no-such-group"))).exits(4);
    assert!(refused.stderr.contains("no-such-group"), "{}", refused.stderr);
    let gw = Gateway::start(&node, &format!("up --config {}", file("daemon")));
    assert_eq!(node.ok("stat -c %a:%U:%G /run/overlay-gw/Overlay.sock").trim(), "660:root:daemon");
    let peers = client(&node, "peer list --json").exits(0).json();
    assert_eq!(peers, serde_json::json!([]));
    gw.stop();
}

fn killed_service_is_adopted_with_its_device(world: &World) {
    let node = world.node("cluster-1", 11);
    let before = HostState::of(&node);
    let gw = Gateway::start(&node, "up --slot 56");
    let index = node.json("ip -j link show dev Overlay")[0]["ifindex"].clone();
    gw.kill();
    assert!(node.has_link("Overlay"), "the device outlives the process");
    assert_eq!(node.addresses("Overlay"), ["172.16.8.57/29", "172.16.8.58/29"]);
    client(&node, "status").exits(3);
    let gw = Gateway::start(&node, "up --slot 56");
    assert_eq!(node.json("ip -j link show dev Overlay")[0]["ifindex"], index, "the same device");
    assert_eq!(gw.status().0["device"]["adopted"], true);
    assert_eq!(node.addresses("Overlay"), ["172.16.8.57/29", "172.16.8.58/29"]);
    node.reaches("172.16.8.56");
    gw.stop();
    before.unchanged(&node);
}

fn persist_leaves_all_in_place_and_down_clears_it(world: &World) {
    let node = world.node("cluster-1", 11);
    let before = HostState::of(&node);
    let gw = Gateway::start(&node, "up --slot 56 --persist");
    gw.client("listener add 172.16.8.59").exits(0);
    let shown = routes(&node, "Overlay").len();
    gw.stop();
    assert_eq!(node.addresses("Overlay"), ["172.16.8.57/29", "172.16.8.58/29", "172.16.8.59/29"]);
    assert!(!node.has_carrier("Overlay"));
    let gw = Gateway::start(&node, "up --slot 56 --persist");
    assert_eq!(gw.status().0["device"]["adopted"], true);
    assert_eq!(gw.status().listener("172.16.8.59"), Some("command"), "still ours");
    assert_eq!(routes(&node, "Overlay").len(), shown);
    node.reaches("172.16.8.56");
    gw.stop();
    client(&node, "down").exits(0);
    before.unchanged(&node);
    client(&node, "down").exits(3);
}

fn down_ends_a_running_service(world: &World) {
    let node = world.node("cluster-1", 11);
    let before = HostState::of(&node);
    let mut gw = Gateway::start(&node, "up --slot 56 --persist");
    client(&node, "down").exits(0);
    let ended = gw.wait_end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    before.unchanged(&node);
}

fn down_after_kill_clears_exactly_what_was_added(world: &World) {
    let node = world.node("cluster-1", 11);
    let before = HostState::of(&node);
    let gw = Gateway::start(&node, "up --slot 56");
    gw.kill();
    client(&node, "down").exits(0);
    before.unchanged(&node);
    client(&node, "down").exits(3);
}

fn flags_choose_device_overlay_and_port(world: &World) {
    let node = world.node("cluster-1", 11);
    let before = HostState::of(&node);
    let gw =
        Gateway::start(&node, "up --slot 172.20.4.64 --overlay 172.20.0.0/16 --device Lan --listen 51900");
    assert_eq!(node.addresses("Lan"), ["172.20.4.65/29", "172.20.4.66/29"]);
    assert!(routes(&node, "Lan").iter().any(|route| route["dst"] == "172.20.0.0/16"));
    assert!(node.ok("ss -Huln").contains(":51900"), "{}", node.ok("ss -Huln"));
    node.reaches("172.20.4.64");
    let status = gw.client("status --json --control /run/overlay-gw/Lan.sock").exits(0).json();
    assert_eq!(status["slot"], "172.20.4.64/29");
    gw.stop();
    let gw = Gateway::start(&node, "up --slot 56 --listen 10.99.0.11:51901");
    assert!(node.ok("ss -Huln").contains("10.99.0.11:51901"));
    gw.stop();
    before.unchanged(&node);
}

fn several_sockets_and_none_named_are_listed(world: &World) {
    let node = world.node("cluster-1", 11);
    let one = Gateway::start(&node, "up --slot 56");
    let two = Gateway::start(&node, "up --slot 172.20.4.64 --overlay 172.20.0.0/16 --device Lan");
    let lost = client(&node, "status").exits(4);
    assert!(lost.stderr.contains("Overlay.sock") && lost.stderr.contains("Lan.sock"), "{}", lost.stderr);
    client(&node, "status --control /run/overlay-gw/Lan.sock").exits(0);
    two.stop();
    client(&node, "status").exits(0);
    one.stop();
}

fn a_state_folder_that_somebody_else_made_is_refused_and_left_alone(world: &World) {
    let node = world.node("cluster-1", 11);
    let folder = "/run/planted";
    // Whoever made it knows this key, and would be the node; and the record names what is not ours to undo.
    node.ok(&format!("mkdir -m 755 {folder}"));
    let key = node.write("private.key", "QFLAmLRE8lhmRbqe0jy1/v0q9OsXk4HP0yfZUuMWNVY=\n");
    node.ok(&format!("install -m 600 {} {folder}/private.key", key.display()));
    node.ok(&format!("chown -R 1000:1000 {folder}"));
    let all = || node.ok(&format!("find {folder} -printf %P:%s:%U:%m:%T@\\n"));
    let before = all();
    for command in ["up --slot 56", "down"] {
        let refused = client(&node, &format!("{command} --state-dir {folder}"));
        assert_eq!(refused.code, Some(4), "{command}: {}", refused.both());
        let said = "the state folder /run/planted is not used: /run/planted belongs to user 1000";
        assert!(refused.stderr.contains(said), "{command}: {}", refused.stderr);
    }
    assert_eq!(all(), before);
    assert!(!node.has_link("Overlay"));
    // Given to root it is as good as any.
    node.ok(&format!("chown -R 0:0 {folder}"));
    Gateway::start(&node, &format!("up --slot 56 --state-dir {folder}")).stop();
}

fn file_in_the_place_of_the_control_socket_is_left_alone(world: &World) {
    let node = world.node("cluster-1", 11);
    let file = node.write("precious", "of somebody else");
    let mut gw = Gateway::spawn(&node, &format!("up --slot 56 --control {}", file.display()));
    let ended = gw.wait_end();
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    assert_eq!(node.ok(&format!("cat {}", file.display())), "of somebody else");
    assert!(!node.has_link("Overlay"));
}

fn key_is_made_once(world: &World) {
    let node = world.node("cluster-1", 11);
    let key = "cat /var/lib/overlay-gw/Overlay/private.key";
    Gateway::start(&node, "up --slot 56").stop();
    let made = node.ok(key);
    Gateway::start(&node, "up --slot 56").stop();
    assert_eq!(node.ok(key), made);
    let gw = Gateway::start(&node, "up --slot 56 --state-dir /run/elsewhere");
    assert_eq!(node.ok("stat -c %a /run/elsewhere/private.key").trim(), "600");
    gw.stop();
}

fn service_manager_is_told_ready(world: &World) {
    let node = world.node("cluster-1", 11);
    let path = world.path("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut gw = Gateway::spawn_with(&node, "up --slot 56", |command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    gw.wait_ready();
    let mut told = String::new();
    let mut hear = || {
        let mut buffer = [0; 4096];
        while let Ok(length) = socket.recv(&mut buffer) {
            told.push_str(&String::from_utf8_lossy(&buffer[..length]));
            told.push('\n');
        }
        told.clone()
    };
    until("READY=1 is told", || hear().lines().any(|line| line == "READY=1"));
    gw.stop();
    assert!(hear().lines().any(|line| line == "STOPPING=1"), "{}", hear());
}
