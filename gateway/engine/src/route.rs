//! Routes: destination address to the member that owns it. Longest prefix wins (RFC 1812 section 5.2.4.3).
//!
//! The overlay is cut into equal slots, so nearly every lookup is one index into a table of slots: its cost does not
//! grow with the number of members. What lies outside the overlay, or divides a slot, is found by binary search among
//! disjoint ranges.

use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// What a slot's entry in the table of slots says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry<T> {
    /// The whole slot has this one target, or none.
    Whole(Option<T>),
    /// The slot is divided: search the ranges.
    Divided,
}

/// Networks and their targets.
#[derive(Clone, Debug)]
pub struct RouteTable<T> {
    base: u32,
    shift: u32,
    slots: Vec<Entry<T>>,
    /// First address of each range, ascending, with its target; a range ends where the next one begins.
    ranges: Vec<(u32, Option<T>)>,
}

impl<T: Copy + PartialEq> RouteTable<T> {
    /// A table for `routes` (network and target; of equal networks the first counts), quickest inside `overlay`, which
    /// is cut into slots of `slot_prefix` bits.
    #[must_use]
    pub fn new(overlay: Ipv4Net, slot_prefix: u8, routes: &[(Ipv4Net, T)]) -> Self {
        let ranges = flatten(routes);
        let shift = 32 - u32::from(slot_prefix.clamp(overlay.prefix_len().max(1), 32));
        let base = u32::from(overlay.network());
        let count = ((u32::from(overlay.broadcast()) - base) >> shift) + 1;
        let mut table = Self { base, shift, slots: Vec::new(), ranges };
        table.slots = (0..count).map(|n| table.entry(base + (n << shift))).collect();
        table
    }

    /// The target of `address`, if a route covers it.
    #[must_use]
    pub fn lookup(&self, address: Ipv4Addr) -> Option<T> {
        let address = u32::from(address);
        let slot = address.wrapping_sub(self.base) >> self.shift;
        match self.slots.get(slot as usize) {
            Some(Entry::Whole(target)) => *target,
            Some(Entry::Divided) | None => self.search(address),
        }
    }

    fn search(&self, address: u32) -> Option<T> {
        let after = self.ranges.partition_point(|&(start, _)| start <= address);
        self.ranges.get(after.checked_sub(1)?)?.1
    }

    fn entry(&self, first: u32) -> Entry<T> {
        let last = first + ((1_u64 << self.shift) - 1) as u32;
        let after = |address| self.ranges.partition_point(|&(start, _)| start <= address);
        if after(first) == after(last) { Entry::Whole(self.search(first)) } else { Entry::Divided }
    }
}

/// Nested networks as disjoint ranges: the target changes at each start.
fn flatten<T: Copy + PartialEq>(routes: &[(Ipv4Net, T)]) -> Vec<(u32, Option<T>)> {
    let mut routes: Vec<(Ipv4Net, T)> = routes.iter().map(|(net, target)| (net.trunc(), *target)).collect();
    // Outer networks before inner ones; the sort is stable, so of equal networks the first stays first.
    routes.sort_by_key(|(net, _)| (u32::from(net.network()), net.prefix_len()));
    routes.dedup_by_key(|(net, _)| *net);
    let mut ranges: Vec<(u32, Option<T>)> = vec![(0, None)];
    let mut open: Vec<(u32, T)> = Vec::new();
    let mut put = |start: u32, target: Option<T>| {
        ranges.pop_if(|&mut (last, _)| last == start);
        if ranges.last().is_none_or(|&(_, before)| before != target) {
            ranges.push((start, target));
        }
    };
    for (net, target) in routes {
        let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
        while let Some((end, _)) = open.pop_if(|&mut (end, _)| end < first) {
            put(end + 1, open.last().map(|&(_, outer)| outer));
        }
        put(first, Some(target));
        open.push((last, target));
    }
    while let Some((end, _)) = open.pop() {
        if let Some(next) = end.checked_add(1) {
            put(next, open.last().map(|&(_, outer)| outer));
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(routes: &[(Ipv4Net, u32)], address: Ipv4Addr) -> Option<u32> {
        let mut best: Option<(u8, u32)> = None;
        for (net, target) in routes {
            let longer = best.is_none_or(|(length, _)| net.prefix_len() > length);
            if net.contains(&address) && longer {
                best = Some((net.prefix_len(), *target));
            }
        }
        best.map(|(_, target)| target)
    }

    /// Networks that meet often: a few bits vary, in and around 172.16.8.0/22, and now and then anywhere.
    fn net() -> impl Strategy<Value = Ipv4Net> {
        let near = (0_u32..2048, 20_u8..=32)
            .prop_map(|(n, length)| Ipv4Net::new((0xAC10_0800 + n).into(), length).unwrap().trunc());
        let far = (any::<u32>(), 0_u8..=32).prop_map(|(a, length)| Ipv4Net::new(a.into(), length).unwrap());
        prop_oneof![4 => near, 1 => far]
    }

    proptest! {
        #[test]
        fn the_longest_prefix_wins_as_in_a_naive_table(
            nets in prop::collection::vec(net(), 0..24),
            probes in prop::collection::vec((0_u32..2300, any::<u32>()), 1..64),
            slot_prefix in 24_u8..=30,
        ) {
            let routes: Vec<_> = nets.into_iter().zip(0_u32..).collect();
            let table = RouteTable::new("172.16.8.0/22".parse().unwrap(), slot_prefix, &routes);
            let edges = routes.iter().flat_map(|(net, _)| {
                let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
                [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
            });
            let probes = probes.into_iter().flat_map(|(near, far)| [0xAC10_0780 + near, far]);
            for address in edges.chain(probes).map(Ipv4Addr::from) {
                prop_assert_eq!(table.lookup(address), naive(&routes, address), "{}", address);
            }
        }
    }

    #[test]
    fn a_whole_slot_is_one_index() {
        let routes = [("172.16.8.56/29".parse().unwrap(), 1), ("172.16.8.64/29".parse().unwrap(), 2)];
        let table = RouteTable::new("172.16.8.0/24".parse().unwrap(), 29, &routes);
        assert_eq!(table.slots.len(), 32);
        assert!(table.slots.iter().all(|entry| *entry != Entry::Divided));
    }
}
