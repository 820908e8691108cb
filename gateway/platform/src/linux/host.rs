//! The host's addresses, routes and settings on Linux, through rtnetlink and /proc/sys.

use std::{
    collections::HashMap,
    fs, io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use futures_util::{StreamExt, TryStreamExt};
use ipnet::Ipv4Net;
use rtnetlink::{
    AddressMessageBuilder, Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder,
    packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{LinkAttribute, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType},
    },
};

use super::{
    resolved::{BusAddress, DnsOutcome, Resolved},
    rtnl::{self, io_error, refused},
};
use crate::{DeviceFacts, HostError, HostNet, Outcome, change::Change};

/// The oldest kernel that takes the lowest address of a subnet for a unicast address.
const OLDEST_KERNEL: (u32, u32) = (5, 14);

/// The host around one device: of the network namespace in which [`LinuxHost::connect`] was called.
#[derive(Clone, Debug)]
pub struct LinuxHost {
    handle: Handle,
    device: String,
    bus: BusAddress,
}

impl LinuxHost {
    /// A host around the device called `device`, which need not exist yet. Must be called within a tokio runtime, which
    /// serves the connection.
    ///
    /// # Errors
    /// When there is no netlink socket to be had.
    pub fn connect(device: &str, bus: BusAddress) -> Result<Self, HostError> {
        let handle = rtnl::connect()
            .map_err(|source| HostError::Refused { what: "open a netlink socket".into(), source })?;
        Ok(Self { handle, device: device.to_owned(), bus })
    }

    /// The device's name.
    #[must_use]
    pub fn device_name(&self) -> &str {
        &self.device
    }

    /// Marks the device as ours.
    pub(super) async fn mark_device(&self) -> Result<(), HostError> {
        self.set("mark", |link| link.alias(rtnl::MARK)).await
    }

    /// Sets the device's hardware address.
    pub(super) async fn set_mac(&self, mac: [u8; 6]) -> Result<(), HostError> {
        self.set("set the hardware address of", |link| link.address(mac.to_vec())).await
    }

