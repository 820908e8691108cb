//! A configuration and the signed members together: what the engine is told.

use std::collections::{HashMap, HashSet};

use ipnet::Ipv4Net;

use crate::diagnostic::Severity;
use crate::network::overlap;
use crate::{Config, Diagnostic, Hub, HubKind, Membership, Peer, PublicKey};

use super::book::{Book, Standing};
use super::record::{Record, RecordKind};
use super::text::RECORDS_FILE;

/// A configuration with the members of a book in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The file's hubs and peers, those that were revoked left out, and the members that only the records name.
    pub config: Config,
    /// Where the file and the records do not agree.
    pub warnings: Vec<Diagnostic>,
}

impl Config {
    /// This configuration with the members of `book` beside those of the file. What the file says of a key, a name or a network
    /// is the operator's own word on this machine and stays; a record of the same key adds what the file leaves out. Only a
    /// revocation takes from it. With `membership = "file"` the records say nothing.
    ///
    /// The result is for the engine: it may hold what a file cannot (a peer with a slot and networks).
    #[must_use]
    pub fn with_members(&self, book: &Book) -> Applied {
        let mut config = self.clone();
        let mut warnings = Vec::new();
        if self.overlay.membership == Membership::File {
            return Applied { config, warnings };
        }
        let mut revoked = |key: &PublicKey, what: &str, name: &str| {
            let Standing::Revoked { serial } = book.standing(key) else { return false };
            warnings.push(warning(
                "member-revoked",
                format!("{what} `{name}` of the file was revoked (serial {serial}), and is left out"),
                "remove it from the file; `overlay-gw plan add-node` makes a member again, with a new key"
                    .to_owned(),
            ));
            true
        };
        config.hubs.retain(|hub| !revoked(&hub.public_key, "the hub", &hub.name));
        config.peers.retain(|peer| !revoked(&peer.public_key, "the peer", &peer.name));

        let mut taken = Taken::of(&config);
        for record in book.members() {
            if let Err(why) = taken.add(&mut config, record, book) {
                let fix = "the file's word stays on this machine: remove it there, and the record counts"
                    .to_owned();
                warnings.push(warning(
                    "member-conflict",
                    format!("the record of {record} is not used: {why}"),
                    fix,
                ));
            }
        }
        Applied { config, warnings }
    }
}

fn warning(code: &'static str, text: String, fix: String) -> Diagnostic {
    Diagnostic { severity: Severity::Warning, code, file: RECORDS_FILE.into(), line: 0, column: 0, text, fix }
}

/// What this process and its file hold already.
struct Taken {
    own: Option<PublicKey>,
    /// In lower case.
    names: HashSet<String>,
    hubs: HashMap<PublicKey, usize>,
    peers: HashMap<PublicKey, usize>,
    /// Slots and networks of the file, and networks of records; few.
    nets: Vec<(Ipv4Net, String)>,
}

impl Taken {
    fn of(config: &Config) -> Self {
        let hubs = config.hubs.iter().enumerate().map(|(at, hub)| (hub.public_key, at));
        let peers = config.peers.iter().enumerate().map(|(at, peer)| (peer.public_key, at));
        let names = config.hubs.iter().map(|hub| &hub.name).chain(config.peers.iter().map(|peer| &peer.name));
        let names = names.map(String::as_str).chain([config.name()]).map(str::to_ascii_lowercase).collect();
        let of_hubs =
            config.hubs.iter().flat_map(|hub| hub.allowed_ips.iter().map(|net| (*net, hub.name.clone())));
        let of_peers = config.peers.iter().flat_map(|peer| {
            let slot = peer.slot.map(|slot| slot.net());
            peer.allowed_ips.iter().copied().chain(slot).map(|net| (net, peer.name.clone()))
        });
        let routes = config.overlay.routes.iter().map(|route| (route.cidr, route.via.clone()));
        let floating =
            config.overlay.floating.iter().map(|range| (range.cidr, "a floating range".to_owned()));
        let own = config.node().map(|node| (node.slot.net(), node.name.clone()));
        Self {
            own: config.private_key().map(crate::PrivateKey::public),
            names,
            hubs: hubs.collect(),
            peers: peers.collect(),
            nets: of_hubs.chain(of_peers).chain(routes).chain(floating).chain(own).collect(),
        }
    }

    /// Adds what a record says to `config`; an error says what of it cannot be.
    fn add(&mut self, config: &mut Config, record: &Record, book: &Book) -> Result<(), String> {
        let key = record.public_key;
        if self.own == Some(key) {
            return Ok(());
        }
        let endpoint = record.endpoints.first();
        if let Some(hub) = self.hubs.get(&key).and_then(|at| config.hubs.get_mut(*at)) {
            let name = hub.name.clone();
            return self.add_networks(&mut hub.allowed_ips, record, &name);
        }
        if let Some(peer) = self.peers.get(&key).and_then(|at| config.peers.get_mut(*at)) {
            peer.endpoint = peer.endpoint.take().or_else(|| endpoint.cloned());
            let name = peer.name.clone();
            return self.add_networks(&mut peer.allowed_ips, record, &name);
        }
        // A hub has no session with another one, and a node none with a hub that its own record leaves out.
        let own = self.own.and_then(|own| book.get(&own));
        let meets = |own: &Record| own.hubs.is_empty() || own.hubs.contains(&record.name);
        if record.is_hub() && (config.node().is_none() || !own.is_none_or(meets)) {
            return Ok(());
        }
        if self.names.contains(&record.name.to_ascii_lowercase()) {
            return Err("its name is another key's here".to_owned());
        }
        if let RecordKind::Node(slot) = record.kind
            && let Some((net, by)) = self.nets.iter().find(|(net, _)| overlap(*net, slot.net()))
        {
            return Err(format!("its slot is {net} of {by} here"));
        }
        let mut networks = Vec::new();
        let outcome = self.add_networks(&mut networks, record, &record.name);
        let (name, public_key) = (record.name.clone(), key);
        match (record.kind, endpoint) {
            (RecordKind::Node(slot), endpoint) => config.peers.push(Peer {
                name,
                public_key,
                slot: Some(slot),
                allowed_ips: networks,
                endpoint: endpoint.cloned(),
                preshared_key: None,
                persistent_keepalive: None,
            }),
            (RecordKind::Hub, Some(endpoint)) => config.hubs.push(Hub {
                name,
                public_key,
                endpoint: endpoint.clone(),
                kind: HubKind::OverlayGw,
                preshared_key: None,
                persistent_keepalive: None,
                allowed_ips: networks,
            }),
            (RecordKind::Hub, None) => {}
        }
        outcome
    }

    /// Adds the networks of a record that nobody else has; those that a route leads to by this name are there already.
    fn add_networks(&mut self, to: &mut Vec<Ipv4Net>, record: &Record, name: &str) -> Result<(), String> {
        let mut outcome = Ok(());
        for net in &record.networks {
            match self.nets.iter().find(|(held, _)| overlap(*held, *net)) {
                Some((held, by)) if by == name && held.contains(net) => {}
                Some((held, by)) if by != name => {
                    outcome = Err(format!("its network {net} overlaps {held} of {by} here"))
                }
                _ => {
                    to.push(*net);
                    self.nets.push((*net, name.to_owned()));
                }
            }
        }
        outcome
    }
}
