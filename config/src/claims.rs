//! What no single value shows: who claims a name, a key or addresses, where two claims collide, and what lies inside
//! or outside the overlay. Files and plans are checked by the same rules.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::diagnostic::{Place, Placed, Report};
use crate::name::{member_mistake, nearest};
use crate::network::overlap;
use crate::{Endpoint, HostFacts, PublicKey, Route};

/// Who makes a claim: compared by its number, shown by its text (`` peer `cluster-2` ``).
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub id: usize,
    pub text: String,
    /// This process itself.
    pub own: bool,
}

/// What a member claims of the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Slot,
    Allowed,
    Floating,
}

/// A claim on a range of addresses.
#[derive(Clone, Debug)]
pub(crate) struct Range {
    pub owner: Owner,
    pub space: Space,
    pub net: Placed<Ipv4Net>,
}

impl Range {
    fn text(&self) -> String {
        match self.space {
            Space::Slot => format!("slot {} of {}", self.net.value, self.owner.text),
            Space::Allowed => format!("{} of {}", self.net.value, self.owner.text),
            Space::Floating => format!("the floating range {}", self.net.value),
        }
    }
}

/// From whose side the claims are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// A node's file: routes become routes of its device.
    Node,
    /// A hub's file: there is no device.
    Hub,
    /// All of the overlay at once.
    Plan,
}

/// Everything claimed by a file or a plan.
#[derive(Debug)]
pub(crate) struct Claims {
    pub view: View,
    pub cidr: Option<Placed<Ipv4Net>>,
    pub slot_prefix: Option<u8>,
    pub names: Vec<(Owner, Placed<String>)>,
    pub keys: Vec<(Owner, Placed<PublicKey>)>,
    pub ranges: Vec<Range>,
    pub endpoints: Vec<(Owner, Placed<Endpoint>)>,
    /// The place of the CIDR, and that of `via`.
    pub routes: Vec<(Placed<Route>, Place)>,
    pub dns: Vec<Placed<Ipv4Addr>>,
    /// Signed records bring members that are not in the file.
    pub signed: bool,
}

impl Claims {
    pub fn new(view: View) -> Self {
        Self {
            view,
            cidr: None,
            slot_prefix: None,
            names: Vec::new(),
            keys: Vec::new(),
            ranges: Vec::new(),
            endpoints: Vec::new(),
            routes: Vec::new(),
            dns: Vec::new(),
            signed: false,
        }
    }

    /// Puts every collision on record.
    pub fn check(&self, report: &mut Report) {
        self.check_names(report);
        self.check_keys(report);
        self.check_ranges(report);
        self.check_routes(report);
        self.check_endpoints(report);
        self.check_dns(report);
    }

    /// Names become file names, so case does not tell two of them apart.
    fn check_names(&self, report: &mut Report) {
        let mut seen = HashMap::new();
        for (owner, name) in &self.names {
            match seen.entry(name.value.to_ascii_lowercase()) {
                Entry::Vacant(entry) => _ = entry.insert((owner, name)),
                Entry::Occupied(entry) => {
                    let (first, at) = entry.get();
                    let (first, at) = (&first.text, at.place.reference());
                    report.error(
                        "name-twice",
                        &name.place,
                        format!(
                            "the name `{}` is taken twice: by {first} ({at}) and by {}",
                            name.value, owner.text
                        ),
                        "give each member a name of its own; upper and lower case count as the same",
                    );
                }
            }
        }
    }

    fn check_keys(&self, report: &mut Report) {
        let mut seen = HashMap::new();
        for (owner, key) in &self.keys {
            match seen.entry(key.value) {
                Entry::Vacant(entry) => _ = entry.insert((owner, key)),
                Entry::Occupied(entry) => {
                    let (first, at) = entry.get();
                    let (text, fix) = if first.own {
                        (
                            format!(
                                "{} has the public key {}, which is {}'s own",
                                owner.text, key.value, first.text
                            ),
                            "enter the public key of the other machine: `wg pubkey` prints it from its private key",
                        )
                    } else {
                        let at = at.place.reference();
                        (
                            format!(
                                "{} has the same public key as {} ({at}): {}",
                                owner.text, first.text, key.value
                            ),
                            "each member has a key pair of its own: enter the right one, or make another",
                        )
                    };
                    report.error("key-twice", &key.place, text, fix);
                }
            }
        }
    }

