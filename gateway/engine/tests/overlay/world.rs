//! The harness: parties, the underlay between them, and a clock that the test turns.

use ipnet::Ipv4Net;
use overlay_config::{Mode, Slot};
use overlay_engine::gateway::Refusal;
use overlay_engine::packet::{DatagramBatch, PacketBatch};
use overlay_engine::peer::tunnel::{Identity, Opened, Tunnel, TunnelSettings};
use overlay_engine::peer::{LinkStatus, PeerKind, PeerSettings, Sealing};
use overlay_engine::{DropReason, Engine, EngineSettings, Output, RoleSettings};
use std::collections::{HashSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// The place of a party in a [`World`].
pub type Id = usize;

/// A datagram under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

/// A member of the overlay, and what it has received.
pub struct Party {
    pub at: SocketAddr,
    pub key: [u8; 32],
    /// Packets (or frames, on a TAP) that came to its host.
    pub inbox: Vec<Vec<u8>>,
    kind: Kind,
}

enum Kind {
    Engine(Box<Engine>),
    /// A plain WireGuard member with one peer, which sends whatever it likes.
    Plain(Box<Tunnel>, SocketAddr),
}

/// Several parties and what flies between them.
pub struct World {
    pub now: Instant,
    pub parties: Vec<Party>,
    /// Everything that was ever sent, the lost included.
    pub sent: Vec<Datagram>,
    flying: VecDeque<Datagram>,
    /// From the one to the other nothing arrives.
    cut: Vec<(SocketAddr, SocketAddr)>,
    /// Links, each way, and the largest datagram that passes. What is larger vanishes: nobody says so.
    narrow: Vec<(SocketAddr, SocketAddr, usize)>,
    /// Between these nothing arrives either, whatever is mended: they are behind their NATs.
    pub walls: HashSet<(SocketAddr, SocketAddr)>,
    /// What is for the first of these comes sooner from the second: somebody in between copies it, and is quicker. Not initiations:
    /// an answer to the copy alone keeps a session from beginning, in WireGuard as here.
    pub copies: Vec<(SocketAddr, SocketAddr)>,
    /// These neither do nor hear anything.
    dead: Vec<Id>,
    /// For what arrives, and what an engine makes of it: made once, for clearing their memory takes longer than most packets do.
    arriving: (DatagramBatch, Output),
    /// For what an engine does when it is due.
    acting: Output,
}

impl Party {
    /// Its host gets what is for it, and what is for others flies.
    fn take(&mut self, out: &Output, sent: &mut Vec<Datagram>, flying: &mut VecDeque<Datagram>) {
        self.inbox.extend(out.host.iter().map(|(_, packet)| packet.to_vec()));
        for (to, bytes) in out.net.iter().chain(out.whole.iter()) {
            let datagram = Datagram { from: self.at, to, bytes: bytes.to_vec() };
            sent.push(datagram.clone());
            flying.push_back(datagram);
        }
    }
}

impl World {
    pub fn new() -> Self {
        Self {
            now: Instant::now(),
            parties: Vec::new(),
            sent: Vec::new(),
            flying: VecDeque::new(),
            cut: Vec::new(),
            narrow: Vec::new(),
            walls: HashSet::new(),
            copies: Vec::new(),
            dead: Vec::new(),
            arriving: (DatagramBatch::with_capacity(1 << 17, 16), Output::for_batch(1 << 17, 16)),
            acting: Output::for_batch(1 << 16, 256),
        }
    }

    pub fn engine(&mut self, number: u8, settings: EngineSettings) -> Id {
        let engine = Engine::new(settings, private(number), self.now, u64::from(number));
        engine.set_listen_port(at(number).port());
        self.party(number, Kind::Engine(Box::new(engine)))
    }

    /// A plain member that shakes hands with the peer of number `peer`.
    pub fn plain(&mut self, number: u8, peer: u8) -> Id {
        let tunnel = plain_tunnel(number, peer, self.now, number.into());
        self.party(number, Kind::Plain(Box::new(tunnel), at(peer)))
    }

    fn party(&mut self, number: u8, kind: Kind) -> Id {
        self.parties.push(Party { at: at(number), key: public(number), inbox: Vec::new(), kind });
        self.parties.len() - 1
    }

    pub fn of(&self, id: Id) -> &Engine {
        match &self.parties[id].kind {
            Kind::Engine(engine) => engine,
            Kind::Plain(..) => panic!("party {id} has no engine"),
        }
    }

    pub fn drops(&self, id: Id, reason: DropReason) -> u64 {
        self.of(id).drops().of(reason)
    }

    /// Every reason for which the engine has dropped anything.
    pub fn all_drops(&self, id: Id) -> Vec<(DropReason, u64)> {
        self.of(id).drops().iter().filter(|(_, n)| *n > 0).collect()
    }

    /// The link from one party to another.
    pub fn link(&self, id: Id, to: Id) -> LinkStatus {
        let key = self.parties[to].key;
        self.of(id).peers().into_iter().find(|p| p.peer.settings.public_key == key).unwrap().link
    }

    pub fn session(&self, id: Id, to: Id) -> bool {
        self.link(id, to).session
    }

    /// The host of `id` sends packets in one batch, and everything that follows from it happens.
    pub fn sends(&mut self, id: Id, packets: &[Vec<u8>]) {
        self.queue(id, packets);
        self.deliver();
    }

    pub fn send(&mut self, id: Id, packet: &[u8]) {
        self.sends(id, &[packet.to_vec()]);
    }

    /// As `sends`, but the datagrams stay in the air.
    pub fn queue(&mut self, id: Id, packets: &[Vec<u8>]) {
        let now = self.now;
        let mut out = Output::for_batch(1 << 18, 256);
        match &mut self.parties[id].kind {
            Kind::Engine(engine) => {
                let mut batch = PacketBatch::with_capacity(1 << 18, 256);
                for packet in packets {
                    assert!(batch.push((), packet));
                }
                engine.handle_host(now, &mut batch, &mut out);
            }
            Kind::Plain(tunnel, peer) => {
                for packet in packets {
                    let mut buffer = vec![0; packet.len() + 200];
                    let len = tunnel.seal(packet, &mut buffer).expect("a session");
                    out.net.push(*peer, &buffer[..len]);
                }
            }
        }
        self.parties[id].take(&out, &mut self.sent, &mut self.flying);
    }

    /// A datagram arrives at `id`. What the engine sends to the underlay and to the host in answer stays queued.
    pub fn arrives(&mut self, id: Id, datagram: &Datagram) {
        let Self { now, parties, sent, flying, arriving: (batch, out), .. } = self;
        batch.clear();
        out.clear();
        let (party, now) = (&mut parties[id], *now);
        match &mut party.kind {
            Kind::Engine(engine) => {
                assert!(batch.push(datagram.from, &datagram.bytes));
                engine.handle_underlay(now, batch, out);
            }
            Kind::Plain(tunnel, peer) => {
                let mut buffer = vec![0; datagram.bytes.len().max(200)];
                match tunnel.open(now, datagram.from.ip(), &datagram.bytes, &mut buffer) {
                    Opened::Packet(len) => {
                        out.host.push((), &buffer[..len]);
                    }
                    Opened::Reply(len) => {
                        out.net.push(*peer, &buffer[..len]);
                    }
                    Opened::Nothing | Opened::Rejected => {}
                }
            }
        }
        party.take(out, sent, flying);
    }

    /// Everything in the air arrives, and what is sent in answer, until nothing flies.
    pub fn deliver(&mut self) {
        let mut steps = 0;
        while let Some(datagram) = self.flying.pop_front() {
            steps += 1;
            assert!(steps < 100_000, "the overlay talks to itself for ever");
            let way = (datagram.from, datagram.to);
            let lost = |&(from, to, most)| (from, to) == way && datagram.bytes.len() > most;
            if self.cut.contains(&way) || self.walls.contains(&way) || self.narrow.iter().any(lost) {
                continue;
            }
            let to = self.parties.iter().position(|party| party.at == datagram.to);
            if let Some(id) = to.filter(|id| !self.dead.contains(id)) {
                if let Some((_, from)) = self.copies.iter().find(|(to, _)| *to == datagram.to)
                    && datagram.bytes.first() != Some(&1)
                {
                    let copy = Datagram { from: *from, ..datagram.clone() };
                    self.arrives(id, &copy);
                }
                self.arrives(id, &datagram);
            }
        }
    }

    /// What is in the air now; it will not arrive unless the test lets it.
    pub fn intercept(&mut self) -> Vec<Datagram> {
        self.flying.drain(..).collect()
    }

    /// Gives back what [`World::intercept`] took.
    pub fn release(&mut self, datagrams: Vec<Datagram>) {
        self.flying.extend(datagrams);
        self.deliver();
    }

    /// Time passes, in the steps in which the engines want to be called.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(100).min(end - self.now);
            self.tick();
            self.deliver();
        }
    }

    /// Time passes, and each engine is called when it asked for it.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let due = self.alive().filter_map(|id| match &self.parties[id].kind {
                Kind::Engine(engine) => Some((engine.poll_timeout(self.now), id)),
                Kind::Plain(..) => None,
            });
            let Some((at, id)) = due.min().filter(|(at, _)| *at < end) else { break };
            self.now = self.now.max(at);
            self.act(id);
            self.deliver();
        }
        self.now = end;
    }

    fn alive(&self) -> impl Iterator<Item = Id> {
        (0..self.parties.len()).filter(|id| !self.dead.contains(id))
    }

    /// Each party does what is due.
    pub fn tick(&mut self) {
        for id in self.alive().collect::<Vec<_>>() {
            self.act(id);
        }
    }

    /// One party does what is due.
    pub fn act(&mut self, id: Id) {
        let Self { now, parties, sent, flying, acting: out, .. } = self;
        out.clear();
        let (party, now) = (&mut parties[id], *now);
        match &mut party.kind {
            Kind::Engine(engine) => engine.handle_timeout(now, out),
            Kind::Plain(tunnel, peer) => {
                let mut buffer = [0; 200];
                if let Some(len) = tunnel.tick(now, true, &mut buffer) {
                    out.net.push(*peer, &buffer[..len]);
                }
            }
        }
        party.take(out, sent, flying);
    }

    /// Long enough for every warm link to be up.
    pub fn settle(&mut self) {
        self.pass(Duration::from_millis(300));
    }

    pub fn cut(&mut self, a: Id, b: Id) {
        let (a, b) = (self.parties[a].at, self.parties[b].at);
        self.cut.extend([(a, b), (b, a)]);
    }

    /// Between `a` and `b` nothing passes that is larger than `most` bytes of UDP payload.
    pub fn narrow(&mut self, a: Id, b: Id, most: usize) {
        self.narrow_one_way(a, b, most);
        self.narrow_one_way(b, a, most);
    }

    /// As [`World::narrow`], from `a` to `b`.
    pub fn narrow_one_way(&mut self, a: Id, b: Id, most: usize) {
        self.narrow.push((self.parties[a].at, self.parties[b].at, most));
    }

    /// From `a` to `b` nothing arrives.
    pub fn cut_one_way(&mut self, a: Id, b: Id) {
        self.cut.push((self.parties[a].at, self.parties[b].at));
    }

    pub fn mend(&mut self) {
        self.narrow.clear();
        self.cut.clear();
    }

    /// It stops, without a word.
    pub fn kill(&mut self, id: Id) {
        self.dead.push(id);
    }

    /// It goes on from where it was.
    pub fn thaw(&mut self, id: Id) {
        self.dead.retain(|dead| *dead != id);
    }

    /// A new process takes the place of the one that stopped: with the same key, and no memory.
    pub fn restart(&mut self, id: Id, number: u8, settings: EngineSettings) {
        let engine = Engine::new(settings, private(number), self.now, self.now.elapsed().as_nanos() as u64);
        engine.set_listen_port(at(number).port());
        self.parties[id].kind = Kind::Engine(Box::new(engine));
        self.thaw(id);
    }

    /// The party is somewhere else: its NAT has given it another address.
    pub fn rebind(&mut self, id: Id, at: SocketAddr) {
        self.parties[id].at = at;
    }

    /// What the host of `id` has received since the last call.
    pub fn inbox(&mut self, id: Id) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.parties[id].inbox)
    }

    /// The one packet that the host of `id` has received since the last call.
    pub fn received(&mut self, id: Id) -> Vec<u8> {
        let mut inbox = self.inbox(id);
        assert_eq!(inbox.len(), 1, "packets received by {id}");
        inbox.remove(0)
    }
}

