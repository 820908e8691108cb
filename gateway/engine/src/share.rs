//! What the nodes tell each other of the addresses on their devices, and what follows from it.
//!
//! [`Shared`] has a lock of the last order: nothing is locked while it is held but the queue of events.

use crate::claim::{Conflict, Holder, Shared, Teller};
use crate::control::{Listeners, Message};
use crate::conversation::{Heard, Relay};
use crate::counters::DropReason;
use crate::engine::Engine;
use crate::event::Event;
use crate::peer::PeerIndex;
use crate::table::Table;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// A floating address, and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloatingOwner {
    /// The address.
    pub address: Ipv4Addr,
    /// Its owner's name; `None`: this node.
    pub peer: Option<String>,
    /// The epoch of the owner's claim.
    pub epoch: u32,
}

impl Engine {
    /// Tells the engine which addresses are on the device; `None`: that is not known. Those of the slot, and floating ones
    /// that this node may have, are delivered from now on; the other nodes are told.
    pub fn set_live(&self, addresses: Option<Vec<Ipv4Addr>>) {
        let Some(addresses) = addresses else { return self.live.set(None) };
        let mut shared = self.shared.lock();
        let table = self.table.load();
        if table.slot().is_none() {
            return self.live.set(Some(addresses));
        }
        self.device_has(&mut shared, &table, addresses);
    }

    fn device_has(&self, shared: &mut Shared, table: &Table, addresses: Vec<Ipv4Addr>) {
        let Some(slot) = table.slot() else { return };
        let changed = shared.set_device(&table.settings, &addresses);
        let ours = |address: &Ipv4Addr| slot.contains(address) || table.settings.may_hold(slot, *address);
        self.live.set(Some(addresses.into_iter().filter(ours).collect()));
        if changed {
            self.told.store(shared.revision(), Relaxed);
            self.elect(shared, table);
            self.soon.store(true, Relaxed);
        }
    }

    /// The settings have changed, and with them the floating ranges or who there is: puts `table` in force.
    pub(crate) fn share_anew(&self, table: Arc<Table>) {
        let mut shared = self.shared.lock();
        shared.keep_only(|key| table.by_key(key).is_some());
        let device = shared.device().to_vec();
        if shared.revision() > 0 && self.live.is_known() {
            self.device_has(&mut shared, &table, device);
        }
        self.elect(&mut shared, &table);
        self.table.store(table);
    }

    /// Another node has told which addresses are on its device.
    pub(crate) fn hear_listeners(&self, heard: &Heard<'_>, told: &Listeners<'_>) {
        let Heard { peer, header, .. } = *heard;
        let Some(slot) = peer.settings.slot else { return self.drops.count(DropReason::ControlUnexpected) };
        let mut shared = self.shared.lock();
        let table = self.table.load();
        if table.by_key(&peer.settings.public_key).is_none() {
            return;
        }
        // That it has come says nothing of the way back; whether it can be reached is seen at once.
        if !peer.link.is_reachable() {
            self.soon.store(true, Relaxed);
        }
        let node = (&peer.settings.public_key, slot);
        let news = shared.hear(&table.settings, node, header.epoch, told);
        if news.refused > 0 {
            self.drops.add(DropReason::ClaimRefused, news.refused);
        }
        match (news.changed, table.slot()) {
            (false, _) => {}
            (true, Some(_)) => self.elect(&mut shared, &table),
            // At the next tick: a hub has thousands of members, and one of them may tell something new with each packet.
            (true, None) => self.unelected.store(true, Relaxed),
        }
    }

    /// A node can be reached, or not any more.
    pub(crate) fn reach_changed(&self) {
        let mut shared = self.shared.lock();
        let table = self.table.load();
        self.elect(&mut shared, &table);
    }

    fn elect(&self, shared: &mut Shared, table: &Table) {
        let tellers = tellers(table);
        let (before, owners) = (table.owners.load(), shared.elect(&table.settings, tellers.clone()));
        shared.find_conflicts(&table.settings, tellers);
        if owners == **before {
            return;
        }
        let gone = before.iter().filter(|(address, _)| owners.of(*address).is_none());
        let moved = owners.iter().filter(|(address, holder)| before.of(*address) != Some(*holder));
        for (address, holder) in moved.map(|(a, h)| (a, Some(h))).chain(gone.map(|(a, _)| (a, None))) {
            let to = holder.and_then(|holder| match holder {
                Holder::Own => Some("this node".to_owned()),
                Holder::Peer(index) => table.peer(index).map(|peer| peer.settings.name.clone()),
            });
            self.events.push(Event::FloatingMoved { address, to });
        }
        table.owners.store(Arc::new(owners));
    }

    /// Tells a node which addresses are on this one's device.
    pub(crate) fn tell_listeners(&self, to: PeerIndex, relay: &mut Relay) {
        let mut shared = self.shared.lock();
        self.say(to, &Message::Listeners(shared.told()), relay);
    }

    /// Conflicts that have lasted are told of, once.
    pub(crate) fn alarms_due(&self, now: Instant) {
        let mut shared = self.shared.lock();
        while let Some(conflict) = shared.next_alarm(now) {
            self.events.push(Event::AddressConflict(conflict));
        }
    }

    /// Addresses that more than one node has, or that a node has which they do not belong to, for a while by now.
    #[must_use]
    pub fn conflicts(&self) -> Vec<Conflict> {
        self.shared.lock().lasting().cloned().collect()
    }

    /// The floating addresses that somebody has.
    #[must_use]
    pub fn floating(&self) -> Vec<FloatingOwner> {
        let shared = self.shared.lock();
        let table = self.table.load();
        let owners = table.owners.load();
        let owner = |(address, holder)| {
            let peer = match holder {
                Holder::Own => None,
                Holder::Peer(index) => Some(&table.peer(index)?.settings),
            };
            let epoch = shared.epoch(address, peer.map(|peer| &peer.public_key))?;
            Some(FloatingOwner { address, peer: peer.map(|peer| peer.name.clone()), epoch })
        };
        owners.iter().filter_map(owner).collect()
    }
}

/// The nodes of a table.
fn tellers(table: &Table) -> impl Iterator<Item = Teller<'_>> + Clone {
    table.peers().filter_map(|peer| {
        Some(Teller {
            public_key: &peer.settings.public_key,
            name: &peer.settings.name,
            index: peer.index,
            slot: peer.settings.slot?,
            reachable: peer.link.is_reachable(),
        })
    })
}
