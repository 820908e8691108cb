//! The valid types: what a configuration says once every mistake is out of it.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;

use ipnet::Ipv4Net;

use crate::membership::SigningPublicKey;
use crate::{Diagnostic, Endpoint, PresharedKey, PrivateKey, PublicKey, Slot};

/// The overlay when none is named.
pub const DEFAULT_OVERLAY: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 8, 0), 24);
/// The prefix length of a slot when none is named.
pub const DEFAULT_SLOT_PREFIX: u8 = 29;
/// The device's name when none is given: the one that the Windows recipe relies on.
pub const DEFAULT_DEVICE: &str = "Overlay";
/// The device's MTU in bytes when none is given: 1500, less 80 for WireGuard over IPv6.
pub const DEFAULT_MTU: u16 = 1420;
/// The UDP port that examples and packs use for a hub: WireGuard's customary one.
pub const DEFAULT_HUB_PORT: u16 = 51820;
/// The most slots that one overlay holds: the sealed relay's index gives 13 bits to a slot's ordinal.
pub const MAX_SLOTS: u32 = 8192;

/// One process's configuration, complete and consistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who this process is.
    pub role: Role,
    /// The network that all members share.
    pub overlay: Overlay,
    /// The adapter; a hub has none and keeps the defaults here.
    pub device: Device,
    /// The control socket.
    pub control: Control,
    /// Where members meet.
    pub hubs: Vec<Hub>,
    /// The members known by file.
    pub peers: Vec<Peer>,
    /// What is valid but may not be what was meant, in the order of the file.
    pub warnings: Vec<Diagnostic>,
}

impl Config {
    /// This node's or hub's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.role {
            Role::Node(node) => &node.name,
            Role::Hub(hub) => &hub.name,
        }
    }

    /// The node, unless this is a hub.
    #[must_use]
    pub fn node(&self) -> Option<&Node> {
        match &self.role {
            Role::Node(node) => Some(node),
            Role::Hub(_) => None,
        }
    }

    /// Where datagrams are received.
    #[must_use]
    pub fn listen(&self) -> Listen {
        match &self.role {
            Role::Node(node) => node.listen,
            Role::Hub(hub) => hub.listen,
        }
    }

    /// The private key, when the file or [`crate::Overrides::state_key`] gave one.
    #[must_use]
    pub fn private_key(&self) -> Option<&PrivateKey> {
        match &self.role {
            Role::Node(node) => node.private_key.as_ref(),
            Role::Hub(hub) => hub.private_key.as_ref(),
        }
    }
}

/// Who this process is in the overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has an adapter and owns a slot.
    Node(Node),
    /// It relays and has no adapter.
    Hub(HubRole),
}

/// `[node]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Unique in the overlay, safe as a file name.
    pub name: String,
    /// The addresses it owns.
    pub slot: Slot,
    /// None: the key of the state folder, which does not exist yet.
    pub private_key: Option<PrivateKey>,
    /// Where datagrams are received.
    pub listen: Listen,
}

/// `[hub]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubRole {
    /// Unique in the overlay, safe as a file name.
    pub name: String,
    /// None: the key of the state folder, which does not exist yet.
    pub private_key: Option<PrivateKey>,
    /// Where datagrams are received.
    pub listen: Listen,
}

/// The UDP socket of the underlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listen {
    /// None: every address of the host, IPv4 and IPv6. Only `--listen` sets it.
    pub address: Option<IpAddr>,
    /// 0: any free port.
    pub port: u16,
}

/// `[overlay]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// The whole network; the address is the network's first.
    pub cidr: Ipv4Net,
    /// The prefix length of every slot, in [`Slot::PREFIXES`].
    pub slot_prefix: u8,
    /// DNS servers for the device.
    pub dns: Vec<Ipv4Addr>,
    /// Networks beyond the overlay.
    pub routes: Vec<Route>,
    /// The public half of the overlay's Ed25519 signing key.
    pub signing_key: Option<SigningPublicKey>,
    /// Whom to trust.
    pub membership: Membership,
    /// How hubs carry traffic between nodes.
    pub relay: Relay,
    /// How the gateway refuses what cannot be delivered.
    pub refuse: Refuse,
    /// Ranges whose addresses may move between nodes.
    pub floating: Vec<Floating>,
}

