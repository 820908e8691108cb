//! What overlay-gw changes on a host, as plain data, and the list of it for one node.

mod windows;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// The metric of the default route through the gateway: it never wins over one of the host's own.
pub const DEFAULT_ROUTE_METRIC: u32 = 9999;

/// Packets that the device's queue holds towards us. The kernel's default of 500 overflows in the bursts of a single
/// TCP stream; 1,000 is what it gives an Ethernet card.
pub const TX_QUEUE_LEN: u32 = 1000;

pub use windows::{FirewallRule, InterfaceSetting, intended_on_windows, listener_on_windows};

/// One change of the host's network, always on or through our device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// The device is up.
    LinkUp,
    /// The device's MTU in bytes.
    Mtu {
        /// Bytes of one IP packet.
        bytes: u16,
    },
    /// The length of the device's transmit queue in packets.
    TxQueueLen {
        /// Packets.
        packets: u32,
    },
    /// A setting of the device, `ipv4.NAME` or `ipv6.NAME` for `/proc/sys/net/ipv4/conf/DEVICE/NAME` (Linux).
    Sysctl {
        /// Family and name.
        name: String,
        /// Its value.
        value: String,
    },
    /// An address of the device with the length of its subnet's prefix.
    Address {
        /// The address.
        net: Ipv4Net,
    },
    /// A route through the device.
    Route {
        /// Where it leads.
        destination: Ipv4Net,
        /// The next hop; `None`: the destination is on the link.
        via: Option<Ipv4Addr>,
        /// The address from which the host's own connections come.
        source: Option<Ipv4Addr>,
        /// The metric; `None`: the lowest.
        metric: Option<u32>,
        /// Whether the next hop is taken to be on the link whatever the addresses say.
        on_link: bool,
    },
    /// The DNS servers of the device.
    Dns {
        /// The servers in order of preference.
        servers: Vec<Ipv4Addr>,
    },
    /// An address of the device from which none of the host's own connections come, and which is not registered in DNS
    /// (Windows, SkipAsSource).
    QuietAddress {
        /// The address.
        net: Ipv4Net,
    },
    /// A setting of the adapter's IPv4 interface (Windows).
    Interface {
        /// Which, and its value.
        setting: InterfaceSetting,
    },
    /// The adapter's network is of the category Private, if it would be Public (Windows).
    PrivateNetwork,
    /// Something that the host's firewall lets in on the adapter (Windows).
    Firewall {
        /// What.
        rule: FirewallRule,
    },
}

impl Change {
    /// Whether the change is written down and undone. Settings of the device itself are not: they go with it, and a
    /// device that stays (foreign addresses are on it) is better off with them.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        matches!(
            self,
            Self::Address { .. }
                | Self::QuietAddress { .. }
                | Self::Route { .. }
                | Self::Dns { .. }
                | Self::Firewall { .. }
        )
    }

    /// Whether what the change brings about bears our name, and is not on the device: it is ours whatever the record says, and
    /// outlives device and boot.
    #[must_use]
    pub fn bears_our_name(&self) -> bool {
        matches!(self, Self::Firewall { .. })
    }

    /// The address that the change puts on the device, if it is such a change.
    #[must_use]
    pub fn assigned(&self) -> Option<Ipv4Net> {
        match self {
            Self::Address { net } | Self::QuietAddress { net } => Some(*net),
            _ => None,
        }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::LinkUp => f.write_str("link up"),
            Self::Mtu { bytes } => write!(f, "mtu {bytes}"),
            Self::TxQueueLen { packets } => write!(f, "txqueuelen {packets}"),
            Self::Sysctl { name, value } => write!(f, "sysctl {name} = {value}"),
            Self::Address { net } => write!(f, "address {net}"),
            Self::Route { destination, via, source, metric, on_link } => {
                write!(f, "route {destination}")?;
                via.map_or(Ok(()), |via| write!(f, " via {via}"))?;
                source.map_or(Ok(()), |source| write!(f, " src {source}"))?;
                metric.map_or(Ok(()), |metric| write!(f, " metric {metric}"))?;
                if *on_link { f.write_str(" onlink") } else { Ok(()) }
            }
            Self::Dns { servers } => {
                f.write_str("dns")?;
                servers.iter().try_for_each(|server| write!(f, " {server}"))
            }
            Self::QuietAddress { net } => write!(f, "address {net}, not a source"),
            Self::Interface { setting } => write!(f, "interface {setting}"),
            Self::PrivateNetwork => f.write_str("network category private, if public"),
            Self::Firewall { rule } => write!(f, "firewall {rule}"),
        }
    }
}

/// What a node wants of its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredHost {
    /// The node's slot.
    pub slot: Ipv4Net,
    /// The synthetic gateway (the slot's first address): no host has it.
    pub gateway: Ipv4Addr,
    /// The node's overlay address.
    pub address: Ipv4Addr,
    /// The address that carries the default gateway.
    pub client_access: Ipv4Addr,
    /// The whole overlay.
    pub overlay: Ipv4Net,
    /// Networks beyond the overlay that are reached through it; those within the overlay are left out.
    pub routes: Vec<Ipv4Net>,
    /// DNS servers; empty: none are set.
    pub dns: Vec<Ipv4Addr>,
    /// The device's MTU in bytes.
    pub mtu: u16,
    /// What is wanted of a Windows host only.
    pub windows: overlay_config::Windows,
}

