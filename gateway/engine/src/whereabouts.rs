//! What a node tells the others of where it can be reached.

use crate::control::{HubReach, MAX_HUBS, Whereabouts};
use crate::peer::path::Leg;
use std::net::SocketAddr;

/// What a node tells of its hubs and addresses. Of more than [`MAX_HUBS`] hubs it names those that carry, and of these the ones
/// that others with the same hubs name as well.
pub(crate) fn whereabouts(
    revision: u32,
    legs: &[Leg],
    addresses: impl Iterator<Item = SocketAddr>,
) -> Whereabouts {
    let mut whereabouts = Whereabouts::new(revision);
    let relays = || legs.iter().filter(|leg| leg.relays);
    let reach = |leg: &Leg| {
        let Leg { id, up, draining, rtt, mtu, measured, .. } = *leg;
        HubReach { hub: id, up, draining, rtt, mtu: measured.then_some(mtu) }
    };
    if relays().count() <= MAX_HUBS {
        relays().for_each(|leg| _ = whereabouts.add_hub(reach(leg)));
    } else {
        let rank = |leg: &&Leg| (!leg.up, leg.draining, leg.id.0);
        let mut told = None;
        while let Some(next) =
            relays().filter(|leg| told.is_none_or(|told| rank(leg) > told)).min_by_key(|leg| rank(leg))
            && whereabouts.add_hub(reach(next))
        {
            told = Some(rank(&next));
        }
    }
    for address in addresses {
        whereabouts.add_address(address);
    }
    whereabouts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::HubId;
    use crate::peer::PeerIndex;
    use std::time::Duration;

    #[test]
    fn of_many_hubs_those_are_told_that_carry_and_that_others_tell_as_well() {
        let leg = |n: u64| Leg {
            hub: n as PeerIndex,
            id: HubId(n),
            endpoint: ([192, 0, 2, 1], n as u16).into(),
            up: !n.is_multiple_of(3),
            relays: true,
            plain: false,
            routed_only: false,
            draining: n == 4,
            rtt: Duration::ZERO,
            alive: None,
            mtu: 1420,
            measured: false,
        };
        let told = |legs: &[Leg]| -> Vec<u64> {
            whereabouts(1, legs, std::iter::empty()).hubs().map(|reach| reach.hub.0).collect()
        };
        let mut legs: Vec<_> = (1..=14).map(leg).collect();
        assert_eq!(told(&legs), [1, 2, 5, 7, 8, 10, 11, 13]);
        legs.reverse();
        assert_eq!(told(&legs), [1, 2, 5, 7, 8, 10, 11, 13]);
        assert_eq!(told(&legs[..8]), [14, 13, 12, 11, 10, 9, 8, 7], "all, as they come");
    }
}
