//! Peers: who they are, what they own, and the link to each.

pub mod leg;
pub mod mtu;
pub mod node;
pub mod path;
pub mod probe;
pub mod proof;
pub mod talk;
pub mod tunnel;

use crate::counters::{DropReason, Drops};
use crate::label::Label;
use crate::packet::DatagramBatch;
use crate::relay::{Account, Seat};
use ipnet::Ipv4Net;
use leg::HubLeg;
use node::NodePeer;
use overlay_config::PresharedKey;
use parking_lot::{Mutex, MutexGuard, RwLock};
use path::{Leg, Paths};
use proof::Proof;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use talk::Talk;
use tunnel::{Identity, MIN_BUFFER, OVERHEAD, Tunnel, TunnelSettings};

/// Position of a peer in the engine's table; also the upper bits of its sessions' receiver indices.
pub type PeerIndex = u32;

/// What a peer is to this engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// A hub: it may send for everybody else in the overlay, and carries what has no direct path.
    Hub,
    /// An overlay-gw node with a slot of its own.
    Node,
    /// A plain WireGuard member.
    Wireguard,
}

/// How packets reach a node that is met at a hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sealing {
    /// The hub opens them and routes.
    #[default]
    Never,
    /// In an end-to-end session, which no hub can open; routed as long as the node, or every hub, is found to have none.
    Preferred,
    /// In an end-to-end session or not at all.
    Required,
}

/// A peer as it was configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// Unique among the peers.
    pub name: String,
    /// What it is.
    pub kind: PeerKind,
    /// Its public key: what a peer is known by.
    pub public_key: [u8; 32],
    /// Shared with this peer alone.
    pub preshared_key: Option<PresharedKey>,
    /// Seconds between keepalives.
    pub keepalive: Option<u16>,
    /// Where to send to; learnt from what arrives when absent.
    pub endpoint: Option<SocketAddr>,
    /// Its slot, if it is a node.
    pub slot: Option<Ipv4Net>,
    /// Networks that it owns: its slot, its `allowed_ips`, the routes through it.
    pub networks: Vec<Ipv4Net>,
    /// This side begins handshakes (of two nodes the lower slot; a node towards its hub).
    pub initiates: bool,
    /// Keep a session at all times.
    pub warm: bool,
    /// It sends keepalives of its own: an overlay-gw hub, or a hub's node.
    pub sends_keepalives: bool,
    /// It may speak control messages: an overlay-gw hub or node.
    pub speaks_control: bool,
    /// How packets reach it, if it is a node and so are we.
    pub sealing: Sealing,
}

/// A peer: its settings, and the link that outlives a change of them.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Who it is and what it owns.
    pub settings: PeerSettings,
    /// Its position in the engine's table.
    pub index: PeerIndex,
    /// Its tunnel and counters.
    pub link: Arc<Link>,
}

impl Peer {
    /// The length of the longest of this peer's prefixes that covers `address`.
    #[must_use]
    pub fn longest_prefix(&self, address: Ipv4Addr) -> Option<u8> {
        self.settings.networks.iter().filter(|net| net.contains(&address)).map(Ipv4Net::prefix_len).max()
    }
}

/// The tunnel to one peer, where it is, and what went through. Locked once per run of packets, not per packet.
#[derive(Debug)]
pub struct Link {
    state: Mutex<LinkState>,
    session: AtomicBool,
    /// A hub: see [`Standing`].
    standing: AtomicU8,
    /// A node that is reached routed: through this hub; [`NO_HUB`] otherwise.
    routed_via: AtomicU32,
    /// A node with which there was an end-to-end session.
    sealed: AtomicBool,
    /// A node with a session, and a path that carries, when somebody last looked.
    reachable: AtomicBool,
    /// See [`Link::mtu`].
    mtu: AtomicU16,
    account: Mutex<Account>,
    rx_packets: AtomicU64,
    rx_bytes: AtomicU64,
    tx_packets: AtomicU64,
    tx_bytes: AtomicU64,
}