    /// Two networks overlap only when one contains the other, so in the order of their first addresses, larger ones
    /// first, the networks that contain the current one are a stack.
    fn check_ranges(&self, report: &mut Report) {
        let mut ranges: Vec<&Range> = self.ranges.iter().collect();
        ranges.sort_by_key(|range| (range.net.value.network(), range.net.value.prefix_len()));
        let mut around: Vec<&Range> = Vec::new();
        let mut free = None;
        for range in ranges {
            while around.pop_if(|outer| !outer.net.value.contains(&range.net.value)).is_some() {}
            if let Some(outer) = around.iter().rev().find(|outer| outer.owner.id != range.owner.id) {
                let free = free.get_or_insert_with(|| self.free_slot());
                report_overlap(report, outer, range, free.as_deref());
            }
            around.push(range);
        }
    }

    /// The first slot of the overlay that nobody claims any part of.
    fn free_slot(&self) -> Option<String> {
        let (cidr, prefix) = (self.cidr.as_ref()?.value, self.slot_prefix?);
        let is_free = |net: &Ipv4Net| self.ranges.iter().all(|range| !overlap(range.net.value, *net));
        // The first slot last: people take the overlay's first address for the network's.
        let mut subnets = cidr.subnets(prefix).ok()?.skip(1).chain(cidr.subnets(prefix).ok()?.take(1));
        let free = subnets.find(is_free)?;
        Some(free.to_string())
    }

    fn check_routes(&self, report: &mut Report) {
        let mut seen: HashMap<Ipv4Net, &Placed<Route>> = HashMap::new();
        for (route, via) in &self.routes {
            let cidr = route.value.cidr;
            if let Some(overlay) = self.cidr.as_ref().filter(|overlay| overlap(overlay.value, cidr)) {
                report.error(
                    "route-overlay",
                    &route.place,
                    format!("the route {cidr} overlaps the overlay {}", overlay.value),
                    "routes are for networks beyond the overlay: remove it, the overlay itself needs none",
                );
            }
            match seen.entry(cidr) {
                Entry::Vacant(entry) => _ = entry.insert(route),
                Entry::Occupied(entry) => report.error(
                    "route-twice",
                    &route.place,
                    format!("{cidr} is routed twice, the first time at {}", entry.get().place.reference()),
                    "keep one of them",
                ),
            }
            // A plan knows its hubs, and checks this itself.
            if self.view != View::Plan {
                self.check_via(&route.value, via, report);
            }
        }
    }

    fn check_via(&self, route: &Route, place: &Place, report: &mut Report) {
        let Route { cidr, via } = route;
        let Some((owner, _)) = self.names.iter().find(|(_, name)| name.value == *via) else {
            let others = self.names.iter().filter(|(owner, _)| !owner.own || self.view == View::Hub);
            let names = || others.clone().map(|(_, name)| name.value.as_str());
            let meant = nearest(via, names()).map(|name| format!("did you mean `{name}`?"));
            if self.view == View::Hub {
                // The overlay section is the same everywhere, and this hub does not know the others.
                let text =
                    format!("{cidr} goes via `{via}`, which this hub does not know: it will not carry it");
                let other = "right if that is another hub".to_owned();
                report.warning(
                    "route-via",
                    place,
                    text,
                    meant.map_or(other.clone(), |meant| format!("{other}; {meant}")),
                );
            } else if self.signed {
                let text = format!(
                    "{cidr} goes via `{via}`, which is not in this file: until a signed record brings it, the network is not reached"
                );
                let other = "right if a record names it".to_owned();
                report.warning(
                    "route-via",
                    place,
                    text,
                    meant.map_or(other.clone(), |meant| format!("{other}; {meant}")),
                );
            } else {
                let known: Vec<_> = names().filter(|name| member_mistake(name).is_none()).take(8).collect();
                let fix = match (meant, known.is_empty()) {
                    (Some(meant), _) => meant,
                    (None, true) => "there is no hub or peer in this file: add it".into(),
                    (None, false) => format!("known are: {}", known.join(", ")),
                };
                report.error(
                    "route-via",
                    place,
                    format!("{cidr} goes via `{via}`, and no hub or peer has that name"),
                    fix,
                );
            }
            return;
        };
        let holder = |id: Option<usize>| {
            self.ranges.iter().find(|range| {
                range.space == Space::Allowed
                    && range.net.value.contains(cidr)
                    && id.is_none_or(|id| id == range.owner.id)
            })
        };
        if owner.own && self.view == View::Node {
            report.warning(
                "route-via-own",
                place,
                format!("{cidr} goes via `{via}`, which is this node: a node sends only from its own slot"),
                "put the network behind a hub or a plain WireGuard member",
            );
        } else if owner.own && holder(None).is_none() {
            let text = format!("{cidr} is behind this hub, and no member here has it in its allowed_ips");
            let fix =
                format!("add the router of that network as [[peers]] with `allowed_ips = [\"{cidr}\"]`");
            report.warning("route-behind", place, text, fix);
        } else if !owner.own
            && let Some(other) = self.ranges.iter().find(|range| {
                range.space == Space::Allowed && range.net.value == *cidr && range.owner.id != owner.id
            })
        {
            let at = other.net.place.reference();
            report.error(
                "route-conflict",
                place,
                format!("{cidr} goes via `{via}`, but is in the allowed_ips of {} ({at})", other.owner.text),
                "a network is behind one member: remove one of the two",
            );
        }
    }

