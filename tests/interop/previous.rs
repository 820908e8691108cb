//! overlay-gw as it was (`tests/previous`), as a hub and as a node beside those of today. Before gateways said hello to each other: what both
//! know is a WireGuard tunnel with the hub, which routes: that has to work, and everything that builds on it. And the last one, which an
//! upgrade meets, one machine after another: end-to-end sessions, and a hub that dies.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use overlay_tests::case;
use overlay_tests::harness::{Case, skip};
use overlay_tests::overlay::{HUB, Member, Overlay, SECOND_HUB};
use overlay_tests::wait::{until, until_in};
use overlay_tests::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, a_previous_hub_routes_between_nodes_of_today),
        case!(functional, a_previous_node_is_reached_through_a_hub_of_today),
        case!(functional, previous_nodes_work_through_a_hub_of_today),
        case!(functional, half_of_an_overlay_is_upgraded_and_a_hub_dies),
    ]
}

const PORT: u16 = 1433;

/// The program before hello. It has no other name than its commit.
fn previous() -> PathBuf {
    built("OVERLAY_GW_BEFORE_HELLO", "before-hello")
}

/// The program that an upgrade meets.
fn last() -> PathBuf {
    built("OVERLAY_GW_LAST", "last")
}

fn built(variable: &str, name: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(program) if !program.is_empty() => program.into(),
        _ => skip(&format!("that version is not built: {variable}=$(tests/previous/build {name})")),
    }
}

/// Two nodes that know each other and meet at a hub; nothing is started.
fn planned(world: &World) -> Overlay {
    let mut overlay = Overlay::plan(world, &[56, 64]);
    overlay.introduce(true);
    overlay
}

fn a_previous_hub_routes_between_nodes_of_today(world: &World) {
    let mut overlay = planned(world);
    overlay.hub.program = previous();
    overlay.start();
    works(&overlay);
    for node in &overlay.nodes {
        assert_eq!(node.gw().status().peer(HUB).unwrap()["speaks"], false, "it is seen to be a previous one");
    }
}

fn a_previous_node_is_reached_through_a_hub_of_today(world: &World) {
    let mut overlay = planned(world);
    overlay.node_mut(64).program = previous();
    overlay.start();
    works(&overlay);
    let status = overlay.hub.gw().status();
    let speaks = ["cluster-56", "cluster-64"].map(|node| status.peer(node).unwrap()["speaks"].clone());
    assert_eq!(speaks, [true, false]);
}

fn previous_nodes_work_through_a_hub_of_today(world: &World) {
    let mut overlay = planned(world);
    for node in &mut overlay.nodes {
        node.program = previous();
    }
    overlay.start();
    works(&overlay);
}

fn half_of_an_overlay_is_upgraded_and_a_hub_dies(world: &World) {
    let mut overlay = Overlay::plan_with_two_hubs(world, &[56, 64]);
    overlay.hub.program = last();
    overlay.node_mut(64).program = last();
    overlay.start();
    overlay.wait_end_to_end();
    works(&overlay);
    for (node, other) in [(56, "cluster-64"), (64, "cluster-56")] {
        let status = overlay.node(node).gw().status();
        for peer in [HUB, SECOND_HUB, other] {
            assert_eq!(status.peer(peer).unwrap()["speaks"], true, "{node} and {peer}: {:#}", status.0);
        }
    }
    // Whichever of the two it is, and then the other one.
    for _ in 0..2 {
        let hub = overlay.hub_in_use();
        drop(overlay.hub_mut(&hub).take());
        until("the other hub is used", || overlay.hub_in_use() != hub);
        until("they reach each other", || overlay.node(64).node.pings(overlay.node(56).address()));
        overlay.hub_mut(&hub).start();
        overlay.wait_sessions();
    }
}

/// Both ways: ping, a transfer, and a listener that is added while they run.
#[track_caller]
fn works(overlay: &Overlay) {
    for (from, to) in [(56, 64), (64, 56)] {
        let (from, to) = (overlay.node(from), overlay.node(to));
        until_in(Duration::from_secs(20), "they reach each other", || from.node.pings(to.address()));
        transfers(from, to, &to.address());
        let listener = to.at(3);
        assert!(!from.node.pings(&listener), "not live yet");
        to.gw().client(&format!("listener add {listener}")).exits(0);
        until("the listener is reached", || from.node.pings(&listener));
        transfers(from, to, &listener);
    }
}

/// Two megabytes, each byte compared.
#[track_caller]
fn transfers(from: &Member, to: &Member, address: &str) {
    let data: Vec<u8> = (0..500_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let address = SocketAddr::new(address.parse().unwrap(), PORT);
    let listener = to.node.inside(|| TcpListener::bind(address).expect("the listener's address"));
    let sent = data.clone();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.write_all(&sent).expect("to send everything");
        stream.shutdown(Shutdown::Write).expect("an end");
    });
    let limit = Duration::from_secs(20);
    let mut stream = from.node.inside(|| TcpStream::connect_timeout(&address, limit)).expect("to connect");
    stream.set_read_timeout(Some(limit)).unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).expect("to read everything");
    server.join().unwrap();
    assert!(received == data, "{} bytes of {}", received.len(), data.len());
}
