//! The engine: the table of contents of the product. Packets and datagrams go in, packets and datagrams come out.
//!
//! [`Engine::handle_host`] takes what the host sends, [`Engine::handle_underlay`] what peers send,
//! [`Engine::handle_timeout`] the passing of time. Each is called by its own thread over the same engine, which is
//! shared by reference: peers and routes are one snapshot, loaded once per batch, and each peer has a lock that is
//! taken once per run of packets.

use crate::claim::Shared;
use crate::control;
use crate::counters::{DropReason, Drops};
use crate::event::{Event, Events};
use crate::gateway::{Answer, Gateway, IcmpError};
use crate::host_side::HostSide;
use crate::label::{self, Holder, Label, Use};
use crate::listener::{LiveAddresses, LiveNow, Liveness};
use crate::notice::Notices;
use crate::output::Output;
use crate::packet::ipv4::{self, Ipv4};
use crate::packet::{DatagramBatch, PacketBatch, mss};
use crate::peer::path::Leg;
use crate::peer::tunnel::{Admission, HandshakeGuard, Identity, MIN_BUFFER, Opened};
use crate::peer::{LinkGuard, LinkStatus, Peer, PeerIndex};
use crate::relay::{Forwarder, Seats};
use crate::schedule::Schedule;
use crate::sender::Sender;
use crate::settings::{EngineSettings, RoleSettings};
use crate::table::{Destination, Table};
use arc_swap::ArcSwap;
use ipnet::Ipv4Net;
use parking_lot::{Mutex, RwLock};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Instant;

/// Handshakes a second that pass without a cookie: a base for strangers, and some for each member, all of whom may
/// come at once after a hub's restart.
const HANDSHAKES_BASE: u64 = 50;
const HANDSHAKES_PER_PEER: u64 = 4;

/// What `status` shows of a peer.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Who it is.
    pub peer: Peer,
    /// How its link is.
    pub link: LinkStatus,
    /// A node: the live addresses of its slot, and its floating ones, as it has told.
    pub listeners: Vec<Ipv4Addr>,
}

/// The packet engine of one node or hub.
#[derive(Debug)]
pub struct Engine {
    pub(crate) identity: Identity,
    pub(crate) guard: ArcSwap<HandshakeGuard>,
    pub(crate) table: ArcSwap<Table>,
    pub(crate) live: LiveAddresses,
    /// What is on this node's device and on others', and how often that of this one has changed.
    pub(crate) shared: Mutex<Shared>,
    pub(crate) told: AtomicU32,
    pub(crate) drops: Drops,
    /// Locked for the moment of one answer; packets that are only carried never come near it.
    gateway: Mutex<Gateway>,
    host_side: HostSide,
    seeds: Mutex<fastrand::Rng>,
    /// Drawn at the start: by it peers see that this engine is not the one before.
    pub(crate) epoch: u64,
    /// For the nonces of a hub.
    pub(crate) secret: u64,
    /// Counts the control messages that were sent.
    pub(crate) sequence: AtomicU32,
    /// A hub: the endpoints that members have confirmed.
    pub(crate) seats: Seats,
    /// A node: its legs to the hubs, as they were last found. A lock of the last order: nothing is locked while it is held.
    pub(crate) legs: RwLock<Vec<Leg>>,
    /// A hub that is to be left, and whether its members have yet to be told.
    pub(crate) draining: AtomicBool,
    pub(crate) notice: AtomicBool,
    /// A hub: a member has told of other addresses than before.
    pub(crate) unelected: AtomicBool,
    /// A node: the underlay's addresses of this host.
    pub(crate) local: Mutex<Vec<SocketAddr>>,
    pub(crate) events: Events,
    pub(crate) notices: Notices,
    /// Something has happened after which [`Engine::handle_timeout`] should not wait for its time.
    pub(crate) soon: AtomicBool,
    pub(crate) schedule: Mutex<Schedule>,
}