/// A tunnel of a stranger towards a party.
pub fn stranger(number: u8, peer: u8) -> Tunnel {
    plain_tunnel(number, peer, Instant::now(), 1)
}

/// A tunnel as plain WireGuard has it.
fn plain_tunnel(number: u8, peer: u8, now: Instant, seed: u64) -> Tunnel {
    let settings = TunnelSettings {
        public_key: public(peer),
        preshared_key: None,
        keepalive: None,
        index: u32::from(number),
        initiates: true,
        warm: true,
        expects_keepalives: false,
    };
    Tunnel::new(&Identity::new(private(number)), &settings, now, seed)
}

/// The private key of a party.
pub fn private(number: u8) -> [u8; 32] {
    [number; 32]
}

/// The public key of a party.
pub fn public(number: u8) -> [u8; 32] {
    Identity::new(private(number)).public()
}

/// Where a party is in the underlay.
pub fn at(number: u8) -> SocketAddr {
    (Ipv4Addr::new(198, 51, 100, number), 51820).into()
}

pub fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

/// An address of 172.16.8.0/24.
pub fn addr(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, 8, last)
}

/// The slot of a node, by the last octet of its first address, which is the node's number as well.
pub fn slot(number: u8) -> Slot {
    Slot::new(Ipv4Net::new(addr(number), 29).unwrap()).unwrap()
}