    async fn set(
        &self,
        what: &str,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<(), HostError> {
        let index = self.index().await?;
        let message = change(LinkUnspec::new_with_index(index)).build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(|error| refused(format!("{what} device {}", self.device), error))
    }

    async fn index(&self) -> Result<u32, HostError> {
        match self.device().await? {
            Some(facts) => Ok(facts.ifindex),
            None => Err(HostError::NoDevice { name: self.device.clone() }),
        }
    }

    async fn set_link(
        &self,
        what: &str,
        there: impl FnOnce(&LinkMessage) -> bool,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<Outcome, HostError> {
        let link = rtnl::link(&self.handle, &self.device).await?;
        let link = link.ok_or_else(|| HostError::NoDevice { name: self.device.clone() })?;
        if there(&link) {
            return Ok(Outcome::AlreadyThere);
        }
        self.set(what, change).await?;
        Ok(Outcome::Added)
    }

    /// The path in /proc/sys of the device's setting `family.name`.
    fn sysctl_path(&self, name: &str) -> PathBuf {
        let (family, name) = name.split_once('.').unwrap_or(("ipv4", name));
        ["/proc/sys/net", family, "conf", &self.device, name].iter().collect()
    }

    /// Reads the setting first: where it is right already, /proc/sys may be read-only (a container).
    fn set_sysctl(&self, name: &str, value: &str) -> Result<Outcome, HostError> {
        let path = self.sysctl_path(name);
        match fs::read_to_string(&path) {
            Ok(current) if current.trim() == value => return Ok(Outcome::AlreadyThere),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A kernel without IPv6 has nothing to be switched off.
                let family = path.ancestors().nth(2).is_some_and(Path::exists);
                return match family {
                    true => Err(HostError::NoDevice { name: self.device.clone() }),
                    false => Ok(Outcome::AlreadyThere),
                };
            }
            _ => {}
        }
        match fs::write(&path, value) {
            Ok(()) => Ok(Outcome::Added),
            Err(source) => Err(HostError::Sysctl { path, value: value.to_owned(), source }),
        }
    }

    async fn add_address(&self, net: Ipv4Net) -> Result<Outcome, HostError> {
        let index = self.index().await?;
        let request = self.handle.address().add(index, IpAddr::V4(net.addr()), net.prefix_len());
        added(request.execute().await, || format!("add address {net} to device {}", self.device))
    }

    async fn remove_address(&self, net: Ipv4Net) -> Result<bool, HostError> {
        // Somebody may have switched it off since: without it the kernel would take the cluster's addresses along.
        self.set_sysctl("ipv4.promote_secondaries", "1")?;
        let index = self.index().await?;
        let message = AddressMessageBuilder::<Ipv4Addr>::new()
            .index(index)
            .address(net.addr(), net.prefix_len())
            .build();
        removed(self.handle.address().del(message).execute().await, || {
            format!("remove address {net} from device {}", self.device)
        })
    }

    async fn add_route(&self, route: &WantedRoute) -> Result<Outcome, HostError> {
        let index = self.index().await?;
        let result = self.handle.route().add(route.message(index)).execute().await;
        let what = || format!("add route {} through device {}", route.destination, self.device);
        if added(result, what)? == Outcome::Added {
            return Ok(Outcome::Added);
        }
        // To the kernel, destination and metric alone make two routes the same.
        let key = (route.destination, route.metric.unwrap_or(0));
        let routes = self.routes().await?;
        match routes.iter().find(|held| (held.destination, held.metric) == key) {
            // A second overlay on this host: its default route stands behind the first one's, as last resorts do.
            Some(_)
                if route.destination.prefix_len() == 0
                    && !routes.iter().any(|held| held.is(route, index)) =>
            {
                self.append_route(route.message(index)).await.map_err(|error| refused(what(), error))?;
                Ok(Outcome::Added)
            }
            Some(other) if !other.is(route, index) => Err(HostError::RouteTaken {
                destination: route.destination,
                metric: key.1,
                through: self.link_name(other.interface).await?,
            }),
            _ => Ok(Outcome::AlreadyThere),
        }
    }

    /// Adds a route behind those with the same destination and metric (NLM_F_APPEND of rtnetlink(7)).
    async fn append_route(&self, message: RouteMessage) -> Result<(), rtnetlink::Error> {
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND;
        let mut response = self.handle.clone().request(request)?;
        while let Some(message) = response.next().await {
            if let NetlinkPayload::Error(error) = message.payload
                && error.code.is_some()
            {
                return Err(rtnetlink::Error::NetlinkError(error));
            }
        }
        Ok(())
    }

    async fn remove_route(&self, route: &WantedRoute) -> Result<bool, HostError> {
        let index = self.index().await?;
        removed(self.handle.route().del(route.message(index)).execute().await, || {
            format!("remove route {} from device {}", route.destination, self.device)
        })
    }

    /// The IPv4 routes of the main table.
    async fn routes(&self) -> Result<Vec<HeldRoute>, HostError> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes: Vec<RouteMessage> = self
            .handle
            .route()
            .get(all)
            .execute()
            .try_collect()
            .await
            .map_err(|error| refused("ask for the routes", error))?;
        Ok(routes.iter().filter_map(HeldRoute::of).collect())
    }

    async fn link_name(&self, index: u32) -> Result<String, HostError> {
        let names = self.link_names().await?;
        Ok(names.get(&index).cloned().unwrap_or_else(|| format!("interface {index}")))
    }

    async fn link_names(&self) -> Result<HashMap<u32, String>, HostError> {
        let links: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| refused("ask for the interfaces", error))?;
        Ok(links.iter().filter_map(|l| Some((l.header.index, rtnl::name(l)?.to_owned()))).collect())
    }

    async fn indexed_addresses(&self) -> Result<Vec<(u32, Ipv4Net)>, HostError> {
        addresses(&self.handle).await
    }

    async fn resolved(&self) -> Option<Resolved> {
        Resolved::connect(&self.bus).await
    }
}

impl HostNet for LinuxHost {
    async fn device(&self) -> Result<Option<DeviceFacts>, HostError> {
        Ok(rtnl::link(&self.handle, &self.device).await?.as_ref().map(rtnl::facts))
    }

