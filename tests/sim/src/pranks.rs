//! The hostile: a stranger who sees datagrams and sends what he likes, and a hub that betrays.

use crate::net::{Flight, PartyId};
use crate::op::Prank;
use crate::sim::Sim;
use engine::peer::tunnel::{Identity, Tunnel, TunnelSettings};
use fastrand::Rng;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// So many datagrams a stranger remembers.
const MEMORY: usize = 64;

/// The port of those who copy, and the longest datagram of a session that an answer or a question to them may be: a probe's echo.
const COPIER: u16 = 4_000;
const LONGEST_QUESTION: usize = 112;

/// What strangers have seen, and what they have cost.
#[derive(Debug, Default)]
pub struct Observer {
    seen: Vec<(SocketAddr, Vec<u8>)>,
    /// For each stranger's address: bytes that it sent, and bytes that were sent to it.
    balance: HashMap<SocketAddr, (usize, usize)>,
}

fn is_stranger(address: SocketAddr) -> bool {
    matches!(address.ip(), IpAddr::V4(ip) if ip.octets()[..3] == [192, 0, 2])
}

impl Observer {
    /// Remembers some of what has arrived at `to`.
    pub fn saw(&mut self, to: SocketAddr, bytes: &[u8], rng: &mut Rng) {
        if self.seen.len() < MEMORY {
            self.seen.push((to, bytes.to_vec()));
        } else if rng.u8(0..8) == 0 {
            self.seen[rng.usize(..MEMORY)] = (to, bytes.to_vec());
        }
    }

    fn spent(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.balance.entry(from).or_default().0 += bytes.len();
    }

    /// A party sends to an address: is that more than it was sent from there? `times`: so many times as much may go to who is quicker
    /// than others with copies of their datagrams. No packet may.
    pub fn answered(&mut self, to: SocketAddr, bytes: &[u8], times: usize) -> Option<String> {
        if !is_stranger(to) {
            return None;
        }
        let copies = to.port() == COPIER;
        if copies && bytes.first() == Some(&4) && bytes.len() > LONGEST_QUESTION {
            return Some(format!("{to}, a stranger who copies, is sent a packet of {} bytes", bytes.len()));
        }
        let times = if copies { times } else { 1 };
        let (sent, received) = self.balance.entry(to).or_default();
        *received += bytes.len();
        (*received > *sent * times)
            .then(|| format!("{to}, a stranger, sent {sent} bytes and is sent {received}"))
    }
}

/// A plausible beginning of a message of each type, and its length.
const SHAPES: [(u8, usize); 5] = [(1, 148), (2, 92), (3, 64), (4, 32), (4, 96)];

fn invented(rng: &mut Rng) -> Vec<u8> {
    let (kind, len) = SHAPES[rng.usize(..SHAPES.len())];
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
    bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
    // Small indices are those that exist.
    if rng.bool() {
        bytes[5..8].copy_from_slice(&[rng.u8(0..8), 0, 0]);
    }
    bytes
}

fn altered(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if !bytes.is_empty() {
        // All of a byte: what the weather did to one bit of it is not undone.
        let at = rng.usize(..bytes.len());
        bytes[at] = !bytes[at];
    }
    bytes
}

impl Sim {
    /// A stranger does something to a party.
    pub fn prank(&mut self, prank: Prank, target: PartyId, count: usize, seed: u64) {
        let mut rng = Rng::with_seed(seed);
        let public = match self.net.attachments[target].nat {
            None => self.net.attachments[target].local,
            // Whatever port of it may be open.
            Some(nat) => (self.net.nats[nat].public, rng.u16(20_000..60_000)).into(),
        };
        let knocks = if prank == Prank::Knock { self.knocks(target, count, &mut rng) } else { Vec::new() };
        for n in 0..count {
            let from: SocketAddr = match rng.u8(0..8) {
                // A tunnel within itself.
                0 => (Ipv4Addr::new(172, 16, 8, rng.u8(..)), 51820).into(),
                _ => (Ipv4Addr::new(192, 0, 2, rng.u8(1..6)), 40_000).into(),
            };
            let seen = (!self.observer.seen.is_empty())
                .then(|| self.observer.seen[rng.usize(..self.observer.seen.len())].clone());
            let (to, bytes) = match (prank, seen) {
                (Prank::Replay, Some(seen)) => seen,
                (Prank::Alter, Some((to, bytes))) => (to, altered(&mut rng, &bytes)),
                (Prank::Knock, _) if n < knocks.len() => (public, knocks[n].clone()),
                _ => (public, invented(&mut rng)),
            };
            self.observer.spent(from, &bytes);
            let late = Duration::from_micros(rng.u64(0..200_000));
            let flights = self.net.send_as(self.now + late, from, to, &bytes);
            self.launch(flights);
        }
    }

    /// Who copies this datagram, and is quicker. Not an initiation: that its answer goes astray is as in WireGuard.
    pub fn copier(&mut self, target: PartyId, flight: &Flight) -> Option<SocketAddr> {
        if !self.parties[target].raced || flight.bytes.first() == Some(&1) || is_stranger(flight.from) {
            return None;
        }
        let copier = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 100 + target as u8), COPIER));
        self.observer.spent(copier, &flight.bytes);
        Some(copier)
    }

    /// Initiations that are right in everything but the key.
    fn knocks(&mut self, target: PartyId, count: usize, rng: &mut Rng) -> Vec<Vec<u8>> {
        crate::clock::set(self.now, 0);
        let public_key = Identity::new(self.parties[target].plan.private).public();
        let mut private = [0; 32];
        private.fill_with(|| rng.u8(..));
        let settings = TunnelSettings {
            public_key,
            preshared_key: None,
            keepalive: None,
            index: 1,
            initiates: true,
            warm: true,
            expects_keepalives: false,
        };
        let now = self.instant();
        let mut tunnel = Tunnel::new(&Identity::new(private), &settings, now, 1);
        let knock = |n: usize| {
            let mut buffer = [0; 200];
            let len = tunnel.tick(now + Duration::from_secs(10) * n as u32, true, &mut buffer)?;
            Some(buffer[..len].to_vec())
        };
        (0..count).map_while(knock).collect()
    }

    /// A hub sends a datagram, and what is in front of it does what it likes with that.
    pub fn betray(&mut self, id: PartyId, to: SocketAddr, bytes: &[u8]) {
        let mut rng = self.rng.fork();
        let go = |sim: &mut Self, to: SocketAddr, bytes: &[u8]| {
            let flights = sim.net.send(sim.now, id, to, bytes);
            sim.launch(flights);
        };
        match rng.u8(0..10) {
            0..2 => {}
            2 => go(self, to, &altered(&mut rng, bytes)),
            3 => {
                go(self, to, bytes);
                go(self, to, bytes);
            }
            4 => {
                go(self, to, bytes);
                go(self, to, &invented(&mut rng));
            }
            5 if !self.observer.seen.is_empty() => {
                let (_, old) = self.observer.seen[rng.usize(..self.observer.seen.len())].clone();
                go(self, to, &old);
                go(self, to, bytes);
            }
            _ => go(self, to, bytes),
        }
    }
}
