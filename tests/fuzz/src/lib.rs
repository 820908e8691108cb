//! What the engine's fuzz targets share: a node between two members that open whatever it seals.

use overlay_config::{Mode, Slot};
use overlay_engine::gateway::Refusal;
use overlay_engine::packet::{DatagramBatch, PacketBatch};
use overlay_engine::peer::tunnel::{Identity, Opened, Tunnel, TunnelSettings};
use overlay_engine::peer::{PeerKind, PeerSettings, Sealing};
use overlay_engine::{Engine, EngineSettings, Output, RoleSettings};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// The tunnel's MTU here.
pub const MTU: u16 = 1420;

/// The node's slot.
#[must_use]
pub fn slot() -> Slot {
    Slot::new("172.16.8.56/29".parse().unwrap()).unwrap()
}

/// Whether the second member, which stands for a plain one, owns an address. The first is a hub and owns besides every
/// address of the overlay outside the node's slot.
#[must_use]
pub fn plain_owns(address: Ipv4Addr) -> bool {
    let [a, b, c, d] = address.octets();
    (a, b) == (172, 16) && (c != 8 || d >> 3 == 80 >> 3)
}

/// A member of which only its tunnel exists.
pub struct Member {
    /// Its place in the underlay.
    pub at: SocketAddr,
    tunnel: Tunnel,
}

/// A node with live sessions with two members.
pub struct Node {
    /// What is fuzzed.
    pub engine: Engine,
    /// A hub, and a plain member whose network 172.16.0.0/16 lies around everything.
    pub members: [Member; 2],
    /// The time, which passes only when the target lets it.
    pub now: Instant,
    /// What the last call gave back.
    pub out: Output,
}

fn at(number: u8) -> SocketAddr {
    (Ipv4Addr::new(198, 51, 100, number), 51820).into()
}

fn peer(number: u8, kind: PeerKind, networks: &[&str]) -> PeerSettings {
    PeerSettings {
        name: format!("peer-{number}"),
        kind,
        public_key: Identity::new([number; 32]).public(),
        preshared_key: None,
        keepalive: None,
        endpoint: None,
        slot: None,
        networks: networks.iter().map(|text| text.parse().unwrap()).collect(),
        initiates: false,
        warm: false,
        sends_keepalives: false,
        speaks_control: false,
        sealing: Sealing::Never,
    }
}

impl Node {
    /// A node in this mode, after its handshakes. .57 and .59 are live.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        let now = Instant::now();
        let settings = EngineSettings {
            role: RoleSettings::Node { slot: slot(), mode },
            overlay: "172.16.8.0/24".parse().unwrap(),
            slot_prefix: 29,
            mtu: MTU,
            refuse: Refusal::Reset,
            floating: Vec::new(),
            peers: vec![
                peer(1, PeerKind::Hub, &[]),
                peer(80, PeerKind::Wireguard, &["172.16.8.80/29", "172.16.0.0/16"]),
            ],
        };
        let engine = Engine::new(settings, [56; 32], now, 1);
        engine.set_listen_port(51820);
        engine.set_live(Some(vec![Ipv4Addr::new(172, 16, 8, 57), Ipv4Addr::new(172, 16, 8, 59)]));
        let members = [1, 80].map(|number| {
            let settings = TunnelSettings {
                public_key: Identity::new([56; 32]).public(),
                preshared_key: None,
                keepalive: None,
                index: number.into(),
                initiates: true,
                warm: true,
                expects_keepalives: false,
            };
            Member { at: at(number), tunnel: Tunnel::new(&Identity::new([number; 32]), &settings, now, 1) }
        });
        let mut node = Self { engine, members, now, out: Output::for_batch(1 << 17, 64) };
        for n in 0..2 {
            node.shake_hands(n);
        }
        node
    }

    fn shake_hands(&mut self, n: usize) {
        let mut buffer = [0; 200];
        let len = self.members[n].tunnel.tick(self.now, true, &mut buffer).expect("an initiation");
        let initiation = buffer[..len].to_vec();
        self.datagram(self.members[n].at, &initiation);
        let response = self.out.net.get(0).expect("a response").1.to_vec();
        let Opened::Reply(len) = self.members[n].tunnel.open(self.now, at(56).ip(), &response, &mut buffer)
        else {
            panic!("no session");
        };
        let keepalive = buffer[..len].to_vec();
        self.datagram(self.members[n].at, &keepalive);
        assert!(self.engine.peers()[n].link.session);
    }

    /// The host sends packets or frames.
    pub fn host(&mut self, packets: &[Vec<u8>]) {
        let mut batch = PacketBatch::with_capacity(1 << 17, 64);
        for packet in packets {
            batch.push((), packet);
        }
        self.out.clear();
        self.engine.handle_host(self.now, &mut batch, &mut self.out);
    }

    /// A datagram arrives.
    pub fn datagram(&mut self, from: SocketAddr, bytes: &[u8]) {
        let mut batch = DatagramBatch::with_capacity(1 << 17, 64);
        batch.push(from, bytes);
        self.out.clear();
        self.engine.handle_underlay(self.now, &batch, &mut self.out);
    }

    /// A member seals a packet, and its datagram arrives.
    pub fn sealed(&mut self, n: usize, packet: &[u8]) {
        let mut buffer = vec![0; packet.len() + 200];
        let len = self.members[n].tunnel.seal(packet, &mut buffer).expect("a session");
        self.datagram(self.members[n].at, &buffer[..len]);
    }

    /// What the members have received: every datagram opens.
    pub fn opened(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        for (to, datagram) in self.out.net.iter() {
            let member = self.members.iter_mut().find(|m| m.at == to).expect("a datagram for a member");
            let mut buffer = vec![0; datagram.len().max(200)];
            match member.tunnel.open(self.now, at(56).ip(), datagram, &mut buffer) {
                Opened::Packet(len) => packets.push(buffer[..len].to_vec()),
                other => panic!("{other:?} of {} bytes for {to}", datagram.len()),
            }
        }
        packets
    }

    /// Milliseconds pass: what the rate limits and the fragments of echo requests see. What is due then (keepalives, handshakes)
    /// is lost on its way, so that what comes out afterwards is the answer to what came in.
    pub fn pass(&mut self, milliseconds: u8) {
        self.now += Duration::from_millis(milliseconds.into());
        self.out.clear();
        self.engine.handle_timeout(self.now, &mut self.out);
        self.out.clear();
    }
}

