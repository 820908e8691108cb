//! Config files while the service runs and before: what `reload` changes and leaves alone, and mistakes that change nothing.

use std::net::{Ipv4Addr, SocketAddrV4};

use overlay_tests::case;
use overlay_tests::flow::Flow;
use overlay_tests::gateway::client;
use overlay_tests::harness::Case;
use overlay_tests::host_state::HostState;
use overlay_tests::keys::Keys;
use overlay_tests::overlay::{HUB, Overlay};
use overlay_tests::wait::until;
use overlay_tests::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, reload_adds_and_removes_members_and_routes),
        case!(functional, hangup_reloads_and_a_dns_server_without_resolved_is_a_warning),
        case!(functional, reload_of_an_invalid_file_changes_nothing),
        case!(functional, mistakes_are_reported_with_their_place_and_change_nothing),
        case!(functional, several_mistakes_are_reported_in_one_go),
        case!(functional, missing_and_binary_files_are_reported),
        case!(functional, overlay_that_overlaps_the_host_is_refused),
        case!(timed, reload_loses_nothing_of_what_did_not_change),
    ]
}

fn reload_adds_and_removes_members_and_routes(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64, 72]);
    let whole = overlay.hub.file.clone();
    // At first the hub knows nothing of the last one.
    let text = whole.text();
    let start = text.rfind("[[peers]]").unwrap();
    overlay.hub.write();
    let config = overlay.hub.node.write("config.toml", &text[..start]);
    let hub = overlay_tests::gateway::Gateway::hub(&overlay.hub.node, &config);
    for member in &mut overlay.nodes {
        member.start();
    }
    overlay.node(56).gw().wait_session(HUB);
    overlay.node(64).gw().wait_session(HUB);
    assert!(hub.status().peer("cluster-72").is_none());
    overlay.hub.node.write("config.toml", &text);
    hub.client("reload").exits(0);
    hub.wait_session("cluster-72");
    overlay.node(72).node.reaches("172.16.8.57");
    overlay.hub.node.write("config.toml", &text[..start]);
    hub.client("reload").exits(0);
    assert!(hub.status().peer("cluster-72").is_none());
    until("it is out", || !overlay.node(72).node.pings("172.16.8.57"));
    overlay.node(56).node.reaches("172.16.8.65");

    let member = overlay.node_mut(56);
    let route = "ip route show 172.16.0.0/24";
    assert_eq!(member.node.ok(route), "");
    let plain = member.file.clone();
    member.file.section("[device]", &["mtu = 1300"]);
    member.write();
    let said = member.gw().client("reload").exits(0);
    assert!(said.stdout.contains("mtu 1300"), "{}", said.both());
    member.file = plain.clone();
    member.write();
    member.gw().client("reload").exits(0);
    member.file.line("[overlay]", "routes = [{ cidr = \"172.16.0.0/24\", via = \"hub-a\" }]");
    member.write();
    member.gw().client("reload").exits(0);
    assert!(member.node.ok(route).contains("dev Overlay"), "{}", member.node.ok("ip route"));
    member.file = plain;
    member.write();
    member.gw().client("reload").exits(0);
    assert_eq!(member.node.ok(route), "");
    hub.stop();
}

fn hangup_reloads_and_a_dns_server_without_resolved_is_a_warning(world: &World) {
    let mut overlay = Overlay::started(world, &[56]);
    let member = overlay.node_mut(56);
    member.file.line("[overlay]", "dns = [\"172.16.8.65\"]");
    member.write();
    let resolv_conf = member.node.ok("cat /etc/resolv.conf");
    let hangup = format!("kill -HUP {}", member.gw().status().0["pid"]);
    member.node.ok(&hangup);
    let warned = |status: overlay_tests::gateway::Status| {
        status.0["warnings"].as_array().unwrap().iter().any(|warning| warning["code"] == "no_resolved")
    };
    until("the warning is in the status", || warned(member.gw().status()));
    assert!(member.gw().status().session(HUB));
    assert_eq!(member.node.ok("cat /etc/resolv.conf"), resolv_conf, "never rewritten");
    member.file.replace("dns", "");
    member.write();
    member.node.ok(&hangup);
    until("it is gone", || !warned(member.gw().status()));
}

