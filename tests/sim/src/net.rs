//! The underlay: where everybody is attached, what the weather does to datagrams, cuts, and translators.

use crate::nat::Nat;
use fastrand::Rng;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Bytes of the largest datagram over IPv6 that a link of 1,280 takes (RFC 8200 section 5).
pub const NARROW: usize = 1_280 - 40 - 8;

/// The place of a party in the simulation.
pub type PartyId = usize;

/// What happens to datagrams on their way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weather {
    /// Of how many is one lost.
    pub loss: f64,
    /// Of how many does one come twice.
    pub duplication: f64,
    /// Of how many does one arrive with a bit flipped.
    pub corruption: f64,
    /// By how much it may be late. More than the gap between two: they change their order.
    pub jitter: Duration,
}

impl Weather {
    /// Late now and then, and nothing lost.
    pub const CALM: Self =
        Self { loss: 0.0, duplication: 0.0, corruption: 0.0, jitter: Duration::from_micros(300) };

    /// Anything from a breeze to a storm.
    pub fn any(rng: &mut Rng) -> Self {
        let worst = rng.f64() * rng.f64();
        Self {
            loss: worst * 0.5 * rng.f64(),
            duplication: worst * 0.3 * rng.f64(),
            corruption: worst * 0.1 * rng.f64(),
            jitter: Duration::from_micros(rng.u64(0..60_000)),
        }
    }
}

/// How a party is attached.
#[derive(Clone, Copy, Debug)]
pub struct Attachment {
    /// Its own address.
    pub local: SocketAddr,
    /// Behind which translator.
    pub nat: Option<usize>,
    /// From here to the middle of the network.
    pub latency: Duration,
}

/// A datagram on its way to the last hop.
#[derive(Clone, Debug)]
pub struct Flight {
    pub arrives: Duration,
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// Who sent it; nobody's when a stranger did.
    pub sender: Option<PartyId>,
    pub bytes: Vec<u8>,
}

/// The underlay.
#[derive(Debug)]
pub struct Net {
    pub attachments: Vec<Attachment>,
    pub nats: Vec<Nat>,
    pub weather: Weather,
    /// From the first nothing comes to the second.
    pub cuts: BTreeSet<(PartyId, PartyId)>,
    /// Behind a link that larger datagrams than [`NARROW`] do not pass, and nobody says so.
    pub narrow: BTreeSet<PartyId>,
    at: HashMap<SocketAddr, PartyId>,
    rng: Rng,
}

impl Net {
    pub fn new(attachments: Vec<Attachment>, nats: Vec<Nat>, seed: u64) -> Self {
        let mut net = Self {
            attachments,
            nats,
            weather: Weather::CALM,
            cuts: BTreeSet::new(),
            narrow: BTreeSet::new(),
            at: HashMap::new(),
            rng: Rng::with_seed(seed),
        };
        net.index();
        net
    }

    fn index(&mut self) {
        self.at = self.attachments.iter().enumerate().map(|(id, a)| (a.local, id)).collect();
    }

    /// A party's address changes.
    pub fn moved(&mut self, id: PartyId, local: SocketAddr) {
        self.attachments[id].local = local;
        self.index();
    }

    /// Whether both can reach one another: at least the network would let them.
    pub fn joined(&self, a: PartyId, b: PartyId) -> Joined {
        match (self.cuts.contains(&(a, b)), self.cuts.contains(&(b, a))) {
            (false, false) => Joined::Both,
            (true, true) => Joined::Neither,
            _ => Joined::OneWay,
        }
    }

    /// Sends a datagram from a party: none, one or two copies of it are on their way then.
    pub fn send(&mut self, now: Duration, sender: PartyId, to: SocketAddr, bytes: &[u8]) -> Vec<Flight> {
        let Attachment { local, nat, latency } = self.attachments[sender];
        // In one's own network nothing is translated.
        let inside =
            |ip: IpAddr| self.at.iter().any(|(a, id)| a.ip() == ip && self.attachments[*id].nat == nat);
        let from = match nat {
            Some(nat) if !inside(to.ip()) => self.nats[nat].outbound(now, local, to),
            _ => local,
        };
        self.fly(now, Some(sender), from, to, latency, bytes)
    }

    /// A stranger sends a datagram, from whatever address.
    pub fn send_as(&mut self, now: Duration, from: SocketAddr, to: SocketAddr, bytes: &[u8]) -> Vec<Flight> {
        self.fly(now, None, from, to, Duration::from_millis(5), bytes)
    }

    fn fly(
        &mut self,
        now: Duration,
        sender: Option<PartyId>,
        from: SocketAddr,
        to: SocketAddr,
        latency: Duration,
        bytes: &[u8],
    ) -> Vec<Flight> {
        let Weather { loss, duplication, corruption, jitter } = self.weather;
        let mut flights = Vec::new();
        if self.rng.f64() < loss {
            return flights;
        }
        let copies = if self.rng.f64() < duplication { 2 } else { 1 };
        for _ in 0..copies {
            let late = jitter.mul_f64(self.rng.f64());
            let mut bytes = bytes.to_vec();
            if !bytes.is_empty() && self.rng.f64() < corruption {
                let at = self.rng.usize(..bytes.len());
                bytes[at] ^= 1 << self.rng.u8(0..8);
            }
            flights.push(Flight { arrives: now + latency + late, from, to, sender, bytes });
        }
        flights
    }

    /// Through the last hop: who receives it, and when; `None`: nobody.
    pub fn deliver(&mut self, now: Duration, flight: &Flight) -> Option<(PartyId, Duration)> {
        let inside = match flight.to.ip() {
            IpAddr::V4(ip) => match self.nats.iter_mut().find(|nat| nat.public == ip) {
                Some(nat) => nat.inbound(now, flight.to.port(), flight.from)?,
                None => flight.to,
            },
            IpAddr::V6(_) => flight.to,
        };
        let id = *self.at.get(&inside)?;
        let behind = self.attachments[id].nat;
        let same = flight.sender.is_some_and(|sender| self.attachments[sender].nat == behind);
        // A private address is nobody's outside.
        if behind.is_some() && inside == flight.to && !same {
            return None;
        }
        if flight.sender.is_some_and(|sender| self.cuts.contains(&(sender, id))) {
            return None;
        }
        let behind = |id| self.narrow.contains(&id);
        if flight.bytes.len() > NARROW && (behind(id) || flight.sender.is_some_and(behind)) {
            return None;
        }
        Some((id, self.attachments[id].latency))
    }
}

/// Whether two can speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    Both,
    OneWay,
    Neither,
}