impl Engine {
    /// An engine for `settings` with the private key `private_key`. `seed` is all the randomness of its own that it
    /// uses (jitter and packet identifications); the handshakes' keys are boringtun's.
    #[must_use]
    pub fn new(settings: EngineSettings, private_key: [u8; 32], now: Instant, seed: u64) -> Self {
        let identity = Identity::new(private_key);
        let mut seeds = fastrand::Rng::with_seed(seed);
        let host_side = HostSide::new(&settings);
        let gateway = Mutex::new(Gateway::new(settings.overlay, gateway_slot(&settings)));
        let table = Table::new(settings, &identity, None, now, || seeds.u64(..));
        // Never 0, which says that no epoch is known.
        let (epoch, secret) = (seeds.u64(1..), seeds.u64(..));
        Self {
            epoch,
            secret,
            sequence: AtomicU32::new(0),
            seats: Seats::default(),
            legs: RwLock::default(),
            draining: AtomicBool::new(false),
            notice: AtomicBool::new(false),
            unelected: AtomicBool::new(false),
            local: Mutex::default(),
            events: Events::default(),
            notices: Notices::default(),
            soon: AtomicBool::new(false),
            schedule: Mutex::new(Schedule::new(now)),
            guard: ArcSwap::from_pointee(HandshakeGuard::new(&identity, handshake_limit(&table.settings))),
            identity,
            gateway,
            table: ArcSwap::from_pointee(table),
            live: LiveAddresses::default(),
            shared: Mutex::default(),
            told: AtomicU32::new(0),
            drops: Drops::default(),
            host_side,
            seeds: Mutex::new(seeds),
        }
    }

    /// Takes new settings. Peers that stay keep their sessions; role, slot and keys are fixed for an engine's life.
    pub fn reconfigure(&self, settings: EngineSettings, now: Instant) {
        // First the lock: of two reloads at once, the second begins where the first has ended.
        let mut seeds = self.seeds.lock();
        let before = self.table.load();
        let table = Table::new(settings, &self.identity, Some(&before), now, || seeds.u64(..));
        let limit = handshake_limit(&table.settings);
        if limit != handshake_limit(&before.settings) {
            self.guard.store(Arc::new(HandshakeGuard::new(&self.identity, limit)));
        }
        for gone in before.peers().filter(|peer| !table.holds(peer)) {
            self.give_back_labels(now, &before, &mut gone.link.lock());
        }
        self.replace_seats(&before, &table);
        self.share_anew(Arc::new(table));
        self.soon.store(true, Relaxed);
    }

