//! `[overlay]`, `[device]` and `[control]`.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::str::FromStr;

use crate::claims::{Claims, Owner, Range, Space};
use crate::diagnostic::{Mistake, Place, Placed, Report};
use crate::name::{device_mistake, shown};
use crate::words::{MEMBERSHIP, MODE, REFUSE, RELAY, meaning};
use crate::{
    Control, DEFAULT_OVERLAY, DEFAULT_SLOT_PREFIX, Device, Floating, KeyError, Membership, Overlay,
    Overrides, Route, Slot, Windows, network,
};

use super::section::{Element, Section};

const OVERLAY_KEYS: &[&str] =
    &["cidr", "slot_prefix", "dns", "routes", "signing_key", "membership", "relay", "refuse", "floating"];

/// Reads `[overlay]`; what it cannot read keeps its default, and the report says so. `cidr` and `slot_prefix` go into
/// the claims only when they are valid: without them nothing else is measured against the overlay.
pub(super) fn overlay(
    section: Option<&Section<'_>>,
    overrides: &Overrides,
    top: &Place,
    claims: &mut Claims,
    report: &mut Report,
) -> Overlay {
    let mut overlay = Overlay::default();
    let prefix = section.and_then(|section| section.integer("slot_prefix", report));
    claims.slot_prefix = match prefix {
        None if section.is_some_and(|section| section.has("slot_prefix")) => None,
        None => Some(DEFAULT_SLOT_PREFIX),
        Some(prefix) => report.keep(&prefix.place, network::slot_prefix(prefix.value)),
    };
    let text = match &overrides.overlay {
        Some(flag) => Some(Placed::new(flag.as_str(), Place::flag("--overlay"))),
        None => section.and_then(|section| section.string("cidr", report)),
    };
    let default = || match section {
        Some(section) if section.has("cidr") => None,
        _ => Some(Placed::new(DEFAULT_OVERLAY, section.map_or(top, |section| &section.place).clone())),
    };
    let cidr = text.map_or_else(default, |text| {
        report.keep(&text.place, network::parse(text.value)).map(|cidr| text.with(cidr))
    });
    if let (Some(cidr), Some(prefix)) = (cidr, claims.slot_prefix) {
        if let Some(mistake) = network::overlay_size(cidr.value, prefix) {
            report.mistake(&cidr.place, mistake);
        } else {
            (overlay.cidr, overlay.slot_prefix) = (cidr.value, prefix);
            claims.cidr = Some(cidr);
        }
    }
    let Some(section) = section else { return overlay };

    for element in section.array("dns", report) {
        let Some(text) = section.element_string("dns", &element, report) else { continue };
        match text.value.parse::<Ipv4Addr>() {
            Ok(address) => {
                overlay.dns.push(address);
                claims.dns.push(text.with(address));
            }
            Err(_) => report.error(
                "dns-address",
                &text.place,
                format!("the DNS server `{}` is no IPv4 address", shown(text.value)),
                "enter its address, such as \"172.16.0.1\"",
            ),
        }
    }
    for entry in section.tables("routes", report) {
        let entry = entry.only(&["cidr", "via"], report);
        let cidr = network_of(&entry, "cidr", report);
        let via = required(&entry, "via", report);
        if let (Some(cidr), Some(via)) = (cidr, via) {
            let route = Route { cidr: cidr.value, via: via.value.to_owned() };
            overlay.routes.push(route.clone());
            claims.routes.push((cidr.with(route), via.place));
        }
    }
    signing(section, &mut overlay, report);
    if let Some(relay) = section.choice("relay", RELAY, report) {
        overlay.relay = relay.value;
    }
    if let Some(refuse) = section.choice("refuse", REFUSE, report) {
        overlay.refuse = refuse.value;
    }
    overlay.floating = floating(section, claims, report);
    overlay
}