/// What the lock of a [`Link`] guards.
#[derive(Debug)]
pub struct LinkState {
    /// The WireGuard session.
    pub tunnel: Tunnel,
    /// Where the peer is.
    pub endpoint: Option<SocketAddr>,
    /// When something authentic last arrived.
    pub last_received: Option<Instant>,
    /// How many packets there were when last looked, and when there were new ones, or the tunnel got its label.
    used: (u64, Option<Instant>),
    /// What both have said of themselves; none with a peer that speaks no control messages.
    pub talk: Option<Talk>,
    /// What the peer is to us.
    pub kin: Kin,
}

/// What a peer that speaks control messages is to this engine, with what only such a peer has.
#[derive(Debug)]
pub enum Kin {
    /// Nothing special: plain WireGuard, or routed only.
    Plain,
    /// A node's hub.
    Hub(Box<HubLeg>),
    /// A hub's member.
    Member(Box<Seat>),
    /// Another node, with which there is an end-to-end session.
    Node(Box<NodePeer>),
}

/// How a hub stands, for choosing one without its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Standing {
    /// Its leg does not carry.
    Down,
    /// It is to be left.
    Leaving,
    /// As far as is known it carries.
    Up,
}

/// A tunnel that is opened by the first packet is given up after so long without one: no session lives longer without being renewed
/// (Reject-After-Time, WireGuard paper, section 6.1).
const IDLE: Duration = Duration::from_secs(180);

/// In place of a hub, where there is none.
const NO_HUB: PeerIndex = PeerIndex::MAX;

/// What `status` shows of a link.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkStatus {
    /// Whether packets can be sealed now.
    pub session: bool,
    /// When the session began.
    pub established: Option<Instant>,
    /// Where the peer is.
    pub endpoint: Option<SocketAddr>,
    /// When something authentic last arrived.
    pub last_received: Option<Instant>,
    /// It has said hello.
    pub speaks: bool,
    /// A hub: our leg to it.
    pub leg: Option<LegStatus>,
    /// A hub's member: the endpoint that it has confirmed.
    pub confirmed: Option<SocketAddr>,
    /// The largest packet in bytes that is taken to pass: to a node on the path in use; to a hub's member, once that has said so.
    pub mtu: Option<u16>,
    /// A hub's member: datagrams and bytes that were forwarded for it.
    pub forwarded: (u64, u64),
    /// A node with end-to-end sessions: its paths.
    pub paths: Option<Paths>,
    /// A node that is reached routed, through this hub.
    pub routed_via: Option<PeerIndex>,
    /// Packets and bytes of packets inside the tunnel, in each direction.
    pub rx_packets: u64,
    /// See `rx_packets`.
    pub rx_bytes: u64,
    /// See `rx_packets`.
    pub tx_packets: u64,
    /// See `rx_packets`.
    pub tx_bytes: u64,
}

/// What `status` shows of the leg to a hub.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LegStatus {
    /// Datagrams pass, both ways.
    pub up: bool,
    /// The hub is to be left.
    pub draining: bool,
    /// Round trip.
    pub rtt: Option<Duration>,
    /// The share of probes that is lost, 0 to 1.
    pub loss: f32,
    /// The largest packet in bytes that is taken to pass.
    pub mtu: u16,
    /// It was seen to pass.
    pub measured: bool,
}

impl PeerSettings {
    /// The settings of a tunnel with this peer, whose receiver indices begin with `label`.
    #[must_use]
    pub fn tunnel(&self, label: Label) -> TunnelSettings {
        TunnelSettings {
            public_key: self.public_key,
            preshared_key: self.preshared_key.clone(),
            keepalive: self.keepalive,
            index: label.bits(),
            initiates: self.initiates,
            warm: self.warm,
            expects_keepalives: self.sends_keepalives,
        }
    }
}

