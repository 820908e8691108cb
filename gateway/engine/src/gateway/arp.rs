//! ARP on a TAP device (RFC 826): the gateway is there, what lies beyond the slot is behind it, and nobody else is answered for.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::packet::{
    arp::{Arp, Message, Operation},
    ethernet::{self, Frame, MacAddr},
};

/// Length of a reply in bytes: an Ethernet header and an ARP message. A TAP device needs no padding to 60.
pub const REPLY: usize = ethernet::HEADER + crate::packet::arp::MESSAGE;

/// Answers ARP for one slot.
#[derive(Clone, Copy, Debug)]
pub struct ArpResponder {
    gateway: Ipv4Addr,
    mac: MacAddr,
    slot: Ipv4Net,
}

/// What a frame led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArpOutcome {
    /// Length in bytes of the reply that was written.
    pub reply: Option<usize>,
    /// An address of the slot, and who says that he has it.
    pub learnt: Option<(Ipv4Addr, MacAddr)>,
    /// Who else says that he has the gateway's address (RFC 5227 section 2.4).
    pub conflict: Option<MacAddr>,
}

impl ArpResponder {
    /// Answers for `gateway` with `mac`, to hosts of `slot`.
    #[must_use]
    pub fn new(gateway: Ipv4Addr, mac: MacAddr, slot: Ipv4Net) -> Self {
        Self { gateway, mac, slot }
    }

    /// The address that the gateway answers with.
    #[must_use]
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Looks at a whole frame and writes the reply, when there is one, into `out` ([`REPLY`] bytes).
    ///
    /// A request is answered (RFC 826, "Packet Reception") when it asks for:
    /// - the gateway: broadcast, unicast to refresh a cache entry (RFC 1122 section 2.3.2.1), or as a probe of somebody who is about
    ///   to take its address (RFC 5227 section 2.1.1);
    /// - an address outside the slot (proxy ARP, RFC 1027), unless it is a probe: whoever probes wants to hear that the
    ///   address is free, and a cluster that hears otherwise sees a duplicate.
    ///
    /// All other addresses of the slot are the host's or the cluster's to answer for. Announcements (sender and target are the same,
    /// RFC 5227 section 2.3) and replies are learnt from and never answered. An address is learnt only inside the slot.
    pub fn answer(&self, frame: &[u8], out: &mut [u8]) -> ArpOutcome {
        let mut outcome = ArpOutcome::default();
        let Ok(frame) = Frame::parse(frame) else { return outcome };
        if frame.ethertype() != ethernet::ARP
            || (frame.destination() != MacAddr::BROADCAST && frame.destination() != self.mac)
        {
            return outcome;
        }
        let Ok(message) = Arp::parse(frame.payload()) else { return outcome };
        let (sender, sender_mac) = (message.sender(), message.sender_mac());
        // Our own address as sender: our reply, come back.
        if !sender_mac.is_unicast() || sender_mac == self.mac {
            return outcome;
        }
        let probe = sender.is_unspecified();
        if !probe && !is_host(sender) {
            return outcome;
        }
        if sender == self.gateway {
            outcome.conflict = Some(sender_mac);
            return outcome;
        }
        if self.slot.contains(&sender) && sender != self.slot.broadcast() {
            outcome.learnt = Some((sender, sender_mac));
        }
        let target = message.target();
        let ours = target == self.gateway || (!probe && is_host(target) && !self.slot.contains(&target));
        if message.operation() == Operation::Request && sender != target && ours {
            outcome.reply = self.reply(target, sender, sender_mac, out);
        }
        outcome
    }

    /// "`address` is at our MAC", to whoever asked.
    fn reply(&self, address: Ipv4Addr, to: Ipv4Addr, to_mac: MacAddr, out: &mut [u8]) -> Option<usize> {
        let out = out.get_mut(..REPLY)?;
        let header = ethernet::Header { destination: to_mac, source: self.mac, ethertype: ethernet::ARP };
        let message = Message {
            operation: Operation::Reply,
            sender_mac: self.mac,
            sender: address,
            target_mac: to_mac,
            target: to,
        };
        message.write(header.write(out)?)?;
        Some(REPLY)
    }
}