fn reload_of_an_invalid_file_changes_nothing(world: &World) {
    let mut overlay = Overlay::started(world, &[56, 64]);
    overlay.node(56).node.reaches("172.16.8.65");
    let hub_text = overlay.hub.file.text();
    for (slot, broken) in [(Some(56), "mut = 1400"), (None, "listen_prot = 1")] {
        let member = match slot {
            Some(slot) => overlay.node_mut(slot),
            None => &mut overlay.hub,
        };
        let before = HostState::of(&member.node);
        let mut file = member.file.clone();
        file.section("[device]", &[broken]);
        let config = member.node.write("config.toml", &file.text());
        let refused = member.gw().client("reload").exits(4);
        assert!(
            refused.stderr.contains(&format!("{}:", config.file_name().unwrap().display())),
            "{}",
            refused.stderr
        );
        before.unchanged(&member.node);
        assert!(member.gw().process_runs());
    }
    overlay.hub.node.write("config.toml", &hub_text);
    overlay.node(56).node.reaches("172.16.8.65");
    let status = overlay.node(56).gw().status();
    assert!(status.session(HUB));
}

/// The first place `file:line:column` that a report names, for files called `config.toml`.
fn place(report: &str) -> Option<(usize, usize)> {
    let (_, rest) = report.split_once("config.toml:")?;
    let mut numbers = rest.split(':');
    Some((numbers.next()?.trim().parse().ok()?, numbers.next()?.trim().parse().ok()?))
}

fn mistakes_are_reported_with_their_place_and_change_nothing(world: &World) {
    let overlay = Overlay::plan(world, &[56, 64]);
    let member = overlay.node(56);
    let before = HostState::of(&member.node);
    let other = Keys::new();
    let own = member.keys.public.as_str();
    let hub = overlay.hub.keys.public.as_str();
    let peer = |public: &str, more: &str| {
        format!("[[peers]]\nname = \"other\"\npublic_key = \"{public}\"\n{more}\n")
    };
    let text = member.file.text();
    // What is changed in a valid file, and a word of the line that is to blame, and of the report.
    let mistakes: Vec<(String, &str, &str)> = vec![
        (text.replace("slot = 56", "slot = 57"), "slot = 57", "57"),
        (text.replace("slot = 56", "slot = \"10.1.2.8\""), "slot = \"10.1.2.8\"", "10.1.2.8"),
        (text.replace("slot = 56", "slto = 56"), "slto", "slot"),
        (text.replace("listen_port", "listenport"), "listenport", "listen_port"),
        (text.replace("[overlay]", "[ovrelay]"), "[ovrelay]", "overlay"),
        (text.replace("version = 1", "version = 2"), "version", "2"),
        (text.replace(hub, "AAAA"), "AAAA", "AAAA"),
        (text.replace(hub, own), own, own),
        (text.replace("10.99.0.1:51820", "172.16.8.65:51820"), "172.16.8.65", "172.16.8.65"),
        (text.replace("10.99.0.1:51820", "10.99.0.1"), "endpoint", "10.99.0.1"),
        (text.replace("[[hubs]]", "[device]\nmode = \"bridge\"\n\n[[hubs]]"), "bridge", "bridge"),
        (text.replace("[[hubs]]", "[device]\nmtu = 70000\n\n[[hubs]]"), "70000", "70000"),
        (text.replace("[[hubs]]", "dns = [\"172.16.8.56\"]\n\n[[hubs]]"), "dns", "172.16.8.56"),
        (text.replace("[[hubs]]", "dns = [\"172.16.8.63\"]\n\n[[hubs]]"), "dns", "172.16.8.63"),
        (
            text.replace("[[hubs]]", "routes = [{ cidr = \"172.16.0.0/24\", via = \"hub-b\" }]\n\n[[hubs]]"),
            "routes",
            "hub-b",
        ),
        (text.clone() + &peer(hub, "slot = 64"), hub, hub),
        (text.clone() + &peer(&other.public, "slot = 56"), "slot = 56", "56"),
        (text.clone() + &peer(&other.public, "slot = 64\nendpont = \"10.99.0.9:1\""), "endpont", "endpoint"),
    ];
    for (changed, blamed, said) in mistakes {
        assert_ne!(changed, text, "{blamed} is a change");
        member.write();
        let config = member.node.write("config.toml", &changed);
        let refused = client(&member.node, &format!("up --config {}", config.display())).exits(4);
        assert!(refused.stderr.contains(said), "{said} is named: {}\n{changed}", refused.stderr);
        let (line, column) =
            place(&refused.stderr).unwrap_or_else(|| panic!("a place: {}\n{changed}", refused.stderr));
        let lines: Vec<&str> = changed.lines().collect();
        // A mistake that two lines make together may be shown at either.
        let shown = lines.get(line - 1).copied().unwrap_or("(no such line)");
        assert!(
            shown.contains(blamed) || refused.stderr.contains(blamed),
            "line {line} is {shown:?}: {}",
            refused.stderr
        );
        assert!(column >= 1 && column <= shown.len() + 1, "column {column} of {shown:?}");
        assert!(!refused.stderr.lines().any(|line| line == "ready"));
        assert!(!member.node.has_link("Overlay"), "nothing was changed");
    }
    before.unchanged(&member.node);
}

