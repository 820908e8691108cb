//! By which interface the underlay's datagrams leave a host on which the overlay has routes of its own. Pure: the leaf brings the
//! forwarding table, and binds its sockets to what comes out here.
//!
//! It is decided for each destination, as wireguard-nt does, and not once for all of them: peers may be reached by several interfaces,
//! on their links or by routes of their own, and binding everything to the interface of the default route would cut those off.

use std::{cmp::Reverse, net::SocketAddr};

use ipnet::IpNet;

/// A row of the host's forwarding table, whose interface is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where it leads.
    pub destination: IpNet,
    /// What tells its interface from others, for as long as the interface lives (Windows' LUID).
    pub interface: u64,
    /// The number of its interface for this family, as a socket is told it.
    pub index: u32,
    /// The route's metric and that of its interface, added: of two rows with one destination the lower one is taken.
    pub metric: u32,
}

impl Row {
    /// Whether datagrams to `to` may take it.
    fn carries(&self, to: SocketAddr) -> bool {
        self.destination.contains(&to.ip())
    }

    /// The greater one is taken: the longest prefix, then the lowest metric.
    fn rank(&self) -> (u8, Reverse<u32>) {
        (self.destination.prefix_len(), Reverse(self.metric))
    }
}

/// The host's forwarding table, divided into the overlay's part and all others'.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnderlayRoutes {
    /// Through the overlay's device, as far as one of them can be the best one anywhere; the best first.
    overlay: Vec<Row>,
    /// Through every other interface; the best first.
    others: Vec<Row>,
}

impl UnderlayRoutes {
    /// Divides `rows`. `device`: the overlay's device; without one no row is the overlay's.
    #[must_use]
    pub fn new(rows: Vec<Row>, device: Option<u64>) -> Self {
        let (mut overlay, mut others): (Vec<Row>, Vec<Row>) =
            rows.into_iter().partition(|row| Some(row.interface) == device);
        overlay.sort_by_key(|row| Reverse(row.rank()));
        others.sort_by_key(|row| Reverse(row.rank()));
        // The default route of an ordinary host beats the overlay's everywhere: then no datagram needs to be compared with it.
        overlay.retain(|own| {
            let beaten = |other: &Row| other.destination == own.destination && other.metric < own.metric;
            !others.iter().any(beaten)
        });
        Self { overlay, others }
    }

    /// Whether the host, left to itself, may send a datagram to `to` into the overlay: the best route is the overlay's, or as good as
    /// any. An address with a zone (RFC 4007) says its interface itself.
    #[must_use]
    pub fn leads_into_overlay(&self, to: SocketAddr) -> bool {
        let Some(own) = self.overlay.iter().find(|row| row.carries(to)).filter(|_| zone(to).is_none()) else {
            return false;
        };
        self.best_other(to).is_none_or(|other| other.rank() <= own.rank())
    }

    /// The number of the interface by which a datagram to `to` would leave if there were no overlay; `None`: by none.
    #[must_use]
    pub fn interface_outside(&self, to: SocketAddr) -> Option<u32> {
        zone(to).or_else(|| self.best_other(to).map(|row| row.index))
    }

    fn best_other(&self, to: SocketAddr) -> Option<&Row> {
        self.others.iter().find(|row| row.carries(to))
    }
}

