//! What an engine is told: its role, its slot, its peers; and how a [`Config`] says so.

use crate::gateway::refuse::Refusal;
use crate::peer::{PeerKind, PeerSettings, Sealing};
use ipnet::Ipv4Net;
use overlay_config::{Config, Endpoint, Floating, HubKind, Membership, Mode, Refuse, Relay, Slot};
use std::net::{Ipv4Addr, SocketAddr};

/// Seconds between keepalives of a node and its hub, each way, when the file names none. A hub must reach its nodes at any
/// time, through NAT mappings that live for 30 s (RFC 4787 section 4.3 asks for two minutes, home routers and clouds give
/// less), and each must notice within seconds that the other has restarted.
const HUB_KEEPALIVE: u16 = 5;

/// End-to-end sessions that a node keeps at all times; with more members, the others' begin with the first packet.
const WARM_NODES: usize = 64;

/// The tunnel MTU of a hub, which has no device of its own.
const HUB_MTU: u16 = 1420;

/// Node or hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoleSettings {
    /// A node: a device, a slot and a gateway.
    Node {
        /// The slot of this node.
        slot: Slot,
        /// TUN (packets) or TAP (frames).
        mode: Mode,
    },
    /// A hub: routes between its members, has no device.
    Hub,
}

/// Everything that an engine is told about its overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    /// Node or hub.
    pub role: RoleSettings,
    /// The overlay.
    pub overlay: Ipv4Net,
    /// Length of a slot's prefix.
    pub slot_prefix: u8,
    /// The largest packet that the tunnel carries, in bytes.
    pub mtu: u16,
    /// What happens to a connection to an address of the slot that is not on the device.
    pub refuse: Refusal,
    /// Ranges whose addresses belong to whichever eligible node has them on its device.
    pub floating: Vec<Floating>,
    /// The peers; hubs in the order of preference.
    pub peers: Vec<PeerSettings>,
}

impl EngineSettings {
    /// The settings that `config` describes. Endpoints given by name are left open: the daemon resolves them and tells the engine.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        let node = config.node();
        let role = match node {
            Some(node) => RoleSettings::Node { slot: node.slot, mode: config.device.mode },
            None => RoleSettings::Hub,
        };
        let routes_via = |name: &str| {
            config.overlay.routes.iter().filter(move |r| r.via == name).map(|r| r.cidr).collect::<Vec<_>>()
        };
        let hubs = config.hubs.iter().map(|hub| PeerSettings {
            name: hub.name.clone(),
            kind: PeerKind::Hub,
            public_key: hub.public_key.0,
            preshared_key: hub.preshared_key.clone(),
            keepalive: hub.persistent_keepalive.or((hub.kind == HubKind::OverlayGw).then_some(HUB_KEEPALIVE)),
            endpoint: address(&hub.endpoint),
            slot: None,
            networks: [hub.allowed_ips.clone(), routes_via(&hub.name)].concat(),
            initiates: true,
            warm: true,
            sends_keepalives: hub.kind == HubKind::OverlayGw,
            speaks_control: hub.kind == HubKind::OverlayGw,
            sealing: Sealing::Never,
        });
        let sealing = match (config.overlay.relay, config.overlay.membership) {
            (Relay::Routed, _) => Sealing::Never,
            (Relay::Sealed, Membership::File) => Sealing::Preferred,
            (Relay::Sealed, Membership::Signed) => Sealing::Required,
        };
        let mut warm_nodes = WARM_NODES;
        let may_float = |slot: Ipv4Net| {
            config.overlay.floating.iter().flat_map(|range| &range.slots).any(|able| able.net() == slot)
        };
        let floats = node.is_some_and(|node| may_float(node.slot.net()));
        let peers = config.peers.iter().map(|peer| {
            let slot = peer.slot.map(|slot| slot.net());
            let initiates = match (node, peer.slot) {
                // Of two nodes the lower slot begins; towards a plain member the node does; a hub waits.
                (Some(node), Some(theirs)) => node.slot.net() < theirs.net(),
                (Some(_), None) => true,
                (None, _) => false,
            };
            let sealing = if node.is_some() && slot.is_some() { sealing } else { Sealing::Never };
            // Who may have a floating address has to be heard to be reached there, and tells everybody.
            let is_heard = sealing != Sealing::Never && (floats || slot.is_some_and(may_float));
            let kept_warm = sealing != Sealing::Never && warm_nodes > 0;
            warm_nodes -= usize::from(kept_warm);
            PeerSettings {
                name: peer.name.clone(),
                kind: if slot.is_some() { PeerKind::Node } else { PeerKind::Wireguard },
                public_key: peer.public_key.0,
                preshared_key: peer.preshared_key.clone(),
                keepalive: peer
                    .persistent_keepalive
                    .or((node.is_none() && slot.is_some()).then_some(HUB_KEEPALIVE)),
                endpoint: peer.endpoint.as_ref().and_then(address),
                slot,
                networks: [slot.into_iter().collect(), peer.allowed_ips.clone(), routes_via(&peer.name)]
                    .concat(),
                initiates,
                // A member whose endpoint is written down is spoken to first; of the others we wait to hear.
                warm: peer.endpoint.is_some() || kept_warm || is_heard,
                sends_keepalives: node.is_none() && slot.is_some(),
                speaks_control: slot.is_some(),
                sealing,
            }
        });
        Self {
            role,
            overlay: config.overlay.cidr,
            slot_prefix: config.overlay.slot_prefix,
            mtu: if node.is_some() { config.device.mtu } else { HUB_MTU },
            refuse: match config.overlay.refuse {
                Refuse::Reset => Refusal::Reset,
                Refuse::Unreachable => Refusal::Unreachable,
                Refuse::Silent => Refusal::Silent,
            },
            floating: config.overlay.floating.clone(),
            peers: hubs.chain(peers).collect(),
        }
    }

    /// Whether the node of `slot` may hold this address: a floating one, of a range that names the slot.
    #[must_use]
    pub fn may_hold(&self, slot: Ipv4Net, address: Ipv4Addr) -> bool {
        self.floating_range(address).is_some_and(|range| range.slots.iter().any(|able| able.net() == slot))
    }

    /// Whether this is a node whose packets to other nodes are opened by hubs.
    #[must_use]
    pub fn is_routed(&self) -> bool {
        let sealed = |peer: &PeerSettings| peer.kind == PeerKind::Node && peer.sealing != Sealing::Never;
        matches!(self.role, RoleSettings::Node { .. }) && !self.peers.iter().any(sealed)
    }

    /// The floating range that this address is in.
    #[must_use]
    pub fn floating_range(&self, address: Ipv4Addr) -> Option<&Floating> {
        self.floating.iter().find(|range| range.cidr.contains(&address))
    }

    /// The slot, if this is a node.
    #[must_use]
    pub fn slot(&self) -> Option<Slot> {
        match self.role {
            RoleSettings::Node { slot, .. } => Some(slot),
            RoleSettings::Hub => None,
        }
    }
}

