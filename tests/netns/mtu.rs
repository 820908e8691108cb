//! Underlays that take less than the devices do, and drop the rest without a word.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::thread;
use std::time::Duration;

use overlay_tests::case;
use overlay_tests::harness::Case;
use overlay_tests::node::Node;
use overlay_tests::overlay::{HUB, Overlay, SECOND_HUB};
use overlay_tests::wait::{until, until_in};
use overlay_tests::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, a_narrow_underlay_passes_100_mb_through_a_hub),
        case!(functional, a_narrow_underlay_passes_a_transfer_on_the_direct_path),
        case!(functional, a_narrow_ipv6_underlay_passes_a_transfer),
        case!(functional, a_connection_survives_the_move_to_a_narrow_path),
        case!(functional, a_wide_underlay_is_not_held_back),
    ]
}

const PORT: u16 = 5000;
const MB: usize = 1 << 20;

/// What is left of 1,280 for a packet, less the headers of IPv4 or IPv6, UDP and WireGuard.
const OVER_IPV4: u64 = 1_280 - 20 - 8 - 32;
const OVER_IPV6: u64 = OVER_IPV4 - 20;

/// The search is content with three bytes less, and the switch takes four more one way than the other.
const SLACK: u64 = 7;

/// What the search may find where `most` bytes pass.
fn nearly(most: u64) -> RangeInclusive<u64> {
    most - SLACK..=most
}

/// Nothing larger than 1,280 bytes passes between this machine and all others: its switch drops it, which says nothing.
fn narrow(world: &World, node: &Node, host: u8) {
    // The router's own interface keeps its MTU, once somebody has changed it; otherwise it takes that of the smallest port.
    world.ok("ip link set near mtu 1492");
    world.ok("ip link set near mtu 1500");
    // One way a switch lets four bytes more pass, for a VLAN tag.
    world.ok(&format!("ip link set near{host} mtu 1276"));
    // A switch does not look at what the sender's network card is still to cut.
    node.ok("ethtool -K eth0 gso off tso off tx-udp-segmentation off");
    for other in ["10.99.0.254", "fd99::fe"] {
        node.reaches(other);
        let large = node.run(&format!("ping -n -c 1 -W 1 -s 1260 {other}"));
        assert_ne!(large.code, Some(0), "more than 1,280 bytes pass");
    }
}

/// The MTU of the path in use from `slot` to `peer`, as `status` says it.
fn mtu(overlay: &Overlay, slot: u8, peer: &str) -> Option<u64> {
    overlay.node(slot).gw().status().peer(peer)?["mtu"].as_u64()
}

/// Waits until the node of `slot` has found that of `most` bytes nearly all pass to `peer`.
#[track_caller]
fn found(overlay: &Overlay, slot: u8, peer: &str, most: u64) {
    until_in(Duration::from_secs(60), &format!("{slot} finds the MTU to {peer}"), || {
        mtu(overlay, slot, peer).is_some_and(|mtu| nearly(most).contains(&mtu))
    });
}

/// Waits until the hub has heard the same of its own way to the member of slot 64: what it routes it cuts to that.
#[track_caller]
fn hub_knows(overlay: &Overlay, most: u64) {
    until("the hub knows what passes to 64", || {
        let known = overlay.hub.gw().status().peer("cluster-64").and_then(|peer| peer["mtu"].as_u64());
        known.is_some_and(|mtu| nearly(most).contains(&mtu))
    });
}

/// A byte of a transfer, which says where it belongs.
fn byte(at: usize) -> u8 {
    (at ^ at >> 8 ^ at >> 16) as u8
}

/// Sends so many bytes from one node to another over one connection, and compares them. `half`: called when the first half has
/// arrived. Returns the largest segment in bytes that the sender thinks it may send, at the end.
#[track_caller]
fn transfer(from: &Node, to: &Node, address: Ipv4Addr, bytes: usize, half: impl FnOnce()) -> u64 {
    let listener = to.inside(|| TcpListener::bind((address, PORT))).unwrap();
    let mut sender = from
        .inside(|| TcpStream::connect_timeout(&SocketAddr::from((address, PORT)), Duration::from_secs(5)))
        .unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let local = sender.local_addr().unwrap().port();
    let sending = thread::spawn(move || {
        let mut chunk = vec![0; 64 << 10];
        for start in (0..bytes).step_by(chunk.len()) {
            let len = chunk.len().min(bytes - start);
            chunk.iter_mut().enumerate().for_each(|(n, to)| *to = byte(start + n));
            sender.write_all(&chunk[..len])?;
        }
        // It stays open until the other side has said that all has come.
        sender.read_exact(&mut [0])?;
        std::io::Result::Ok(())
    });
    let (mut half, mut at, mut buffer) = (Some(half), 0, vec![0; 64 << 10]);
    while at < bytes {
        let read =
            receiver.read(&mut buffer).unwrap_or_else(|error| panic!("{at} of {bytes} bytes: {error}"));
        assert!(read > 0, "the connection ended after {at} of {bytes} bytes");
        assert!(
            buffer[..read].iter().enumerate().all(|(n, got)| *got == byte(at + n)),
            "other bytes at {at}"
        );
        at += read;
        if at >= bytes / 2
            && let Some(half) = half.take()
        {
            half();
        }
    }
    let shown = from.ok(&format!("ss -tinH sport = :{local}"));
    receiver.write_all(&[1]).unwrap();
    sending.join().unwrap().unwrap();
    let mss = shown.split_whitespace().find_map(|word| word.strip_prefix("mss:")?.parse().ok());
    mss.unwrap_or_else(|| panic!("no mss: {shown}"))
}

