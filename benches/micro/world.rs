//! Engines joined in memory, with their sessions up.

use ipnet::Ipv4Net;
use overlay_config::{Mode, Slot};
use overlay_engine::gateway::Refusal;
use overlay_engine::packet::{DatagramBatch, PacketBatch};
use overlay_engine::peer::tunnel::Identity;
use overlay_engine::peer::{PeerKind, PeerSettings, Sealing};
use overlay_engine::{Engine, EngineSettings, Output, RoleSettings};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Bytes for a batch, as the daemon has them.
pub const BYTES: usize = 256 * 1024;
/// Packets in a batch, as the daemon has them.
pub const PACKETS: usize = 64;

/// The hub's number; a node's is the last octet of its slot.
pub const HUB: u8 = 1;

/// An engine and where it is.
pub struct Member {
    pub engine: Engine,
    pub at: SocketAddr,
}

/// Two nodes with a direct path.
pub fn pair() -> (Instant, Member, Member) {
    let direct = |me: u8, other: u8| PeerSettings {
        endpoint: Some(at(other)),
        initiates: me < other,
        warm: true,
        ..member(other)
    };
    let members =
        vec![engine(56, node(56, vec![direct(56, 64)])), engine(64, node(64, vec![direct(64, 56)]))];
    let (now, mut members) = joined(members);
    let (b, a) = (members.pop().unwrap(), members.pop().unwrap());
    (now, a, b)
}

/// Two nodes, 56 and 64, that meet at a hub; the hub comes first.
pub fn at_a_hub() -> (Instant, Member, Member, Member) {
    let to_hub = || PeerSettings {
        kind: PeerKind::Hub,
        endpoint: Some(at(HUB)),
        slot: None,
        networks: Vec::new(),
        initiates: true,
        warm: true,
        ..member(HUB)
    };
    let members = vec![
        engine(HUB, settings(RoleSettings::Hub, vec![member(56), member(64)])),
        engine(56, node(56, vec![to_hub()])),
        engine(64, node(64, vec![to_hub()])),
    ];
    let (now, mut members) = joined(members);
    let (b, a, hub) = (members.pop().unwrap(), members.pop().unwrap(), members.pop().unwrap());
    (now, hub, a, b)
}

/// A node alone, with only its first address on the device.
pub fn alone() -> Member {
    engine(56, node(56, Vec::new()))
}

/// An address of the overlay.
pub fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, 8, last)
}

/// A batch of `count` copies of `packet`.
pub fn host_batch(packet: &[u8], count: usize) -> PacketBatch {
    let mut batch = PacketBatch::with_capacity(BYTES, PACKETS);
    for _ in 0..count {
        assert!(batch.push((), packet));
    }
    batch
}

/// What `from` has sent, as it arrives.
pub fn arriving(from: SocketAddr, out: &Output) -> DatagramBatch {
    let mut batch = DatagramBatch::with_capacity(BYTES, PACKETS);
    for (_, datagram) in out.net.iter() {
        assert!(batch.push(from, datagram));
    }
    batch
}

/// Room for what comes of a batch.
pub fn output() -> Output {
    Output::for_batch(BYTES, PACKETS)
}

fn at(number: u8) -> SocketAddr {
    (Ipv4Addr::new(198, 51, 100, number), 51820).into()
}

fn engine(number: u8, settings: EngineSettings) -> Member {
    let engine = Engine::new(settings, [number; 32], Instant::now(), u64::from(number));
    engine.set_listen_port(at(number).port());
    // What the device would tell: without it nothing is delivered to the host.
    engine.set_live(Some(vec![address(number + 1)]));
    Member { engine, at: at(number) }
}

fn node(number: u8, peers: Vec<PeerSettings>) -> EngineSettings {
    let slot = Slot::new(Ipv4Net::new(address(number), 29).unwrap()).unwrap();
    settings(RoleSettings::Node { slot, mode: Mode::Tun }, peers)
}

fn settings(role: RoleSettings, peers: Vec<PeerSettings>) -> EngineSettings {
    EngineSettings {
        role,
        overlay: "172.16.8.0/24".parse().unwrap(),
        slot_prefix: 29,
        mtu: 1420,
        refuse: Refusal::Reset,
        floating: Vec::new(),
        peers,
    }
}

/// A node as others know it.
fn member(number: u8) -> PeerSettings {
    let slot = Ipv4Net::new(address(number), 29).unwrap().trunc();
    PeerSettings {
        name: format!("member-{number}"),
        kind: PeerKind::Node,
        public_key: Identity::new([number; 32]).public(),
        preshared_key: None,
        keepalive: None,
        endpoint: None,
        slot: Some(slot),
        networks: vec![slot],
        initiates: false,
        warm: false,
        sends_keepalives: false,
        speaks_control: false,
        sealing: Sealing::Never,
    }
}

/// Passes datagrams around until everybody has a session with everybody it knows.
fn joined(members: Vec<Member>) -> (Instant, Vec<Member>) {
    let (mut now, mut out) = (Instant::now(), output());
    for _ in 0..50 {
        let mut flying = VecDeque::new();
        for member in &members {
            out.clear();
            member.engine.handle_timeout(now, &mut out);
            let sent = out.net.iter().chain(out.whole.iter());
            flying.extend(sent.map(|(to, bytes)| (member.at, to, bytes.to_vec())));
        }
        while let Some((from, to, bytes)) = flying.pop_front() {
            let Some(member) = members.iter().find(|member| member.at == to) else { continue };
            let mut batch = DatagramBatch::with_capacity(4096, 1);
            assert!(batch.push(from, &bytes));
            out.clear();
            member.engine.handle_underlay(now, &batch, &mut out);
            flying.extend(out.net.iter().map(|(to, bytes)| (member.at, to, bytes.to_vec())));
        }
        let up = |member: &Member| member.engine.peers().iter().all(|peer| peer.link.session);
        if members.iter().all(up) {
            return (now, members);
        }
        now += Duration::from_millis(100);
    }
    panic!("the sessions do not come up");
}