fn several_mistakes_are_reported_in_one_go(world: &World) {
    let overlay = Overlay::plan(world, &[56]);
    let member = overlay.node(56);
    member.write();
    let text = member.file.text().replace("slot = 56", "slot = 57").replace("listen_port", "listenport");
    let config = member.node.write("config.toml", &text.replace(&overlay.hub.keys.public, "short"));
    let refused = client(&member.node, &format!("up --config {}", config.display())).exits(4);
    let places = refused.stderr.matches("config.toml:").count();
    assert!(places >= 3, "three mistakes, three places: {}", refused.stderr);
}

fn missing_and_binary_files_are_reported(world: &World) {
    let overlay = Overlay::plan(world, &[56]);
    let member = overlay.node(56);
    let before = HostState::of(&member.node);
    let config = member.write();
    let up = format!("up --config {}", config.display());

    std::fs::remove_file(member.node.path("private.key")).unwrap();
    let refused = client(&member.node, &up).exits(4);
    assert!(refused.stderr.contains("private.key"), "{}", refused.stderr);
    member.node.write("private.key", "not a key\n");
    let refused = client(&member.node, &up).exits(4);
    assert!(refused.stderr.contains("private.key"), "{}", refused.stderr);
    assert!(
        !refused.stderr.contains("not a key"),
        "what is in a key's file is never shown: {}",
        refused.stderr
    );
    member.write();
    member.node.ok(&format!("chmod 644 {}", member.node.path("private.key").display()));
    let refused = client(&member.node, &up).exits(4);
    assert!(refused.stderr.contains("private.key"), "others may read it: {}", refused.stderr);
    member.node.ok(&format!("chmod 600 {}", member.node.path("private.key").display()));

    std::fs::write(&config, [0x7f, b'E', b'L', b'F', 0, 0xff, 0xfe]).unwrap();
    let refused = client(&member.node, &up).exits(4);
    assert!(refused.stderr.contains("config.toml"), "{}", refused.stderr);
    let refused = client(&member.node, "up --config /run/absent.toml").exits(4);
    assert!(refused.stderr.contains("/run/absent.toml"), "{}", refused.stderr);
    let refused = client(&member.node, "up --config /run").exits(4);
    assert!(refused.stderr.contains("/run"), "{}", refused.stderr);
    before.unchanged(&member.node);
}

fn overlay_that_overlaps_the_host_is_refused(world: &World) {
    let node = world.node("cluster-1", 11);
    let before = HostState::of(&node);
    let refused = client(&node, "up --slot 10.99.0.56 --overlay 10.99.0.0/24").exits(4);
    assert!(refused.stderr.contains("eth0") && refused.stderr.contains("10.99.0.11"), "{}", refused.stderr);
    before.unchanged(&node);
}

fn reload_loses_nothing_of_what_did_not_change(world: &World) {
    let mut overlay = Overlay::started(world, &[56, 64]);
    overlay.node(56).node.reaches("172.16.8.65");
    let address = |last| SocketAddrV4::new(Ipv4Addr::new(172, 16, 8, last), 3343);
    let (node, other) = (overlay.node(56).node.clone(), overlay.node(64).node.clone());
    let there = Flow::start(&node, None, &other, address(65), 1000);
    let back = Flow::start(&other, None, &node, address(57), 1000);
    there.wait_more(300);
    let index = node.json("ip -j link show dev Overlay")[0]["ifindex"].clone();
    let age = overlay.node(56).gw().status().handshake_age(HUB).unwrap();
    let absent = Keys::new();
    for round in 0..5 {
        let member = overlay.node_mut(56);
        member.file.section(
            "[[peers]]",
            &[
                &format!("name = \"other-{round}\""),
                &format!("public_key = \"{}\"", Keys::new().public),
                &format!("slot = {}", 80 + 8 * round),
                "endpoint = \"10.99.0.77:51820\"",
            ],
        );
        member.write();
        member.gw().client("reload").exits(0);
        overlay.hub.file.section(
            "[[peers]]",
            &[
                &format!("name = \"other-{round}\""),
                &format!(
                    "public_key = \"{}\"",
                    if round == 0 { absent.public.clone() } else { Keys::new().public }
                ),
                &format!("slot = {}", 80 + 8 * round),
            ],
        );
        overlay.hub.write();
        overlay.hub.gw().client("reload").exits(0);
        there.wait_more(100);
    }
    let status = overlay.node(56).gw().status();
    assert!(status.peer("other-4").is_some(), "{:#}", status.0);
    assert!(status.handshake_age(HUB).unwrap() > age, "the session is the one of before");
    assert_eq!(node.json("ip -j link show dev Overlay")[0]["ifindex"], index);
    for flow in [there, back] {
        flow.stop().nothing_lost();
    }
}