pub const HUB: u8 = 1;

/// A node's settings; `number` is the last octet of its slot.
pub fn node(number: u8, peers: Vec<PeerSettings>) -> EngineSettings {
    EngineSettings { role: RoleSettings::Node { slot: slot(number), mode: Mode::Tun }, ..hub(peers) }
}

/// A hub's settings.
pub fn hub(peers: Vec<PeerSettings>) -> EngineSettings {
    EngineSettings {
        role: RoleSettings::Hub,
        overlay: net("172.16.8.0/24"),
        slot_prefix: 29,
        mtu: 1420,
        refuse: Refusal::Reset,
        floating: Vec::new(),
        peers,
    }
}

fn peer(number: u8, kind: PeerKind, networks: Vec<Ipv4Net>) -> PeerSettings {
    PeerSettings {
        name: format!("peer-{number}"),
        kind,
        public_key: public(number),
        preshared_key: None,
        keepalive: None,
        endpoint: None,
        slot: None,
        networks,
        initiates: false,
        warm: false,
        sends_keepalives: false,
        speaks_control: false,
        sealing: Sealing::Never,
    }
}

/// The hub, as a node sees it.
pub fn to_hub(number: u8, networks: &[&str]) -> PeerSettings {
    let networks = networks.iter().map(|text| net(text)).collect();
    PeerSettings {
        endpoint: Some(at(number)),
        initiates: true,
        warm: true,
        sends_keepalives: false,
        speaks_control: false,
        sealing: Sealing::Never,
        ..peer(number, PeerKind::Hub, networks)
    }
}

