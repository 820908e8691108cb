//! What a membership record says, and what makes it well formed whatever overlay it is for.

use std::fmt;

use ipnet::Ipv4Net;

use crate::name::{member_mistake, shown};
use crate::{Endpoint, PublicKey, Slot, SlotError, network};

/// The most bytes of a record, signature included. It travels in one control message: a path of 1,280 bytes (RFC 8200, section
/// 5) less 80 for WireGuard over IPv6 and 40 for the message's IPv6 header leaves 1,160.
pub const MAX_RECORD_BYTES: usize = 1024;

/// The most hubs that a record names.
pub(super) const MAX_HUBS: usize = 8;
/// The most networks that a record lists.
pub(crate) const MAX_NETWORKS: usize = 64;
/// The most endpoints that a record lists.
pub(super) const MAX_ENDPOINTS: usize = 4;

/// A member of the overlay as the administrator says it is. It may do nothing beyond what stands here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its identity.
    pub public_key: PublicKey,
    /// Unique among the members, safe as a file name.
    pub name: String,
    /// A node with its slot, or a hub.
    pub kind: RecordKind,
    /// The higher one wins. Unique in an overlay: `plan` counts on from the highest that it ever gave.
    pub serial: u64,
    /// The key is a member no more.
    pub revoked: bool,
    /// Names of the hubs that a node meets the others at; empty: at every one. Empty for a hub.
    pub hubs: Vec<String>,
    /// Networks beyond the overlay that are behind it.
    pub networks: Vec<Ipv4Net>,
    /// Where it is reached in the underlay: a hub has at least one, a node only those that are written down.
    pub endpoints: Vec<Endpoint>,
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// It owns this slot.
    Node(Slot),
    /// It relays.
    Hub,
}

/// Why bytes or a [`Record`] are no well-formed record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not base64, where a text was read.
    #[error("it is not base64")]
    NotBase64,
    /// Of a version that this program does not know.
    #[error("it is of version {0}, and this program reads version 1")]
    Version(u8),
    /// The bytes end within a field, or go on behind the last one.
    #[error("it is cut off, or has more bytes than it says")]
    Length,
    /// More than [`MAX_RECORD_BYTES`].
    #[error("it has {0} bytes, and a record at most {MAX_RECORD_BYTES}")]
    TooLong(usize),
    /// Bits that stand for nothing are set, or the same could be written in another way.
    #[error("it is not written as records are")]
    NotCanonical,
    /// A name that no member can have.
    #[error("`{0}` cannot be a name")]
    Name(String),
    /// A slot that is none.
    #[error("its slot is none: {0}")]
    Slot(SlotError),
    /// A network that is none, or a default route.
    #[error("its network {0} cannot be behind a member")]
    Network(Ipv4Net),
    /// An endpoint that no datagram can be sent to.
    #[error("`{0}` cannot be its endpoint")]
    Endpoint(String),
    /// More of something than a record holds.
    #[error("it lists {0} {1}, and a record at most {2}")]
    Many(usize, &'static str, usize),
    /// A hub that nobody can reach.
    #[error("it is a hub and has no endpoint")]
    NoEndpoint,
    /// A hub that lists hubs.
    #[error("it is a hub and lists hubs")]
    HubOfHubs,
}

impl Record {
    /// The slot, if this is a node.
    #[must_use]
    pub fn slot(&self) -> Option<Slot> {
        match self.kind {
            RecordKind::Node(slot) => Some(slot),
            RecordKind::Hub => None,
        }
    }

    /// Whether this is a hub.
    #[must_use]
    pub fn is_hub(&self) -> bool {
        self.kind == RecordKind::Hub
    }

    /// The record that ends this membership: short, for it is also sent to who has no session any more.
    #[must_use]
    pub fn revocation(&self, serial: u64) -> Self {
        // No hub's record is without an endpoint.
        let endpoints = if self.is_hub() { self.endpoints.clone() } else { Vec::new() };
        let (hubs, networks) = Default::default();
        Self { serial, revoked: true, hubs, networks, endpoints, ..self.clone() }
    }

    /// What is wrong with it, whatever its overlay.
    ///
    /// # Errors
    /// The first mistake.
    pub fn check(&self) -> Result<(), RecordError> {
        for name in std::iter::once(&self.name).chain(&self.hubs) {
            if member_mistake(name).is_some() {
                return Err(RecordError::Name(shown(name)));
            }
        }
        for (many, what, most) in [
            (self.hubs.len(), "hubs", MAX_HUBS),
            (self.networks.len(), "networks", MAX_NETWORKS),
            (self.endpoints.len(), "endpoints", MAX_ENDPOINTS),
        ] {
            if many > most {
                return Err(RecordError::Many(many, what, most));
            }
        }
        if let Some(net) = self.networks.iter().find(|net| network::check(**net).is_some()) {
            return Err(RecordError::Network(*net));
        }
        // An IPv6 scope means something on one host only.
        let same = |endpoint: &&Endpoint| match endpoint {
            Endpoint::Address(std::net::SocketAddr::V6(v6)) if v6.scope_id() != 0 || v6.flowinfo() != 0 => {
                false
            }
            _ => endpoint.to_string().parse().as_ref() == Ok(*endpoint),
        };
        if let Some(endpoint) = self.endpoints.iter().find(|endpoint| !same(endpoint)) {
            return Err(RecordError::Endpoint(shown(&endpoint.to_string())));
        }
        match self.kind {
            RecordKind::Hub if self.endpoints.is_empty() => Err(RecordError::NoEndpoint),
            RecordKind::Hub if !self.hubs.is_empty() => Err(RecordError::HubOfHubs),
            _ => Ok(()),
        }
    }
}

/// As a comment in a file or a line for the operator: `node cluster-1, slot 172.16.8.56/29, serial 3`.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RecordKind::Node(slot) => write!(f, "node {}, slot {slot}, serial {}", self.name, self.serial)?,
            RecordKind::Hub => write!(f, "hub {}, serial {}", self.name, self.serial)?,
        }
        f.write_str(if self.revoked { ", revoked" } else { "" })
    }
}
