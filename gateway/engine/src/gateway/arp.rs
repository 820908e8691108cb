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
/// `02`, then the low 39 bits of a hash and a last bit 0: FNV-1a with 64 bits (RFC 9923) over the overlay's network address and
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
