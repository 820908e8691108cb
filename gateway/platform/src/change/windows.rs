//! What a node wants of a Windows host. Computed here as plain data on any system; made by the Windows leaf.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{Change, DEFAULT_ROUTE_METRIC, DesiredHost, slot_address};

/// The interface's own metric. Wintun claims 100 Gb/s, for which Windows would choose 5: better than any real card, and
/// the overlay's default route would take the host's Internet. ZeroTier chose this number.
const INTERFACE_METRIC: u32 = 9999;

/// A setting of the IPv4 interface (MIB_IPINTERFACE_ROW).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum InterfaceSetting {
    /// How many probes duplicate detection sends for a new address; 0: it is used at once.
    DadTransmits {
        /// Probes.
        count: u32,
    },
    /// No router is looked for.
    NoRouterDiscovery,
    /// The metric, in place of the automatic one.
    Metric {
        /// The metric.
        metric: u32,
    },
    /// Packets are sent and taken only with the interface's own addresses (RFC 1122 section 3.3.4.2).
    StrongHost,
    /// The largest IP packet.
    NlMtu {
        /// Bytes.
        bytes: u16,
    },
}

impl std::fmt::Display for InterfaceSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DadTransmits { count } => write!(f, "dad transmits {count}"),
            Self::NoRouterDiscovery => f.write_str("router discovery off"),
            Self::Metric { metric } => write!(f, "metric {metric}, automatic metric off"),
            Self::StrongHost => f.write_str("weak host send and receive off"),
            Self::NlMtu { bytes } => write!(f, "nl mtu {bytes}"),
        }
    }
}

/// Something that the firewall lets in on the adapter, in the profiles Domain and Private.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FirewallRule {
    /// Its name, behind the adapter's.
    pub name: String,
    /// What it is for, in a sentence.
    pub purpose: String,
    /// The protocol's number (IANA, Protocol Numbers).
    pub protocol: u8,
    /// Ports, or a word of INetFwRule::put_LocalPorts; `None` for a protocol without ports.
    pub local_ports: Option<String>,
}

impl std::fmt::Display for FirewallRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rule \"{}\": protocol {}", self.name, self.protocol)?;
        self.local_ports.as_ref().map_or(Ok(()), |ports| write!(f, ", ports {ports}"))
    }
}

/// What is to be changed on a Windows host for `desired`, in the order in which it is to be done.
#[must_use]
pub fn intended_on_windows(desired: &DesiredHost) -> Vec<Change> {
    let setting = |setting| Change::Interface { setting };
    let on_adapter = |address| slot_address(desired.slot, address);
    let through_gateway = |destination: Ipv4Net| Change::Route {
        destination,
        via: Some(desired.gateway),
        source: None,
        metric: (destination.prefix_len() == 0).then_some(DEFAULT_ROUTE_METRIC),
        on_link: true,
    };
    let mut list = vec![
        // Before any address: duplicate detection would hold each back for about 3 s.
        setting(InterfaceSetting::DadTransmits { count: 0 }),
        setting(InterfaceSetting::NoRouterDiscovery),
        setting(InterfaceSetting::StrongHost),
        setting(InterfaceSetting::Metric { metric: INTERFACE_METRIC }),
        setting(InterfaceSetting::NlMtu { bytes: desired.mtu }),
        Change::Address { net: on_adapter(desired.address) },
        // The node's own connections come from .57, and only .57 is registered in DNS.
        Change::QuietAddress { net: on_adapter(desired.client_access) },
        // On the link, and bound to the adapter by its LUID: it stays when a cluster address goes offline.
        Change::Route {
            destination: desired.overlay.trunc(),
            via: None,
            source: None,
            metric: None,
            on_link: false,
        },
    ];
    let mut networks: Vec<Ipv4Net> = desired.routes.iter().map(Ipv4Net::trunc).collect();
    // The default route comes last, and always: a cluster gives client access only to a network that has one.
    networks.retain(|net| !desired.overlay.contains(net) && net.prefix_len() > 0);
    networks.sort();
    networks.dedup();
    list.extend(networks.into_iter().chain([Ipv4Net::default()]).map(through_gateway));
    if !desired.dns.is_empty() {
        list.push(Change::Dns { servers: desired.dns.clone() });
    }
    if desired.windows.private_network {
        list.push(Change::PrivateNetwork);
    }
    list.extend(rules(desired).into_iter().map(|rule| Change::Firewall { rule }));
    list
}

/// What puts a listener of `slot` on the adapter. Windows may choose any address as the source of a connection (RFC 6724 in place of the
/// first one), and registers all of them in DNS: a listener is for connections that come in, like .58.
#[must_use]
pub fn listener_on_windows(slot: Ipv4Net, address: Ipv4Addr) -> Change {
    Change::QuietAddress { net: slot_address(slot, address) }
}