/// The zone of an address, which is the number of an interface.
fn zone(to: SocketAddr) -> Option<u32> {
    match to {
        SocketAddr::V6(to) if to.scope_id() != 0 => Some(to.scope_id()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEVICE: u64 = 9;

    fn row(destination: &str, index: u32, metric: u32) -> Row {
        Row { destination: destination.parse().unwrap(), interface: index.into(), index, metric }
    }

    fn to(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), 51820)
    }

    /// A node of the recipe: its adapter (9), a network card with the default route (1), and one of another subnet (2), behind whose
    /// router there is one more (203.0.113.0/24).
    fn host() -> Vec<Row> {
        vec![
            row("0.0.0.0/0", 1, 25),
            row("192.0.2.0/24", 1, 281),
            row("10.1.0.0/16", 2, 281),
            row("203.0.113.0/24", 2, 30),
            row("172.16.8.0/24", 9, 9999),
            row("172.16.8.56/29", 9, 10_255),
            row("0.0.0.0/0", 9, 19_998),
        ]
    }

    fn without(rows: Vec<Row>, index: u32) -> Vec<Row> {
        rows.into_iter().filter(|row| row.index != index).collect()
    }

    #[test]
    fn on_an_ordinary_host_no_peer_is_led_into_the_overlay_and_only_the_overlays_own_networks_are_compared() {
        let routes = UnderlayRoutes::new(host(), Some(DEVICE));
        for peer in ["198.51.100.1", "192.0.2.7", "10.1.2.3", "203.0.113.9"] {
            assert!(!routes.leads_into_overlay(to(peer)), "{peer}");
        }
        assert!(routes.leads_into_overlay(to("172.16.8.64")));
        assert_eq!(routes.overlay.len(), 2);
    }

    #[test]
    fn a_peer_inside_a_network_of_the_overlay_leaves_by_the_interface_that_leads_to_it_and_others_keep_theirs()
     {
        let mut rows = host();
        rows.push(row("198.51.100.0/24", 9, 9999));
        rows.push(row("10.1.2.0/24", 9, 9999));
        let routes = UnderlayRoutes::new(rows, Some(DEVICE));
        assert!(routes.leads_into_overlay(to("198.51.100.1")));
        assert_eq!(routes.interface_outside(to("198.51.100.1")), Some(1));
        // Not the default route's: it is on the link of another one.
        assert!(routes.leads_into_overlay(to("10.1.2.3")));
        assert_eq!(routes.interface_outside(to("10.1.2.3")), Some(2));
        for (peer, interface) in [("192.0.2.7", 1), ("10.1.3.3", 2), ("203.0.113.9", 2)] {
            assert!(!routes.leads_into_overlay(to(peer)), "{peer}");
            assert_eq!(routes.interface_outside(to(peer)), Some(interface), "{peer}");
        }
    }

    #[test]
    fn without_a_default_route_of_the_host_what_it_led_to_has_no_way_and_the_rest_has() {
        let routes = UnderlayRoutes::new(without(host(), 1), Some(DEVICE));
        assert!(routes.leads_into_overlay(to("198.51.100.1")));
        assert_eq!(routes.interface_outside(to("198.51.100.1")), None);
        assert!(!routes.leads_into_overlay(to("10.1.2.3")));
        assert!(!routes.leads_into_overlay(to("203.0.113.9")));
    }

    #[test]
    fn without_a_device_nothing_is_the_overlays_and_a_zone_decides_by_itself() {
        let routes = UnderlayRoutes::new(without(host(), 9), None);
        assert!(!routes.leads_into_overlay(to("172.16.8.64")));
        let routes = UnderlayRoutes::new(vec![row("fe80::/64", 9, 1), row("fe80::/64", 1, 2)], Some(DEVICE));
        assert!(routes.leads_into_overlay(to("fe80::1")));
        let zoned = "[fe80::1%2]:51820".parse().unwrap();
        assert!(!routes.leads_into_overlay(zoned));
        assert_eq!(routes.interface_outside(zoned), Some(2));
    }

    #[test]
    fn a_route_as_good_as_the_overlays_does_not_count_on_being_taken() {
        let rows = vec![row("198.51.100.0/24", 1, 50), row("198.51.100.0/24", 9, 50)];
        let routes = UnderlayRoutes::new(rows, Some(DEVICE));
        assert!(routes.leads_into_overlay(to("198.51.100.1")));
        assert_eq!(routes.interface_outside(to("198.51.100.1")), Some(1));
    }

    prop_compose! {
        /// Few bits, so that prefixes lie in one another and metrics meet.
        fn any_row()(bits in 0_u32..16, length in 0_u8..=4, index in 7_u32..=9, metric in 0_u32..4) -> Row {
            let net = ipnet::Ipv4Net::new((bits << 28).into(), length).unwrap().trunc();
            Row { destination: IpNet::V4(net), interface: index.into(), index, metric }
        }
    }

    proptest! {
        /// Against a table that is searched whole each time, with the overlay's rows in it and without them.
        #[test]
        fn what_is_decided_is_what_the_host_would_do_with_and_without_the_overlay(
            rows in prop::collection::vec(any_row(), 0..12), bits in 0_u32..16,
        ) {
            let to = SocketAddr::new(std::net::Ipv4Addr::from(bits << 28 | 1).into(), 1);
            let routes = UnderlayRoutes::new(rows.clone(), Some(DEVICE));
            let best = |own: bool| {
                let able = rows.iter().filter(|row| row.destination.contains(&to.ip()));
                let able = able.filter(|row| own || row.interface != DEVICE);
                able.map(|row| (row.destination.prefix_len(), u32::MAX - row.metric)).max()
            };
            let among_the_best = |own: bool, fits: &dyn Fn(&Row) -> bool| {
                let worth = |row: &Row| Some((row.destination.prefix_len(), u32::MAX - row.metric));
                let able = rows.iter().filter(|row| row.destination.contains(&to.ip()));
                able.filter(|row| worth(row) == best(own)).any(fits)
            };
            let overlay_first = among_the_best(true, &|row| row.interface == DEVICE);
            prop_assert_eq!(routes.leads_into_overlay(to), overlay_first);
            match routes.interface_outside(to) {
                None => prop_assert_eq!(best(false), None),
                Some(index) => {
                    let fits = among_the_best(false, &|row| row.index == index && row.interface != DEVICE);
                    prop_assert!(fits, "{}", index);
                }
            }
        }
    }
}