impl Default for Overlay {
    fn default() -> Self {
        Self {
            cidr: DEFAULT_OVERLAY,
            slot_prefix: DEFAULT_SLOT_PREFIX,
            dns: Vec::new(),
            routes: Vec::new(),
            signing_key: None,
            membership: Membership::File,
            relay: Relay::default(),
            refuse: Refuse::default(),
            floating: Vec::new(),
        }
    }
}

/// A network beyond the overlay and the member that it is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The network; never a default route.
    pub cidr: Ipv4Net,
    /// The name of a hub or peer, or this process's own.
    pub via: String,
}

/// A range of the overlay outside every slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floating {
    /// The range; the address is the network's first.
    pub cidr: Ipv4Net,
    /// The nodes that may hold its addresses.
    pub slots: Vec<Slot>,
}

/// How the gateway refuses what cannot be delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refuse {
    /// TCP gets a RST, the rest an ICMP unreachable.
    #[default]
    Reset,
    /// Everything gets an ICMP unreachable.
    Unreachable,
    /// Nothing is answered.
    Silent,
}

/// The layer that the device works on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Layer 3: IP packets.
    #[default]
    Tun,
    /// Layer 2: Ethernet frames, where ARP is answered. Linux only.
    Tap,
}

/// How hubs carry traffic between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Relay {
    /// Without opening it.
    #[default]
    Sealed,
    /// Decrypted, checked and encrypted again.
    Routed,
}

/// Whom a process trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// Records signed with the overlay's signing key.
    Signed,
    /// Only what is written in the file.
    File,
}

/// `[device]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// 1 to 15 bytes, also the instance's name.
    pub name: String,
    /// Layer 3 or layer 2.
    pub mode: Mode,
    /// In bytes, 576 to 65475.
    pub mtu: u16,
    /// None: chosen by the number of cores.
    pub queues: Option<NonZeroU16>,
    /// What is changed on a Windows host only.
    pub windows: Windows,
}

impl Default for Device {
    fn default() -> Self {
        Self {
            name: DEFAULT_DEVICE.into(),
            mode: Mode::default(),
            mtu: DEFAULT_MTU,
            queues: None,
            windows: Windows::default(),
        }
    }
}

/// `[device.windows]`: what is changed on a Windows host beside addresses and routes. All of it, unless switched off.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "five independent switches of one file")]
pub struct Windows {
    /// The adapter's network is made Private when Windows takes it for Public.
    pub private_network: bool,
    /// The firewall lets ICMP in on the adapter.
    pub icmp: bool,
    /// And the cluster service: UDP and TCP 3343.
    pub cluster: bool,
    /// And file shares: TCP 445.
    pub smb: bool,
    /// And RPC: TCP 135 and the dynamic ports.
    pub rpc: bool,
}

impl Default for Windows {
    fn default() -> Self {
        Self { private_network: true, icmp: true, cluster: true, smb: true, rpc: true }
    }
}

/// `[control]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// The group that may use the control socket besides the owner.
    pub group: Option<String>,
}

/// One of `[[hubs]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hub {
    /// Unique in the overlay, safe as a file name.
    pub name: String,
    /// Its identity.
    pub public_key: PublicKey,
    /// Where it is reached.
    pub endpoint: Endpoint,
    /// What it speaks.
    pub kind: HubKind,
    /// A secret shared with it.
    pub preshared_key: Option<PresharedKey>,
    /// In seconds.
    pub persistent_keepalive: Option<u16>,
    /// Networks behind it.
    pub allowed_ips: Vec<Ipv4Net>,
}

/// What a hub speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HubKind {
    /// `overlay-gw hub`.
    #[default]
    OverlayGw,
    /// A standard WireGuard server: routed only.
    Wireguard,
}

/// One of `[[peers]]`: either `slot` is set, or `allowed_ips` is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Unique in the overlay, safe as a file name.
    pub name: String,
    /// Its identity.
    pub public_key: PublicKey,
    /// The slot of an overlay-gw node.
    pub slot: Option<Slot>,
    /// The networks of a plain WireGuard member.
    pub allowed_ips: Vec<Ipv4Net>,
    /// A direct path, when it is known.
    pub endpoint: Option<Endpoint>,
    /// A secret shared with it.
    pub preshared_key: Option<PresharedKey>,
    /// In seconds.
    pub persistent_keepalive: Option<u16>,
}