/// Opens `[overlay]` and refuses keys that it does not have.
pub(super) fn open<'a>(root: &Section<'a>, report: &mut Report) -> Option<Section<'a>> {
    root.table("overlay", report).map(|section| section.only(OVERLAY_KEYS, report))
}

fn signing(section: &Section<'_>, overlay: &mut Overlay, report: &mut Report) {
    if let Some(text) = section.string("signing_key", report) {
        overlay.signing_key = report.keep(&text.place, key_of(text.value, "signing_key"));
    }
    let chosen = section.choice("membership", MEMBERSHIP, report);
    overlay.membership = match &chosen {
        Some(chosen) => chosen.value,
        None if overlay.signing_key.is_some() => Membership::Signed,
        None => Membership::File,
    };
    if let Some(Placed { value: Membership::Signed, place }) = chosen
        && !section.has("signing_key")
    {
        report.error(
            "signing-key",
            &place,
            "`membership = \"signed\"` needs the overlay's signing key, and there is none",
            "add `signing_key`, or write `membership = \"file\"` to trust only what is in this file",
        );
    }
}

fn floating(section: &Section<'_>, claims: &mut Claims, report: &mut Report) -> Vec<Floating> {
    let mut all = Vec::new();
    for (index, entry) in section.tables("floating", report).into_iter().enumerate() {
        let entry = entry.only(&["cidr", "slots"], report);
        let cidr = network_of(&entry, "cidr", report);
        let mut slots: Vec<Slot> = Vec::new();
        if !entry.has("slots") {
            entry.missing("slots", report);
        }
        let elements = entry.array("slots", report);
        if elements.is_empty() && entry.has("slots") {
            let text = "no slot may hold this floating range's addresses";
            report.error(
                "floating-slots",
                &entry.place_of("slots"),
                text,
                "list the slots, such as `slots = [56, 64]`",
            );
        }
        for element in elements {
            let Some(slot) = element_slot(&entry, "slots", &element, claims, report) else { continue };
            if slots.contains(&slot) {
                let text = format!("slot {slot} is listed twice");
                report.error("floating-slots", &element.place, text, "remove it once");
            }
            slots.push(slot);
        }
        let Some(cidr) = cidr else { continue };
        if let Some(overlay) = claims.cidr.as_ref().filter(|overlay| !overlay.value.contains(&cidr.value)) {
            report.error(
                "floating-outside",
                &cidr.place,
                format!("the floating range {} is not inside the overlay {}", cidr.value, overlay.value),
                "take a part of the overlay that no slot uses",
            );
        }
        all.push(Floating { cidr: cidr.value, slots });
        // Numbers of owners from the top: members count from 0.
        let owner = Owner { id: usize::MAX - index, text: "nobody".into(), own: false };
        claims.ranges.push(Range { owner, space: Space::Floating, net: cidr });
    }
    all
}

/// Reads `[device]`, flags first.
pub(super) fn device(section: Option<&Section<'_>>, overrides: &Overrides, report: &mut Report) -> Device {
    let mut device = Device::default();
    let name = match &overrides.device {
        Some(flag) => Some(Placed::new(flag.as_str(), Place::flag("--device"))),
        None => section.and_then(|section| section.string("name", report)),
    };
    if let Some(name) = name {
        match device_mistake(name.value) {
            Some(mistake) => report.mistake(&name.place, mistake),
            None => name.value.clone_into(&mut device.name),
        }
    }
    let mode = match &overrides.mode {
        Some(flag) => report.keep(&Place::flag("--mode"), meaning("mode", flag, MODE)),
        None => section.and_then(|section| section.choice("mode", MODE, report)).map(|mode| mode.value),
    };
    device.mode = mode.unwrap_or_default();
    let Some(section) = section else { return device };
    let reason = "576 is what every IPv4 host takes (RFC 791); 65475 is the largest that fits a datagram after \
                  WireGuard's 60 bytes; 1420 suits an Internet path";
    if let Some(mtu) = section.ranged("mtu", 576..=65475, reason, report) {
        device.mtu = mtu.value;
    }
    let reason =
        "a device has at most 256 queues; leave `queues` out to have it chosen by the number of cores";
    let queues = section.ranged("queues", 1..=256, reason, report);
    device.queues = queues.and_then(|queues| NonZeroU16::new(queues.value));
    if let Some(section) = section.table("windows", report) {
        device.windows = windows(section.titled("[device.windows]"), report);
    }
    device
}

