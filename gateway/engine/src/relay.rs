//! The hub's sealed forwarding: datagrams between two nodes pass without being opened.
//!
//! A datagram says in clear for which node's session it is ([`crate::label`]). It is forwarded when it comes from the
//! confirmed endpoint of a member, to the confirmed endpoint of the member that has the slot: so nobody outside can send
//! through a hub, and nothing is sent to an address that has not asked for it. An endpoint is confirmed by a nonce, which
//! the member echoes inside its session from there.

use crate::counters::{DropReason, Drops};
use crate::packet::DatagramBatch;
use crate::peer::PeerIndex;
use crate::table::Table;
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What one member may have forwarded: bytes a second, and at once. Above what one core seals, so that only a member that
/// sends without any regard is held back.
const DATA_RATE: f64 = 1.25e9;
const DATA_BURST: f64 = 64e6;

/// Handshakes that one member may have passed on: a second, and at once (all its sessions begin when a hub restarts).
const HANDSHAKE_RATE: f64 = 100.0;
const HANDSHAKE_BURST: f64 = 512.0;

/// Between two challenges for one endpoint that is not confirmed.
const CHALLENGE_PACE: Duration = Duration::from_millis(400);

/// Between two challenges when the endpoint changes.
const CHALLENGE_LEAST: Duration = Duration::from_millis(50);

/// The datagram that carries a challenge, in bytes. Before as much has come from an endpoint, it is not asked.
const CHALLENGE_BYTES: usize = 96;

/// A budget that fills with time.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: f64,
    filled: Option<Instant>,
}

impl Bucket {
    const EMPTY: Self = Self { level: 0.0, filled: None };

    fn take(&mut self, now: Instant, cost: f64, rate: f64, burst: f64) -> bool {
        let passed = self.filled.map(|at| now.saturating_duration_since(at).as_secs_f64());
        self.level = passed.map_or(burst, |passed| (self.level + passed * rate).min(burst));
        self.filled = Some(now);
        if self.level < cost {
            return false;
        }
        self.level -= cost;
        true
    }
}

/// What a member has had forwarded, and how much more it may.
#[derive(Clone, Debug)]
pub struct Account {
    data: Bucket,
    handshakes: Bucket,
    /// Datagrams that were forwarded for it.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Default for Account {
    fn default() -> Self {
        Self { data: Bucket::EMPTY, handshakes: Bucket::EMPTY, datagrams: 0, bytes: 0 }
    }
}

impl Account {
    /// Whether a datagram of so many bytes may be forwarded; then it is counted.
    pub fn data(&mut self, now: Instant, bytes: usize) -> bool {
        if !self.data.take(now, bytes as f64, DATA_RATE, DATA_BURST) {
            return false;
        }
        self.datagrams += 1;
        self.bytes += bytes as u64;
        true
    }

    /// Whether an initiation may be passed on.
    pub fn handshake(&mut self, now: Instant) -> bool {
        self.handshakes.take(now, 1.0, HANDSHAKE_RATE, HANDSHAKE_BURST)
    }
}

/// A member's place at its hub: the endpoint that it has confirmed, and what may be sent to another before it has.
///
/// The source of a datagram can be anybody's: whoever sits between can send it again from elsewhere before it arrives. So an
/// endpoint that has not shown that it reads what is sent to it gets no packets, and of what gateways say to each other no
/// more bytes than have come from it (as RFC 9000, section 8.1, but once, not three times).
#[derive(Clone, Copy, Debug, Default)]
pub struct Seat {
    /// From there and to there datagrams are forwarded.
    pub confirmed: Option<SocketAddr>,
    /// It was written down, or has completed a handshake that was answered to it: it reads what is sent there.
    proven: Option<SocketAddr>,
    /// Where the last handshake response went.
    answered: Option<SocketAddr>,
    /// What may be sent to an endpoint of which nothing is known: the bytes that have come from it, less what was sent.
    credit: Option<(SocketAddr, usize)>,
    challenge: Option<Challenge>,
    /// The largest packet in bytes that passes between it and this hub, once it has measured that and said so.
    pub mtu: Option<u16>,
}