impl Link {
    /// A link without a session, of a hub's engine (`identity` is its own) or of a node's, whose tunnels get their labels when
    /// they are needed.
    #[must_use]
    pub fn new(
        identity: Option<&Identity>,
        peer: &PeerSettings,
        index: PeerIndex,
        now: Instant,
        seed: u64,
    ) -> Self {
        let settings = peer.tunnel(Label::hub(index));
        let is_hub = identity.is_some();
        let tunnel = match identity {
            Some(identity) => Tunnel::new(identity, &settings, now, seed),
            None => Tunnel::dormant(&settings, now, seed),
        };
        let kin = match (peer.speaks_control, is_hub, peer.kind) {
            (true, true, PeerKind::Node) => Kin::Member(Box::default()),
            (true, false, PeerKind::Hub) => Kin::Hub(Box::new(HubLeg::new(now, peer.endpoint))),
            (true, false, PeerKind::Node) if peer.sealing != Sealing::Never => {
                Kin::Node(Box::new(NodePeer::new(now, peer.endpoint)))
            }
            _ => Kin::Plain,
        };
        let talk = (!matches!(kin, Kin::Plain)).then(Talk::default);
        let state =
            LinkState { tunnel, endpoint: peer.endpoint, last_received: None, used: (0, None), talk, kin };
        Self {
            state: Mutex::new(state),
            session: AtomicBool::new(false),
            standing: AtomicU8::new(Standing::Up as u8),
            routed_via: AtomicU32::new(NO_HUB),
            sealed: AtomicBool::new(false),
            reachable: AtomicBool::new(false),
            mtu: AtomicU16::new(u16::MAX),
            account: Mutex::default(),
            rx_packets: AtomicU64::new(0),
            rx_bytes: AtomicU64::new(0),
            tx_packets: AtomicU64::new(0),
            tx_bytes: AtomicU64::new(0),
        }
    }

    /// Locks the link for a run of packets.
    pub fn lock(&self) -> LinkGuard<'_> {
        LinkGuard { state: self.state.lock(), link: self, sent: (0, 0), received: (0, 0) }
    }

    /// Whether there was a session when somebody last looked; for choosing a path without the lock.
    #[must_use]
    pub fn has_session(&self) -> bool {
        self.session.load(Relaxed)
    }

    /// What a hub has forwarded for this member.
    #[must_use]
    pub fn account(&self) -> &Mutex<Account> {
        &self.account
    }

    /// Of a hub: how it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self.standing.load(Relaxed) {
            0 => Standing::Down,
            1 => Standing::Leaving,
            _ => Standing::Up,
        }
    }

    /// Notes how a hub stands.
    pub fn set_standing(&self, standing: Standing) {
        self.standing.store(standing as u8, Relaxed);
    }

    /// Of a node: the hub through which it is reached routed; none: packets go into its own session, or wait for it.
    #[must_use]
    pub fn routed_via(&self) -> Option<PeerIndex> {
        Some(self.routed_via.load(Relaxed)).filter(|hub| *hub != NO_HUB)
    }

    /// Notes through which hub a node is reached routed.
    pub fn set_routed_via(&self, hub: Option<PeerIndex>) {
        self.routed_via.store(hub.unwrap_or(NO_HUB), Relaxed);
    }

    /// Of a node: there was an end-to-end session with it.
    #[must_use]
    pub fn was_sealed(&self) -> bool {
        self.sealed.load(Relaxed)
    }

    /// Of a node: there was a session, and a path that carries, when somebody last looked; for judging claims without the lock.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.reachable.load(Relaxed)
    }

    /// Notes whether a node can be reached; whether that has changed.
    pub fn set_reachable(&self, reachable: bool) -> bool {
        self.reachable.swap(reachable, Relaxed) != reachable
    }

    /// The largest packet in bytes that is taken to pass on the way to this peer: to a node on the path in use, to a hub on the
    /// leg, to a hub's member by what that has measured. The device's MTU is another limit.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu.load(Relaxed)
    }

    /// Packets that went into the tunnel so far.
    #[must_use]
    pub fn sent_packets(&self) -> u64 {
        self.tx_packets.load(Relaxed)
    }

    /// What `status` shows.
    #[must_use]
    pub fn status(&self) -> LinkStatus {
        let account = self.account.lock().clone();
        let state = self.state.lock();
        let seat = match &state.kin {
            Kin::Member(seat) => Some(seat),
            _ => None,
        };
        LinkStatus {
            speaks: state.talk.as_ref().is_some_and(|talk| talk.hello().is_some()),
            leg: match &state.kin {
                Kin::Hub(leg) if state.talk.as_ref().is_some_and(|talk| talk.hello().is_some()) => {
                    Some(LegStatus {
                        up: leg.prober.is_up(),
                        draining: leg.draining,
                        rtt: leg.prober.rtt(),
                        loss: leg.prober.loss(),
                        mtu: leg.mtu.size(),
                        measured: leg.mtu.known().is_some(),
                    })
                }
                _ => None,
            },
            confirmed: seat.and_then(|seat| seat.proof.confirmed),
            mtu: match &state.kin {
                Kin::Member(seat) => seat.mtu,
                Kin::Node(node) => Some(node.mtu),
                Kin::Hub(_) | Kin::Plain => None,
            },
            forwarded: (account.datagrams, account.bytes),
            paths: match &state.kin {
                Kin::Node(node) => Some(node.paths.clone()),
                _ => None,
            },
            routed_via: self.routed_via(),
            session: state.tunnel.has_session(),
            established: state.tunnel.established(),
            endpoint: state.endpoint,
            last_received: state.last_received,
            rx_packets: self.rx_packets.load(Relaxed),
            rx_bytes: self.rx_bytes.load(Relaxed),
            tx_packets: self.tx_packets.load(Relaxed),
            tx_bytes: self.tx_bytes.load(Relaxed),
        }
    }
}

