//! One node alone: its gateway, what it wants of the host, its key, its listeners.

use std::fs;

use overlay_tests::case;
use overlay_tests::harness::Case;
use overlay_tests::overlay::Overlay;
use overlay_tests::wait::{until, until_in};
use overlay_tests::world::World;
use serde_json::json;
use std::time::Duration;

use crate::wine::{WineNode, windows_path};

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, gateway_answers_and_down_undoes_everything),
        case!(functional, listeners_come_by_the_pipe_and_by_the_cluster),
        case!(functional, network_that_stays_public_is_a_warning_of_status),
        case!(functional, dns_servers_that_somebody_else_has_set_stay_and_are_a_warning),
        case!(functional, bad_input_ends_with_4_before_anything_is_changed),
    ]
}

/// What domain.md demands of the host, in the order in which it is made: the recipe's first node.
fn demanded() -> Vec<serde_json::Value> {
    let interface = |setting| json!({ "change": "interface", "setting": setting });
    let route = |destination: &str, via: Option<&str>, metric: Option<u32>, on_link: bool| {
        json!({ "change": "route", "destination": destination, "via": via, "source": null, "metric": metric,
                "on_link": on_link })
    };
    let rule = |name: &str, purpose: &str, protocol: u8, ports: Option<&str>| {
        json!({ "change": "firewall",
                "rule": { "name": name, "purpose": purpose, "protocol": protocol, "local_ports": ports } })
    };
    vec![
        interface(json!({ "name": "dad_transmits", "count": 0 })),
        interface(json!({ "name": "no_router_discovery" })),
        interface(json!({ "name": "strong_host" })),
        interface(json!({ "name": "metric", "metric": 9999 })),
        interface(json!({ "name": "nl_mtu", "bytes": 1420 })),
        json!({ "change": "address", "net": "172.16.8.57/29" }),
        json!({ "change": "quiet_address", "net": "172.16.8.58/29" }),
        route("172.16.8.0/24", None, None, false),
        route("0.0.0.0/0", Some("172.16.8.56"), Some(9999), true),
        json!({ "change": "private_network" }),
        rule("ICMP", "Cluster validation pings the nodes.", 1, None),
        rule("cluster (UDP 3343)", "Heartbeats of the failover cluster.", 17, Some("3343")),
        rule("cluster (TCP 3343)", "Nodes that join the failover cluster.", 6, Some("3343")),
        rule("SMB (TCP 445)", "File shares of cluster, witness and validation.", 6, Some("445")),
        rule("RPC endpoint mapper (TCP 135)", "Where RPC services are found.", 6, Some("RPC-EPMap")),
        rule("RPC (dynamic ports)", "Cluster administration and validation.", 6, Some("RPC")),
    ]
}

fn gateway_answers_and_down_undoes_everything(world: &World) {
    let windows = WineNode::new(world.node("w", 11), Some(56));
    let mut up = windows.start("up --slot 56");
    windows.node.reaches("172.16.8.56");
    assert_eq!(windows.held(), demanded());
    // The GUID is that of overlay and slot; the ring has 16 MiB.
    let wintun = windows.wintun();
    assert_eq!(
        wintun,
        [
            "create Overlay overlay-gw 6f766777181d800080000000ac100838",
            "open Overlay",
            "session Overlay ring 16777216"
        ]
    );
    let status = windows.status();
    let driver = status.0["device"]["driver"].as_str().unwrap();
    assert!(driver.contains("a double for tests"), "{driver}");
    // The key is sealed, and the same at the next start.
    let key = fs::read(windows.drive_c("ProgramData/overlay-gw/state/Overlay/private.key")).unwrap();
    assert!(key.starts_with(b"overlay-gw DPAPI 1"), "{:?}", String::from_utf8_lossy(&key));
    let public = status.0["public_key"].clone();
    // Who comes second is told who is there.
    let second = windows.run("up --slot 56").exits(4);
    assert!(second.stderr.contains("already runs"), "{}", second.stderr);

    let down = windows.run("down").exits(0);
    assert!(down.stdout.contains("removed  device Overlay"), "{}", down.stdout);
    assert_eq!(up.wait(Duration::from_secs(20)), Some(0));
    assert_eq!(windows.held(), Vec::<serde_json::Value>::new());
    windows.wait_wintun("close Overlay remove", 1);
    assert_eq!(windows.count_wintun("misuse"), 0, "{:?}", windows.wintun());
    windows.run("down").exits(3);
    windows.run("status").exits(3);

    let _up = windows.start("up --slot 56");
    assert_eq!(windows.status().0["public_key"], public);
}