/// What is to be changed for `desired`, in the order in which it is to be done.
#[must_use]
pub fn intended(desired: &DesiredHost) -> Vec<Change> {
    let sysctl = |name: &str, value: &str| Change::Sysctl { name: name.into(), value: value.into() };
    let assigned = |address| Change::Address { net: slot_address(desired.slot, address) };
    let source = Some(desired.address);
    let beyond = |destination, metric| Change::Route {
        destination,
        via: Some(desired.gateway),
        source,
        metric,
        on_link: true,
    };
    let mut list = vec![
        // Before any address: without it, deleting .57 deletes every other address of the slot, the cluster's included.
        sysctl("ipv4.promote_secondaries", "1"),
        // What arrives from the overlay may come from a network that the host reaches another way; the engine has
        // checked the source already (RFC 3704 section 2.4, loose).
        sysctl("ipv4.rp_filter", "2"),
        // The overlay is IPv4: no router solicitations or link-local chatter into it.
        sysctl("ipv6.disable_ipv6", "1"),
        Change::Mtu { bytes: desired.mtu },
        Change::TxQueueLen { packets: TX_QUEUE_LEN },
        // The first address of a subnet is the one that the host's own connections use.
        assigned(desired.address),
        assigned(desired.client_access),
        Change::LinkUp,
        Change::Route {
            destination: desired.overlay.trunc(),
            via: None,
            source,
            metric: None,
            on_link: false,
        },
    ];
    let mut networks: Vec<Ipv4Net> = desired.routes.iter().map(Ipv4Net::trunc).collect();
    networks.sort();
    networks.dedup();
    list.extend(networks.into_iter().filter(|net| !desired.overlay.contains(net)).map(|net| match net {
        // A network that is the default route keeps away from the host's own as well.
        all if all.prefix_len() == 0 => beyond(all, Some(DEFAULT_ROUTE_METRIC)),
        net => beyond(net, None),
    }));
    let default = beyond(Ipv4Net::default(), Some(DEFAULT_ROUTE_METRIC));
    if !list.contains(&default) {
        list.push(default);
    }
    if !desired.dns.is_empty() {
        list.push(Change::Dns { servers: desired.dns.clone() });
    }
    list
}

/// What puts a listener of `slot` on the device: after the node's own addresses, so that none of the host's connections comes from it.
#[must_use]
pub fn listener(slot: Ipv4Net, address: Ipv4Addr) -> Change {
    Change::Address { net: slot_address(slot, address) }
}

/// `address` with the prefix length of `slot`, as it is assigned to the device.
#[must_use]
pub fn slot_address(slot: Ipv4Net, address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::new(address, slot.prefix_len()).unwrap_or_else(|_| Ipv4Net::from(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> DesiredHost {
        let address = |last| Ipv4Addr::new(172, 16, 8, last);
        DesiredHost {
            slot: "172.16.8.56/29".parse().unwrap(),
            gateway: address(56),
            address: address(57),
            client_access: address(58),
            overlay: "172.16.8.0/24".parse().unwrap(),
            routes: vec![
                "172.16.0.0/24".parse().unwrap(),
                "172.16.8.80/29".parse().unwrap(),
                "172.16.0.0/24".parse().unwrap(),
            ],
            dns: vec![Ipv4Addr::new(172, 16, 0, 1), Ipv4Addr::new(172, 16, 0, 2)],
            mtu: 1420,
            windows: overlay_config::Windows::default(),
        }
    }

    #[test]
    fn a_node_of_the_recipe_gets_its_addresses_in_order_then_its_routes() {
        let lines: Vec<String> = intended(&recipe()).iter().map(Change::to_string).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        sysctl ipv4.promote_secondaries = 1
        sysctl ipv4.rp_filter = 2
        sysctl ipv6.disable_ipv6 = 1
        mtu 1420
        txqueuelen 1000
        address 172.16.8.57/29
        address 172.16.8.58/29
        link up
        route 172.16.8.0/24 src 172.16.8.57
        route 172.16.0.0/24 via 172.16.8.56 src 172.16.8.57 onlink
        route 0.0.0.0/0 via 172.16.8.56 src 172.16.8.57 metric 9999 onlink
        dns 172.16.0.1 172.16.0.2
        ");
    }

    #[test]
    fn a_peer_that_is_the_way_to_everything_does_not_take_the_default_route_from_the_host() {
        let mut desired = recipe();
        desired.routes = vec![Ipv4Net::default()];
        let defaults: Vec<_> = intended(&desired)
            .into_iter()
            .filter(|c| matches!(c, Change::Route { destination, .. } if destination.prefix_len() == 0))
            .collect();
        assert_eq!(defaults.len(), 1);
        assert!(matches!(defaults[0], Change::Route { metric: Some(DEFAULT_ROUTE_METRIC), .. }));
    }

    #[test]
    fn a_change_survives_being_written_down() {
        for change in intended(&recipe()) {
            let text = serde_json::to_string(&change).unwrap();
            assert_eq!(serde_json::from_str::<Change>(&text).unwrap(), change, "{text}");
        }
    }
}
