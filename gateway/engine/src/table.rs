//! The table: one consistent view of peers and routes. A reload replaces it as a whole; links live on.

use crate::peer::tunnel::Identity;
use crate::peer::{Link, Peer, PeerIndex, PeerKind, PeerSettings};
use crate::route::RouteTable;
use crate::settings::{EngineSettings, RoleSettings};
use ipnet::Ipv4Net;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

/// How many peers an engine holds: receiver indices leave 23 bits for a peer, an overlay has at most 8,192 slots.
pub const MAX_PEERS: usize = 16_384;

/// Where an address belongs, as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// The node's own slot.
    Own,
    /// One peer.
    Peer(PeerIndex),
    /// Somewhere in the overlay: whichever hub is up.
    Hubs,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug)]
pub enum Destination<'a> {
    /// The node's own slot.
    Own,
    /// Through this peer.
    Peer(&'a Peer),
    /// No route covers it.
    None,
}

/// Peers and routes at one moment.
#[derive(Debug)]
pub struct Table {
    /// What the table was made from.
    pub settings: EngineSettings,
    peers: Vec<Option<Peer>>,
    by_key: HashMap<[u8; 32], PeerIndex>,
    hubs: Vec<PeerIndex>,
    routes: RouteTable<Target>,
}

impl Table {
    /// The table for `settings`. A peer that `before` knew with the same secrets keeps its link, index and session.
    #[must_use]
    pub fn new(
        settings: EngineSettings,
        identity: &Identity,
        before: Option<&Self>,
        now: Instant,
        mut seed: impl FnMut() -> u64,
    ) -> Self {
        let mut peers: Vec<Option<Peer>> = before.map(|b| vec![None; b.peers.len()]).unwrap_or_default();
        let mut fresh = Vec::new();
        for wanted in settings.peers.iter().take(MAX_PEERS) {
            match before.and_then(|before| before.kept(wanted)) {
                Some(old) => {
                    let mut state = old.link.lock();
                    state.tunnel.set_warm(wanted.warm);
                    state.tunnel.set_keepalive(wanted.keepalive);
                    if wanted.endpoint.is_some() && wanted.endpoint != old.settings.endpoint {
                        state.endpoint = wanted.endpoint;
                        state.tunnel.retry_now();
                    }
                    drop(state);
                    let peer =
                        Peer { settings: wanted.clone(), index: old.index, link: Arc::clone(&old.link) };
                    if let Some(place) = peers.get_mut(old.index as usize) {
                        *place = Some(peer);
                    }
                }
                None => fresh.push(wanted),
            }
        }
        let mut free = 0;
        for wanted in fresh {
            while peers.get(free).is_some_and(Option::is_some) {
                free += 1;
            }
            let index = free as PeerIndex;
            let link = Arc::new(Link::new(identity, wanted, index, now, seed()));
            let peer = Some(Peer { settings: wanted.clone(), index, link });
            match peers.get_mut(free) {
                Some(place) => *place = peer,
                None => peers.push(peer),
            }
        }
        let by_key = peers.iter().flatten().map(|p| (p.settings.public_key, p.index)).collect();
        let mut table = Self {
            peers,
            by_key,
            hubs: Vec::new(),
            routes: RouteTable::new(settings.overlay, 32, &[]),
            settings,
        };
        table.hubs = table.in_order().filter(|p| p.settings.kind == PeerKind::Hub).map(|p| p.index).collect();
        table.routes = RouteTable::new(table.settings.overlay, table.settings.slot_prefix, &table.networks());
        table
    }

    /// The peer with this receiver index (its lower 8 bits are boringtun's own).
    #[must_use]
    pub fn by_receiver(&self, receiver: u32) -> Option<&Peer> {
        self.peer(receiver >> 8)
    }

    /// The peer at `index`.
    #[must_use]
    pub fn peer(&self, index: PeerIndex) -> Option<&Peer> {
        self.peers.get(index as usize)?.as_ref()
    }

