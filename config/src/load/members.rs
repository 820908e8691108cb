//! Who is in the overlay: this process, its hubs and its peers.

use ipnet::Ipv4Net;

use crate::claims::{Claims, Owner, Range, Space, View};
use crate::diagnostic::{Place, Placed, Report};
use crate::name::{member_mistake, shown};
use crate::words::KIND;
use crate::{
    Endpoint, Hub, HubKind, Listen, Overrides, Peer, PresharedKey, PrivateKey, PublicKey, Slot, network,
};

use super::files::KeyReader;
use super::overlay::{key_of, required, resolve};
use super::section::Section;

const HUB_KEYS: &[&str] =
    &["name", "public_key", "endpoint", "kind", "preshared_key_file", "persistent_keepalive", "allowed_ips"];
const PEER_KEYS: &[&str] =
    &["name", "public_key", "slot", "allowed_ips", "endpoint", "preshared_key_file", "persistent_keepalive"];

/// This process, as far as it could be read.
pub(super) struct Own {
    pub name: Option<String>,
    /// None for a hub.
    pub slot: Option<Slot>,
    pub private_key: Option<PrivateKey>,
    pub listen: Listen,
}

/// Reads `[node]` or `[hub]`, flags first.
pub(super) fn own(
    section: Option<&Section<'_>>,
    overrides: &Overrides,
    keys: &KeyReader<'_>,
    claims: &mut Claims,
    report: &mut Report,
) -> Own {
    let is_hub = claims.view == View::Hub;
    let mut owner = Owner { id: 0, text: if is_hub { "this hub" } else { "this node" }.into(), own: true };
    let slot = if is_hub { None } else { own_slot(section, overrides, claims, report) };
    let mut name = section.and_then(|section| member_name(section, &mut owner, claims, report));
    if let (None, Some(slot)) = (section, &slot) {
        let default = default_name(slot.value, claims);
        claims.names.push((owner.clone(), Placed::new(default.clone(), slot.place.clone())));
        name = Some(default);
    }
    let private_key = match section {
        Some(section) if section.has("private_key_file") => {
            keys.read(section, "private_key_file", "wg genkey", PrivateKey::from_base64, report)
        }
        _ => overrides.state_key.clone(),
    };
    if let Some(key) = &private_key {
        let place = section
            .map_or_else(|| Place::flag("--state-dir"), |section| section.place_of("private_key_file"));
        claims.keys.push((owner.clone(), Placed::new(key.public(), place)));
    }
    if let Some(slot) = &slot {
        claims.ranges.push(Range { owner, space: Space::Slot, net: slot.with(slot.value.net()) });
    }
    let listen = listen(section, overrides, is_hub, report);
    Own { name, slot: slot.map(|slot| slot.value), private_key, listen }
}

fn own_slot(
    section: Option<&Section<'_>>,
    overrides: &Overrides,
    claims: &Claims,
    report: &mut Report,
) -> Option<Placed<Slot>> {
    let either = match (&overrides.slot, section) {
        (Some(flag), _) => Placed::new(Err(flag.as_str()), Place::flag("--slot")),
        (None, Some(section)) => {
            if !section.has("slot") {
                section.missing("slot", report);
            }
            section.either("slot", report)?
        }
        (None, None) => return None,
    };
    resolve(&either, claims, report).map(|slot| either.with(slot))
}

/// The name of a node without a file.
fn default_name(slot: Slot, claims: &Claims) -> String {
    match claims.cidr.as_ref() {
        Some(cidr) if cidr.value.prefix_len() >= 24 => format!("node-{}", slot.gateway().octets()[3]),
        _ => format!("node-{}", slot.gateway()),
    }
}