    /// This node's public key.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.identity.public()
    }

    /// Tells the engine on which UDP port its datagrams leave, by which it recognises them when they come back.
    pub fn set_listen_port(&self, port: u16) {
        self.host_side.set_listen_port(port);
    }

    /// Tells the engine where a peer is (a name was resolved). Unknown keys are ignored, and so is an address inside
    /// the overlay.
    pub fn set_endpoint(&self, public_key: &[u8; 32], endpoint: SocketAddr) {
        let (table, now) = (self.table.load(), self.schedule.lock().now());
        if let Some(peer) = table.by_key(public_key).filter(|_| !in_overlay(&table, endpoint)) {
            let mut link = peer.link.lock();
            if link.endpoint != Some(endpoint) {
                link.set_endpoint(now, Some(endpoint));
            }
        }
    }

    /// A node: the underlay's addresses of this host, with the port that datagrams arrive on. They are told to the other
    /// nodes, which try them.
    pub fn set_local_addresses(&self, addresses: Vec<SocketAddr>) {
        *self.local.lock() = addresses;
    }

    /// A hub: whether it is to be left. Its members are told at once.
    pub fn set_draining(&self, draining: bool) {
        if self.draining.swap(draining, Relaxed) != draining {
            self.notice.store(true, Relaxed);
            self.soon.store(true, Relaxed);
        }
    }

    /// A hub: whether it is to be left.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Sends signed records, or what is known of them, to a peer that has said hello: at most
    /// [`MAX_MEMBERSHIP`](crate::control::MAX_MEMBERSHIP) bytes. The engine does not look inside. Whether it could be sent.
    pub fn send_membership(
        &self,
        now: Instant,
        public_key: &[u8; 32],
        bytes: &[u8],
        out: &mut Output,
    ) -> bool {
        let table = self.table.load();
        let Some(peer) = table.by_key(public_key) else { return false };
        let able = {
            let link = peer.link.lock();
            let speaks = link.talk.as_ref().is_some_and(|talk| talk.hello().is_some());
            speaks && link.tunnel.has_session()
        };
        if !able || bytes.len() > control::MAX_MEMBERSHIP {
            return false;
        }
        self.say(peer.index, &control::Message::Membership { bytes }, &mut out.relay);
        self.send_relay(now, &table, out);
        out.relay.clear();
        true
    }

    /// The oldest event that nobody has taken yet.
    pub fn poll_event(&self) -> Option<Event> {
        self.events.pop()
    }

    /// Every drop with its reason.
    #[must_use]
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// The peers, in the order of the settings.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        let table = self.table.load();
        let status = |peer: &Peer| {
            let (link, settings) = (peer.link.status(), &peer.settings);
            let told = |slot| self.shared.lock().listeners_of(&settings.public_key, slot);
            PeerStatus { link, listeners: settings.slot.map(told).unwrap_or_default(), peer: peer.clone() }
        };
        table.in_order().map(status).collect()
    }

    /// Packets (TUN) or frames (TAP) that the host sends. They are changed in place (time to live).
    pub fn handle_host(&self, now: Instant, host: &mut PacketBatch, out: &mut Output) {
        let table = self.table.load();
        let view = View { now, table: &table, live: self.live.load() };
        let mut sender = Sender::new(&table, &self.drops);
        for n in 0..host.len() {
            let Some((_, frame)) = host.get_mut(n) else { continue };
            if let Some(packet) = self.host_side.receive(frame, &self.drops, out) {
                self.host_packet(&view, packet, &mut sender, out);
            }
        }
    }

    fn host_packet(&self, view: &View<'_>, packet: &mut [u8], sender: &mut Sender<'_>, out: &mut Output) {
        let View { now, table, .. } = *view;
        let Some(slot) = table.settings.slot() else { return };
        if control::claims_to_be_one(packet) {
            return self.drops.count(DropReason::ReservedAddress);
        }
        let Some(ip) = self.parse(packet) else { return };
        let (source, destination, len) = (ip.source(), ip.destination(), ip.bytes().len());
        if let Some(to) = self.host_side.own_port_destination(&ip) {
            // Rarely so. The endpoints stand behind the peers' locks, one of which the run may hold.
            sender.release();
            if table.is_endpoint(to) {
                return self.drops.count(DropReason::OwnDatagram);
            }
        }
        if source == slot.gateway() {
            return self.drops.count(DropReason::GatewaySource);
        }
        let of_slot = slot.contains(source) && source != slot.broadcast();
        if !(of_slot || table.is_floating(source) && view.live.state(source) == Liveness::Live) {
            return self.drops.count(DropReason::ForeignSource);
        }
        if is_group(destination)
            || destination == slot.broadcast()
            || destination == table.settings.overlay.broadcast()
        {
            return self.drops.count(DropReason::Multicast);
        }
        if destination == slot.gateway() {
            let answer = self.gateway.lock().answer(now, &ip, &mut out.scratch);
            return self.answer_host(answer, DropReason::GatewayIgnored, source, out);
        }
        let (reason, error) = match table.destination(destination) {
            Destination::Own => {
                let answer =
                    self.gateway.lock().refuse(now, table.settings.refuse, &ip, false, &mut out.scratch);
                return self.answer_host(answer, DropReason::ListenerOffline, source, out);
            }
            Destination::None => (DropReason::NoRoute, IcmpError::NetUnreachable),
            // Whether anybody has it is not known: it may be on its way from one node to another.
            Destination::Unowned => return self.drops.count(DropReason::FloatingUnowned),
            Destination::Peer(peer) => {
                let mtu = table.mtu_to(peer);
                if len > usize::from(mtu) && ip.dont_fragment() {
                    (DropReason::TooBig, IcmpError::FragmentationNeeded { mtu })
                } else {
                    let packet = packet.get_mut(..len).unwrap_or_default();
                    clamp(table, mtu, packet);
                    if ipv4::decrement_ttl(packet) {
                        return sender.send(now, peer, packet, mtu, &mut out.scratch, &mut out.net);
                    }
                    (DropReason::TtlExpired, IcmpError::TimeExceeded)
                }
            }
        };
        let Some(ip) = self.parse(packet) else { return };
        let answer = self.gateway.lock().error(now, error, &ip, false, &mut out.scratch);
        self.answer_host(answer, reason, source, out);
    }

    /// Counts a packet from the host that goes no further, and tells its sender.
    fn answer_host(&self, answer: Answer, reason: DropReason, to: Ipv4Addr, out: &mut Output) {
        if !matches!(answer, Answer::Echo(_)) {
            self.drops.count(reason);
        }
        match answer {
            Answer::Echo(len) | Answer::Refused(len) => self.host_side.send(out, len, to, &self.drops),
            Answer::Limited => self.drops.count(DropReason::RateLimited),
            Answer::Silent => {}
        }
    }

    /// Datagrams that came from the underlay, each with its source.
    pub fn handle_underlay(&self, now: Instant, datagrams: &DatagramBatch, out: &mut Output) {
        let (table, guard) = (self.table.load(), self.guard.load());
        let view = View { now, table: &table, live: self.live.load() };
        let mut run: Option<(&Peer, LinkGuard<'_>)> = None;
        let mut forwarder = Forwarder::new(&table, &self.seats, &self.drops);
        let is_hub = table.settings.role == RoleSettings::Hub;
        for (from, datagram) in datagrams.iter() {
            if in_overlay(&table, from) {
                self.drops.count(DropReason::EndpointInOverlay);
                continue;
            }
            if is_hub
                && let Some(Holder::Node { ordinal, .. }) =
                    label::receiver(datagram).map(|receiver| Label::of(receiver).holder())
            {
                run = None;
                forwarder.forward(now, from, ordinal, datagram, &mut out.net);
                continue;
            }
            let mut reply = [0; MIN_BUFFER];
            let mut purpose = Use::Carries;
            let source = self.source(&table, from, datagram);
            let peer = match guard.admit(&self.identity, source, datagram, &mut reply) {
                Admission::Session(receiver) => {
                    let held = table.by_receiver(receiver);
                    purpose = held.map_or(purpose, |(_, purpose)| purpose);
                    held.map(|(peer, _)| peer).ok_or(DropReason::NotWireguard)
                }
                Admission::Initiation(key) => table.by_key(&key).ok_or_else(|| {
                    self.answer_revoked(now, &key, (from, datagram.len()), &mut out.net);
                    DropReason::UnknownPeer
                }),
                Admission::Cookie(len) => {
                    out.net.push(from, reply.get(..len).unwrap_or_default());
                    Err(DropReason::UnderLoad)
                }
                Admission::UnderLoad => Err(DropReason::UnderLoad),
                Admission::Invalid if !is_hub && self.is_notice(now, from, datagram) => continue,
                Admission::Invalid => Err(DropReason::NotWireguard),
            };
            let peer = match peer {
                Ok(peer) => peer,
                Err(reason) => {
                    self.drops.count(reason);
                    continue;
                }
            };
            if run.as_ref().is_none_or(|(before, _)| before.index != peer.index) {
                drop(run.take());
                forwarder.release();
                let mut link = peer.link.lock();
                if link.tunnel.is_late(now) {
                    link.tick(now, &mut out.net, &self.drops);
                }
                run = Some((peer, link));
            }
            let Some((_, link)) = run.as_mut() else { continue };
            match purpose {
                Use::Tries => self.direct_probe(now, link, from, datagram, out),
                Use::Carries => {
                    self.attach(now, &table, peer, link);
                    self.peer_datagram(&view, peer, link, from, datagram, out);
                }
            }
        }
        drop((run, forwarder));
        self.converse(now, &table, out);
        self.send_relay(now, &table, out);
    }

    fn peer_datagram(
        &self,
        view: &View<'_>,
        peer: &Peer,
        link: &mut LinkGuard<'_>,
        from: SocketAddr,
        datagram: &[u8],
        out: &mut Output,
    ) {
        let View { now, table, .. } = *view;
        let is_hub = table.settings.role == RoleSettings::Hub;
        // Opened where it will lie when it is accepted: in the device's batch (behind an Ethernet header on a TAP), or
        // in the relay batch of a hub.
        let size = MIN_BUFFER.max(datagram.len());
        let opened = if is_hub {
            let Some(mut room) = out.relay.reserve(size) else {
                return self.drops.count(DropReason::NoBuffer);
            };
            let opened = link.tunnel.open(now, from.ip(), datagram, room.buffer());
            if let Opened::Packet(len) = opened {
                link.heard(now, from, datagram, 0, &self.legs);
                link.send_waiting(now, &mut out.net, &self.drops);
                let packet = room.buffer().get_mut(..len).unwrap_or_default();
                if control::claims_to_be_one(packet) {
                    if !out.inbox.push((peer.index, from), control::without_padding(packet)) {
                        self.drops.count(DropReason::NoBuffer);
                    }
                    return self.after_datagram(now, peer, link, from, datagram, out);
                }
                link.received(len);
                match self.relayed(now, table, peer, packet, &mut out.scratch) {
                    Verdict::Relay(to) => room.commit(to, len),
                    Verdict::Answer(len) => {
                        self.answer_peer(peer.index, len, out);
                    }
                    Verdict::Drop => {}
                }
                return self.after_datagram(now, peer, link, from, datagram, out);
            }
            if let Opened::Reply(len) = opened {
                let reply = room.buffer().get(..len).unwrap_or_default();
                link.answer(from, datagram.first(), reply, &self.legs, &mut out.net);
            }
            opened
        } else {
            let head = self.host_side.header_len();
            let Some(mut room) = out.host.reserve(size + head) else {
                return self.drops.count(DropReason::NoBuffer);
            };
            let buffer = room.buffer().get_mut(head..).unwrap_or_default();
            let opened = link.tunnel.open(now, from.ip(), datagram, buffer);
            if let Opened::Packet(len) = opened {
                link.heard(now, from, datagram, 0, &self.legs);
                link.send_waiting(now, &mut out.net, &self.drops);
                let packet = buffer.get_mut(..len).unwrap_or_default();
                if control::claims_to_be_one(packet) {
                    if !out.inbox.push((peer.index, from), control::without_padding(packet)) {
                        self.drops.count(DropReason::NoBuffer);
                    }
                    return self.after_datagram(now, peer, link, from, datagram, out);
                }
                link.received(len);
                match self.delivered(view, peer, packet, &mut out.scratch) {
                    Delivery::Host(destination) => {
                        self.host_side.write_header(room.buffer(), destination);
                        room.commit((), head + len);
                    }
                    Delivery::Answer(to, len) => {
                        self.answer_peer(to, len, out);
                    }
                    Delivery::Drop => {}
                }
                return self.after_datagram(now, peer, link, from, datagram, out);
            }
            if let Opened::Reply(len) = opened {
                let reply = buffer.get(..len).unwrap_or_default();
                link.answer(from, datagram.first(), reply, &self.legs, &mut out.net);
            }
            opened
        };
        match opened {
            Opened::Rejected => self.drops.count(DropReason::Unauthentic),
            // A cookie reply (type 3) says nothing about where the peer is. Nor does an initiation (type 1), until what
            // follows shows that its sender has read the answer: after a restart an old one can be sent again by anybody.
            _ if matches!(datagram.first(), Some(1 | 3)) => {}
            _ => {
                let answered = if let Opened::Reply(len) = opened { len } else { 0 };
                link.heard(now, from, datagram, answered, &self.legs);
                self.after_datagram(now, peer, link, from, datagram, out);
                link.send_waiting(now, &mut out.net, &self.drops);
            }
        }
    }

    /// A packet from `peer` at a node: what becomes of it.
    fn delivered(&self, view: &View<'_>, peer: &Peer, packet: &mut [u8], scratch: &mut [u8]) -> Delivery {
        let View { now, table, .. } = *view;
        let Some(slot) = table.settings.slot() else { return Delivery::Drop };
        let Some(ip) = self.parse(packet) else { return Delivery::Drop };
        let destination = ip.destination();
        if !table.owns(peer, ip.source()) {
            self.drops.count(DropReason::ForeignSource);
            return Delivery::Drop;
        }
        if is_group(destination) || destination == slot.broadcast() {
            self.drops.count(DropReason::Multicast);
            return Delivery::Drop;
        }
        if !slot.contains(destination) {
            // A floating address that has just gone from here is somebody else's to refuse.
            if table.is_floating(destination) && view.live.state(destination) == Liveness::Live {
                clamp(table, table.mtu_to(peer), packet);
                return Delivery::Host(destination);
            }
            self.drops.count(DropReason::NotMine);
            return Delivery::Drop;
        }
        if destination != slot.gateway() {
            match view.live.state(destination) {
                Liveness::Live => {
                    clamp(table, table.mtu_to(peer), packet);
                    return Delivery::Host(destination);
                }
                Liveness::Unknown => {
                    self.drops.count(DropReason::ListenerUnknown);
                    return Delivery::Drop;
                }
                Liveness::Offline => {}
            }
        }
        let mut gateway = self.gateway.lock();
        let (answer, reason) = if destination == slot.gateway() {
            (gateway.answer(now, &ip, scratch), DropReason::GatewayIgnored)
        } else {
            (gateway.refuse(now, table.settings.refuse, &ip, false, scratch), DropReason::ListenerOffline)
        };
        match (self.written(answer, reason), table.destination(ip.source())) {
            (Some(len), Destination::Peer(back)) => Delivery::Answer(back.index, len),
            _ => Delivery::Drop,
        }
    }

    /// Counts a packet from a peer that goes no further; how long the answer is that stands in the scratch.
    fn written(&self, answer: Answer, reason: DropReason) -> Option<usize> {
        match answer {
            Answer::Echo(_) => {}
            Answer::Limited => {
                self.drops.count(reason);
                self.drops.count(DropReason::RateLimited);
            }
            Answer::Refused(_) | Answer::Silent => self.drops.count(reason),
        }
        answer.written()
    }

    /// A packet from a member at a hub: what becomes of it.
    fn relayed(
        &self,
        now: Instant,
        table: &Table,
        peer: &Peer,
        packet: &mut [u8],
        scratch: &mut [u8],
    ) -> Verdict {
        let Some(ip) = self.parse(packet) else { return Verdict::Drop };
        let destination = ip.destination();
        if !table.owns(peer, ip.source()) {
            self.drops.count(DropReason::ForeignSource);
            return Verdict::Drop;
        }
        if is_group(destination) || destination == table.settings.overlay.broadcast() {
            self.drops.count(DropReason::Multicast);
            return Verdict::Drop;
        }
        let (reason, error) = match table.destination(destination) {
            Destination::Peer(to) if to.index != peer.index => {
                let mtu = table.mtu_to(to);
                if ip.bytes().len() > usize::from(mtu) && ip.dont_fragment() {
                    (DropReason::TooBig, IcmpError::FragmentationNeeded { mtu })
                } else if ipv4::decrement_ttl(packet) {
                    clamp(table, mtu.min(table.mtu_to(peer)), packet);
                    return Verdict::Relay(to.index);
                } else {
                    (DropReason::TtlExpired, IcmpError::TimeExceeded)
                }
            }
            Destination::Unowned => {
                self.drops.count(DropReason::FloatingUnowned);
                return Verdict::Drop;
            }
            _ => (DropReason::NoRoute, IcmpError::NetUnreachable),
        };
        let Some(ip) = self.parse(packet) else { return Verdict::Drop };
        let answer = self.gateway.lock().error(now, error, &ip, false, scratch);
        self.written(answer, reason).map_or(Verdict::Drop, Verdict::Answer)
    }

    fn answer_peer(&self, to: PeerIndex, len: usize, out: &mut Output) {
        if !out.relay.push(to, out.scratch.get(..len).unwrap_or_default()) {
            self.drops.count(DropReason::NoBuffer);
        }
    }

    pub(crate) fn send_relay(&self, now: Instant, table: &Table, out: &mut Output) {
        let mut sender = Sender::new(table, &self.drops);
        for (to, packet) in out.relay.iter() {
            if let Some(peer) = table.peer(to) {
                sender.send(now, peer, packet, table.mtu_to(peer), &mut out.scratch, &mut out.net);
            }
        }
    }

    fn parse<'a>(&self, packet: &'a [u8]) -> Option<Ipv4<'a>> {
        if packet.first().is_none_or(|first| first >> 4 != 4) {
            self.drops.count(DropReason::NotIpv4);
            return None;
        }
        Ipv4::parse(packet).inspect_err(|_| self.drops.count(DropReason::Malformed)).ok()
    }
}

