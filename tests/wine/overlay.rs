//! overlay-gw.exe as one node of an overlay whose other members are Linux programs.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use overlay_tests::case;
use overlay_tests::gateway::Gateway;
use overlay_tests::harness::Case;
use overlay_tests::keys::Keys;
use overlay_tests::node::Node;
use overlay_tests::overlay::{HUB, Overlay, PORT};
use overlay_tests::wait::{until, until_in};
use overlay_tests::world::World;

use crate::wine::{ADAPTER, WineNode};

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, files_cross_both_ways_and_the_clear_key_is_sealed),
        case!(functional, traffic_survives_the_loss_of_a_hub),
        case!(functional, a_route_of_the_overlay_that_covers_the_hub_does_not_carry_the_underlay),
    ]
}

/// A hub, a Linux node in slot 64 and the Windows node in slot 56, which is not started.
fn planned(world: &World) -> (Overlay, WineNode) {
    let overlay = Overlay::plan(world, &[56, 64]);
    let windows = WineNode::new(overlay.node(56).node.clone(), Some(56));
    (overlay, windows)
}

/// A second hub on `machine`, which knows the same members, and which the nodes of `slots` are to reach at `address`; returns its
/// file.
fn plan_second_hub(overlay: &mut Overlay, machine: &Node, address: Ipv4Addr, slots: &[u8]) -> PathBuf {
    let keys = Keys::new();
    let mut file = overlay.hub.file.clone();
    file.replace("name = ", "name = \"hub-b\"");
    machine.write("private.key", &format!("{}\n", keys.private));
    for slot in slots {
        overlay.node_mut(*slot).file.section(
            "[[hubs]]",
            &[
                "name = \"hub-b\"",
                &format!("public_key = \"{}\"", keys.public),
                &format!("endpoint = \"{address}:{PORT}\""),
            ],
        );
    }
    machine.write("config.toml", &file.text())
}

fn files_cross_both_ways_and_the_clear_key_is_sealed(world: &World) {
    let (mut overlay, windows) = planned(world);
    overlay.hub.start();
    overlay.node_mut(64).start();
    let arguments = windows.config(56, &overlay.node(56).keys, &overlay.node(56).file);
    let _up = windows.start(&arguments);
    windows.wait_session(HUB);
    let linux = overlay.node(64);
    linux.node.reaches("172.16.8.57");
    windows.node.reaches(linux.address());
    windows.node.reaches(linux.gateway_address());
    // The key that the pack brought in clear is sealed where it was.
    let key = fs::read(windows.node.path("private.key")).unwrap();
    assert!(key.starts_with(b"overlay-gw DPAPI 1"));
    assert_eq!(windows.status().0["public_key"], overlay.node(56).keys.public.as_str());
    windows.run("reload").exits(0);

    for (server, address, client) in [
        (&linux.node, linux.address(), &windows.node),
        (&windows.node, "172.16.8.57".to_owned(), &linux.node),
    ] {
        let dir = server.path("www");
        fs::create_dir_all(&dir).unwrap();
        // No two blocks are equal: none can take the place of another.
        let bytes: Vec<u8> =
            (0..500_000_u32).flat_map(|n| n.wrapping_mul(0x9E37_79B9).to_le_bytes()).collect();
        fs::write(dir.join("file"), &bytes).unwrap();
        let serve = format!("python3 -m http.server 8080 --bind {address} --directory {}", dir.display());
        let _serving = server.spawn("http", &serve);
        until("the server listens", || server.ok("ss -Htln").contains(":8080 "));
        let copy = client.path("copy");
        let url = format!("http://{address}:8080/file");
        client
            .run_in(
                Duration::from_secs(100),
                &format!("curl -sS --fail --max-time 90 -o {} {url}", copy.display()),
            )
            .ok();
        assert!(fs::read(&copy).unwrap() == bytes, "the copy differs");
    }
    let status = windows.status();
    assert_eq!(status.drops("foreign_source"), 0, "{:#}", status.0);
    assert_eq!(windows.count_wintun("misuse"), 0, "{:?}", windows.wintun());
}

fn traffic_survives_the_loss_of_a_hub(world: &World) {
    let (mut overlay, windows) = planned(world);
    let machine = world.node("hub-b", 2);
    let config = plan_second_hub(&mut overlay, &machine, machine.ipv4(), &[56, 64]);
    overlay.hub.start();
    let _second = Gateway::hub(&machine, &config);
    overlay.node_mut(64).start();
    let arguments = windows.config(56, &overlay.node(56).keys, &overlay.node(56).file);
    let _up = windows.start(&arguments);
    windows.wait_session(HUB);
    windows.wait_session("hub-b");
    let linux = overlay.node(64).node.clone();
    let address = overlay.node(64).address();
    windows.node.reaches(&address);
    drop(overlay.hub.take().end_by(Signal::SIGKILL));
    // As long as the protocol of the first release takes to call a session lost.
    until_in(Duration::from_secs(40), "traffic takes the other hub", || {
        windows.node.pings(&address) && linux.pings("172.16.8.57")
    });
}

fn a_route_of_the_overlay_that_covers_the_hub_does_not_carry_the_underlay(world: &World) {
    let (mut overlay, windows) = planned(world);
    overlay.hub.start();
    overlay.node_mut(64).start();
    // Another hub, on the link of another interface, and by no router: nothing that leaves by eth0 comes there.
    let machine = world.far_node("hub-b", 2);
    machine.ok("ip addr add 10.97.0.2/24 dev eth0");
    let config = plan_second_hub(&mut overlay, &machine, Ipv4Addr::new(10, 97, 0, 2), &[56]);
    let _second = Gateway::hub(&machine, &config);
    world.ok(&format!("ip link add second type veth peer name eth1 netns {}", windows.node.pid()));
    world.ok("ip link set second master far up");
    windows.node.ok("ip addr add 10.97.0.56/24 dev eth1");
    windows.node.ok("ip link set eth1 up");
    // Better than the one of the link that the first hub is on.
    let hub = overlay.hub.node.ipv4();
    windows.node.ok(&format!("ip route add {hub}/32 dev {ADAPTER}"));
    let arguments = windows.config(56, &overlay.node(56).keys, &overlay.node(56).file);
    let _up = windows.start(&arguments);
    windows.wait_session(HUB);
    windows.wait_session("hub-b");
    let linux = overlay.node(64);
    windows.node.reaches(linux.address());
    linux.node.reaches("172.16.8.57");
    // Packets go by the one while the other is probed, and goes on answering.
    windows.node.ok(&format!("ping -n -c 10 -i 1 -W 2 {}", linux.address()));
    let status = windows.status();
    for hub in [HUB, "hub-b"] {
        assert_eq!(status.peer(hub).unwrap()["paths"][0]["up"], true, "{hub}: {:#}", status.0);
    }
    assert_eq!(status.drops("own_datagram"), 0);
    // The link's routes go, and only the overlay has one to the hub: nothing is sent there. Wine does not tell; it is looked for.
    windows.node.ok("ip route flush dev eth0");
    until_in(Duration::from_secs(30), "the hub cannot be reached", || {
        windows.status().drops("underlay_unreachable") > 0
    });
    assert_eq!(windows.status().drops("own_datagram"), 0);
}