/// Checks a packet that the node or its gateway sent: from its slot (but its broadcast address), and within the MTU.
pub fn check_left(packet: &[u8], gateway: bool) {
    let source = source(packet);
    assert!(slot().contains(source) && source != slot().broadcast(), "{source} left the node");
    assert!(gateway || source != slot().gateway(), "the host speaks as the gateway");
    assert!(packet.len() <= usize::from(MTU), "{} bytes", packet.len());
}

/// Checks an answer of the gateway to its host: within the slot, and every checksum right.
pub fn check_answer(packet: &[u8]) {
    check_whole(packet);
    assert!(slot().contains(source(packet)) && slot().contains(destination(packet)));
}

/// Checks lengths and checksums of a packet that was made here, with etherparse.
pub fn check_whole(packet: &[u8]) {
    let slice = etherparse::Ipv4HeaderSlice::from_slice(packet).expect("an IPv4 packet");
    let header = slice.to_header();
    assert_eq!(usize::from(header.total_len), packet.len(), "total length");
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "header checksum");
    if header.is_fragmenting_payload() {
        return;
    }
    let payload = &packet[slice.slice().len()..];
    match header.protocol {
        etherparse::IpNumber::ICMP => {
            let icmp = etherparse::Icmpv4Slice::from_slice(payload).expect("an ICMP message");
            assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()), "ICMP checksum");
        }
        etherparse::IpNumber::TCP => {
            let tcp = etherparse::TcpSlice::from_slice(payload).expect("a TCP segment");
            let right = tcp.calc_checksum_ipv4(header.source, header.destination).unwrap();
            assert_eq!(tcp.checksum(), right, "TCP checksum");
        }
        _ => {}
    }
}

/// The source of a packet.
#[must_use]
pub fn source(packet: &[u8]) -> Ipv4Addr {
    etherparse::Ipv4HeaderSlice::from_slice(packet).expect("an IPv4 packet").source_addr()
}

/// The destination of a packet.
#[must_use]
pub fn destination(packet: &[u8]) -> Ipv4Addr {
    etherparse::Ipv4HeaderSlice::from_slice(packet).expect("an IPv4 packet").destination_addr()
}

/// Turns bytes into a packet that comes further than chance would: version, lengths and header checksum are made right,
/// and its addresses mostly moved to where something is.
#[must_use]
pub fn plausible(mut packet: Vec<u8>) -> Vec<u8> {
    packet.resize(packet.len().clamp(20, 4000), 0);
    packet[0] = 0x40 | (packet[0] & 0x0f).clamp(5, (packet.len() / 4).min(15) as u8);
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    for place in [12, 16] {
        match packet[place] % 4 {
            0 => {}
            1 => packet[place..place + 3].copy_from_slice(&[172, 16, 8]),
            2 => {
                packet[place..place + 3].copy_from_slice(&[172, 16, 8]);
                packet[place + 3] = 56 + packet[place + 3] % 8;
            }
            _ => packet[place..place + 2].copy_from_slice(&[172, 16]),
        }
    }
    packet[10..12].fill(0);
    let header = usize::from(packet[0] & 0x0f) * 4;
    let sum = overlay_engine::packet::checksum::checksum(&packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}
