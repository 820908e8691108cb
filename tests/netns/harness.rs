//! What the other tests stand on, tried with plain tools: an instrument that cannot fail shows nothing.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use overlay_tests::case;
use overlay_tests::flow::Flow;
use overlay_tests::harness::Case;
use overlay_tests::host_state::HostState;
use overlay_tests::packet::{Ear, Forger, Packet};
use overlay_tests::world::{ROUTER, World};

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, machines_reach_each_other_and_are_strangers),
        case!(functional, host_state_sees_every_kind_of_change),
        case!(functional, forged_packets_and_icmp_are_seen),
        case!(timed, lost_datagrams_are_counted),
    ]
}

fn machines_reach_each_other_and_are_strangers(world: &World) {
    let a = world.node("a", 11);
    let b = world.node("b", 12);
    let far = world.far_node("far", 13);
    a.reaches(b.ipv4());
    a.reaches(b.ipv6());
    a.reaches(far.ipv4());
    a.reaches(ROUTER);
    a.ok("touch /run/here /var/lib/here");
    b.run("ls /run/here").exits(2);
    b.run("ls /var/lib/here").exits(2);
    a.hosts("10.99.0.12 hub.example\n");
    assert!(a.ok("getent hosts hub.example").contains("10.99.0.12"));
    b.run("getent hosts hub.example").exits(2);
    let listener = b.inside(|| TcpListener::bind((b.ipv4(), 80)).unwrap());
    a.inside(|| TcpStream::connect_timeout(&(b.ipv4(), 80).into(), Duration::from_secs(5))).unwrap();
    drop(listener);
    let refused =
        a.inside(|| TcpStream::connect_timeout(&(b.ipv4(), 80).into(), Duration::from_secs(5))).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

fn host_state_sees_every_kind_of_change(world: &World) {
    let a = world.node("a", 11);
    let before = HostState::of(&a);
    before.unchanged(&a);
    for (change, back) in [
        ("ip addr add 10.99.0.77/24 dev eth0", "ip addr del 10.99.0.77/24 dev eth0"),
        ("ip route add 203.0.113.0/24 via 10.99.0.254", "ip route del 203.0.113.0/24"),
        ("ip rule add from 192.0.2.1 lookup 77", "ip rule del from 192.0.2.1 lookup 77"),
        ("sysctl -w net.ipv4.ip_forward=1", "sysctl -w net.ipv4.ip_forward=0"),
        ("sysctl -w net.ipv4.conf.eth0.rp_filter=2", "sysctl -w net.ipv4.conf.eth0.rp_filter=0"),
    ] {
        let value = a.sysctl("net/ipv4/conf/eth0/rp_filter");
        a.ok(change);
        assert_ne!(HostState::of(&a), before, "{change}");
        a.ok(back);
        if let Some(value) = value {
            a.ok(&format!("sysctl -w net.ipv4.conf.eth0.rp_filter={value}"));
        }
        before.unchanged(&a);
    }
}

fn forged_packets_and_icmp_are_seen(world: &World) {
    let a = world.node("a", 11);
    let b = world.node("b", 12);
    let ear = Ear::new(&a);
    let forger = Forger::new(&a, "eth0");
    forger.send(&Packet::udp(a.ipv4(), b.ipv4(), 9, b"nobody listens"));
    let heard = ear.hear(Duration::from_secs(10), |heard| heard.kind == 3).expect("port unreachable");
    assert_eq!((heard.from, heard.code, heard.quoted_destination()), (b.ipv4(), 3, Some(b.ipv4())));
    let stranger = Ipv4Addr::new(10, 99, 0, 99);
    let far_ear = Ear::new(&b);
    forger.send(&Packet::icmp(stranger, b.ipv4(), 8, 0, &[0, 1, 0, 1]));
    let heard =
        far_ear.hear(Duration::from_secs(10), |heard| heard.kind == 8).expect("the forged echo request");
    assert_eq!(heard.from, stranger);
}

fn lost_datagrams_are_counted(world: &World) {
    let a = world.node("a", 11);
    let b = world.node("b", 12);
    let flow = Flow::start(&a, None, &b, SocketAddrV4::new(b.ipv4(), 7000), 1000);
    flow.wait_more(1000);
    flow.stop().nothing_lost();
    let flow = Flow::start(&a, None, &b, SocketAddrV4::new(b.ipv4(), 7000), 1000);
    flow.wait_more(200);
    world.ok("ip link set near12 down");
    world.ok("ip link set near12 up");
    flow.wait_more(200);
    let tally = flow.stop();
    assert!(!tally.lost.is_empty(), "a link that was down loses something: {tally:?}");
    assert!(tally.longest_gap > Duration::from_millis(2), "{tally:?}");
}