    fn check_endpoints(&self, report: &mut Report) {
        for (owner, endpoint) in &self.endpoints {
            let Some(address) = endpoint.value.ipv4() else { continue };
            let name = &owner.text;
            if let Some(overlay) = self.cidr.as_ref().filter(|overlay| overlay.value.contains(&address)) {
                report.error(
                    "endpoint-inside",
                    &endpoint.place,
                    format!("the endpoint {} of {name} is inside the overlay {}", endpoint.value, overlay.value),
                    "the tunnel cannot run through itself: enter the address that the machine has outside the overlay",
                );
            } else if self.view == View::Node
                && let Some(net) = self.beyond().find(|net| net.contains(&address))
            {
                report.warning(
                    "endpoint-routed",
                    &endpoint.place,
                    format!("the endpoint {} of {name} is in {net}, which is routed into the overlay", endpoint.value),
                    "unless the host has a more specific route to it, the tunnel cannot be reached: enter an address outside",
                );
            }
        }
    }

    /// The networks beyond the overlay that are reached through it.
    fn beyond(&self) -> impl Iterator<Item = Ipv4Net> {
        let routes = self.routes.iter().map(|(route, _)| route.value.cidr);
        routes.chain(
            self.ranges.iter().filter(|range| range.space == Space::Allowed).map(|range| range.net.value),
        )
    }

    fn check_dns(&self, report: &mut Report) {
        let report_has_errors = report.has_errors();
        for dns in &self.dns {
            let Placed { value: address, place } = dns;
            // What routes it may be among what could not be read.
            let routed = || report_has_errors || self.beyond().any(|net| net.contains(address));
            let inside = self.cidr.as_ref().is_some_and(|overlay| overlay.value.contains(address));
            let slot = self
                .slot_prefix
                .and_then(|prefix| Ipv4Net::new(*address, prefix).ok())
                .map(|net| net.trunc());
            match slot {
                Some(slot) if inside && (*address == slot.network() || *address == slot.broadcast()) => {
                    let what = if *address == slot.network() { "gateway" } else { "broadcast address" };
                    report.error(
                        "dns-address",
                        place,
                        format!("the DNS server {address} is the {what} of slot {slot}: no host has it"),
                        "enter the address of the DNS server itself, such as a domain controller's",
                    );
                }
                _ if address.is_unspecified()
                    || address.is_loopback()
                    || address.is_multicast()
                    || address.is_broadcast() =>
                {
                    report.error(
                        "dns-address",
                        place,
                        format!("the DNS server {address} cannot be reached through the overlay"),
                        "enter the address of the DNS server itself, such as a domain controller's",
                    );
                }
                _ if inside || self.view == View::Hub || routed() => {}
                _ => report.warning(
                    "dns-route",
                    place,
                    format!("the DNS server {address} is in no network that the overlay routes"),
                    format!(
                        "queries to it take the host's own way; to carry them, route its network: {}",
                        self.example_route(*address)
                    ),
                ),
            }
        }
    }