    async fn apply(&self, change: &Change) -> Result<Outcome, HostError> {
        match change {
            Change::LinkUp => self.set_link("bring up", |l| rtnl::facts(l).up, |l| l.up()).await,
            Change::Mtu { bytes } => {
                let mtu = u32::from(*bytes);
                self.set_link("set the MTU of", |l| rtnl::facts(l).mtu == mtu, |l| l.mtu(mtu)).await
            }
            Change::TxQueueLen { packets } => {
                let there =
                    |link: &LinkMessage| link.attributes.contains(&LinkAttribute::TxQueueLen(*packets));
                self.set_link("set the queue length of", there, |l| l.txqueuelen(*packets)).await
            }
            Change::Sysctl { name, value } => self.set_sysctl(name, value),
            // Windows'.
            Change::QuietAddress { .. }
            | Change::Interface { .. }
            | Change::PrivateNetwork
            | Change::Firewall { .. } => Ok(Outcome::AlreadyThere),
            Change::Address { net } => self.add_address(*net).await,
            Change::Route { .. } => match WantedRoute::of(change) {
                Some(route) => self.add_route(&route).await,
                None => Ok(Outcome::AlreadyThere),
            },
            Change::Dns { servers } => {
                let Some(resolved) = self.resolved().await else { return Ok(Outcome::NoResolved) };
                let index = self.index().await?;
                if resolved.servers(index).await.is_some_and(|current| current == *servers) {
                    return Ok(Outcome::AlreadyThere);
                }
                match resolved.set(index, servers).await? {
                    DnsOutcome::Set => Ok(Outcome::Added),
                    DnsOutcome::NoResolved => Ok(Outcome::NoResolved),
                }
            }
        }
    }

    async fn present(&self, change: &Change) -> Result<bool, HostError> {
        match change {
            Change::Address { net } => {
                Ok(self.device_addresses().await?.iter().any(|held| held.addr() == net.addr()))
            }
            Change::Route { .. } => {
                let Some(route) = WantedRoute::of(change) else { return Ok(false) };
                let index = self.index().await?;
                Ok(self.routes().await?.iter().any(|held| held.is(&route, index)))
            }
            Change::Dns { .. } => {
                let Some(resolved) = self.resolved().await else { return Ok(false) };
                let index = self.index().await?;
                Ok(resolved.servers(index).await.is_some_and(|current| !current.is_empty()))
            }
            Change::LinkUp
            | Change::Mtu { .. }
            | Change::TxQueueLen { .. }
            | Change::Sysctl { .. }
            | Change::QuietAddress { .. }
            | Change::Interface { .. }
            | Change::PrivateNetwork
            | Change::Firewall { .. } => Ok(false),
        }
    }

    async fn undo(&self, change: &Change) -> Result<bool, HostError> {
        match change {
            Change::Address { net } => self.remove_address(*net).await,
            Change::Route { .. } => match WantedRoute::of(change) {
                Some(route) => self.remove_route(&route).await,
                None => Ok(false),
            },
            Change::Dns { servers } => {
                let Some(resolved) = self.resolved().await else { return Ok(false) };
                let index = self.index().await?;
                // Servers that somebody else set since are not ours to take away.
                if resolved.servers(index).await.is_none_or(|current| current != *servers) {
                    return Ok(false);
                }
                resolved.revert(index).await?;
                Ok(true)
            }
            Change::LinkUp
            | Change::Mtu { .. }
            | Change::TxQueueLen { .. }
            | Change::Sysctl { .. }
            | Change::QuietAddress { .. }
            | Change::Interface { .. }
            | Change::PrivateNetwork
            | Change::Firewall { .. } => Ok(false),
        }
    }

    async fn addresses(&self) -> Result<Vec<(String, Ipv4Net)>, HostError> {
        let names = self.link_names().await?;
        let held = self.indexed_addresses().await?;
        Ok(held.into_iter().filter_map(|(index, net)| Some((names.get(&index)?.clone(), net))).collect())
    }

    async fn device_addresses(&self) -> Result<Vec<Ipv4Net>, HostError> {
        let Some(facts) = self.device().await? else { return Ok(Vec::new()) };
        let held = self.indexed_addresses().await?;
        Ok(held.into_iter().filter(|(index, _)| *index == facts.ifindex).map(|(_, net)| net).collect())
    }

    async fn delete_device(&self) -> Result<bool, HostError> {
        let Some(facts) = self.device().await? else { return Ok(false) };
        removed(self.handle.link().del(facts.ifindex).execute().await, || {
            format!("delete device {}", self.device)
        })
    }
}

/// Every IPv4 address with the number of its interface, through `handle`.
pub(super) async fn addresses(handle: &Handle) -> Result<Vec<(u32, Ipv4Net)>, HostError> {
    let mut request = handle.address().get();
    request.message_mut().header.family = AddressFamily::Inet;
    let messages: Vec<AddressMessage> =
        request.execute().try_collect().await.map_err(|error| refused("ask for the addresses", error))?;
    Ok(messages.iter().filter_map(|m| Some((m.header.index, local_address(m)?))).collect())
}

/// A host around the device called `device`, with the host's own resolver service. Must be called within a tokio runtime.
///
/// # Errors
/// When there is no netlink socket to be had.
pub fn connect_host(device: &str) -> Result<LinuxHost, HostError> {
    LinuxHost::connect(device, BusAddress::System)
}