fn listen(section: Option<&Section<'_>>, overrides: &Overrides, is_hub: bool, report: &mut Report) -> Listen {
    if let Some(flag) = &overrides.listen {
        let place = Place::flag("--listen");
        let port = flag.bytes().all(|b| b.is_ascii_digit()).then(|| flag.parse::<u16>().ok()).flatten();
        let listen = match (port, flag.parse::<std::net::SocketAddr>()) {
            (Some(port), _) => Listen { address: None, port },
            (None, Ok(socket)) => Listen { address: Some(socket.ip()), port: socket.port() },
            (None, Err(_)) => {
                report.error(
                    "listen",
                    &place,
                    format!("`{}` is neither a port nor an address with a port", shown(flag)),
                    "write `51820`, `198.51.100.7:51820` or `[2001:db8::7]:51820`",
                );
                return Listen::default();
            }
        };
        return listen;
    }
    let Some(section) = section else { return Listen::default() };
    if is_hub && !section.has("listen_port") {
        let fix = "add `listen_port = 51820`: the members' files name it in the hub's endpoint";
        report.error("missing-key", &section.place, format!("{} has no `listen_port`", section.title), fix);
    }
    let reason = "a UDP port; 0 takes any free one";
    let port = section.ranged("listen_port", 0..=u16::MAX, reason, report);
    if let Some(port) = port.as_ref().filter(|port| is_hub && port.value == 0) {
        let text = "the hub listens on any free port, a new one each time";
        report.warning(
            "hub-port",
            &port.place,
            text,
            "name the port that the members' files have in the hub's endpoint",
        );
    }
    Listen { address: None, port: port.map_or(0, |port| port.value) }
}

/// Reads one `[[hubs]]`; `id` tells its claims from those of others.
pub(super) fn hub(
    section: Section<'_>,
    id: usize,
    keys: &KeyReader<'_>,
    claims: &mut Claims,
    report: &mut Report,
) -> Option<Hub> {
    let section = section.only(HUB_KEYS, report);
    let mut owner = Owner { id, text: "this hub".into(), own: false };
    let name = member_name(&section, &mut owner, claims, report);
    let common = Common::read(&section, &owner, keys, claims, report);
    if !section.has("endpoint") {
        section.missing("endpoint", report);
    }
    let kind = section.choice("kind", KIND, report).map(|kind| kind.value).unwrap_or_default();
    for net in common.allowed_ips.iter() {
        let whole = claims.cidr.as_ref().is_some_and(|overlay| net.value.contains(&overlay.value));
        if whole && kind == HubKind::OverlayGw {
            let text = format!(
                "{} of {} contains the overlay, which every hub carries anyway",
                net.value, owner.text
            );
            report.warning("hub-overlay", &net.place, text, "list only the networks behind the hub");
        } else if !whole {
            claims.ranges.push(Range { owner: owner.clone(), space: Space::Allowed, net: net.clone() });
        }
    }
    Some(Hub {
        name: name?,
        public_key: common.public_key?,
        endpoint: common.endpoint?,
        kind,
        preshared_key: common.preshared_key,
        persistent_keepalive: common.persistent_keepalive,
        allowed_ips: common.allowed_ips.into_iter().map(|net| net.value).collect(),
    })
}

/// Reads one `[[peers]]`; `id` tells its claims from those of others.
pub(super) fn peer(
    section: Section<'_>,
    id: usize,
    keys: &KeyReader<'_>,
    claims: &mut Claims,
    report: &mut Report,
) -> Option<Peer> {
    let section = section.only(PEER_KEYS, report);
    let mut owner = Owner { id, text: "this peer".into(), own: false };
    let name = member_name(&section, &mut owner, claims, report);
    let common = Common::read(&section, &owner, keys, claims, report);
    let slot = section.either("slot", report);
    let slot = slot.and_then(|either| resolve(&either, claims, report).map(|slot| either.with(slot)));
    let fix = "give an overlay-gw node its `slot`, and a plain WireGuard member its `allowed_ips`";
    let networks = !common.allowed_ips.is_empty();
    match (section.has("slot"), section.has("allowed_ips")) {
        (true, true) if networks => {
            let text = format!("{} has both a slot and allowed_ips", owner.text);
            report.error("peer-kind", &section.place_of("allowed_ips"), text, fix);
        }
        (false, true) if !networks && section.array_is_empty("allowed_ips") => {
            let text = format!("{} has no slot, and its allowed_ips are empty", owner.text);
            report.error("peer-kind", &section.place_of("allowed_ips"), text, fix);
        }
        (false, false) if !section.is_mistyped("slot") && !section.is_mistyped("allowed_ips") => {
            let text = format!("{} has neither a slot nor allowed_ips", owner.text);
            report.error("peer-kind", &section.place, text, fix);
        }
        _ => {}
    }
    if let Some(slot) = &slot {
        let net = slot.with(slot.value.net());
        claims.ranges.push(Range { owner: owner.clone(), space: Space::Slot, net });
    }
    for net in &common.allowed_ips {
        claims.ranges.push(Range { owner: owner.clone(), space: Space::Allowed, net: net.clone() });
    }
    Some(Peer {
        name: name?,
        public_key: common.public_key?,
        slot: slot.map(|slot| slot.value),
        allowed_ips: common.allowed_ips.into_iter().map(|net| net.value).collect(),
        endpoint: common.endpoint,
        preshared_key: common.preshared_key,
        persistent_keepalive: common.persistent_keepalive,
    })
}