/// A locked [`Link`]. Its counters are added up here and written when the lock is given back.
#[derive(Debug)]
pub struct LinkGuard<'a> {
    state: MutexGuard<'a, LinkState>,
    link: &'a Link,
    sent: (u64, u64),
    received: (u64, u64),
}

impl std::ops::Deref for LinkGuard<'_> {
    type Target = LinkState;
    fn deref(&self) -> &LinkState {
        &self.state
    }
}

impl std::ops::DerefMut for LinkGuard<'_> {
    fn deref_mut(&mut self) -> &mut LinkState {
        &mut self.state
    }
}

impl Drop for LinkGuard<'_> {
    fn drop(&mut self) {
        self.link.session.store(self.state.tunnel.has_session(), Relaxed);
        let mtu = match &self.state.kin {
            Kin::Plain => u16::MAX,
            Kin::Hub(leg) => leg.mtu.size(),
            Kin::Member(seat) => seat.mtu.unwrap_or(u16::MAX),
            Kin::Node(node) => {
                self.link.sealed.store(node.sealed, Relaxed);
                node.mtu
            }
        };
        self.link.mtu.store(mtu, Relaxed);
        let counters = [
            (&self.link.tx_packets, self.sent.0),
            (&self.link.tx_bytes, self.sent.1),
            (&self.link.rx_packets, self.received.0),
            (&self.link.rx_bytes, self.received.1),
        ];
        for (counter, n) in counters.into_iter().filter(|(_, n)| *n > 0) {
            counter.fetch_add(n, Relaxed);
        }
    }
}

impl LinkState {
    /// Sends `reply`, which answers the datagram of this type from `from`: back, but for the first message of a session, which answers
    /// a response. That is for where the peer is known to be, if somebody else may have sent the response again.
    pub(crate) fn answer(
        &mut self,
        from: SocketAddr,
        kind: Option<&u8>,
        reply: &[u8],
        legs: &RwLock<Vec<Leg>>,
        net: &mut DatagramBatch,
    ) {
        let mut to = |endpoint| _ = net.push(endpoint, reply);
        let copied = kind == Some(&2) && self.endpoint.is_some_and(|endpoint| endpoint != from);
        match &mut self.kin {
            Kin::Plain => {}
            Kin::Hub(leg) => leg.proof.responded(from, reply),
            Kin::Member(seat) => seat.proof.responded(from, reply),
            Kin::Node(node) => node.proof.responded(from, reply),
        }
        match &self.kin {
            Kin::Node(node) if copied && !node.paths.is_known(from) => {
                if matches!(Paths::way_from(from, &legs.read()), path::Way::Via(_)) {
                    return to(from);
                }
                self.endpoint.into_iter().chain(node.paths.known()).for_each(to);
            }
            Kin::Hub(_) | Kin::Member(_) if copied => self.endpoint.into_iter().for_each(to),
            _ => to(from),
        }
    }