#[derive(Clone, Copy, Debug)]
struct Challenge {
    nonce: u64,
    to: SocketAddr,
    at: Instant,
}

impl Seat {
    /// Whether an endpoint is known to read what is sent to it.
    #[must_use]
    pub fn knows(&self, endpoint: SocketAddr) -> bool {
        self.confirmed == Some(endpoint) || self.proven == Some(endpoint)
    }

    /// Somebody has written this endpoint down.
    pub fn configure(&mut self, endpoint: SocketAddr) {
        self.proven = Some(endpoint);
    }

    /// A handshake response was sent to an endpoint.
    pub fn responded(&mut self, to: SocketAddr) {
        self.answered = Some(to);
    }

    /// The first message of a session came whose handshake was answered: who sent it has read the response. It went to
    /// this endpoint, or the message says nothing about that.
    pub fn completed(&mut self, from: SocketAddr) {
        if self.answered.take() == Some(from) {
            self.proven = Some(from);
        }
    }

    /// Something authentic came: as many bytes may be sent back. Only the last endpoint has credit.
    pub fn received(&mut self, from: SocketAddr, bytes: usize) {
        if !self.knows(from) {
            let before = self.credit.filter(|(at, _)| *at == from).map_or(0, |(_, left)| left);
            self.credit = Some((from, before.saturating_add(bytes)));
        }
    }

    /// Whether so many bytes may be sent to an endpoint; then they count as sent.
    pub fn spend(&mut self, to: SocketAddr, bytes: usize) -> bool {
        if self.knows(to) {
            return true;
        }
        match &mut self.credit {
            Some((at, left)) if *at == to && *left >= bytes => {
                *left -= bytes;
                true
            }
            _ => false,
        }
    }

    /// Whether `endpoint` is to be asked for a nonce now; `nonce` is asked for one.
    pub fn challenge(&mut self, now: Instant, endpoint: SocketAddr, nonce: impl Fn() -> u64) -> Option<u64> {
        if self.confirmed == Some(endpoint) {
            return None;
        }
        let covered = self.credit.is_some_and(|(at, left)| at == endpoint && left >= CHALLENGE_BYTES);
        if !(covered || self.knows(endpoint)) {
            return None;
        }
        if let Some(Challenge { to, at, .. }) = self.challenge {
            let pace = if to == endpoint { CHALLENGE_PACE } else { CHALLENGE_LEAST };
            if now.saturating_duration_since(at) < pace {
                return None;
            }
        }
        let nonce = nonce();
        self.challenge = Some(Challenge { nonce, to: endpoint, at: now });
        Some(nonce)
    }

    /// A nonce has come back from an endpoint: whether that is now confirmed.
    pub fn answer(&mut self, from: SocketAddr, nonce: u64) -> bool {
        let right = self.challenge.take_if(|asked| asked.nonce == nonce && asked.to == from).is_some();
        if right {
            self.confirmed = Some(from);
        }
        right
    }
}

/// Who sits where, for the packet path: two look-ups for a run of datagrams, whatever the number of members.
#[derive(Debug, Default)]
pub struct Seats(RwLock<Places>);

#[derive(Debug, Default)]
struct Places {
    by_endpoint: HashMap<SocketAddr, PeerIndex>,
    by_ordinal: HashMap<u16, (PeerIndex, SocketAddr)>,
}

impl Seats {
    /// A member with a slot is now at `endpoint`.
    pub fn set(&self, member: PeerIndex, ordinal: u16, endpoint: SocketAddr) {
        let mut places = self.0.write();
        if let Some((before, old)) = places.by_ordinal.insert(ordinal, (member, endpoint))
            && old != endpoint
            && places.by_endpoint.get(&old) == Some(&before)
        {
            places.by_endpoint.remove(&old);
        }
        places.by_endpoint.insert(endpoint, member);
    }