/// Whether an address can be a host's on a link: not 0/8, loopback, multicast, class E or the limited broadcast.
fn is_host(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && !address.is_loopback() && first < 224
}

/// The gateway's hardware address: stable, unicast and locally administered (IEEE 802c), the same whenever this slot of this
/// overlay is served.
///
/// `02`, then the low 39 bits of a hash and a last bit 0: FNV-1a with 64 bits (draft-eastlake-fnv) over the overlay's network address and
/// prefix length and the slot's, 4 + 1 + 4 + 1 bytes in network order. [`device_mac`] is the same with a last bit 1.
#[must_use]
pub fn gateway_mac(overlay: Ipv4Net, slot: Ipv4Net) -> MacAddr {
    mac(overlay, slot, 0)
}

/// The hardware address of the node's own TAP device: as [`gateway_mac`], and never the same.
#[must_use]
pub fn device_mac(overlay: Ipv4Net, slot: Ipv4Net) -> MacAddr {
    mac(overlay, slot, 1)
}

fn mac(overlay: Ipv4Net, slot: Ipv4Net, last: u8) -> MacAddr {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for net in [overlay, slot] {
        for byte in net.network().octets().into_iter().chain([net.prefix_len()]) {
            hash = fnv_1a(hash, byte);
        }
    }
    let [_, _, _, a, b, c, d, e] = hash.to_be_bytes();
    MacAddr([0x02, a, b, c, d, e & 0xfe | last])
}

