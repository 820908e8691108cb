//! Networks and slots as texts: what is refused of a single one, whether it comes from a file or a flag.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;

use crate::diagnostic::Mistake;
use crate::name::shown;
use crate::{MAX_SLOTS, Slot};

/// The network that `text` writes.
pub(crate) fn parse(text: &str) -> Result<Ipv4Net, Mistake> {
    let error = |why: String, fix: String| Err(Mistake::new("cidr", why, fix));
    let shown = shown(text);
    if let Ok(net) = text.parse::<Ipv4Net>() {
        return check(net).map_or(Ok(net), Err);
    }
    if text.parse::<Ipv4Addr>().is_ok() {
        return error(
            format!("`{shown}` has no prefix length"),
            format!("write `{shown}/32` for that one address, or the network, such as `172.16.8.0/24`"),
        );
    }
    if text.split('/').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()) {
        return error(format!("`{shown}` is IPv6, and the overlay is IPv4"), "write an IPv4 network".into());
    }
    error(
        format!("`{shown}` is no network"),
        "write its first address and prefix length, such as `172.16.8.0/24`".into(),
    )
}

/// What is wrong with a network wherever it stands.
pub(crate) fn check(net: Ipv4Net) -> Option<Mistake> {
    if net.addr() != net.network() {
        return Some(Mistake::new(
            "cidr",
            format!("{net} is not the first address of a /{}", net.prefix_len()),
            format!("write `{}`, or `{}/32` for that one address", net.trunc(), net.addr()),
        ));
    }
    // 0.0.0.0/1 and 128.0.0.0/1 together are the customary way to take the default route without naming it.
    if net.prefix_len() <= 1 {
        let what = if net.prefix_len() == 0 { "the" } else { "half of the" };
        return Some(Mistake::new(
            "default-route",
            format!(
                "{net} is {what} default route, which belongs to the host: all of its traffic would enter the overlay"
            ),
            "list only the networks that are behind this member, such as `172.16.0.0/24`".to_owned(),
        ));
    }
    const RESERVED: [(Ipv4Addr, u8, &str); 4] = [
        (Ipv4Addr::new(0, 0, 0, 0), 8, "\"this network\" (RFC 1122)"),
        (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
        (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local, which no router forwards"),
        (Ipv4Addr::new(224, 0, 0, 0), 3, "multicast or reserved"),
    ];
    RESERVED.into_iter().find(|(base, prefix, _)| Ipv4Net::new_assert(*base, *prefix).contains(&net)).map(
        |(_, _, what)| {
            Mistake::new("cidr", format!("{net} is {what}"), "name a network that hosts are in".to_owned())
        },
    )
}

/// What is wrong with an overlay of this size, cut into slots of this prefix length.
pub(crate) fn overlay_size(cidr: Ipv4Net, slot_prefix: u8) -> Option<Mistake> {
    let cut = slot_prefix.checked_sub(cidr.prefix_len());
    match cut {
        None => Some(Mistake::new(
            "overlay-size",
            format!("the overlay {cidr} is smaller than one slot, a /{slot_prefix}"),
            format!("give it at least a /{slot_prefix}, or set a longer `slot_prefix`"),
        )),
        Some(cut) if 1_u64 << cut > u64::from(MAX_SLOTS) => {
            let shortest = slot_prefix.saturating_sub(MAX_SLOTS.ilog2().try_into().unwrap_or(0));
            Some(Mistake::new(
                "overlay-size",
                format!(
                    "the overlay {cidr} holds {} slots of a /{slot_prefix}: more than {MAX_SLOTS}",
                    1_u64 << cut
                ),
                format!("with slots of a /{slot_prefix} the overlay is a /{shortest} or smaller"),
            ))
        }
        Some(_) => None,
    }
}

/// What is wrong with this prefix length of slots.
pub(crate) fn slot_prefix(prefix: i64) -> Result<u8, Mistake> {
    u8::try_from(prefix).ok().filter(|prefix| Slot::PREFIXES.contains(prefix)).ok_or_else(|| {
        Mistake::new(
            "slot-prefix",
            format!("slots cannot be a /{prefix}"),
            format!("take 24 to 30; 29 gives each node a gateway, two addresses and {} listeners", 4),
        )
    })
}

/// How a slot is named: by the last octet of its first address, or by that address.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SlotName {
    Octet(i64),
    Address(Ipv4Addr),
    Net(Ipv4Net),
}

impl SlotName {
    /// Reads `56`, `172.16.8.56` or `172.16.8.56/29`.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if let (true, Ok(octet)) = (digits, text.parse()) {
            return Ok(Self::Octet(octet));
        }
        text.parse().map(Self::Address).or_else(|_| text.parse().map(Self::Net)).map_err(|_| {
            let text = format!("`{}` is no slot", shown(text));
            Mistake::new(
                "slot",
                text,
                "name it by its first address, `172.16.8.56`, or in a /24 by its last octet, `56`",
            )
        })
    }

    /// The slot of this overlay that is meant.
    pub fn resolve(self, cidr: Ipv4Net, prefix: u8) -> Result<Slot, Mistake> {
        let error = |text: String, fix: String| Err(Mistake::new("slot", text, fix));
        let example = Ipv4Net::new(cidr.network(), prefix).map(|net| net.addr()).unwrap_or(cidr.addr());
        let (name, address) = match self {
            Self::Octet(octet) if !(0..=255).contains(&octet) => {
                return error(
                    format!("slot {octet} is not the last octet of an address"),
                    format!("take 0 to 255, or name the slot by its first address, such as `{example}`"),
                );
            }
            Self::Octet(octet) if cidr.prefix_len() < 24 => {
                let example = Ipv4Addr::from(u32::from(cidr.network()) | u32::try_from(octet).unwrap_or(0));
                return error(
                    format!("slot {octet} is ambiguous: the overlay {cidr} holds several of that last octet"),
                    format!("name it by its first address, such as `{example}`"),
                );
            }
            Self::Octet(octet) => {
                let base = u32::from(cidr.network()) & 0xffff_ff00;
                (octet.to_string(), Ipv4Addr::from(base | u32::try_from(octet).unwrap_or(0)))
            }
            Self::Address(address) => (address.to_string(), address),
            Self::Net(net) if net.prefix_len() != prefix => {
                return error(
                    format!("slot {net} is a /{}, and the overlay's slots are a /{prefix}", net.prefix_len()),
                    format!("name it by its first address, `{}`", net.addr()),
                );
            }
            Self::Net(net) => (net.to_string(), net.addr()),
        };
        if !cidr.contains(&address) {
            return error(
                format!("slot {name} is outside the overlay {cidr}"),
                format!("take one from {} to {}", cidr.network(), last_slot(cidr, prefix)),
            );
        }
        match Ipv4Net::new(address, prefix).map(|net| Slot::new(net).map_err(|_| net)) {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(net)) => {
                let size = 1_u32 << (32 - u32::from(prefix));
                let below = u32::from(net.network());
                let above = Ipv4Addr::from(below.saturating_add(size));
                let brief = |address: Ipv4Addr| match self {
                    Self::Octet(_) => address.octets()[3].to_string(),
                    _ => address.to_string(),
                };
                let or = if cidr.contains(&above) { format!(" or {}", brief(above)) } else { String::new() };
                error(
                    format!("slot {name} is not a multiple of {size}"),
                    format!(
                        "a /{prefix} begins at a multiple of its {size} addresses: take {}{or}",
                        brief(below.into())
                    ),
                )
            }
            Err(_) => {
                error(format!("slot {name} cannot be a /{prefix}"), "set `slot_prefix` from 24 to 30".into())
            }
        }
    }
}

/// The first address of an overlay's last slot.
fn last_slot(cidr: Ipv4Net, prefix: u8) -> Ipv4Addr {
    Ipv4Net::new(cidr.broadcast(), prefix).map(|net| net.network()).unwrap_or(cidr.broadcast())
}

/// Whether two networks share an address.
pub(crate) fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}
