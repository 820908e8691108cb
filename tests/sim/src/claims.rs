//! Who has which address: floating ones have one owner once messages settle, and what nodes have on their devices is known to
//! the others.

use crate::ledger::Promise;
use crate::model::Ownership;
use crate::net::PartyId;
use crate::packet::Kind;
use crate::party::Life;
use crate::scenario::address;
use crate::sim::Sim;
use std::net::Ipv4Addr;

/// The addresses outside every slot that a story moves about: the first two of the range that stands in the files.
pub const FLOATING: [u8; 2] = [249, 250];

/// Whether an address is one of the floating range.
pub fn is_floating(ip: Ipv4Addr) -> bool {
    ip >= address(248)
}

impl Sim {
    /// Each node sends to the floating addresses, and says whose they are. `settled`: long enough ago, for alarms as well.
    pub fn calls_floating(&mut self, settled: bool) {
        for floating in FLOATING.map(address) {
            for from in self.nodes() {
                if self.parties[from].life == Life::Up && !self.parties[from].plan.pretends {
                    self.calls_one(from, floating);
                }
            }
            if settled {
                self.agree_on(floating);
            }
        }
    }

    /// Of two that have an address, it belongs to the one that took it from the other.
    pub fn is_taken(&mut self, node: PartyId, from: PartyId, floating: Ipv4Addr) {
        if !self.world().knows_well(from, node) || !self.parties[node].holds(floating) {
            return;
        }
        for id in self.nodes() {
            let asked = !self.parties[id].plan.pretends && self.world().knows_well(id, node);
            if asked && self.owner_in_the_eyes_of(id, floating) != Some(node) {
                let [by, node] = [id, node].map(|id| self.parties[id].plan.name.clone());
                return self.violated(format!("{node} has taken {floating}, which {by} does not see"));
            }
        }
    }

    fn calls_one(&mut self, from: PartyId, floating: Ipv4Addr) {
        let ownership = self.world().owner(from, floating);
        let expected = match ownership {
            Ownership::One(owner) => Some(owner),
            Ownership::Nobody => None,
            Ownership::Open => return,
        };
        let found = self.owner_in_the_eyes_of(from, floating);
        if found != expected {
            let name = |id: Option<PartyId>| id.map_or("nobody", |id| self.parties[id].plan.name.as_str());
            let wrong = format!(
                "{}: {floating} is {}'s, and is taken for {}'s",
                name(Some(from)),
                name(expected),
                name(found)
            );
            return self.violated(wrong);
        }
        if expected.is_some_and(|owner| owner != from) {
            let source = self.home(from);
            self.probe(from, source, floating, (Kind::Udp, 40, 1), Promise::Arrives, None);
        }
        // As a virtual address of a cluster, it is spoken from as well.
        if expected == Some(from) {
            for to in self.nodes().into_iter().filter(|to| *to != from) {
                let kept = self.world().owner(to, floating) == Ownership::One(from);
                let promise = if kept { Promise::Arrives } else { Promise::None };
                self.probe(from, floating, self.home(to), (Kind::Udp, 40, 1), promise, None);
            }
        }
    }

    fn owner_in_the_eyes_of(&self, id: PartyId, floating: Ipv4Addr) -> Option<PartyId> {
        let owners = self.parties[id].engine.as_ref()?.floating();
        let owner = owners.into_iter().find(|owner| owner.address == floating)?;
        match owner.peer {
            None => Some(id),
            Some(name) => self.parties.iter().position(|party| party.plan.name == name),
        }
    }

    /// When everybody reaches everybody, all say the same of an address, however many have it; and two are an alarm.
    fn agree_on(&mut self, floating: Ipv4Addr) {
        let nodes = self.nodes();
        if !nodes.iter().all(|&a| nodes.iter().all(|&b| self.world().knows_well(a, b))) {
            return;
        }
        let holders: Vec<_> = nodes.iter().copied().filter(|&id| self.parties[id].holds(floating)).collect();
        // Whoever pretends believes itself.
        let honest = nodes.iter().filter(|&&id| !self.parties[id].plan.pretends);
        let views: Vec<_> = honest.map(|&id| self.owner_in_the_eyes_of(id, floating)).collect();
        let one = views.first().copied().flatten();
        if views.iter().any(|view| *view != one) || !one.is_none_or(|owner| holders.contains(&owner)) {
            return self
                .violated(format!("whose is {floating}? {nodes:?} say {views:?}; {holders:?} have it"));
        }
        for id in nodes.into_iter().filter(|_| holders.len() > 1) {
            let engine = self.parties[id].engine.as_ref();
            let alarms = engine.map(|engine| engine.conflicts()).unwrap_or_default();
            if !alarms.iter().any(|alarm| alarm.address == floating) {
                let name = self.parties[id].plan.name.clone();
                return self
                    .violated(format!("{name}: {floating} is on several devices, and that is no alarm"));
            }
        }
    }

    /// What a node has on its device is known to those that reach it.
    pub fn listeners_are_known(&mut self) {
        for (a, b) in self.pairs() {
            if !self.world().knows_well(a, b) {
                continue;
            }
            let [of, by] = [a, b].map(|id| &self.parties[id]);
            let peers = by.engine.as_ref().map(|engine| engine.peers()).unwrap_or_default();
            let told = peers.into_iter().find(|status| status.peer.settings.name == of.plan.name);
            let told = told.map(|status| status.listeners).unwrap_or_default();
            // What it may not have is on its device for itself.
            let live: Vec<_> = of.live.iter().copied().filter(|ip| of.may_have(*ip)).collect();
            if told != live {
                let [of, by] = [&of.plan.name, &by.plan.name];
                return self.violated(format!("{of} has {live:?}, and {by} knows of {told:?}"));
            }
        }
    }
}