/// One byte more of FNV-1a.
fn fnv_1a(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{ArpEthIpv4Packet, ArpOperation, ArpPacketSlice, Ethernet2Slice};
    use proptest::prelude::*;

    const HOST: MacAddr = MacAddr([0x02, 1, 2, 3, 4, 5]);
    const OUR_MAC: MacAddr = MacAddr([0x02, 9, 9, 9, 9, 8]);
    const GATEWAY: [u8; 4] = [172, 16, 8, 56];
    const NODE: [u8; 4] = [172, 16, 8, 57];

    fn responder() -> ArpResponder {
        ArpResponder::new(GATEWAY.into(), OUR_MAC, "172.16.8.56/29".parse().unwrap())
    }

    /// A frame as etherparse writes it, padded to the least length of Ethernet.
    fn frame(
        to: MacAddr,
        operation: ArpOperation,
        from: MacAddr,
        sender: [u8; 4],
        target: [u8; 4],
    ) -> Vec<u8> {
        let mut bytes = [&to.0[..], &from.0, &[8, 6]].concat();
        let message = ArpEthIpv4Packet {
            operation,
            sender_mac: from.0,
            sender_ipv4: sender,
            target_mac: [0; 6],
            target_ipv4: target,
        };
        bytes.extend(message.to_bytes());
        bytes.resize(60, 0);
        bytes
    }

    fn ask(sender: [u8; 4], target: [u8; 4]) -> ArpOutcome {
        let frame = frame(MacAddr::BROADCAST, ArpOperation::REQUEST, HOST, sender, target);
        responder().answer(&frame, &mut [0; REPLY])
    }

    const LEARNT: Option<(Ipv4Addr, MacAddr)> = Some((Ipv4Addr::new(172, 16, 8, 57), HOST));

    #[test]
    fn a_request_for_the_gateway_is_answered_broadcast_or_unicast() {
        for to in [MacAddr::BROADCAST, OUR_MAC] {
            let mut out = [0; 100];
            let outcome =
                responder().answer(&frame(to, ArpOperation::REQUEST, HOST, NODE, GATEWAY), &mut out);
            assert_eq!(outcome, ArpOutcome { reply: Some(42), learnt: LEARNT, conflict: None });
            let ethernet = Ethernet2Slice::from_slice_without_fcs(&out[..42]).unwrap();
            assert_eq!(
                (ethernet.destination(), ethernet.source(), ethernet.ether_type().0),
                (HOST.0, OUR_MAC.0, 0x0806)
            );
            let reply = ArpPacketSlice::from_slice(ethernet.payload_slice()).unwrap().to_packet();
            let expected = ArpEthIpv4Packet {
                operation: ArpOperation::REPLY,
                sender_mac: OUR_MAC.0,
                sender_ipv4: GATEWAY,
                target_mac: HOST.0,
                target_ipv4: NODE,
            };
            assert_eq!(reply.try_eth_ipv4(), Ok(expected));
        }
        let elsewhere = frame(MacAddr([2; 6]), ArpOperation::REQUEST, HOST, NODE, GATEWAY);
        assert_eq!(responder().answer(&elsewhere, &mut [0; REPLY]), ArpOutcome::default());
    }

    #[test]
    fn nobody_else_in_the_slot_is_answered_for() {
        for last in 57..=63 {
            let target = [172, 16, 8, last];
            assert_eq!(ask([172, 16, 8, 58], target).reply, None, "request for .{last}");
            assert_eq!(ask([0; 4], target), ArpOutcome::default(), "probe for .{last}");
            assert_eq!(ask(target, target).reply, None, "announcement of .{last}");
        }
    }

    #[test]
    fn a_probe_is_answered_for_the_gateways_own_address_only() {
        assert_eq!(ask([0; 4], GATEWAY), ArpOutcome { reply: Some(REPLY), ..ArpOutcome::default() });
        assert_eq!(ask([0; 4], [10, 0, 0, 1]), ArpOutcome::default());
        assert_eq!(ask([0; 4], [172, 16, 8, 65]), ArpOutcome::default());
        assert_eq!(ask([0; 4], [169, 254, 3, 4]), ArpOutcome::default());
    }

    #[test]
    fn what_lies_beyond_the_slot_is_behind_the_gateway() {
        for target in
            [[172, 16, 8, 65], [172, 16, 8, 64], [172, 16, 8, 55], [10, 0, 0, 1], [223, 255, 255, 255]]
        {
            assert_eq!(
                ask(NODE, target),
                ArpOutcome { reply: Some(REPLY), learnt: LEARNT, conflict: None },
                "{target:?}"
            );
        }
        for target in [[0; 4], [0, 0, 0, 1], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]] {
            assert_eq!(ask(NODE, target).reply, None, "{target:?}");
        }
    }

    #[test]
    fn announcements_and_replies_are_learnt_and_not_answered() {
        let learnt = ArpOutcome { learnt: LEARNT, ..ArpOutcome::default() };
        assert_eq!(ask(NODE, NODE), learnt);
        let foreign = [10, 0, 0, 9];
        assert_eq!(ask(foreign, foreign), ArpOutcome::default(), "or the host would see a duplicate");
        for to in [MacAddr::BROADCAST, OUR_MAC] {
            let reply = frame(to, ArpOperation::REPLY, HOST, NODE, GATEWAY);
            assert_eq!(responder().answer(&reply, &mut [0; REPLY]), learnt);
        }
    }

    #[test]
    fn only_addresses_of_the_slot_are_learnt() {
        assert_eq!(ask([10, 0, 0, 9], GATEWAY), ArpOutcome { reply: Some(REPLY), ..ArpOutcome::default() });
        assert_eq!(ask([172, 16, 8, 65], GATEWAY).learnt, None);
        assert_eq!(ask([172, 16, 8, 63], GATEWAY).learnt, None, "broadcast");
        assert_eq!(ask([224, 0, 0, 9], GATEWAY), ArpOutcome::default());
    }

    #[test]
    fn somebody_else_with_the_gateways_address_is_reported() {
        let conflict = ArpOutcome { conflict: Some(HOST), ..ArpOutcome::default() };
        assert_eq!(ask(GATEWAY, GATEWAY), conflict);
        assert_eq!(ask(GATEWAY, NODE), conflict);
        let ours = frame(MacAddr::BROADCAST, ArpOperation::REQUEST, OUR_MAC, GATEWAY, NODE);
        assert_eq!(responder().answer(&ours, &mut [0; REPLY]), ArpOutcome::default());
    }

    #[test]
    fn a_sender_that_is_no_single_station_is_ignored() {
        for from in [MacAddr::BROADCAST, MacAddr::ZERO, MacAddr([1, 0, 0x5e, 0, 0, 1])] {
            let frame = frame(MacAddr::BROADCAST, ArpOperation::REQUEST, from, NODE, GATEWAY);
            assert_eq!(responder().answer(&frame, &mut [0; REPLY]), ArpOutcome::default());
        }
    }

    #[test]
    fn a_frame_that_is_no_arp_for_ipv4_on_ethernet_is_ignored() {
        let good = frame(MacAddr::BROADCAST, ArpOperation::REQUEST, HOST, NODE, GATEWAY);
        for at in 12..22 {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            assert_eq!(responder().answer(&bad, &mut [0; REPLY]), ArpOutcome::default(), "byte {at}");
        }
        assert_eq!(responder().answer(&good[..41], &mut [0; REPLY]), ArpOutcome::default());
        assert_eq!(responder().answer(&good, &mut [0; REPLY - 1]).reply, None, "no room");
    }

    #[test]
    fn the_addresses_are_the_documented_hash_and_stay_what_they_are() {
        let (overlay, slot) = ("172.16.8.0/24".parse().unwrap(), "172.16.8.56/29".parse().unwrap());
        // FNV-1a of "a", from the test vectors of draft-eastlake-fnv.
        assert_eq!(fnv_1a(0xcbf2_9ce4_8422_2325, b'a'), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(gateway_mac(overlay, slot).to_string(), "02:a1:e7:97:ea:ce");
        assert_eq!(device_mac(overlay, slot).to_string(), "02:a1:e7:97:ea:cf");
    }

    #[test]
    fn no_two_slots_of_an_overlay_share_a_hardware_address() {
        let overlay: Ipv4Net = "10.0.0.0/16".parse().unwrap();
        let macs: std::collections::HashSet<_> = overlay
            .subnets(29)
            .unwrap()
            .flat_map(|slot| [gateway_mac(overlay, slot), device_mac(overlay, slot)])
            .collect();
        assert_eq!(macs.len(), 2 * 8192);
        assert!(macs.iter().all(|mac| mac.is_unicast() && mac.0[0] == 2));
    }

    proptest! {
        #[test]
        fn a_reply_speaks_for_the_gateway_or_for_what_is_beyond_the_slot(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..80), target in prop_oneof![any::<[u8; 4]>(), (50_u8..70).prop_map(|d| [172, 16, 8, d])],
            sender in prop_oneof![any::<[u8; 4]>(), (50_u8..70).prop_map(|d| [172, 16, 8, d]), Just([0; 4])], op in 0_u8..4,
        ) {
            if bytes.len() >= 42 {
                bytes[..6].fill(0xff);
                bytes[12..20].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4]);
                bytes[20..22].copy_from_slice(&[0, op]);
                bytes[28..32].copy_from_slice(&sender);
                bytes[38..42].copy_from_slice(&target);
            }
            let outcome = responder().answer(&bytes, &mut [0; REPLY]);
            let slot: Ipv4Net = "172.16.8.56/29".parse().unwrap();
            if outcome.reply.is_some() {
                prop_assert!(op == 1 && sender != target);
                prop_assert!(target == GATEWAY || (!slot.contains(&Ipv4Addr::from(target)) && sender != [0; 4]));
            }
            if let Some((address, mac)) = outcome.learnt {
                prop_assert!(slot.contains(&address) && address != slot.broadcast() && address != slot.network() && mac.is_unicast());
            }
        }
    }
}