/// So many bytes each way between the nodes 56 and 64, and what the status says of the path.
#[track_caller]
fn passes(overlay: &Overlay, bytes: usize, most: u64) {
    found(overlay, 56, "cluster-64", most);
    found(overlay, 64, "cluster-56", most);
    for (from, to) in [(56, 64), (64, 56)] {
        let (sender, receiver) = (overlay.node(from), overlay.node(to));
        let mss = transfer(&sender.node, &receiver.node, receiver.address().parse().unwrap(), bytes, || {});
        // Meanwhile it may have found a few bytes more, which the connection began without.
        let mtu = mtu(overlay, from, &format!("cluster-{to}")).unwrap();
        // With timestamps, 12 bytes of each segment are options. The other node may have found a little less, and has its say as well.
        let packet = mss + 40 + 12;
        assert!((most - SLACK..=mtu).contains(&packet), "segments of {mss} on a path of {mtu}");
    }
    for (slot, peer) in [(56, "cluster-64"), (64, "cluster-56")] {
        let status = overlay.node(slot).gw().status();
        let warnings = status.0["warnings"].to_string();
        assert!(warnings.contains("small-path-mtu") && warnings.contains(peer), "{warnings}");
        assert_eq!(status.drops("too_big"), 0, "TCP was told by its SYN: no packet was ever too large");
    }
}

fn a_narrow_underlay_passes_100_mb_through_a_hub(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64]);
    overlay.introduce(true);
    narrow(world, &overlay.node(64).node, 64);
    overlay.start();
    overlay.wait_end_to_end();
    hub_knows(&overlay, OVER_IPV4);
    passes(&overlay, 100 * MB, OVER_IPV4);
    assert_eq!(overlay.hub_in_use(), HUB);
}

fn a_narrow_underlay_passes_a_transfer_on_the_direct_path(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64]);
    overlay.introduce(false);
    narrow(world, &overlay.node(56).node, 56);
    overlay.start();
    overlay.wait_end_to_end();
    until_in(Duration::from_secs(20), "the direct path is in use", || {
        let direct = |slot, peer| overlay.node(slot).gw().status().peer(peer).unwrap()["path"] == "direct";
        direct(56, "cluster-64") && direct(64, "cluster-56")
    });
    passes(&overlay, 20 * MB, OVER_IPV4);
}

fn a_narrow_ipv6_underlay_passes_a_transfer(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64]);
    overlay.introduce(true);
    let endpoint = format!("endpoint = \"[{}]:{}\"", overlay.hub.node.ipv6(), overlay_tests::overlay::PORT);
    for node in &mut overlay.nodes {
        node.file.replace("endpoint = ", &endpoint);
        // Neither by IPv6.
        let others = if node.slot == Some(56) { "fd99::64" } else { "fd99::56" };
        node.node.ok(&format!("ip -6 route add unreachable {others}/128"));
    }
    narrow(world, &overlay.node(64).node, 64);
    overlay.start();
    overlay.wait_end_to_end();
    hub_knows(&overlay, OVER_IPV6);
    passes(&overlay, 20 * MB, OVER_IPV6);
}

fn a_connection_survives_the_move_to_a_narrow_path(world: &World) {
    let mut overlay = Overlay::plan_with_two_hubs(world, &[56, 64]);
    narrow(world, &overlay.hub_mut(SECOND_HUB).node.clone(), 2);
    // The wide one is there first, and so in use.
    overlay.hub.start();
    for node in &mut overlay.nodes {
        node.start();
    }
    overlay.wait_end_to_end();
    overlay.hub_mut(SECOND_HUB).start();
    overlay.wait_sessions();
    until_in(Duration::from_secs(60), "both ways are measured", || {
        let status = overlay.node(56).gw().status();
        let paths = status.peer("cluster-64").unwrap()["paths"].clone();
        let of = |via: &str| {
            let paths = paths.as_array().unwrap();
            paths.iter().find(|path| path["via"] == via).and_then(|path| path["mtu"].as_u64())
        };
        of(HUB) == Some(1420) && of(SECOND_HUB).is_some_and(|mtu| nearly(OVER_IPV4).contains(&mtu))
    });
    assert_eq!(overlay.hub_in_use(), HUB);
    let (from, to) = (overlay.node(56).node.clone(), overlay.node(64).node.clone());
    let address = overlay.node(64).address().parse().unwrap();
    let mut hub = Some(overlay.hub.take());
    let mss = transfer(&from, &to, address, 40 * MB, || hub.take().unwrap().kill());
    assert_eq!(overlay.hub_in_use(), SECOND_HUB);
    let mtu = mtu(&overlay, 56, "cluster-64").unwrap();
    assert!(mss + 40 + 12 <= mtu, "segments of {mss} on a path of {mtu}");
    let dropped = overlay.node(56).gw().drops("too_big");
    assert!(dropped > 0, "the connection had begun with larger segments");
}

fn a_wide_underlay_is_not_held_back(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64]);
    overlay.introduce(true);
    overlay.start();
    overlay.wait_end_to_end();
    for (slot, peer) in [(56, "cluster-64"), (64, "cluster-56")] {
        until(&format!("{slot} has measured"), || mtu(&overlay, slot, peer) == Some(1420));
        let warnings = overlay.node(slot).gw().status().0["warnings"].to_string();
        assert!(!warnings.contains("small-path-mtu"), "{warnings}");
    }
    let (from, to) = (overlay.node(56), overlay.node(64));
    let mss = transfer(&from.node, &to.node, to.address().parse().unwrap(), 10 * MB, || {});
    assert_eq!(mss, 1420 - 40 - 12);
}
