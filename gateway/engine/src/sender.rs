//! Sending runs of packets to peers: the lock of a peer is held while packets for the same peer follow one another.

use crate::counters::{DropReason, Drops};
use crate::packet::DatagramBatch;
use crate::packet::ipv4::Ipv4;
use crate::peer::{LinkGuard, Peer, PeerIndex};
use crate::table::Table;
use std::time::Instant;

/// Sends runs of packets: the lock of a peer is held while packets for the same peer follow one another.
pub struct Sender<'a> {
    drops: &'a Drops,
    run: Option<(PeerIndex, LinkGuard<'a>)>,
    table: &'a Table,
}

impl<'a> Sender<'a> {
    /// A sender that holds no lock yet.
    pub fn new(table: &'a Table, drops: &'a Drops) -> Self {
        Self { drops, run: None, table }
    }

    /// Gives back the lock of the peer whose run it was.
    pub fn release(&mut self) {
        self.run = None;
    }

    /// Sends `packet` to `peer`, cut into fragments when it is larger than `mtu`.
    pub fn send(
        &mut self,
        now: Instant,
        peer: &Peer,
        packet: &[u8],
        mtu: u16,
        scratch: &mut [u8],
        net: &mut DatagramBatch,
    ) {
        if self.run.as_ref().is_none_or(|(index, _)| *index != peer.index) {
            self.run = None;
            self.run = self.table.peer(peer.index).map(|peer| (peer.index, peer.link.lock()));
        }
        let Some((_, link)) = self.run.as_mut() else { return };
        if packet.len() <= usize::from(mtu) {
            return link.send(now, packet, net, self.drops);
        }
        let Ok(ip) = Ipv4::parse(packet) else { return self.drops.count(DropReason::Malformed) };
        let cut = crate::gateway::fragment::fragment(&ip, mtu, |header, payload| {
            let Some(whole) = scratch.get_mut(..header.len() + payload.len()) else { return false };
            let (head, body) = whole.split_at_mut(header.len());
            head.copy_from_slice(header);
            body.copy_from_slice(payload);
            link.send(now, whole, net, self.drops);
            true
        });
        if cut.is_err() {
            self.drops.count(DropReason::TooBig);
        }
    }
}