fn listeners_come_by_the_pipe_and_by_the_cluster(world: &World) {
    let windows = WineNode::new(world.node("w", 11), Some(56));
    let mut up = windows.start("up --slot 56");
    windows.run("listener add 172.16.8.59").exits(0);
    assert_eq!(windows.status().listener("172.16.8.59"), Some("command"));
    let quiet = json!({ "change": "quiet_address", "net": "172.16.8.59/29" });
    assert!(
        windows.held().contains(&quiet),
        "the host's own connections do not come from it: {:?}",
        windows.held()
    );
    assert!(windows.run("listener add 172.16.8.64").exits(4).stderr.contains("not in this node's slot"));
    windows.cluster_addresses(&["172.16.8.60/29"]);
    until_in(Duration::from_secs(3), "the cluster's address is learnt", || {
        windows.status().listener("172.16.8.60") == Some("host")
    });
    assert!(windows.run("listener remove 172.16.8.60").exits(4).stderr.contains("not ours to remove"));
    windows.run("listener remove 172.16.8.59").exits(0);
    assert_eq!(windows.status().listener("172.16.8.59"), None);
    // A foreign address keeps the adapter.
    let down = windows.run("down").exits(0);
    assert!(down.stdout.contains("kept     172.16.8.60/29"), "{}", down.stdout);
    assert_eq!(up.wait(Duration::from_secs(20)), Some(0));
    assert_eq!(windows.count_wintun("close Overlay remove"), 0);
    // The next start adopts it; when the cluster's address is gone, so is the adapter at last.
    let mut up = windows.start("up --slot 56");
    assert_eq!(windows.status().0["device"]["adopted"], true);
    windows.cluster_addresses(&[]);
    until("it is forgotten", || windows.status().listener("172.16.8.60").is_none());
    windows.run("down").exits(0);
    assert_eq!(up.wait(Duration::from_secs(20)), Some(0));
    windows.wait_wintun("close Overlay remove", 1);
}

fn network_that_stays_public_is_a_warning_of_status(world: &World) {
    let windows = WineNode::new(world.node("w", 11), Some(56));
    // The double of the host says what Windows would.
    fs::write(windows.doubles.join("public-network"), "the adapter's network stays Public").unwrap();
    let _up = windows.start("up --slot 56");
    let status = windows.status();
    let warnings = status.0["warnings"].as_array().unwrap();
    let warning = warnings.iter().find(|warning| warning["code"] == "network-not-private");
    let warning = warning.unwrap_or_else(|| panic!("{:#}", status.0));
    assert!(warning["text"].as_str().unwrap().contains("stays Public"), "{warning}");
    assert!(warning["fix"].as_str().unwrap().contains("Set-NetConnectionProfile"), "{warning}");
    windows.run("down").exits(0);
    fs::remove_file(windows.doubles.join("public-network")).unwrap();
    let _up = windows.start("up --slot 56");
    assert!(!windows.status().0["warnings"].to_string().contains("network-not-private"));
}

fn dns_servers_that_somebody_else_has_set_stay_and_are_a_warning(world: &World) {
    let overlay = Overlay::plan(world, &[56]);
    let windows = WineNode::new(overlay.node(56).node.clone(), Some(56));
    let up = windows.config(56, &overlay.node(56).keys, &overlay.node(56).file);
    let file = windows.node.path("config.toml");
    let text =
        fs::read_to_string(&file).unwrap().replace("[overlay]\n", "[overlay]\ndns = [\"172.16.8.1\"]\n");
    fs::write(&file, text).unwrap();
    let foreign = windows.doubles.join("dns.txt");
    fs::write(&foreign, "9.9.9.9\n").unwrap();
    let _up = windows.start(&up);
    let dns = || windows.held().into_iter().find(|change| change["change"] == "dns");
    let warned = || windows.status().0["warnings"].to_string().contains("other_dns_servers");
    assert!(warned());
    assert_eq!(dns(), None);
    fs::remove_file(&foreign).unwrap();
    windows.run("reload").exits(0);
    assert!(!warned());
    assert_eq!(dns().unwrap()["servers"], json!(["172.16.8.1"]));
    windows.run("down").exits(0);
    assert_eq!(dns(), None);
}

fn bad_input_ends_with_4_before_anything_is_changed(world: &World) {
    let windows = WineNode::new(world.node("w", 11), Some(56));
    let refused = |arguments: &str, why: &str| {
        let shown = windows.run(arguments).exits(4);
        assert!(shown.stderr.contains(why), "{arguments}: {}", shown.stderr);
        assert!(windows.wintun().is_empty() && windows.host().is_empty(), "{arguments}");
    };
    refused("up --slot 57", "57");
    refused("up --slot 56 --mode tap", "is for Linux");
    refused("demo", "only Linux");
    refused("service install --config Z:\\nowhere\\config.toml", "no such file");
    let config = windows.node.write("config.toml", "version = 1\n\n[nod]\nname = \"x\"\n");
    refused(&format!("up --config {}", windows_path(&config)), "nod");
    // A library that is not the driver's.
    let library = windows.node.path("bin/wintun.dll");
    fs::remove_file(&library).unwrap();
    refused("up --slot 56", "wintun.dll");
}
