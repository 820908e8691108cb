//! The table: one consistent view of peers and routes. A reload replaces it as a whole; links live on.

use crate::claim::{Holder as FloatHolder, Owners};
use crate::label::{self, Holder, Label, Labels, Use};
use crate::peer::tunnel::Identity;
use crate::peer::{Kin, Link, Peer, PeerIndex, PeerKind, PeerSettings, Sealing, Standing};
use crate::route::RouteTable;
use crate::settings::{EngineSettings, RoleSettings};
use arc_swap::ArcSwap;
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
    /// A floating range: whoever has the address.
    Floating,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug)]
pub enum Destination<'a> {
    /// The node's own slot.
    Own,
    /// Through this peer.
    Peer(&'a Peer),
    /// A floating address that nobody is known to have.
    Unowned,
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
    by_ordinal: HashMap<u16, PeerIndex>,
    /// A node's local numbers.
    pub labels: Arc<Labels>,
    hubs: Vec<PeerIndex>,
    routes: RouteTable<Target>,
    /// Who has which floating address. Replaced as a whole; asked, without waiting, for a packet of such an address only.
    pub(crate) owners: ArcSwap<Owners>,
    /// Only hubs hear who has a floating address: this node has no session of its own with any other.
    floating_by_hub: bool,
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
                    let mut link = old.link.lock();
                    link.tunnel.set_warm(wanted.warm);
                    link.tunnel.set_keepalive(wanted.keepalive);
                    if wanted.endpoint != old.settings.endpoint
                        && (wanted.endpoint.is_some() || matches!(link.kin, Kin::Node(_)))
                    {
                        link.set_endpoint(now, wanted.endpoint);
                    }
                    drop(link);
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
            let hub = (settings.role == RoleSettings::Hub).then_some(identity);
            let link = Arc::new(Link::new(hub, wanted, index, now, seed()));
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
            by_ordinal: HashMap::new(),
            labels: before.map_or_else(Arc::default, |before| Arc::clone(&before.labels)),
            hubs: Vec::new(),
            routes: RouteTable::new(settings.overlay, 32, &[]),
            owners: ArcSwap::default(),
            floating_by_hub: settings.is_routed(),
            settings,
        };
        table.hubs = table.in_order().filter(|p| p.settings.kind == PeerKind::Hub).map(|p| p.index).collect();
        table.by_ordinal = table.peers().filter_map(|p| Some((table.ordinal_of(p)?, p.index))).collect();
        table.routes = RouteTable::new(table.settings.overlay, table.settings.slot_prefix, &table.networks());
        table
    }

    /// Whose session a receiver index names, and what that is for: at a hub its upper bits are the peer's index, at a node they
    /// name a local number.
    #[must_use]
    pub fn by_receiver(&self, receiver: u32) -> Option<(&Peer, Use)> {
        let (index, purpose) = match (&self.settings.role, Label::of(receiver).holder()) {
            (RoleSettings::Hub, Holder::Hub(index)) => (index, Use::Carries),
            (RoleSettings::Node { .. }, Holder::Node { local, .. }) => self.labels.holder(local)?,
            _ => return None,
        };
        Some((self.peer(index)?, purpose))
    }

    /// The ordinal of a node's slot.
    #[must_use]
    pub fn ordinal_of(&self, peer: &Peer) -> Option<u16> {
        self.ordinal(peer.settings.slot?)
    }

    /// The ordinal of this node's own slot.
    #[must_use]
    pub fn own_ordinal(&self) -> Option<u16> {
        self.ordinal(self.slot()?)
    }

    fn ordinal(&self, slot: Ipv4Net) -> Option<u16> {
        label::ordinal(self.settings.overlay, self.settings.slot_prefix, slot)
    }

    /// The node whose slot has this ordinal.
    #[must_use]
    pub fn by_ordinal(&self, ordinal: u16) -> Option<&Peer> {
        self.peer(*self.by_ordinal.get(&ordinal)?)
    }

    /// The hubs, in the order of preference.
    pub fn hubs(&self) -> impl Iterator<Item = &Peer> {
        self.hubs.iter().filter_map(|&index| self.peer(index))
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

    /// Whether this very peer, with its link, is here as well.
    #[must_use]
    pub fn holds(&self, peer: &Peer) -> bool {
        self.peer(peer.index).is_some_and(|here| Arc::ptr_eq(&here.link, &peer.link))
    }

    /// All peers, in the order of their indices.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> + Clone {
        self.peers.iter().flatten()
    }

    /// Whether a peer is at `address` in the underlay. Takes the lock of one peer after another.
    #[must_use]
    pub fn is_endpoint(&self, address: SocketAddr) -> bool {
        // A socket that speaks both versions writes an IPv4 address as ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2).
        let plain = |endpoint: SocketAddr| (endpoint.ip().to_canonical(), endpoint.port());
        self.peers().any(|peer| {
            let link = peer.link.lock();
            let direct = match &link.kin {
                Kin::Node(node) => node.paths.candidates(),
                _ => &[],
            };
            let mut known = link.endpoint.into_iter().chain(direct.iter().map(|candidate| candidate.address));
            known.any(|endpoint| plain(endpoint) == plain(address))
        })
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
                Some(peer) if peer.settings.kind == PeerKind::Node => Destination::Peer(self.way_to(peer)),
                Some(peer) => Destination::Peer(peer),
            },
            Some(Target::Floating) => match self.owners.load().of(address) {
                Some(FloatHolder::Own) => Destination::Own,
                Some(FloatHolder::Peer(index)) => {
                    self.peer(index).map_or(Destination::Unowned, |peer| Destination::Peer(self.way_to(peer)))
                }
                None if self.floating_by_hub => self.hub().map_or(Destination::Unowned, Destination::Peer),
                None => Destination::Unowned,
            },
        }
    }

    /// The largest packet in bytes that is sent to `peer`.
    #[must_use]
    pub fn mtu_to(&self, peer: &Peer) -> u16 {
        self.settings.mtu.min(peer.link.mtu())
    }

    /// Whether the address is a floating one.
    #[must_use]
    pub fn is_floating(&self, address: Ipv4Addr) -> bool {
        self.routes.lookup(address) == Some(Target::Floating)
    }

    /// Through whom a node is reached.
    fn way_to<'a>(&'a self, peer: &'a Peer) -> &'a Peer {
        if peer.settings.sealing != Sealing::Never && peer.settings.speaks_control {
            // Into its own session, or what waits for that; routed only where that was found to be the only way.
            return peer.link.routed_via().and_then(|hub| self.peer(hub)).unwrap_or(peer);
        }
        if peer.link.has_session() {
            return peer;
        }
        self.hub().filter(|hub| hub.link.has_session() || !peer.settings.warm).unwrap_or(peer)
    }

    /// Whether `peer` may send from `source`: it has the longest prefix around it, alone or with others (WireGuard paper,
    /// section 2, cryptokey routing). A hub may for everybody in the overlay besides. From the node's own slot nobody may.
    #[must_use]
    pub fn owns(&self, peer: &Peer, source: Ipv4Addr) -> bool {
        let is_hub = peer.settings.kind == PeerKind::Hub;
        let relays = is_hub && self.settings.overlay.contains(&source);
        match self.routes.lookup(source) {
            None | Some(Target::Own) => false,
            Some(Target::Hubs) => relays,
            // Whoever may have it, and not only who has it now: on a move packets and claims pass each other.
            Some(Target::Floating) => {
                peer.settings.slot.is_some_and(|slot| self.settings.may_hold(slot, source))
            }
            Some(Target::Peer(index)) => {
                // The first of several with the same network is in the table; its prefix is the longest of all.
                index == peer.index
                    || relays && self.peer(index).is_none_or(|owner| may_be_routed(peer, owner))
                    || peer.longest_prefix(source).is_some_and(|own| {
                        self.peer(index).and_then(|first| first.longest_prefix(source)) <= Some(own)
                    })
            }
        }
    }

    /// The first hub that carries, else the first with a session, else the first.
    fn hub(&self) -> Option<&Peer> {
        let worth = |hub: &&Peer| (hub.link.has_session(), hub.link.standing());
        let best = (true, Standing::Up);
        let mut chosen = None;
        for hub in self.hubs() {
            if worth(&hub) == best {
                return Some(hub);
            }
            if chosen.is_none_or(|chosen| worth(&hub) > worth(&chosen)) {
                chosen = Some(hub);
            }
        }
        chosen
    }

    fn kept(&self, wanted: &PeerSettings) -> Option<&Peer> {
        self.by_key(&wanted.public_key).filter(|old| {
            let old = &old.settings;
            old.preshared_key == wanted.preshared_key
                && old.kind == wanted.kind
                && old.initiates == wanted.initiates
                && old.speaks_control == wanted.speaks_control
                && old.sealing == wanted.sealing
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
        networks.extend(self.settings.floating.iter().map(|range| (range.cidr, Target::Floating)));
        if !self.hubs.is_empty() {
            networks.push((self.settings.overlay, Target::Hubs));
        }
        networks
    }
}

/// Whether a hub may bring packets of a node that also has sessions of its own: where there was such a session, or must be one,
/// only a hub that cannot carry it may.
fn may_be_routed(hub: &Peer, owner: &Peer) -> bool {
    match owner.settings.sealing {
        Sealing::Never => true,
        Sealing::Preferred => !hub.settings.speaks_control || !owner.link.was_sealed(),
        Sealing::Required => false,
    }
}