    /// The peer with this public key.
    #[must_use]
    pub fn by_key(&self, key: &[u8; 32]) -> Option<&Peer> {
        self.peer(*self.by_key.get(key)?)
    }

    /// All peers, in the order of their indices.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().flatten()
    }

    /// Whether a peer is at `address` in the underlay. Takes the lock of one peer after another.
    #[must_use]
    pub fn is_endpoint(&self, address: SocketAddr) -> bool {
        // A socket that speaks both versions writes an IPv4 address as ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2).
        let plain = |endpoint: SocketAddr| (endpoint.ip().to_canonical(), endpoint.port());
        self.peers().any(|peer| peer.link.lock().endpoint.map(plain) == Some(plain(address)))
    }

    /// All peers, in the order of the settings.
    pub fn in_order(&self) -> impl Iterator<Item = &Peer> {
        self.settings.peers.iter().filter_map(|p| self.by_key(&p.public_key))
    }

    /// The node's own slot.
    #[must_use]
    pub fn slot(&self) -> Option<Ipv4Net> {
        self.settings.slot().map(|slot| slot.net())
    }

    /// Where a packet for `address` goes now: to the member that owns it, directly when there is a session, else
    /// through the first hub that is up.
    #[must_use]
    pub fn destination(&self, address: Ipv4Addr) -> Destination<'_> {
        match self.routes.lookup(address) {
            None => Destination::None,
            Some(Target::Own) => Destination::Own,
            Some(Target::Hubs) => self.hub().map_or(Destination::None, Destination::Peer),
            Some(Target::Peer(index)) => match self.peer(index) {
                None => Destination::None,
                // A node may be met at a hub as well; a plain member only where its session is.
                Some(peer) if peer.settings.kind == PeerKind::Node && !peer.link.has_session() => {
                    Destination::Peer(
                        self.hub()
                            .filter(|hub| hub.link.has_session() || !peer.settings.warm)
                            .unwrap_or(peer),
                    )
                }
                Some(peer) => Destination::Peer(peer),
            },
        }
    }

    /// Whether `peer` may send from `source`: it has the longest prefix around it, alone or with others (WireGuard paper,
    /// section 2, cryptokey routing). A hub may for everybody in the overlay besides. From the node's own slot nobody may.
    #[must_use]
    pub fn owns(&self, peer: &Peer, source: Ipv4Addr) -> bool {
        let relays = peer.settings.kind == PeerKind::Hub && self.settings.overlay.contains(&source);
        match self.routes.lookup(source) {
            None | Some(Target::Own) => false,
            Some(Target::Hubs) => relays,
            Some(Target::Peer(index)) => {
                // The first of several with the same network is in the table; its prefix is the longest of all.
                index == peer.index
                    || relays
                    || peer.longest_prefix(source).is_some_and(|own| {
                        self.peer(index).and_then(|first| first.longest_prefix(source)) <= Some(own)
                    })
            }
        }
    }

    /// The first hub with a session, else the first.
    fn hub(&self) -> Option<&Peer> {
        let mut hubs = self.hubs.iter().filter_map(|&index| self.peer(index));
        let first = hubs.clone().next();
        hubs.find(|hub| hub.link.has_session()).or(first)
    }

    fn kept(&self, wanted: &PeerSettings) -> Option<&Peer> {
        self.by_key(&wanted.public_key).filter(|old| {
            let old = &old.settings;
            old.preshared_key == wanted.preshared_key
                && old.kind == wanted.kind
                && old.initiates == wanted.initiates
        })
    }

    fn networks(&self) -> Vec<(Ipv4Net, Target)> {
        let mut networks = Vec::new();
        if let RoleSettings::Node { slot, .. } = self.settings.role {
            networks.push((slot.net(), Target::Own));
        }
        for peer in self.in_order() {
            networks.extend(peer.settings.networks.iter().map(|net| (*net, Target::Peer(peer.index))));
        }
        if !self.hubs.is_empty() {
            networks.push((self.settings.overlay, Target::Hubs));
        }
        networks
    }
}