/// Reads `[device.windows]`: switches, all on when they are not there.
fn windows(section: Section<'_>, report: &mut Report) -> Windows {
    let section = section.only(&["private_network", "icmp", "cluster", "smb", "rpc"], report);
    let mut on = |key| section.boolean(key, report).is_none_or(|switch| switch.value);
    Windows {
        private_network: on("private_network"),
        icmp: on("icmp"),
        cluster: on("cluster"),
        smb: on("smb"),
        rpc: on("rpc"),
    }
}

/// Opens `[device]` and refuses keys that it does not have.
pub(super) fn open_device<'a>(root: &Section<'a>, report: &mut Report) -> Option<Section<'a>> {
    root.table("device", report)
        .map(|section| section.only(&["name", "mode", "mtu", "queues", "windows"], report))
}

/// Reads `[control]`.
pub(super) fn control(root: &Section<'_>, report: &mut Report) -> Control {
    let Some(section) = root.table("control", report) else { return Control::default() };
    let section = section.only(&["group"], report);
    let Some(group) = section.string("group", report) else { return Control::default() };
    // A group's name ends up in lookups only; what could not be one is caught here.
    if group.value.is_empty() || group.value.contains(|c: char| c.is_control() || c == ':' || c == '/') {
        let text = format!("`{}` cannot be the name of a group", shown(group.value));
        report.error("group", &group.place, text, "name a group of this host, or remove `group`");
    }
    Control { group: Some(group.value.to_owned()) }
}

/// A string that has to be there.
pub(super) fn required<'a>(section: &Section<'a>, key: &str, report: &mut Report) -> Option<Placed<&'a str>> {
    if !section.has(key) {
        section.missing(key, report);
    }
    section.string(key, report)
}

fn network_of(section: &Section<'_>, key: &str, report: &mut Report) -> Option<Placed<ipnet::Ipv4Net>> {
    let text = required(section, key, report)?;
    report.keep(&text.place, network::parse(text.value)).map(|net| text.with(net))
}

/// The slot that an element of an array names, once the overlay is known.
fn element_slot(
    section: &Section<'_>,
    key: &str,
    element: &Element<'_>,
    claims: &Claims,
    report: &mut Report,
) -> Option<Slot> {
    let either = section.element_either(key, element, report)?;
    resolve(&either, claims, report)
}

/// The slot that an integer or a string names, once the overlay is known.
pub(super) fn resolve(
    either: &Placed<Result<i64, &str>>,
    claims: &Claims,
    report: &mut Report,
) -> Option<Slot> {
    let name = either.value.map(network::SlotName::Octet).or_else(network::SlotName::parse);
    let name = report.keep(&either.place, name)?;
    let (cidr, prefix) = (claims.cidr.as_ref()?.value, claims.slot_prefix?);
    report.keep(&either.place, name.resolve(cidr, prefix))
}

/// A public key, with a mistake that shows it: it is no secret.
pub(super) fn key_of<T: FromStr<Err = KeyError>>(text: &str, key: &str) -> Result<T, Mistake> {
    text.parse().map_err(|why: KeyError| {
        let fix = match key {
            "signing_key" => {
                "enter the base64 of the signing key's public half, as `overlay-gw plan` wrote it"
            }
            _ => "enter the 44 characters that `wg pubkey` prints",
        };
        Mistake::new("public-key", format!("`{key}` is no key, {why}: `{}`", shown(text)), fix)
    })
}
