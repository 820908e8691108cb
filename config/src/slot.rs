//! A slot: the small subnet of the overlay that one node owns, and what each of its addresses is for.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// One node's subnet, `172.16.8.56/29`: gateway first, broadcast last. Its first address is a multiple of its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(Ipv4Net);

/// Why a subnet is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// Fewer than four addresses (gateway, node, client access, broadcast), or more than 256.
    #[error("a slot is a /24 to a /30, not a /{}", .0.prefix_len())]
    Size(Ipv4Net),
    /// The first address is not a multiple of the slot's size.
    #[error("{} is not the first address of a /{}", .0.addr(), .0.prefix_len())]
    Unaligned(Ipv4Net),
}

impl Slot {
    /// The prefix lengths that a slot may have.
    pub const PREFIXES: std::ops::RangeInclusive<u8> = 24..=30;

    /// The slot that is this subnet.
    ///
    /// # Errors
    /// When the prefix is outside [`Slot::PREFIXES`], or the address is not the subnet's first.
    pub fn new(net: Ipv4Net) -> Result<Self, SlotError> {
        if !Self::PREFIXES.contains(&net.prefix_len()) {
            return Err(SlotError::Size(net));
        }
        if net.addr() != net.network() {
            return Err(SlotError::Unaligned(net));
        }
        Ok(Self(net))
    }

    /// The subnet.
    #[must_use]
    pub fn net(self) -> Ipv4Net {
        self.0
    }

    /// The synthetic default gateway: the first address. No host has it.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        self.0.network()
    }

    /// The node's overlay address: the second.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        self.at(1)
    }

    /// The address that carries the default gateway, which gives the network client access in WSFC: the third.
    #[must_use]
    pub fn client_access(self) -> Ipv4Addr {
        self.at(2)
    }

    /// The addresses that a cluster brings online and takes offline: the fourth to the last but one. None in a /30.
    pub fn listeners(self) -> impl Iterator<Item = Ipv4Addr> {
        let first = u32::from(self.gateway()) + 3;
        (first..u32::from(self.broadcast())).map(Ipv4Addr::from)
    }

    /// The last address.
    #[must_use]
    pub fn broadcast(self) -> Ipv4Addr {
        self.0.broadcast()
    }

    /// Whether the address is one of the slot's, gateway and broadcast included.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        self.0.contains(&address)
    }

    /// Its number within the overlay, from 0, below [`crate::MAX_SLOTS`]: 13 bits of a sealed relay's label (design: sealed
    /// relay). Means nothing for a slot of another overlay.
    #[must_use]
    pub fn ordinal(self, overlay: Ipv4Net, slot_prefix: u8) -> u16 {
        let offset = u32::from(self.gateway()).wrapping_sub(u32::from(overlay.network()));
        let ordinal = offset.checked_shr(u32::from(32_u8.saturating_sub(slot_prefix))).unwrap_or(0);
        (ordinal & (crate::MAX_SLOTS - 1)) as u16
    }

    /// A slot has at least four addresses and is aligned, so this never overflows.
    fn at(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.gateway()) | offset)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_slot_56_have_the_roles_of_the_design() {
        let slot = Slot::new("172.16.8.56/29".parse().unwrap()).unwrap();
        assert_eq!(slot.to_string(), "172.16.8.56/29");
        assert_eq!(slot.gateway(), Ipv4Addr::new(172, 16, 8, 56));
        assert_eq!(slot.address(), Ipv4Addr::new(172, 16, 8, 57));
        assert_eq!(slot.client_access(), Ipv4Addr::new(172, 16, 8, 58));
        let listeners: Vec<_> = slot.listeners().map(|a| a.octets()[3]).collect();
        assert_eq!(listeners, [59, 60, 61, 62]);
        assert_eq!(slot.broadcast(), Ipv4Addr::new(172, 16, 8, 63));
        assert!(slot.contains(slot.gateway()) && slot.contains(slot.broadcast()));
        assert!(!slot.contains(Ipv4Addr::new(172, 16, 8, 64)));
    }

    #[test]
    fn the_smallest_slot_has_no_listener_and_the_last_address_of_all_does_not_overflow() {
        let slot = Slot::new("255.255.255.252/30".parse().unwrap()).unwrap();
        assert_eq!(slot.listeners().count(), 0);
        assert_eq!(slot.broadcast(), Ipv4Addr::BROADCAST);
    }

    #[test]
    fn slots_are_numbered_from_the_overlays_first_to_its_8192nd() {
        let slot = |net: &str| Slot::new(net.parse().unwrap()).unwrap();
        assert_eq!(slot("172.16.8.0/29").ordinal("172.16.8.0/24".parse().unwrap(), 29), 0);
        assert_eq!(slot("172.16.8.56/29").ordinal("172.16.8.0/24".parse().unwrap(), 29), 7);
        assert_eq!(slot("10.0.255.248/29").ordinal("10.0.0.0/16".parse().unwrap(), 29), 8191);
        assert_eq!(slot("10.31.255.0/24").ordinal("10.0.0.0/11".parse().unwrap(), 24), 8191);
    }

    #[test]
    fn a_subnet_of_another_size_or_off_its_boundary_is_no_slot() {
        for (net, why) in [
            ("172.16.8.60/29", "172.16.8.60 is not the first address of a /29"),
            ("172.16.8.0/23", "a slot is a /24 to a /30, not a /23"),
            ("172.16.8.0/31", "a slot is a /24 to a /30, not a /31"),
        ] {
            assert_eq!(Slot::new(net.parse().unwrap()).unwrap_err().to_string(), why);
        }
    }
}
