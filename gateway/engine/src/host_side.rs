//! The device's side: packets on a TUN, frames with ARP on a TAP, and what must never go into the tunnel.

use crate::counters::{DropReason, Drops};
use crate::gateway::arp::{ArpResponder, device_mac, gateway_mac};
use crate::output::Output;
use crate::packet::ethernet::{self, Frame, MacAddr};
use crate::packet::ipv4::{self, Ipv4};
use crate::packet::udp::Udp;
use crate::settings::{EngineSettings, RoleSettings};
use arc_swap::ArcSwap;
use overlay_config::Mode;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// What stands between the device and the packet path.
#[derive(Debug)]
pub struct HostSide {
    /// On a TAP: layer 2.
    ethernet: Option<Layer2>,
    listen_port: AtomicU16,
}

#[derive(Debug)]
struct Layer2 {
    arp: ArpResponder,
    /// The device's own address, until somebody says otherwise for an address of the slot.
    device: MacAddr,
    /// Addresses of the slot that speak with another MAC address. At most a slot's worth.
    neighbours: ArcSwap<Vec<(Ipv4Addr, MacAddr)>>,
}

impl HostSide {
    /// The device's side of an engine with these settings.
    #[must_use]
    pub fn new(settings: &EngineSettings) -> Self {
        let ethernet = match settings.role {
            RoleSettings::Node { slot, mode: Mode::Tap } => {
                let mac = gateway_mac(settings.overlay, slot.net());
                Some(Layer2 {
                    arp: ArpResponder::new(slot.gateway(), mac, slot.net()),
                    device: device_mac(settings.overlay, slot.net()),
                    neighbours: ArcSwap::default(),
                })
            }
            _ => None,
        };
        Self { ethernet, listen_port: AtomicU16::new(0) }
    }

    /// The UDP port that this node's datagrams leave from.
    pub fn set_listen_port(&self, port: u16) {
        self.listen_port.store(port, Relaxed);
    }

    /// Bytes in front of a packet for the device.
    #[must_use]
    pub fn header_len(&self) -> usize {
        if self.ethernet.is_some() { ethernet::HEADER } else { 0 }
    }

    /// The packet in what the host sent; ARP is answered here.
    pub fn receive<'a>(&self, frame: &'a mut [u8], drops: &Drops, out: &mut Output) -> Option<&'a mut [u8]> {
        let Some(layer2) = &self.ethernet else { return Some(frame) };
        let Ok(header) = Frame::parse(frame) else {
            drops.count(DropReason::Malformed);
            return None;
        };
        match header.ethertype() {
            ethernet::IPV4 if header.destination() == layer2.arp.mac() => {
                return frame.get_mut(ethernet::HEADER..);
            }
            // For everybody, or for another station: nothing that a router forwards (RFC 1812 section 5.3.4).
            ethernet::IPV4 => drops.count(DropReason::Multicast),
            ethernet::ARP => layer2.handle_arp(frame, drops, out),
            _ => drops.count(DropReason::NotIpv4),
        }
        None
    }

    /// Puts the packet that stands in the first `len` bytes of the scratch into the device's batch.
    pub fn send(&self, out: &mut Output, len: usize, destination: Ipv4Addr, drops: &Drops) {
        let Output { host, scratch, .. } = out;
        let (head, packet) = (self.header_len(), scratch.get(..len).unwrap_or_default());
        let Some(mut room) = host.reserve(head + packet.len()) else {
            return drops.count(DropReason::NoBuffer);
        };
        if let Some(body) = room.buffer().get_mut(head..) {
            body.copy_from_slice(packet);
        }
        self.write_header(room.buffer(), destination);
        room.commit((), head + len);
    }

    /// Writes what belongs in front of a packet for `destination` (nothing on a TUN).
    pub fn write_header(&self, frame: &mut [u8], destination: Ipv4Addr) {
        let Some(layer2) = &self.ethernet else { return };
        let neighbours = layer2.neighbours.load();
        let to = neighbours
            .iter()
            .find(|(address, _)| *address == destination)
            .map_or(layer2.device, |(_, mac)| *mac);
        let header =
            ethernet::Header { destination: to, source: layer2.arp.mac(), ethertype: ethernet::IPV4 };
        header.write(frame);
    }

    /// Where a packet from the host goes that comes from the tunnel's own port. When that is a peer's endpoint, it is one
    /// of the tunnel's own datagrams: the host has lost its route to the underlay and fell back on the overlay's default
    /// route.
    #[must_use]
    pub fn own_port_destination(&self, packet: &Ipv4<'_>) -> Option<SocketAddr> {
        if packet.protocol() != ipv4::UDP || packet.fragment_offset() != 0 {
            return None;
        }
        let udp = Udp::parse(packet.payload()).ok()?;
        (udp.source_port() == self.listen_port.load(Relaxed))
            .then(|| SocketAddr::new(IpAddr::V4(packet.destination()), udp.destination_port()))
    }
}

impl Layer2 {
    fn handle_arp(&self, frame: &[u8], drops: &Drops, out: &mut Output) {
        let Output { host, scratch, .. } = out;
        let outcome = self.arp.answer(frame, scratch);
        if let Some(reply) = outcome.reply.and_then(|len| scratch.get(..len))
            && !host.push((), reply)
        {
            drops.count(DropReason::NoBuffer);
        }
        if let Some((address, mac)) = outcome.learnt {
            self.learn(address, mac);
        }
    }

    /// Remembers who speaks for an address. Bounded: the responder only learns addresses of the slot.
    fn learn(&self, address: Ipv4Addr, mac: MacAddr) {
        let known = self.neighbours.load();
        let before = known.iter().find(|(a, _)| *a == address).map_or(self.device, |(_, mac)| *mac);
        if before != mac {
            let mut next: Vec<_> = known.iter().copied().filter(|(a, _)| *a != address).collect();
            next.push((address, mac));
            self.neighbours.store(Arc::new(next));
        }
    }
}
