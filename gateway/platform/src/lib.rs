//! What overlay-gw asks of the operating system, and the leaves that do it.
//!
//! The packet path sees two traits, [`Device`] (the adapter) and [`Transport`] (the underlay's UDP sockets); both move
//! whole batches and never block. Everything that is changed on the host (addresses, routes, DNS) is a
//! [`change::Change`], applied through [`HostNet`] and written down in a [`record::Record`] before it happens, so that
//! whatever kills the process leaves nothing behind that the next start cannot undo.
//!
//! The leaf of the operating system is [`os`], chosen here and nowhere else. [`memory`] has doubles of all three.

pub mod access;
pub mod change;
pub mod guid;
pub mod memory;
mod ready;
pub mod record;
pub mod settle;
mod underlay_errors;
pub mod underlay_routes;

#[cfg(target_os = "linux")]
#[path = "linux/mod.rs"]
pub mod os;

#[cfg(windows)]
#[path = "windows/mod.rs"]
pub mod os;

use std::{io, net::Ipv4Addr, path::PathBuf};

use ipnet::Ipv4Net;
use overlay_engine::packet::{DatagramBatch, PacketBatch};
use serde::{Deserialize, Serialize};

use crate::change::Change;
pub use crate::ready::{MAX_WAITED, Ready};
pub use crate::underlay_errors::TransportErrors;

/// The adapter: where the host's packets come from and go to. Non-blocking; wait for it with the leaf's poll.
pub trait Device: Send + Sync {
    /// Appends the packets that are waiting to `batch`, until none is left or the batch is full, and returns how many
    /// it appended; 0 when none is waiting.
    ///
    /// # Errors
    /// Only when the device itself is gone or broken.
    fn read_batch(&self, batch: &mut PacketBatch) -> io::Result<usize>;

    /// Hands each packet of `batch` to the host and returns how many it took. A packet that the host does not take is
    /// dropped and counted by the leaf; it never ends the batch.
    ///
    /// # Errors
    /// Only when the device itself is gone or broken.
    fn write_batch(&self, batch: &PacketBatch) -> io::Result<usize>;
}

/// The underlay: UDP datagrams to and from other gateways and hubs. Non-blocking.
pub trait Transport: Send + Sync {
    /// Sends each datagram of `batch` to its address and returns how many the host took. One that cannot be sent is
    /// dropped and counted by the leaf; it never ends the batch.
    ///
    /// # Errors
    /// Only when the socket itself is broken.
    fn send_batch(&self, batch: &DatagramBatch) -> io::Result<usize>;

    /// As [`Transport::send_batch`], but no datagram may be fragmented on its way: it arrives whole or not at all. For the few that
    /// probe a path's MTU.
    ///
    /// # Errors
    /// Only when the socket itself is broken.
    fn send_whole(&self, batch: &DatagramBatch) -> io::Result<usize>;

    /// Appends the datagrams that are waiting to `batch` and returns how many; 0 when none is waiting. IPv4 addresses
    /// are always given as IPv4, never mapped into IPv6.
    ///
    /// # Errors
    /// Only when the socket itself is broken.
    fn recv_batch(&self, batch: &mut DatagramBatch) -> io::Result<usize>;

    /// The UDP port that the sockets are bound to.
    fn local_port(&self) -> u16;
}

/// The host's network configuration around one device, which need not exist yet.
pub trait HostNet: Send + Sync {
    /// What is known of the device; `None` when there is none of that name.
    fn device(&self) -> impl Future<Output = Result<Option<DeviceFacts>, HostError>> + Send;

    /// Makes `change`. What is there already, whoever made it, stays as it is.
    fn apply(&self, change: &Change) -> impl Future<Output = Result<Outcome, HostError>> + Send;

    /// Whether what `change` would bring about is there, whoever made it.
    fn present(&self, change: &Change) -> impl Future<Output = Result<bool, HostError>> + Send;