fn address(endpoint: &Endpoint) -> Option<SocketAddr> {
    match endpoint {
        Endpoint::Address(address) => Some(*address),
        Endpoint::Name { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use overlay_config::{FileError, FileText, Files, HostFacts, Overrides, PrivateKey, Source, load_node};
    use std::path::Path;

    struct OneKey;

    impl Files for OneKey {
        fn read(&self, _: &Path) -> Result<FileText, FileError> {
            let key = PrivateKey::from_bytes([7; 32]).to_base64();
            Ok(FileText { bytes: key.as_bytes().to_vec().into(), private: true })
        }
    }

    /// The names of those that the node of `slot` always has a session with, in an overlay of 100 nodes; those of `floating` may have
    /// floating addresses.
    fn warm(slot: usize, floating: &[usize]) -> Vec<usize> {
        let address = |n: usize| Ipv4Addr::from(0x0a00_0000 + n as u32 * 8).to_string();
        let slots: Vec<_> = floating.iter().map(|n| address(*n)).collect();
        let mut text = format!(
            "version = 1\n[node]\nname = \"node-{slot}\"\nslot = \"{}\"\nprivate_key_file = \"key\"\n[overlay]\ncidr = \"10.0.0.0/16\"\n",
            address(slot)
        );
        if !floating.is_empty() {
            text += &format!("floating = [{{ cidr = \"10.0.200.0/28\", slots = {slots:?} }}]\n");
        }
        for n in (1..=100).filter(|n| *n != slot) {
            let key = PrivateKey::from_bytes([n as u8 + 100; 32]).public();
            let peer = format!(
                "[[peers]]\nname = \"node-{n}\"\nslot = \"{}\"\npublic_key = \"{key}\"\n",
                address(n)
            );
            text.push_str(&peer);
        }
        let source = Source { name: "config.toml".into(), bytes: text.into_bytes() };
        let config = load_node(Some(&source), &Overrides::default(), &OneKey, &HostFacts::default());
        let settings = EngineSettings::from_config(&config.unwrap_or_else(|why| panic!("{why}")));
        let warm = settings.peers.iter().filter(|peer| peer.warm);
        warm.map(|peer| peer.name.trim_start_matches("node-").parse().unwrap()).collect()
    }

    #[test]
    fn in_a_large_overlay_sessions_stay_with_the_first_and_with_who_may_have_a_floating_address() {
        assert_eq!(warm(1, &[]), (2..=65).collect::<Vec<_>>());
        assert_eq!(warm(1, &[90, 95]), (2..=65).chain([90, 95]).collect::<Vec<_>>());
        assert_eq!(
            warm(90, &[90, 95]),
            (1..=89).chain(91..=100).collect::<Vec<_>>(),
            "everybody is to hear it"
        );
    }
}