    /// Forgets all but these: member, ordinal, endpoint.
    pub fn replace(&self, seats: impl Iterator<Item = (PeerIndex, u16, SocketAddr)>) {
        let mut places = self.0.write();
        *places = Places::default();
        for (member, ordinal, endpoint) in seats {
            places.by_ordinal.insert(ordinal, (member, endpoint));
            places.by_endpoint.insert(endpoint, member);
        }
    }

    /// Who is at this endpoint.
    #[must_use]
    pub fn member(&self, endpoint: SocketAddr) -> Option<PeerIndex> {
        self.0.read().by_endpoint.get(&endpoint).copied()
    }

    /// Who has this slot, and where.
    #[must_use]
    pub fn place(&self, ordinal: u16) -> Option<(PeerIndex, SocketAddr)> {
        self.0.read().by_ordinal.get(&ordinal).copied()
    }

    fn between(&self, from: SocketAddr, ordinal: u16) -> Result<(PeerIndex, SocketAddr), DropReason> {
        let places = self.0.read();
        let member = places.by_endpoint.get(&from).ok_or(DropReason::RelayUnconfirmed)?;
        let (_, to) = places.by_ordinal.get(&ordinal).ok_or(DropReason::RelayAbsent)?;
        Ok((*member, *to))
    }
}

/// Forwards the datagrams of a batch. What is found out for one holds for those that follow it between the same two.
pub struct Forwarder<'a> {
    table: &'a Table,
    seats: &'a Seats,
    drops: &'a Drops,
    run: Option<Run<'a>>,
}

struct Run<'a> {
    from: SocketAddr,
    ordinal: u16,
    to: Result<(SocketAddr, MutexGuard<'a, Account>), DropReason>,
}

impl<'a> Forwarder<'a> {
    /// Nothing is locked yet.
    pub fn new(table: &'a Table, seats: &'a Seats, drops: &'a Drops) -> Self {
        Self { table, seats, drops, run: None }
    }

    /// Gives back the lock of the member whose run it was. No link is locked while it is held, nor the other way round: two
    /// threads would wait for each other.
    pub fn release(&mut self) {
        self.run = None;
    }