/// The id of this boot: it tells whether what a record lists can still be there.
///
/// # Errors
/// When /proc is not mounted.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Checks that the kernel takes the lowest address of a subnet for unicast (5.14 or newer).
///
/// # Errors
/// [`HostError::KernelTooOld`]. A release that cannot be read passes.
pub fn check_kernel() -> Result<(), HostError> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    check_release(release.trim())
}

fn check_release(release: &str) -> Result<(), HostError> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST_KERNEL => {
            Err(HostError::KernelTooOld { found: release.to_owned() })
        }
        _ => Ok(()),
    }
}

fn added(result: Result<(), rtnetlink::Error>, what: impl FnOnce() -> String) -> Result<Outcome, HostError> {
    let Err(error) = result else { return Ok(Outcome::Added) };
    match io_error(error.clone()).raw_os_error() {
        Some(libc::EEXIST) => Ok(Outcome::AlreadyThere),
        _ => Err(refused(what(), error)),
    }
}

fn removed(result: Result<(), rtnetlink::Error>, what: impl FnOnce() -> String) -> Result<bool, HostError> {
    let Err(error) = result else { return Ok(true) };
    match io_error(error.clone()).raw_os_error() {
        // No such address; no such route; no such device.
        Some(libc::EADDRNOTAVAIL | libc::ESRCH | libc::ENODEV) => Ok(false),
        _ => Err(refused(what(), error)),
    }
}

fn local_address(message: &AddressMessage) -> Option<Ipv4Net> {
    // IFA_LOCAL is the address; IFA_ADDRESS is the other end of a point-to-point link, and the same otherwise.
    let pick = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) if local => Some(*address),
            AddressAttribute::Address(IpAddr::V4(address)) if !local => Some(*address),
            _ => None,
        })
    };
    Ipv4Net::new(pick(true).or_else(|| pick(false))?, message.header.prefix_len).ok()
}

/// A route that is to be made or taken back.
struct WantedRoute {
    destination: Ipv4Net,
    via: Option<Ipv4Addr>,
    source: Option<Ipv4Addr>,
    metric: Option<u32>,
    on_link: bool,
}

impl WantedRoute {
    fn of(change: &Change) -> Option<Self> {
        let Change::Route { destination, via, source, metric, on_link } = *change else { return None };
        Some(Self { destination: destination.trunc(), via, source, metric, on_link })
    }

    fn message(&self, interface: u32) -> RouteMessage {
        let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(self.destination.addr(), self.destination.prefix_len())
            .output_interface(interface)
            .scope(if self.via.is_some() { RouteScope::Universe } else { RouteScope::Link });
        if let Some(via) = self.via {
            route = route.gateway(via);
        }
        if let Some(source) = self.source {
            route = route.pref_source(source);
        }
        if let Some(metric) = self.metric {
            route = route.priority(metric);
        }
        if self.on_link && self.via.is_some() {
            route = route.onlink();
        }
        route.build()
    }
}

/// A route that the kernel has.
struct HeldRoute {
    destination: Ipv4Net,
    via: Option<Ipv4Addr>,
    metric: u32,
    interface: u32,
}

impl HeldRoute {
    fn of(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        if header.kind != RouteType::Unicast || header.table != RouteHeader::RT_TABLE_MAIN {
            return None;
        }
        let mut held = Self { destination: Ipv4Net::default(), via: None, metric: 0, interface: 0 };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                    held.destination = Ipv4Net::new(*address, header.destination_prefix_length).ok()?;
                }
                RouteAttribute::Gateway(RouteAddress::Inet(address)) => held.via = Some(*address),
                RouteAttribute::Priority(metric) => held.metric = *metric,
                RouteAttribute::Oif(index) => held.interface = *index,
                _ => {}
            }
        }
        Some(held)
    }

    fn is(&self, route: &WantedRoute, interface: u32) -> bool {
        self.interface == interface
            && self.destination == route.destination
            && self.via == route.via
            && self.metric == route.metric.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_before_5_14_is_too_old_and_a_release_in_no_known_form_passes() {
        for (release, fits) in [
            ("5.13.19-generic", false),
            ("4.19.0", false),
            ("5.14.0", true),
            ("5.15.0-1-amd64", true),
            ("6.1", true),
            ("10.0.1", true),
            ("6-custom", true),
            ("", true),
        ] {
            assert_eq!(check_release(release).is_ok(), fits, "{release}");
        }
    }
}