    /// What the endpoints of a member that has said hello have shown, if nothing is known of this one: what is sent there has to be
    /// covered. A peer that speaks no control messages cannot be asked; it is where WireGuard's roaming says.
    fn unknown_at(&mut self, endpoint: SocketAddr) -> Option<&mut Proof> {
        match &mut self.kin {
            // For all but a member that moves that is all: this is asked for each packet.
            Kin::Member(seat) if !seat.proof.knows(endpoint) => {
                self.talk.as_ref().is_some_and(|talk| talk.hello().is_some()).then_some(&mut seat.proof)
            }
            _ => None,
        }
    }
}

impl LinkGuard<'_> {
    /// The tunnel has got its label.
    pub fn began(&mut self, now: Instant) {
        self.state.used.1 = Some(now);
    }

    /// Whether nobody needs this tunnel: no packet has gone or come for a while, and it need not be kept. What gateways say to each other
    /// is not counted.
    pub fn is_idle(&mut self, now: Instant, peer: &PeerSettings) -> bool {
        let packets = self.link.sent_packets().wrapping_add(self.link.rx_packets.load(Relaxed));
        let state = &mut *self.state;
        if packets != state.used.0 {
            state.used = (packets, Some(now));
        }
        let kept = peer.keepalive.is_some() || state.tunnel.is_wanted();
        // Who speaks no control messages may need its session for keepalives of its own.
        let needed = matches!(state.kin, Kin::Plain) && state.tunnel.has_session();
        let recent = state.used.1.is_some_and(|at| now.saturating_duration_since(at) < IDLE);
        !(kept || needed || recent)
    }

    /// Seals `packet` into a datagram for the peer, or keeps it for a moment when there is no session yet.
    pub fn send(&mut self, now: Instant, packet: &[u8], net: &mut DatagramBatch, drops: &Drops) {
        if !self.state.tunnel.has_session() {
            if !self.state.tunnel.wait(now, packet) {
                drops.count(DropReason::NoSession);
            }
            return;
        }
        let Some(endpoint) = self.state.endpoint else { return drops.count(DropReason::NoEndpoint) };
        // What gateways say to each other is not counted.
        let is_ip = packet.first().is_some_and(|first| first >> 4 == 4);
        if let Some(proof) = self.state.unknown_at(endpoint)
            && (is_ip || !proof.spend(endpoint, packet.len() + OVERHEAD))
        {
            return drops.count(DropReason::EndpointUnconfirmed);
        }
        let Some(mut room) = net.reserve(MIN_BUFFER.max(packet.len() + OVERHEAD)) else {
            return drops.count(DropReason::NoBuffer);
        };
        match self.state.tunnel.seal(packet, room.buffer()) {
            Some(len) => {
                room.commit(endpoint, len);
                if is_ip {
                    self.sent.0 += 1;
                    self.sent.1 += packet.len() as u64;
                }
            }
            None => drops.count(DropReason::NoSession),
        }
    }

    /// Sends what waited for a session.
    pub fn send_waiting(&mut self, now: Instant, net: &mut DatagramBatch, drops: &Drops) {
        while let (true, Some(size), Some(endpoint)) =
            (self.state.tunnel.has_session(), self.state.tunnel.waiting(now), self.state.endpoint)
        {
            if self.state.unknown_at(endpoint).is_some() {
                break;
            }
            let Some(mut room) = net.reserve(size) else { break };
            let Some(len) = self.state.tunnel.seal_waiting(now, room.buffer()) else { break };
            room.commit(endpoint, len);
            self.sent.0 += 1;
            self.sent.1 += (len - OVERHEAD) as u64;
        }
        self.count_stale(drops);
    }

    /// What is due on this link, for a peer with one endpoint.
    pub fn tick(&mut self, now: Instant, net: &mut DatagramBatch, drops: &Drops) {
        let mut buffer = [0; MIN_BUFFER];
        let endpoint = self.state.endpoint;
        if let (Some(len), Some(endpoint)) =
            (self.state.tunnel.tick(now, endpoint.is_some(), &mut buffer), endpoint)
        {
            if self.state.unknown_at(endpoint).is_some_and(|proof| !proof.spend(endpoint, len)) {
                drops.count(DropReason::EndpointUnconfirmed);
            } else if !net.push(endpoint, buffer.get(..len).unwrap_or_default()) {
                drops.count(DropReason::NoBuffer);
            }
        }
        self.count_stale(drops);
    }

    /// Notes that something authentic came from `from`. `answered`: how many bytes were sent there at once in answer.
    ///
    /// Where a peer is that speaks no control messages, the last datagram says (WireGuard paper, section 2.1, roaming). From one that
    /// does, another endpoint than before gets nothing but questions until it has answered one, or has completed a handshake.
    pub fn heard(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        answered: usize,
        legs: &RwLock<Vec<Leg>>,
    ) {
        let state = &mut *self.state;
        state.last_received = Some(now);
        let bytes = datagram.len().saturating_sub(answered);
        let roams = || state.talk.as_ref().map_or(Some(true), |talk| talk.roams(now));
        let (at, settled) = match &mut state.kin {
            Kin::Plain => (None, false),
            Kin::Hub(leg) => {
                leg.proof.received(from, bytes);
                (leg.proof.completed(datagram), state.endpoint.is_some())
            }
            Kin::Member(seat) => {
                seat.proof.received(from, bytes);
                let at = seat.proof.completed(datagram);
                (at, state.endpoint.is_some_and(|at| seat.proof.knows(at)))
            }
            Kin::Node(node) => {
                node.begins(datagram);
                if state.endpoint != Some(from)
                    && let Some(way) =
                        node.arrived(now, from, roams(), |at| Paths::way_from(at, &legs.read()))
                {
                    state.endpoint = Paths::address(way, &legs.read()).or(state.endpoint);
                }
                return;
            }
        };
        if state.endpoint == Some(from) && at.is_none() {
            return;
        }
        let stays = settled && roams() != Some(true);
        let endpoint = at.or((!stays).then_some(from));
        if let Some(endpoint) = endpoint.filter(|at| state.endpoint != Some(*at)) {
            tracing::debug!(?endpoint, "peer's endpoint changed");
            state.endpoint = Some(endpoint);
        }
    }

    /// The endpoint that somebody has written down, or resolved, has changed.
    pub fn set_endpoint(&mut self, now: Instant, endpoint: Option<SocketAddr>) {
        let state = &mut *self.state;
        if let Kin::Node(node) = &mut state.kin {
            node.paths.configure(now, endpoint);
            if node.paths.current().is_none() {
                state.endpoint = endpoint;
            }
        } else if let Some(endpoint) = endpoint {
            if let Kin::Member(seat) = &mut state.kin {
                seat.proof.configure(endpoint);
            }
            if let Kin::Hub(leg) = &mut state.kin {
                leg.written = Some(endpoint);
                leg.proof.configure(endpoint);
            }
            state.endpoint = Some(endpoint);
        }
        state.tunnel.retry_now();
    }

    /// Counts a packet that came out of the tunnel.
    pub fn received(&mut self, bytes: usize) {
        self.received.0 += 1;
        self.received.1 += bytes as u64;
    }

    /// Counts the packets that waited in vain.
    pub fn count_stale(&mut self, drops: &Drops) {
        match self.state.tunnel.take_stale() {
            0 => {}
            packets => drops.add(DropReason::Stale, packets),
        }
    }
}