/// What holds for a whole batch.
struct View<'a> {
    now: Instant,
    table: &'a Table,
    live: LiveNow,
}

/// What becomes of a packet at a node.
enum Delivery {
    Host(Ipv4Addr),
    Answer(PeerIndex, usize),
    Drop,
}

/// What becomes of a packet at a hub.
enum Verdict {
    Relay(PeerIndex),
    Answer(usize),
    Drop,
}

/// Handshakes a second that pass without a cookie, with this many members.
fn handshake_limit(settings: &EngineSettings) -> u64 {
    HANDSHAKES_BASE + HANDSHAKES_PER_PEER * settings.peers.len() as u64
}

/// The slot whose gateway speaks: the node's own; a hub, which has none, speaks from the overlay's first address.
fn gateway_slot(settings: &EngineSettings) -> Ipv4Net {
    let first = Ipv4Net::new(settings.overlay.network(), settings.slot_prefix).unwrap_or(settings.overlay);
    settings.slot().map_or(first, |slot| slot.net())
}

/// On a path that takes less than the devices do, TCP is told so by its SYN as well.
fn clamp(table: &Table, mtu: u16, packet: &mut [u8]) {
    if mtu < table.settings.mtu {
        mss::clamp(packet, mtu);
    }
}

fn is_group(address: Ipv4Addr) -> bool {
    address.is_multicast() || address.is_broadcast() || address.is_unspecified()
}

pub(crate) fn in_overlay(table: &Table, endpoint: SocketAddr) -> bool {
    match endpoint.ip().to_canonical() {
        std::net::IpAddr::V4(address) => table.settings.overlay.contains(&address),
        std::net::IpAddr::V6(_) => false,
    }
}