    fn example_route(&self, address: Ipv4Addr) -> String {
        let net = Ipv4Net::new(address, 24).map(|net| net.trunc()).unwrap_or_default();
        match self.view {
            View::Plan => format!("`--route {net}=HUB`"),
            _ => format!("`routes = [{{ cidr = \"{net}\", via = \"HUB\" }}]`"),
        }
    }

    /// The overlay and its routes against the addresses that the host already has. Those on `device` are ours, from
    /// an earlier run.
    pub fn check_host(&self, host: &HostFacts, device: &str, report: &mut Report) {
        let others = || host.addresses.iter().filter(|(interface, _)| interface != device);
        if let Some(overlay) = &self.cidr
            && let Some((interface, net)) = others().find(|(_, net)| overlap(net.trunc(), overlay.value))
        {
            report.error(
                "overlay-host",
                &overlay.place,
                format!(
                    "the overlay {} overlaps {net}, an address of this host on {interface}",
                    overlay.value
                ),
                format!("choose another overlay for all members, or remove {} from {interface}", net.addr()),
            );
        }
        for (route, _) in &self.routes {
            let cidr = route.value.cidr;
            if let Some((interface, net)) = others().find(|(_, net)| cidr.contains(&net.addr())) {
                report.warning(
                    "route-host",
                    &route.place,
                    format!("the route {cidr} covers {}, an address of this host on {interface}", net.addr()),
                    "the host is in that network already: remove the route, or make it more specific",
                );
            }
        }
    }
}

fn report_overlap(report: &mut Report, a: &Range, b: &Range, free: Option<&str>) {
    let position = |range: &Range| (range.net.place.line, range.net.place.column);
    let (first, second) = if position(a) <= position(b) { (a, b) } else { (b, a) };
    let at = first.net.place.reference();
    let or = |alternative: &str| {
        free.map_or(alternative.to_owned(), |free| format!("free is, for instance, {free}"))
    };
    let (code, text, fix) = match (first.space, second.space) {
        (Space::Slot, Space::Slot) => (
            "slot-twice",
            format!(
                "slot {} is taken twice: by {} ({at}) and by {}",
                second.net.value, first.owner.text, second.owner.text
            ),
            format!("give each node a slot of its own: {}", or("the overlay has no free one left")),
        ),
        (Space::Slot, _) | (_, Space::Slot) => (
            "overlap",
            format!("{} overlaps {} ({at})", second.text(), first.text()),
            format!("take a part of the overlay that no slot uses: {}", or("there is none left")),
        ),
        (Space::Floating, _) | (_, Space::Floating) => (
            "overlap",
            format!("{} overlaps {} ({at})", second.text(), first.text()),
            "a floating range belongs to no member alone: make one of the two smaller".into(),
        ),
        (Space::Allowed, Space::Allowed) => (
            "overlap",
            format!("{} overlaps {} ({at})", second.text(), first.text()),
            "a network is behind one member only: remove it from one of the two, or make one smaller".into(),
        ),
    };
    report.error(code, &second.net.place, text, fix);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The stack against every pair: a claim collides when any other owner's network shares an address with it.
        #[test]
        fn an_overlap_is_found_whenever_there_is_one(
            ranges in proptest::collection::vec((0..4_usize, 0..64_u32, 24..=32_u8), 0..12),
        ) {
            let mut claims = Claims::new(View::Node);
            for (line, (id, at, prefix)) in ranges.into_iter().enumerate() {
                let net = Ipv4Net::new(Ipv4Addr::from(0x0a00_0000 + at * 8), prefix).unwrap().trunc();
                let place = Place { file: "x".into(), line: line + 1, column: 1 };
                let owner = Owner { id, text: format!("peer `{id}`"), own: false };
                claims.ranges.push(Range { owner, space: Space::Allowed, net: Placed::new(net, place) });
            }
            let collide = |a: &Range, b: &Range| a.owner.id != b.owner.id && overlap(a.net.value, b.net.value);
            let naive = claims.ranges.iter().any(|a| claims.ranges.iter().any(|b| collide(a, b)));
            let mut report = Report::default();
            claims.check_ranges(&mut report);
            prop_assert_eq!(report.has_errors(), naive);
        }
    }
}