/// A node, as a hub sees it, or another node that does not know where it is.
pub fn to_node(number: u8) -> PeerSettings {
    let net = slot(number).net();
    PeerSettings { slot: Some(net), ..peer(number, PeerKind::Node, vec![net]) }
}

/// A node that `me` has a direct path to.
pub fn direct(me: u8, number: u8) -> PeerSettings {
    PeerSettings { endpoint: Some(at(number)), initiates: me < number, warm: true, ..to_node(number) }
}

/// A plain WireGuard member that owns `networks`.
pub fn to_plain(number: u8, networks: &[&str]) -> PeerSettings {
    peer(number, PeerKind::Wireguard, networks.iter().map(|text| net(text)).collect())
}

/// A hub that speaks control messages.
pub fn to_speaking_hub(number: u8) -> PeerSettings {
    PeerSettings { sends_keepalives: true, keepalive: Some(5), speaks_control: true, ..to_hub(number, &[]) }
}

/// A member of a hub, or another node, that speaks control messages.
pub fn to_speaking_node(me: u8, number: u8, sealing: Sealing) -> PeerSettings {
    let hub = me < 56;
    PeerSettings {
        initiates: !hub && me < number,
        warm: !hub,
        keepalive: hub.then_some(5),
        sends_keepalives: hub,
        speaks_control: true,
        sealing: if hub { Sealing::Never } else { sealing },
        ..to_node(number)
    }
}