fn rules(desired: &DesiredHost) -> Vec<FirewallRule> {
    const ICMP: u8 = 1;
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    let rule = |name: &str, purpose: &str, protocol, ports: Option<&str>| FirewallRule {
        name: name.to_owned(),
        purpose: purpose.to_owned(),
        protocol,
        local_ports: ports.map(str::to_owned),
    };
    let switches = &desired.windows;
    let all = [
        (switches.icmp, rule("ICMP", "Cluster validation pings the nodes.", ICMP, None)),
        (
            switches.cluster,
            rule("cluster (UDP 3343)", "Heartbeats of the failover cluster.", UDP, Some("3343")),
        ),
        (
            switches.cluster,
            rule("cluster (TCP 3343)", "Nodes that join the failover cluster.", TCP, Some("3343")),
        ),
        (
            switches.smb,
            rule("SMB (TCP 445)", "File shares of cluster, witness and validation.", TCP, Some("445")),
        ),
        (
            switches.rpc,
            rule("RPC endpoint mapper (TCP 135)", "Where RPC services are found.", TCP, Some("RPC-EPMap")),
        ),
        (
            switches.rpc,
            rule("RPC (dynamic ports)", "Cluster administration and validation.", TCP, Some("RPC")),
        ),
    ];
    all.into_iter().filter_map(|(wanted, rule)| wanted.then_some(rule)).collect()
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
                Ipv4Net::default(),
            ],
            dns: vec![Ipv4Addr::new(172, 16, 0, 1), Ipv4Addr::new(172, 16, 0, 2)],
            mtu: 1420,
            windows: overlay_config::Windows::default(),
        }
    }

    fn lines(desired: &DesiredHost) -> Vec<String> {
        intended_on_windows(desired).iter().map(Change::to_string).collect()
    }

    #[test]
    fn a_windows_node_of_the_recipe_gets_what_a_cluster_needs_in_order() {
        insta::assert_snapshot!(lines(&recipe()).join("\n"), @r#"
        interface dad transmits 0
        interface router discovery off
        interface weak host send and receive off
        interface metric 9999, automatic metric off
        interface nl mtu 1420
        address 172.16.8.57/29
        address 172.16.8.58/29, not a source
        route 172.16.8.0/24
        route 172.16.0.0/24 via 172.16.8.56 onlink
        route 0.0.0.0/0 via 172.16.8.56 metric 9999 onlink
        dns 172.16.0.1 172.16.0.2
        network category private, if public
        firewall rule "ICMP": protocol 1
        firewall rule "cluster (UDP 3343)": protocol 17, ports 3343
        firewall rule "cluster (TCP 3343)": protocol 6, ports 3343
        firewall rule "SMB (TCP 445)": protocol 6, ports 445
        firewall rule "RPC endpoint mapper (TCP 135)": protocol 6, ports RPC-EPMap
        firewall rule "RPC (dynamic ports)": protocol 6, ports RPC
        "#);
    }

    #[test]
    fn of_all_that_is_put_on_the_adapter_only_the_nodes_own_address_is_a_source() {
        let slot = recipe().slot;
        let mut all = intended_on_windows(&recipe());
        all.extend([59, 60, 62].map(|last| listener_on_windows(slot, Ipv4Addr::new(172, 16, 8, last))));
        let sources = all.iter().filter(|change| matches!(change, Change::Address { .. }));
        assert_eq!(sources.map(Change::to_string).collect::<Vec<_>>(), ["address 172.16.8.57/29"]);
        assert!(all.iter().any(|change| change.to_string() == "address 172.16.8.59/29, not a source"));
    }

    #[test]
    fn each_switch_takes_its_own_away_and_nothing_else() {
        let all = lines(&recipe());
        let without = |change: fn(&mut overlay_config::Windows)| {
            let mut desired = recipe();
            change(&mut desired.windows);
            let left = lines(&desired);
            assert!(left.iter().all(|line| all.contains(line)));
            all.iter().filter(|line| !left.contains(line)).cloned().collect::<Vec<_>>()
        };
        assert_eq!(without(|w| w.icmp = false), ["firewall rule \"ICMP\": protocol 1"]);
        assert_eq!(without(|w| w.cluster = false).len(), 2);
        assert!(without(|w| w.smb = false).concat().contains("445"));
        assert_eq!(without(|w| w.rpc = false).len(), 2);
        assert_eq!(without(|w| w.private_network = false), ["network category private, if public"]);
    }

    #[test]
    fn a_change_survives_being_written_down_and_only_what_outlives_the_adapter_or_a_reload_is_recorded() {
        for change in intended_on_windows(&recipe()) {
            let text = serde_json::to_string(&change).unwrap();
            assert_eq!(serde_json::from_str::<Change>(&text).unwrap(), change, "{text}");
            let setting = matches!(change, Change::Interface { .. } | Change::PrivateNetwork);
            assert_eq!(change.is_recorded(), !setting, "{change}");
        }
    }
}