    /// Forwards a datagram that is for the node with this slot.
    pub fn forward(
        &mut self,
        now: Instant,
        from: SocketAddr,
        ordinal: u16,
        datagram: &[u8],
        net: &mut DatagramBatch,
    ) {
        if self.run.as_ref().is_none_or(|run| run.from != from || run.ordinal != ordinal) {
            // First the lock of the run before: it may be the same member's.
            self.run = None;
            let to = self.seats.between(from, ordinal).and_then(|(member, to)| {
                let account = self.table.peer(member).map(|peer| peer.link.account());
                Ok((to, account.map(Mutex::lock).ok_or(DropReason::RelayUnconfirmed)?))
            });
            self.run = Some(Run { from, ordinal, to });
        }
        let Some(run) = self.run.as_mut() else { return };
        let reason = match &mut run.to {
            Err(reason) => *reason,
            Ok((to, account)) => {
                if !account.data(now, datagram.len()) {
                    DropReason::RelayLimited
                } else if net.push(*to, datagram) {
                    return;
                } else {
                    DropReason::NoBuffer
                }
            }
        };
        self.drops.count(reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u16) -> SocketAddr {
        ([198, 51, 100, 1], n).into()
    }

    #[test]
    fn an_endpoint_is_confirmed_only_by_its_own_nonce_from_there() {
        let (mut seat, now) = (Seat::default(), Instant::now());
        assert_eq!(seat.challenge(now, at(1), || 6), None, "nothing has come from there");
        seat.received(at(1), CHALLENGE_BYTES);
        assert_eq!(seat.challenge(now, at(1), || 7), Some(7));
        assert_eq!(seat.challenge(now, at(1), || 8), None, "asked just now");
        assert!(!seat.answer(at(2), 7) && !seat.answer(at(1), 8));
        assert!(seat.answer(at(1), 7));
        assert!(!seat.answer(at(1), 7), "once");
        assert_eq!(seat.challenge(now, at(1), || 9), None, "known");
        // Elsewhere now: the old one stands until the new one has answered.
        let later = now + CHALLENGE_LEAST;
        seat.received(at(2), CHALLENGE_BYTES);
        assert_eq!(seat.challenge(later, at(2), || 10), Some(10));
        assert_eq!(seat.confirmed, Some(at(1)));
        assert_eq!(
            seat.challenge(later + CHALLENGE_PACE, at(2), || 11),
            Some(11),
            "again, when nobody answers"
        );
        assert!(!seat.answer(at(2), 10), "an old nonce");
        assert!(seat.answer(at(2), 11));
        assert_eq!(seat.confirmed, Some(at(2)));
    }

    #[test]
    fn an_endpoint_of_which_nothing_is_known_gets_no_more_than_came_from_it() {
        let (mut seat, now) = (Seat::default(), Instant::now());
        assert!(!seat.spend(at(1), 1));
        seat.received(at(1), 60);
        seat.received(at(1), 40);
        assert!(!seat.spend(at(1), 101) && seat.spend(at(1), 90) && !seat.spend(at(1), 11));
        assert_eq!(seat.challenge(now, at(1), || 7), None, "10 bytes are left");
        seat.received(at(2), 10);
        assert!(!seat.spend(at(1), 1) && !seat.spend(at(2), 11), "credit of one endpoint is not another's");
        // A handshake that was answered elsewhere proves nothing; one that was answered there does.
        seat.responded(at(3));
        seat.completed(at(2));
        assert!(!seat.knows(at(2)) && !seat.knows(at(3)));
        seat.completed(at(3));
        assert!(!seat.knows(at(3)), "once");
        seat.responded(at(2));
        seat.completed(at(2));
        assert!(seat.knows(at(2)) && seat.spend(at(2), 1_000_000));
        assert_eq!(seat.challenge(now, at(2), || 8), Some(8), "to be forwarded it is asked nevertheless");
        assert!(seat.confirmed.is_none());
        seat.configure(at(4));
        assert!(seat.knows(at(4)) && !seat.knows(at(2)));
    }

    #[test]
    fn a_seat_that_moves_leaves_nothing_behind() {
        let seats = Seats::default();
        seats.set(1, 7, at(1));
        seats.set(2, 8, at(2));
        seats.set(1, 7, at(3));
        assert_eq!([1, 2, 3].map(|n| seats.member(at(n))), [None, Some(2), Some(1)]);
        // Another member behind the same address and port: the one that has confirmed it last.
        seats.set(2, 8, at(3));
        seats.set(1, 7, at(4));
        assert_eq!([2, 3, 4].map(|n| seats.member(at(n))), [None, Some(2), Some(1)]);
        assert_eq!(seats.between(at(4), 8), Ok((1, at(3))));
        assert_eq!(seats.between(at(9), 8), Err(DropReason::RelayUnconfirmed));
        assert_eq!(seats.between(at(4), 9), Err(DropReason::RelayAbsent));
        seats.replace([(2, 8, at(3))].into_iter());
        assert_eq!((seats.member(at(4)), seats.place(8), seats.place(7)), (None, Some((2, at(3))), None));
    }

    #[test]
    fn a_budget_fills_with_time_and_never_beyond_its_burst() {
        let (mut account, now) = (Account::default(), Instant::now());
        let passed = (0..100_000).filter(|_| account.data(now, 1000)).count();
        assert_eq!((passed, account.bytes), (64_000, 64_000_000));
        let later = now + Duration::from_millis(10);
        let passed = (0..100_000).filter(|_| account.data(later, 1000)).count();
        assert_eq!(passed, 12_500);
        let much_later = now + Duration::from_secs(100);
        assert_eq!((0..10_000).filter(|_| account.handshake(much_later)).count(), 512);
    }
}
