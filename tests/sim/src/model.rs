//! The reference model: which packet must arrive, said from the state of the world alone, never from an engine's.

use crate::net::{Joined, Net, PartyId};
use crate::party::{Life, Party};
use crate::scenario::Role;
use std::net::Ipv4Addr;
use std::time::Duration;

/// What becomes of a packet once the world has been as it is for long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It arrives.
    Must,
    /// Nothing is promised.
    May,
}

/// Whose a floating address is, as one node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// One node has it, and all others that do are out of reach.
    One(PartyId),
    /// Nobody has it, and nobody is out of reach.
    Nobody,
    /// Several have it, or who has it may be reached or not: nothing is promised.
    Open,
}

/// How two parties stand to one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leg {
    /// Datagrams arrive, both ways.
    Good,
    /// They do not, one way at least: that counts as not at all.
    Broken,
    /// A clock that was set back, or a hub that alters what it carries: it may work, or not.
    Doubtful,
}

/// The world at one moment.
#[derive(Clone, Copy)]
pub struct World<'a> {
    pub parties: &'a [Party],
    pub net: &'a Net,
    pub now: Duration,
}

impl World<'_> {
    fn leg(self, a: PartyId, b: PartyId) -> Leg {
        let up = [a, b].iter().all(|&id| self.parties[id].life == Life::Up);
        let doubtful = |id: PartyId| self.parties[id].traitor || self.parties[id].behind_until > self.now;
        if !up || self.net.joined(a, b) != Joined::Both {
            Leg::Broken
        } else if doubtful(a) || doubtful(b) {
            Leg::Doubtful
        } else {
            Leg::Good
        }
    }

    /// The way from `a` to `b` through a hub.
    fn through(self, hub: PartyId, a: PartyId, b: PartyId) -> Leg {
        match (self.leg(a, hub), self.leg(hub, b)) {
            (Leg::Broken, _) | (_, Leg::Broken) => Leg::Broken,
            (Leg::Good, Leg::Good) => Leg::Good,
            _ => Leg::Doubtful,
        }
    }

    /// The configured direct path.
    fn direct(self, a: PartyId, b: PartyId) -> Leg {
        if !self.parties[a].plan.direct.contains(&b) {
            return Leg::Broken;
        }
        let behind = |id: PartyId| self.net.attachments[id].nat.is_some();
        // Who moved is found by what it sends; through a translator that does not know it, it cannot.
        let lost = match (self.parties[a].moved, self.parties[b].moved) {
            (false, false) => false,
            (true, true) => true,
            _ => behind(a) || behind(b),
        };
        match self.leg(a, b) {
            Leg::Good if lost => Leg::Doubtful,
            leg => leg,
        }
    }

    /// Whether two nodes know of one another and hear one another; of itself each does.
    pub fn knows_well(self, a: PartyId, b: PartyId) -> bool {
        let knows = self.parties[a].plan.knows.contains(&b) && self.parties[b].plan.knows.contains(&a);
        let must = |a: PartyId, b: PartyId| self.arrives(a, b) == Verdict::Must;
        if a == b { self.parties[a].life == Life::Up } else { knows && must(a, b) && must(b, a) }
    }

    /// Whether nothing of `a` comes to `b`, by whatever way.
    fn apart(self, a: PartyId, b: PartyId) -> bool {
        let mut hubs = (0..self.parties.len()).filter(|&id| self.parties[id].plan.role == Role::Hub);
        a != b && self.leg(a, b) == Leg::Broken && hubs.all(|hub| self.through(hub, a, b) == Leg::Broken)
    }

    /// Whose a floating address is for node `from`.
    pub fn owner(self, from: PartyId, floating: Ipv4Addr) -> Ownership {
        let able = || (0..self.parties.len()).filter(|&id| self.parties[id].plan.able);
        let mut holders = able().filter(|&id| self.parties[id].holds(floating) && !self.apart(from, id));
        match (holders.next(), holders.next()) {
            (Some(one), None) if self.knows_well(from, one) => Ownership::One(one),
            (None, _) if able().all(|id| self.knows_well(from, id)) => Ownership::Nobody,
            _ => Ownership::Open,
        }
    }

    /// Whether a packet from node `a` arrives at node `b`.
    pub fn arrives(self, a: PartyId, b: PartyId) -> Verdict {
        let hubs = (0..self.parties.len()).filter(|&id| self.parties[id].plan.role == Role::Hub);
        if a == b {
            return Verdict::May;
        }
        // Two nodes that know one another have a session of their own, whichever way its datagrams go.
        if self.parties[a].plan.knows.contains(&b) && self.parties[b].plan.knows.contains(&a) {
            let mut ways: Vec<_> = hubs.map(|hub| self.through(hub, a, b)).collect();
            ways.push(self.direct(a, b));
            return match (ways.contains(&Leg::Good), ways.contains(&Leg::Doubtful)) {
                (true, false) => Verdict::Must,
                // A way that loses some may be taken for one that works.
                _ => Verdict::May,
            };
        }
        // The others are routed: by the first hub that works for the sender, and is not to be left; whether the receiver is
        // there too, the sender does not ask.
        let mut hubs: Vec<_> = hubs.collect();
        hubs.sort_by_key(|&hub| self.parties[hub].draining);
        for hub in hubs {
            match self.leg(a, hub) {
                Leg::Good if self.leg(hub, b) == Leg::Good => return Verdict::Must,
                Leg::Good | Leg::Doubtful => return Verdict::May,
                Leg::Broken => {}
            }
        }
        Verdict::May
    }
}
