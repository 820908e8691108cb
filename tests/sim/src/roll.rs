//! The roll call: everybody sends to everybody, and the model says what comes of it.

use crate::ledger::Promise;
use crate::model;
use crate::net::PartyId;
use crate::packet::Kind;
use crate::party::Life;
use crate::scenario::{Role, address};
use crate::sim::Sim;
use std::net::Ipv4Addr;

impl Sim {
    /// Whether each node knows each other one and can reach it: then hubs only forward.
    fn all_is_sealed(&self) -> bool {
        let nodes = self.nodes();
        let sealed = |a: PartyId, b: PartyId| {
            self.parties[a].plan.knows.contains(&b) && self.world().arrives(a, b) == model::Verdict::Must
        };
        nodes.iter().all(|&a| nodes.iter().all(|&b| a == b || sealed(a, b)))
    }

    /// How many packets came out of the hubs' own sessions.
    pub fn opened_by_hubs(&self) -> u64 {
        let hubs = self.parties.iter().filter(|party| party.plan.role == Role::Hub);
        hubs.filter_map(|hub| hub.engine.as_ref())
            .flat_map(|hub| hub.peers())
            .map(|peer| peer.link.rx_packets)
            .sum()
    }

    /// What is broken, in words.
    fn state(&self) -> String {
        let name = |id: PartyId| self.parties[id].plan.name.as_str();
        let mut broken: Vec<_> =
            self.net.cuts.iter().map(|&(a, b)| format!("{} cannot reach {}", name(a), name(b))).collect();
        for party in &self.parties {
            let name = &party.plan.name;
            if party.life != Life::Up {
                broken.push(format!("{name} is {:?}", party.life));
            }
            if party.traitor {
                broken.push(format!("{name} betrays"));
            }
            if party.behind_until > self.now {
                broken.push(format!("{name}'s clock is behind"));
            }
        }
        if broken.is_empty() { "all is well".into() } else { broken.join(", ") }
    }

    /// Everybody sends to everybody, and the model says what comes of it.
    pub fn roll_call(&mut self) {
        self.trace.line(self.now, "model", || self.state());
        self.opened = self.all_is_sealed().then(|| self.opened_by_hubs());
        for from in self.nodes() {
            self.calls_all(from);
            if self.parties[from].life == Life::Up {
                let octet = self.parties[from].octet().unwrap_or_default();
                let (source, gateway) = (self.home(from), address(octet));
                self.probe(from, source, gateway, (Kind::Ping, 40, 1), Promise::Answered, None);
                let outside = Ipv4Addr::new(9, 9, 9, 9);
                self.probe(from, source, outside, (Kind::Udp, 40, 1), Promise::Refused, None);
            }
        }
        self.calls_floating(true);
        self.listeners_are_known();
    }

    /// One node sends to all others.
    pub fn calls_all(&mut self, from: PartyId) {
        for to in self.nodes() {
            if from != to {
                self.call_pair(from, to);
            }
        }
    }

    fn call_pair(&mut self, from: PartyId, to: PartyId) {
        let there = self.world().arrives(from, to) == model::Verdict::Must;
        let back = there && self.world().arrives(to, from) == model::Verdict::Must;
        let promise = |kept: bool, promise| if kept { promise } else { Promise::None };
        let octet = self.parties[to].octet().unwrap_or_default();
        let source = self.home(from);
        let mut live = self.parties[to].own_live();
        self.rng.shuffle(&mut live);
        let size = [16, 100, 1000, 1392][self.rng.usize(..4)];
        for &destination in live.iter().take(2) {
            let what = (Kind::Udp, size, 3);
            self.probe(from, source, destination, what, promise(there, Promise::Arrives), None);
        }
        let offline: Vec<_> = (1..7)
            .map(|host| address(octet + host))
            .filter(|ip| !self.parties[to].live.contains(ip))
            .collect();
        if let Some(&destination) = offline.get(self.rng.usize(..offline.len().max(1))) {
            let kind = if self.rng.bool() { Kind::Udp } else { Kind::Syn };
            let what = (kind, 40, 1);
            self.probe(from, source, destination, what, promise(back, Promise::Refused), None);
        }
        let what = (Kind::Ping, 64, 1);
        self.probe(from, source, address(octet), what, promise(back, Promise::Answered), None);
    }
}