    /// Takes `change` back and returns whether there was anything to take back. Settings of the device itself (link
    /// state, MTU, sysctls) go when the device goes and are left alone here.
    fn undo(&self, change: &Change) -> impl Future<Output = Result<bool, HostError>> + Send;

    /// Every IPv4 address of the host, with the name of its interface.
    fn addresses(&self) -> impl Future<Output = Result<Vec<(String, Ipv4Net)>, HostError>> + Send;

    /// The IPv4 addresses of the device, in the kernel's order; none when there is no device.
    fn device_addresses(&self) -> impl Future<Output = Result<Vec<Ipv4Net>, HostError>> + Send;

    /// Why the device's network is not Private in the end ([`change::Change::PrivateNetwork`]); `None`: it is, or it is still tried, or
    /// nobody asked for it.
    fn network_trouble(&self) -> Option<String> {
        None
    }

    /// Deletes the device and returns whether there was one.
    fn delete_device(&self) -> impl Future<Output = Result<bool, HostError>> + Send;
}

/// Which packets the device carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// IP packets (layer 3).
    Tun,
    /// Ethernet frames (layer 2), where ARP is answered.
    Tap,
}

impl std::fmt::Display for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tun => "tun",
            Self::Tap => "tap",
        })
    }
}

/// The device that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Its name, at most 15 bytes on Linux.
    pub name: String,
    /// What it carries.
    pub layer: Layer,
    /// The hardware address it is to have (TAP only); `None`: the kernel's choice.
    pub mac: Option<[u8; 6]>,
    /// The largest IP packet in bytes that is read from it. A larger one (somebody raised the MTU) is dropped.
    pub mtu: u16,
    /// Whether the host may hand over, and is given, super-packets of up to 64 KB (TUN only, and where the kernel can).
    pub offload: bool,
    /// The GUID of the adapter (Windows), from overlay and slot alone: [`guid::of`].
    pub guid: u128,
    /// The interface index of the device that our record of this boot names: it is ours even when its mark is gone.
    pub recorded_index: Option<u32>,
}

/// A device that is open.
#[derive(Debug)]
pub struct Opened<D> {
    /// The device.
    pub device: D,
    /// Whether it was there already, left behind by an earlier run of ours. Otherwise it was made.
    pub adopted: bool,
    /// What the record keeps of it.
    pub identity: DeviceIdentity,
}

/// Packets that did not pass the device since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceDrops {
    /// From the host, but larger than the MTU we know.
    pub too_big: u64,
    /// Towards the host, who did not take it: the link is down, its memory or ring is full, or it is no packet.
    pub not_taken: u64,
}

/// What tells a device from another of the same name, within one boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceIdentity {
    /// Its name.
    pub name: String,
    /// The kernel's number for it, never given twice within one boot and namespace.
    pub ifindex: u32,
    /// What it carries.
    pub mode: Layer,
}

