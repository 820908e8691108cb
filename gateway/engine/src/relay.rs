//! The hub's sealed forwarding: datagrams between two nodes pass without being opened.
//!
//! A datagram says in clear for which node's session it is ([`crate::label`]). It is forwarded when it comes from the
//! confirmed endpoint of a member, to the confirmed endpoint of the member that has the slot: so nobody outside can send
//! through a hub, and nothing is sent to an address that has not asked for it. An endpoint is confirmed by a nonce, which
//! the member echoes inside its session from there.

use crate::counters::{DropReason, Drops};
use crate::packet::DatagramBatch;
use crate::peer::PeerIndex;
use crate::peer::proof::Proof;
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

/// A member's place at its hub.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    /// The endpoint that it has confirmed, from which and to which datagrams are forwarded, and what may be sent to another
    /// before it has: no more bytes than came from there.
    pub proof: Proof,
    /// The largest packet in bytes that passes between it and this hub, once it has measured that and said so.
    pub mtu: Option<u16>,
    /// How often it was called since it was last heard.
    calls: u32,
}

/// A member that says nothing for this long, and for as long again, is called, so often.
const CALL_AFTER: Duration = Duration::from_millis(700);
const CALLS: u32 = 4;

impl Default for Seat {
    fn default() -> Self {
        Self { proof: Proof::new(1), mtu: None, calls: 0 }
    }
}

impl Seat {
    /// Whether a member that should be heard several times a second is to be called, for it says nothing: it may be this hub that is
    /// elsewhere now, behind a NAT that has changed, and only a datagram of ours shows that.
    pub fn is_to_be_called(&mut self, now: Instant, heard: Instant) -> bool {
        let silent = now.saturating_duration_since(heard);
        if silent < CALL_AFTER {
            self.calls = 0;
        }
        let due = self.calls < CALLS && silent >= CALL_AFTER * (self.calls + 1);
        self.calls += u32::from(due);
        due
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

    /// Forgets all but those who stay, `stays` tells under which index and ordinal; and seats who had confirmed an endpoint without having
    /// a seat: member, ordinal, endpoint. Of two that have confirmed one endpoint, that is still whose it was: the last one's.
    pub fn replace(
        &self,
        stays: impl Fn(PeerIndex) -> Option<(PeerIndex, u16)>,
        confirmed: &[(PeerIndex, u16, SocketAddr)],
    ) {
        let mut places = self.0.write();
        let before = std::mem::take(&mut *places);
        for (member, endpoint) in before.by_ordinal.into_values() {
            if let Some((index, ordinal)) = stays(member) {
                places.by_ordinal.insert(ordinal, (index, endpoint));
            }
        }
        let holders = before.by_endpoint.into_iter();
        places.by_endpoint = holders.filter_map(|(at, member)| Some((at, stays(member)?.0))).collect();
        for (member, ordinal, endpoint) in confirmed {
            let (_, at) = *places.by_ordinal.entry(*ordinal).or_insert((*member, *endpoint));
            if at == *endpoint {
                places.by_endpoint.entry(at).or_insert(*member);
            }
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
        // A reload changes nothing of that, in whatever order the members come.
        seats.set(1, 7, at(3));
        let both = |member| Some((member, u16::try_from(member).unwrap() + 6));
        for members in [[(1, 7, at(3)), (2, 8, at(3))], [(2, 8, at(3)), (1, 7, at(3))]] {
            seats.replace(both, &members);
            assert_eq!((seats.member(at(3)), seats.between(at(3), 8)), (Some(1), Ok((1, at(3)))));
        }
        // What was confirmed after the reload had looked counts.
        seats.set(2, 8, at(5));
        seats.replace(both, &[(1, 7, at(3)), (2, 8, at(3))]);
        assert_eq!((seats.member(at(5)), seats.place(8)), (Some(2), Some((2, at(5)))));
        seats.set(2, 8, at(3));
        seats.set(1, 7, at(3));
        seats.replace(|member| both(member).filter(|_| member == 2), &[(2, 8, at(3))]);
        assert_eq!(seats.member(at(3)), Some(2), "the other is gone");
        assert_eq!((seats.member(at(4)), seats.place(8), seats.place(7)), (None, Some((2, at(3))), None));
        // Who has got a slot has a seat at once.
        seats.replace(both, &[(2, 8, at(3)), (3, 9, at(6))]);
        assert_eq!((seats.member(at(6)), seats.place(9)), (Some(3), Some((3, at(6)))));
    }

    #[test]
    fn a_silent_member_is_called_a_few_times() {
        let (mut seat, start) = (Seat::default(), Instant::now());
        let mut calls = |heard: Instant, from: u64, to: u64| {
            let at = |n| start + Duration::from_millis(n);
            (from..to).step_by(100).filter(|n| seat.is_to_be_called(at(*n), heard)).count()
        };
        assert_eq!([calls(start, 0, 700), calls(start, 700, 1_400), calls(start, 1_400, 60_000)], [0, 1, 3]);
        let heard = start + Duration::from_secs(60);
        assert_eq!([calls(heard, 60_000, 60_700), calls(heard, 60_700, 61_000)], [0, 1]);
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
