//! The GUID of a Windows adapter: from the overlay and the slot alone, so that the network keeps its identity when keys,
//! peers and everything else change.

use ipnet::Ipv4Net;

/// "ovgw": in front of every GUID of ours.
const OURS: u32 = u32::from_be_bytes(*b"ovgw");

/// The version and variant bits of RFC 9562 section 5.8: a GUID whose content is the application's own.
const VERSION_8: u128 = 0x8000 << 64 | 0x8000 << 48;

/// The GUID of the adapter for `slot` of `overlay`. An overlay is determined by its length and an address in it, so this
/// has both.
#[must_use]
pub fn of(overlay: Ipv4Net, slot: Ipv4Net) -> u128 {
    let lengths = u128::from(overlay.prefix_len()) << 88 | u128::from(slot.prefix_len()) << 80;
    u128::from(OURS) << 96 | lengths | VERSION_8 | u128::from(u32::from(slot.network()))
}

/// Whether a GUID is one of ours.
#[must_use]
pub fn is_ours(guid: u128) -> bool {
    guid >> 96 == u128::from(OURS) && guid & VERSION_8 == VERSION_8
}

/// 32 hexadecimal digits, for a command line.
#[must_use]
pub fn text(guid: u128) -> String {
    format!("{guid:032x}")
}

/// What [`text`] has written.
#[must_use]
pub fn parse(text: &str) -> Option<u128> {
    u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)
}

/// With dashes, as Windows writes it, without the braces.
#[must_use]
pub fn dashed(guid: u128) -> String {
    let digits = text(guid);
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32];
    let parts: Vec<_> = parts.into_iter().filter_map(|part| digits.get(part)).collect();
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_guid_of_the_recipes_first_node() {
        let guid = of("172.16.8.0/24".parse().unwrap(), "172.16.8.56/29".parse().unwrap());
        assert_eq!(dashed(guid), "6f766777-181d-8000-8000-0000ac100838");
        assert!(is_ours(guid) && !is_ours(guid ^ 1 << 127));
        assert_eq!(parse("zz"), None);
    }

    proptest! {
        /// Another overlay or another slot has another GUID, and nothing else matters.
        #[test]
        fn a_guid_stands_for_one_slot_of_one_overlay(
            a in any::<u32>(), b in any::<u32>(), overlay in 8_u8..=24, other in 8_u8..=24, slot in 25_u8..=30,
        ) {
            let net = |address: u32, length| Ipv4Net::new(address.into(), length).unwrap().trunc();
            let make = |address, overlay| (net(address, overlay), net(address, slot));
            let (one, two) = (make(a, overlay), make(b, other));
            let guid = of(one.0, one.1);
            prop_assert_eq!(guid == of(two.0, two.1), one == two);
            prop_assert_eq!(parse(&text(guid)), Some(guid));
            prop_assert!(is_ours(guid));
        }
    }
}