/// What the host tells of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// The kernel's number for it.
    pub ifindex: u32,
    /// What it is: `tun`, `tap`, or another kind of link (`veth`, `bridge`, ...).
    pub kind: String,
    /// Whether it bears our mark.
    pub marked: bool,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether a process is attached to it.
    pub attached: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its hardware address; empty for a TUN device.
    pub mac: Vec<u8>,
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was made just now: it is ours.
    Added,
    /// It was there: it is somebody else's, unless the record says otherwise.
    AlreadyThere,
    /// DNS servers could not be set, since systemd-resolved does not run: the program goes on and says so.
    NoResolved,
    /// The device has other DNS servers, which somebody else has set: they stay, and the program says so.
    OtherServers,
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Another process is attached to it.
    #[error(
        "device {name} is in use by another process\n    stop that process (is another overlay-gw running?) or choose another name with --device"
    )]
    Busy {
        /// The device's name.
        name: String,
    },
    /// A link of that name exists and is of another kind or mode.
    #[error(
        "an interface named {name} exists and is a {kind} device, not {wanted}\n    choose another name with --device, or remove it with `ip link delete {name}` if nothing needs it"
    )]
    Foreign {
        /// The device's name.
        name: String,
        /// What it is.
        kind: String,
        /// What was to be opened.
        wanted: Layer,
    },
    /// A TUN or TAP device of that name exists, and nothing says that we made it.
    #[error(
        "device {name} exists and was not made by overlay-gw\n    choose another name with --device, or {} if nothing needs it",
        os::advice::REMOVE_DEVICE.replace("NAME", name)
    )]
    NotOurs {
        /// The device's name.
        name: String,
    },
    /// The kernel's TUN driver is not there.
    #[error(
        "/dev/net/tun cannot be opened: {source}\n    load the driver with `modprobe tun`; in a container, pass the device through (--device /dev/net/tun)"
    )]
    NoDriver {
        /// What the kernel said.
        source: io::Error,
    },
    /// The process may not make or open the device.
    #[error("no permission to open device {name}: {source}\n    {}", os::advice::RIGHTS)]
    Permission {
        /// The device's name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Windows has no device of layer 2 that this program could use.
    #[error(
        "mode \"tap\" is for Linux\n    leave it out: on Windows the gateway answers on a layer 3 adapter (Wintun)"
    )]
    NoTap,
    /// wintun.dll is not there, or not the real one.
    #[error(
        "the adapter's driver cannot be used: {source}\n    install overlay-gw again: its installer puts the real wintun.dll beside the program"
    )]
    NoLibrary {
        /// What is wrong with it.
        source: io::Error,
    },
    /// The name cannot be a device's.
    #[error("{name:?} cannot be the name of a device: 1 to 15 bytes, no '/', no space, no '%'")]
    BadName {
        /// The name.
        name: String,
    },
    /// Anything else that the kernel refused.
    #[error("device {name} could not be opened: {source}")]
    Io {
        /// The device's name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The host could not be asked, or did not take a setting.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Why the host could not be asked or changed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The kernel refused a request.
    #[error("{what}: {source}")]
    Refused {
        /// What was asked, in words.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The process may not change the network.
    #[error("{what}: {source}\n    {}", os::advice::RIGHTS)]
    Permission {
        /// What was asked, in words.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no such device.
    #[error("there is no device {name}")]
    NoDevice {
        /// The device's name.
        name: String,
    },
    /// Another route with the same destination and metric leads elsewhere.
    #[error(
        "the host has another route to {destination} with metric {metric}, through {through}\n    remove that route, or take {destination} out of the overlay's routes"
    )]
    RouteTaken {
        /// The route's destination.
        destination: Ipv4Net,
        /// Its metric.
        metric: u32,
        /// The interface it uses, or its number.
        through: String,
    },
    /// A setting of the device in /proc/sys could not be written.
    #[error(
        "{} could not be set to {value}: {source}\n    /proc/sys must be writable; in a container, run it with its own writable network namespace",
        path.display()
    )]
    Sysctl {
        /// The file.
        path: PathBuf,
        /// The value that was to be written.
        value: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel is too old.
    #[error(
        "this kernel is {found}, and overlay-gw needs 5.14 or newer\n    older kernels take the lowest address of a subnet for a broadcast address, and the gateway is that address; upgrade the kernel"
    )]
    KernelTooOld {
        /// The release that runs.
        found: String,
    },
    /// This Windows is too old.
    #[error(
        "this is Windows {found}, and overlay-gw needs Windows 10 or Server 2016 (10.0.14393), or newer\n    upgrade Windows"
    )]
    WindowsTooOld {
        /// The version that runs.
        found: String,
    },
    /// systemd-resolved did not take the DNS servers.
    #[error(
        "systemd-resolved refused the DNS servers {servers:?}: {text}\n    look at `systemctl status systemd-resolved`, or leave out `[overlay] dns`"
    )]
    Dns {
        /// The servers.
        servers: Vec<Ipv4Addr>,
        /// What resolved said.
        text: String,
    },
}
