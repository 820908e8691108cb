//! keepalived on three nodes of the overlay: unicast VRRP between them, and a floating address that a client reaches through a failover.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use overlay_tests::case;
use overlay_tests::harness::Case;
use overlay_tests::node::Node;
use overlay_tests::overlay::Overlay;
use overlay_tests::process::Process;
use overlay_tests::wait::{PATIENCE, until, value_in};
use overlay_tests::world::World;

pub fn cases() -> Vec<Case> {
    vec![case!(timed, floating_address_follows_keepalived_through_two_failovers)]
}

/// The nodes that run keepalived, the one of the highest priority first.
const CLUSTER: [u8; 3] = [56, 64, 72];
/// Where the client is.
const CLIENT: u8 = 80;
const VIP: Ipv4Addr = Ipv4Addr::new(172, 16, 8, 200);
const PORT: u16 = 1433;
/// From the address on the new owner's device to the first answer, at most: what README promises.
const MOVE: Duration = Duration::from_secs(1);

/// Each connection is answered with the slot of the node that took it.
fn serve(on: &Node, slot: u8) {
    let listener = on.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap());
    thread::spawn(move || {
        for connection in listener.incoming() {
            let _ = connection.and_then(|mut connection| connection.write_all(&[slot]));
        }
    });
}

/// The slot of the node that answers at the floating address, when one does at once.
fn answering(client: &Node) -> Option<u8> {
    let limit = Duration::from_millis(100);
    let mut connection =
        client.inside(|| TcpStream::connect_timeout(&SocketAddr::from((VIP, PORT)), limit)).ok()?;
    connection.set_read_timeout(Some(limit)).ok()?;
    let mut slot = [0];
    connection.read_exact(&mut slot).ok()?;
    Some(slot[0])
}

fn has_address(node: &Node) -> bool {
    node.addresses("Overlay").iter().any(|address| address == "172.16.8.200/32")
}

/// Starts keepalived there, with an advertisement every 300 ms to the other two.
fn keepalived(overlay: &Overlay, slot: u8, priority: u8) -> Process {
    let member = overlay.node(slot);
    let others: Vec<String> =
        CLUSTER.iter().filter(|&&other| other != slot).map(|&other| overlay.node(other).address()).collect();
    let text = format!(
        "vrrp_instance cluster {{\n state BACKUP\n interface Overlay\n virtual_router_id 51\n priority {priority}\n \
         advert_int 0.3\n version 3\n unicast_src_ip {}\n unicast_peer {{\n {}\n }}\n \
         virtual_ipaddress {{\n {VIP}/32 dev Overlay\n }}\n}}\n",
        member.address(),
        others.join("\n ")
    );
    let file = member.node.write("keepalived.conf", &text);
    let line = format!("keepalived --dont-fork --log-console --vrrp --use-file {}", file.display());
    member.node.spawn("keepalived", &line)
}

/// Ends keepalived as `kill -9` does: the child that speaks VRRP first, which would put the address away if it were asked to end.
fn kill(mut keepalived: Process) {
    let children = format!("/proc/{0}/task/{0}/children", keepalived.id());
    // Stopped, it starts no other child.
    keepalived.signal(Signal::SIGSTOP);
    for child in std::fs::read_to_string(children).unwrap().split_whitespace() {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.parse().unwrap()), Signal::SIGKILL).unwrap();
    }
    keepalived.signal(Signal::SIGKILL);
    let _ = keepalived.wait(PATIENCE);
}

/// Waits until keepalived has put the address on that node, and the client is answered from there.
#[track_caller]
fn taken_over(what: &str, overlay: &Overlay, slot: u8) {
    until("keepalived has put the address on the device", || has_address(&overlay.node(slot).node));
    let client = &overlay.node(CLIENT).node;
    let start = Instant::now();
    value_in(PATIENCE, "the client is answered by the new owner", || {
        answering(client).filter(|&answering| answering == slot)
    });
    println!("{what}: answered from slot {slot} {:?} after keepalived had the address", start.elapsed());
    assert!(start.elapsed() < MOVE, "{what}: {:?}", start.elapsed());
}

fn floating_address_follows_keepalived_through_two_failovers(world: &World) {
    let mut overlay = Overlay::plan(world, &[CLUSTER[0], CLUSTER[1], CLUSTER[2], CLIENT]);
    overlay.introduce(false);
    for node in &mut overlay.nodes {
        node.file.line("[overlay]", "floating = [{ cidr = \"172.16.8.192/28\", slots = [56, 64, 72] }]");
    }
    overlay.start();
    overlay.wait_end_to_end();
    for slot in CLUSTER {
        serve(&overlay.node(slot).node, slot);
    }
    let first = keepalived(&overlay, CLUSTER[0], 150);
    taken_over("start", &overlay, CLUSTER[0]);
    let _others = [keepalived(&overlay, CLUSTER[1], 120), keepalived(&overlay, CLUSTER[2], 100)];
    // The address stays behind on the device, and the newer claim wins.
    kill(first);
    taken_over("keepalived killed", &overlay, CLUSTER[1]);
    assert!(has_address(&overlay.node(CLUSTER[0]).node), "nobody has taken it off");
    // The whole machine: nothing comes from it any more, and nobody says goodbye.
    overlay.node(CLUSTER[1]).node.ok("ip link set dev eth0 down");
    taken_over("node lost", &overlay, CLUSTER[2]);
}