/// Hubs 1, 2, ... and nodes 56, 64, ..., all of which know each other and have end-to-end sessions
/// through the hubs: they cannot reach each other directly.
pub struct Cluster {
    pub world: World,
    pub hubs: Vec<Id>,
    pub nodes: Vec<Id>,
}

pub const NODES: [u8; 3] = [56, 64, 72];

/// The settings of hub `number` of a cluster.
pub fn cluster_hub(number: u8) -> EngineSettings {
    hub(NODES.map(|node| to_speaking_node(number, node, Sealing::Never)).into())
}

/// The settings of node `number` of a cluster with so many hubs.
pub fn cluster_node(number: u8, hubs: u8, sealing: Sealing) -> EngineSettings {
    let others = NODES.into_iter().filter(|other| *other != number);
    let others = others.map(|other| to_speaking_node(number, other, sealing));
    node(number, (1..=hubs).map(to_speaking_hub).chain(others).collect())
}

pub fn cluster(hubs: u8) -> Cluster {
    let mut cluster = cold_cluster(hubs, Sealing::Required);
    cluster.world.run(Duration::from_secs(2));
    cluster
}

/// As [`cluster`], before anything has happened.
pub fn cold_cluster(hubs: u8, sealing: Sealing) -> Cluster {
    let mut world = World::new();
    let hub_ids = (1..=hubs).map(|number| world.engine(number, cluster_hub(number))).collect();
    let nodes = NODES.map(|number| {
        let id = world.engine(number, cluster_node(number, hubs, sealing));
        world.of(id).set_live(Some(vec![addr(number + 1), addr(number + 2), addr(number + 3)]));
        id
    });
    world.walls = NODES.iter().flat_map(|a| NODES.map(|b| (at(*a), at(b)))).collect();
    Cluster { world, hubs: hub_ids, nodes: nodes.into() }
}

/// The recipe: a hub, the nodes 56, 64 and 72 with all their addresses up to .N+3 live, and a plain member behind the
/// hub that owns slot 80 and the domain controllers' network.
pub struct Recipe {
    pub world: World,
    pub hub: Id,
    pub a: Id,
    pub b: Id,
    pub c: Id,
    pub plain: Id,
}

pub const PLAIN: u8 = 80;
pub const BEYOND: &str = "172.16.0.0/24";

pub fn recipe() -> Recipe {
    let mut world = World::new();
    let mut members: Vec<_> = [56, 64, 72].map(to_node).into();
    members.push(to_plain(PLAIN, &["172.16.8.80/29", BEYOND]));
    let hub = world.engine(HUB, self::hub(members));
    let [a, b, c] = [56, 64, 72].map(|number| {
        let id = world.engine(number, node(number, vec![to_hub(HUB, &[BEYOND])]));
        world.of(id).set_live(Some(vec![addr(number + 1), addr(number + 2), addr(number + 3)]));
        id
    });
    let plain = world.plain(PLAIN, HUB);
    world.settle();
    Recipe { world, hub, a, b, c, plain }
}
