//! Peers: who they are, what they own, and the link to each.

pub mod path;
pub mod probe;
pub mod tunnel;

use crate::counters::{DropReason, Drops};
use crate::packet::DatagramBatch;
use ipnet::Ipv4Net;
use overlay_config::PresharedKey;
use parking_lot::{Mutex, MutexGuard};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;
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
}

/// What `status` shows of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// Whether packets can be sealed now.
    pub session: bool,
    /// When the session began.
    pub established: Option<Instant>,
    /// Where the peer is.
    pub endpoint: Option<SocketAddr>,
    /// When something authentic last arrived.
    pub last_received: Option<Instant>,
    /// Packets and bytes of packets inside the tunnel, in each direction.
    pub rx_packets: u64,
    /// See `rx_packets`.
    pub rx_bytes: u64,
    /// See `rx_packets`.
    pub tx_packets: u64,
    /// See `rx_packets`.
    pub tx_bytes: u64,
}

impl Link {
    /// A link without a session.
    #[must_use]
    pub fn new(identity: &Identity, peer: &PeerSettings, index: PeerIndex, now: Instant, seed: u64) -> Self {
        let settings = TunnelSettings {
            public_key: peer.public_key,
            preshared_key: peer.preshared_key.clone(),
            keepalive: peer.keepalive,
            index,
            initiates: peer.initiates,
            warm: peer.warm,
            expects_keepalives: peer.sends_keepalives,
        };
        let tunnel = Tunnel::new(identity, &settings, now, seed);
        Self {
            state: Mutex::new(LinkState { tunnel, endpoint: peer.endpoint, last_received: None }),
            session: AtomicBool::new(false),
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

    /// What `status` shows.
    #[must_use]
    pub fn status(&self) -> LinkStatus {
        let state = self.state.lock();
        LinkStatus {
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

impl LinkGuard<'_> {
    /// Seals `packet` into a datagram for the peer, or keeps it for a moment when there is no session yet.
    pub fn send(&mut self, now: Instant, packet: &[u8], net: &mut DatagramBatch, drops: &Drops) {
        if !self.state.tunnel.has_session() {
            if !self.state.tunnel.wait(now, packet) {
                drops.count(DropReason::NoSession);
            }
            return;
        }
        let Some(endpoint) = self.state.endpoint else { return drops.count(DropReason::NoEndpoint) };
        let Some(mut room) = net.reserve(MIN_BUFFER.max(packet.len() + OVERHEAD)) else {
            return drops.count(DropReason::NoBuffer);
        };
        match self.state.tunnel.seal(packet, room.buffer()) {
            Some(len) => {
                room.commit(endpoint, len);
                self.sent.0 += 1;
                self.sent.1 += packet.len() as u64;
            }
            None => drops.count(DropReason::NoSession),
        }
    }

    /// Sends what waited for a session.
    pub fn send_waiting(&mut self, now: Instant, net: &mut DatagramBatch, drops: &Drops) {
        while let (true, Some(size), Some(endpoint)) =
            (self.state.tunnel.has_session(), self.state.tunnel.waiting(now), self.state.endpoint)
        {
            let Some(mut room) = net.reserve(size) else { break };
            let Some(len) = self.state.tunnel.seal_waiting(now, room.buffer()) else { break };
            room.commit(endpoint, len);
            self.sent.0 += 1;
            self.sent.1 += (len - OVERHEAD) as u64;
        }
        self.count_stale(drops);
    }

    /// What is due on this link.
    pub fn tick(&mut self, now: Instant, net: &mut DatagramBatch, drops: &Drops) {
        let mut buffer = [0; MIN_BUFFER];
        let endpoint = self.state.endpoint;
        if let (Some(len), Some(endpoint)) =
            (self.state.tunnel.tick(now, endpoint.is_some(), &mut buffer), endpoint)
            && !net.push(endpoint, buffer.get(..len).unwrap_or_default())
        {
            drops.count(DropReason::NoBuffer);
        }
        self.count_stale(drops);
    }

    /// Notes that something authentic came from `from`: where the peer is now (WireGuard paper, section 2.1, roaming).
    pub fn heard(&mut self, now: Instant, from: SocketAddr) {
        self.state.last_received = Some(now);
        if self.state.endpoint != Some(from) {
            tracing::debug!(?from, "peer's endpoint changed");
            self.state.endpoint = Some(from);
        }
    }

    /// Counts a packet that came out of the tunnel.
    pub fn received(&mut self, bytes: usize) {
        self.received.0 += 1;
        self.received.1 += bytes as u64;
    }

    fn count_stale(&mut self, drops: &Drops) {
        match self.state.tunnel.take_stale() {
            0 => {}
            packets => drops.add(DropReason::Stale, packets),
        }
    }
}