/// What hubs and peers have alike.
struct Common {
    public_key: Option<PublicKey>,
    endpoint: Option<Endpoint>,
    preshared_key: Option<PresharedKey>,
    persistent_keepalive: Option<u16>,
    allowed_ips: Vec<Placed<Ipv4Net>>,
}

impl Common {
    fn read(
        section: &Section<'_>,
        owner: &Owner,
        keys: &KeyReader<'_>,
        claims: &mut Claims,
        report: &mut Report,
    ) -> Self {
        let key = required(section, "public_key", report);
        let key = key.and_then(|key| {
            report.keep(&key.place, key_of(key.value, "public_key")).map(|value| key.with(value))
        });
        let public_key = key.as_ref().map(|key| key.value);
        claims.keys.extend(key.map(|key| (owner.clone(), key)));

        let endpoint = section.string("endpoint", report);
        let endpoint = endpoint.and_then(|text| match text.value.parse::<Endpoint>() {
            Ok(endpoint) => Some(text.with(endpoint)),
            Err(why) => {
                report.error("endpoint", &text.place, format!("the endpoint {why}"), why.fix());
                None
            }
        });
        claims.endpoints.extend(endpoint.clone().map(|endpoint| (owner.clone(), endpoint)));

        let reason =
            "in seconds; 25 keeps most NATs open, and leaving it out sends nothing while there is no traffic";
        let keepalive = section.ranged("persistent_keepalive", 1..=u16::MAX, reason, report);
        let preshared_key = section
            .has("preshared_key_file")
            .then(|| keys.read(section, "preshared_key_file", "wg genpsk", PresharedKey::from_base64, report))
            .flatten();
        let mut allowed_ips = Vec::new();
        for element in section.array("allowed_ips", report) {
            let Some(text) = section.element_string("allowed_ips", &element, report) else { continue };
            allowed_ips
                .extend(report.keep(&text.place, network::parse(text.value)).map(|net| text.with(net)));
        }
        Self {
            public_key,
            endpoint: endpoint.map(|endpoint| endpoint.value),
            preshared_key,
            persistent_keepalive: keepalive.map(|keepalive| keepalive.value),
            allowed_ips,
        }
    }
}

/// Reads `name`, claims it, and lets the owner be called by it from here on.
fn member_name(
    section: &Section<'_>,
    owner: &mut Owner,
    claims: &mut Claims,
    report: &mut Report,
) -> Option<String> {
    let name = required(section, "name", report)?;
    if let Some(mistake) = member_mistake(name.value) {
        report.mistake(&name.place, mistake);
        // Routes may go via it: one mistake is not reported twice.
        claims.names.push((owner.clone(), name.with(name.value.to_owned())));
        return None;
    }
    if !owner.own {
        let kind = owner.text.strip_prefix("this ").unwrap_or(&owner.text);
        owner.text = format!("{kind} `{}`", name.value);
    }
    claims.names.push((owner.clone(), name.with(name.value.to_owned())));
    Some(name.value.to_owned())
}
