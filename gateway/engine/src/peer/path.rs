//! Paths: the ways by which datagrams can reach a node, and the choice of one.
//!
//! A hub path is judged by its two legs: ours is probed by us, the other by the peer, which tells us. A direct path is probed
//! in a session of its own. A dead path is left at once; a better one is taken after it has been well for a while, and after
//! a handshake over it: WireGuard's replay window is too short for one session on two paths.

use crate::control::{HubId, Whereabouts};
use crate::gateway::RateLimit;
use crate::peer::PeerIndex;
use crate::peer::mtu::{BASE, PathMtu};
use crate::peer::probe::Prober;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The most direct candidates of one peer.
pub const MAX_CANDIDATES: usize = 6;

/// Bits of a direct probe's number that say which candidate it went to, above those that count.
const TAG_SHIFT: u32 = 28;
const TAG: u32 = 7;
const COUNT: u32 = (1 << TAG_SHIFT) - 1;

const _: () = assert!(MAX_CANDIDATES <= TAG as usize);

/// So far apart the counts of two candidates begin.
const BEGIN_SHIFT: u32 = 16;

/// How long a better path must have been well before traffic moves to it.
pub const SPELL: Duration = Duration::from_secs(10);

/// The first direct path that is found need not wait that long: nothing was left for the path in use.
const FIRST_SPELL: Duration = Duration::from_secs(2);

/// Between two moves to a better path.
pub const RETURN_PACE: Duration = Duration::from_secs(60);

/// A planned move that has no handshake after this long is given up, and the path is not tried again for as long.
const MOVE_PATIENCE: Duration = Duration::from_secs(3);

/// Between the initiations of a planned move.
const MOVE_RETRY: Duration = Duration::from_millis(500);

/// How long a hub's word counts that a node is not there.
const ABSENT_FOR: Duration = Duration::from_secs(2);

/// A direct path over which a handshake went, but no probe yet, is given this long.
const UNPROBED_FOR: Duration = Duration::from_secs(3);

/// How many addresses that a peer names are tried at once, and one more each so long: whoever names ever new ones, or the same again
/// and again, does not have others sent more than that. What is not tried at once is tried later.
const ATTEMPTS: u32 = 4 * MAX_CANDIDATES as u32;
const ATTEMPT_PACE: Duration = Duration::from_secs(5);

/// So many datagrams from an address are remembered that are to be followed by a probe.
const HEARD: u32 = 3;

/// More tries than any candidate is given: it rests.
const RESTS: u32 = 1000;

/// A way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// Straight to this address.
    Direct(SocketAddr),
    /// Sealed, through this hub.
    Via(PeerIndex),
}

/// Our leg to a hub, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The hub.
    pub hub: PeerIndex,
    /// Its name among nodes.
    pub id: HubId,
    /// Where it is.
    pub endpoint: SocketAddr,
    /// Datagrams pass, both ways.
    pub up: bool,
    /// It forwards sealed datagrams.
    pub relays: bool,
    /// It has never said hello, and has had the time: as far as is known it only routes.
    pub plain: bool,
    /// It is a standard WireGuard server, by the configuration.
    pub routed_only: bool,
    /// It is to be left.
    pub draining: bool,
    /// Round trip.
    pub rtt: Duration,
    /// When it was last known to carry.
    pub alive: Option<Instant>,
    /// The largest packet in bytes that is taken to pass.
    pub mtu: u16,
    /// It was seen to pass.
    pub measured: bool,
}

/// Where an address was learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Written in the configuration.
    Configured,
    /// The peer said so.
    Told,
    /// Something authentic came from there.
    Heard,
}

/// A direct path that may carry.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Where.
    pub address: SocketAddr,
    /// How it was learnt.
    pub source: Source,
    /// Its probes, in the session that tries direct paths.
    pub prober: Prober,
    /// What passes it.
    pub mtu: PathMtu,
    /// Probes since it was last worth trying.
    pub tries: u32,
    /// When the path was taken into use.
    pub used: Option<Instant>,
    /// Datagrams of the peer that came from there and were not followed by a probe yet.
    pub(crate) heard: u32,
    /// In its probes' numbers: no other candidate has it.
    tag: u32,
    /// What its probes' numbers begin with: one that had the tag before began elsewhere.
    begin: u32,
}

impl Candidate {
    /// `added`: how many there were before it.
    fn new(now: Instant, address: SocketAddr, source: Source, tag: u32, added: u32) -> Self {
        let (prober, mtu, begin) = (Prober::new(now), PathMtu::new(now), added << BEGIN_SHIFT);
        Self { address, source, prober, mtu, tries: 0, used: None, heard: 0, tag, begin }
    }

    /// The number that a probe is sent with, from what its prober counts.
    pub(crate) fn named(&self, counted: u32) -> u32 {
        counted.wrapping_add(self.begin) & COUNT | self.tag << TAG_SHIFT
    }

    /// Whether a probe with this number was sent to this candidate, as far as its tag says.
    pub(crate) fn is_named(&self, number: u32) -> bool {
        number >> TAG_SHIFT & TAG == self.tag
    }

    /// What the prober has counted a probe with this number as, which cannot be later than `latest`.
    pub(crate) fn counted(&self, number: u32, latest: u32) -> u32 {
        latest.wrapping_sub(latest.wrapping_add(self.begin).wrapping_sub(number) & COUNT)
    }

    /// Whether a probe may go there: where nothing but a datagram that anybody may have sent again says that the peer is, only one for
    /// each of these.
    pub(crate) fn is_covered(&self) -> bool {
        self.source != Source::Heard || self.prober.was_ever_up() || self.used.is_some() || self.heard > 0
    }

    /// `probed`: the peer answers probes of direct paths.
    fn is_up(&self, now: Instant, probed: bool) -> bool {
        let unprobed = |since| !probed || now.saturating_duration_since(since) < UNPROBED_FOR;
        self.prober.is_up() || (!self.prober.was_ever_up() && self.used.is_some_and(unprobed))
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Stay,
    /// The path in use is dead, or there was none: this one, at once.
    Now(Way),
    /// Shake hands over this one; when that is done, take it.
    Prepare(Way),
}

/// A move that waits for its handshake.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Moving {
    to: Way,
    since: Instant,
    next: Instant,
}

/// What is known of one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WayState {
    /// Which.
    pub way: Way,
    /// It carries.
    pub up: bool,
    /// It is to be left.
    pub draining: bool,
    /// Round trip, as far as known.
    pub rtt: Option<Duration>,
    /// Since when it carries.
    pub since: Option<Instant>,
}

/// The ways to one peer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Paths {
    current: Option<Way>,
    moving: Option<Moving>,
    told: Option<Whereabouts>,
    /// Hubs that do not pass on to this peer, and until when that counts.
    absent: Vec<(PeerIndex, Instant)>,
    candidates: Vec<Candidate>,
    /// How many there ever were.
    added: u32,
    /// Addresses that the peer names and that are tried at once.
    attempts: RateLimit,
    /// The peer answers probes of direct paths.
    probed: bool,
    better: Option<(Way, Instant)>,
    last_return: Option<Instant>,
    shunned: Option<(Way, Instant)>,
    changes: u64,
    /// When the way in use was last known to carry, while it does not.
    dark: Option<Instant>,
    outage: Duration,
    missed_heartbeats: u64,
}

impl Paths {
    /// Paths to a peer whose configured endpoint is `endpoint`.
    #[must_use]
    pub fn new(now: Instant, endpoint: Option<SocketAddr>) -> Self {
        let attempts = RateLimit::every(ATTEMPT_PACE, ATTEMPTS);
        let mut paths = Self { attempts, ..Self::default() };
        paths.configure(now, endpoint);
        paths
    }

    /// The configured endpoint has changed.
    pub fn configure(&mut self, now: Instant, endpoint: Option<SocketAddr>) {
        self.candidates.retain(|candidate| candidate.source != Source::Configured);
        if let Some(address) = endpoint {
            self.learn(now, address, Source::Configured);
        }
    }

    /// The way in use.
    #[must_use]
    pub fn current(&self) -> Option<Way> {
        self.current
    }

    /// How often the way has changed.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// How many beats of one a second were lost while no way carried that was believed to: each outage counts as the whole
    /// seconds nearest to its length, and at least as one when a beat could have met it, half the time or more.
    #[must_use]
    pub fn missed_heartbeats(&self) -> u64 {
        self.missed_heartbeats
    }

    /// For how long altogether the way in use did not carry.
    #[must_use]
    pub fn outage(&self) -> Duration {
        self.outage
    }

    /// The direct candidates.
    #[must_use]
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// The direct candidates, for their probes.
    pub fn candidates_mut(&mut self) -> &mut [Candidate] {
        &mut self.candidates
    }

    /// The peer has restarted: what it said before counts no more.
    pub fn forget(&mut self, now: Instant, probed: bool) {
        self.told = None;
        self.absent.clear();
        self.probed = probed;
        // Nobody was there who missed anything.
        self.dark = None;
        for candidate in &mut self.candidates {
            candidate.tries = 0;
            candidate.used = candidate.used.map(|_| now);
        }
    }

    /// Nobody needs the peer for now: no way is in use any more, and which of them carry is to be found out anew.
    pub fn rest(&mut self, now: Instant) {
        (self.current, self.better, self.moving, self.dark) = (None, None, None, None);
        for candidate in &mut self.candidates {
            (candidate.prober, candidate.mtu) = (Prober::new(now), PathMtu::new(now));
            (candidate.tries, candidate.used) = (0, None);
        }
    }

    /// The whereabouts that the peer told last.
    #[must_use]
    pub fn told(&self) -> Option<&Whereabouts> {
        self.told.as_ref()
    }

    /// The peer says where it can be reached. `usable`: whether an address may be tried at all. Returns whether it is news.
    pub fn tell(&mut self, now: Instant, told: Whereabouts, usable: impl Fn(SocketAddr) -> bool) -> bool {
        if self.told.is_some_and(|known| known.revision >= told.revision) {
            return false;
        }
        self.candidates.retain(|candidate| {
            candidate.source != Source::Told
                || candidate.prober.is_up()
                || told.addresses().any(|address| address == candidate.address)
        });
        let moved = self.told.is_none_or(|known| !known.addresses().eq(told.addresses()));
        for address in told.addresses().filter(|address| usable(*address)) {
            if let Some(place) = self.learn(now, address, Source::Told)
                && let Some(candidate) = self.candidates.get_mut(place)
                && !self.attempts.allow(now)
            {
                candidate.tries = RESTS;
            }
        }
        // Both sides are told at about the same time: now is when probes meet (hole punching). That only a hub has come or gone
        // is no reason to try in vain once more.
        if moved {
            for candidate in self.candidates.iter_mut().filter(|candidate| candidate.tries > 0) {
                if self.attempts.allow(now) {
                    candidate.tries = 0;
                }
            }
        }
        self.told = Some(told);
        true
    }

    /// Something authentic came straight from `address`; whether nothing was known of that.
    pub fn heard(&mut self, now: Instant, address: SocketAddr) -> bool {
        let new = self.learn(now, address, Source::Heard).is_some();
        if let Some(known) = self.candidates.iter_mut().find(|candidate| candidate.address == address) {
            known.heard = known.heard.saturating_add(1).min(HEARD);
        }
        new
    }

    /// Whether the peer was there at some time, or is written down to be.
    #[must_use]
    pub fn is_known(&self, address: SocketAddr) -> bool {
        self.current == Some(Way::Direct(address)) || self.known().any(|known| known == address)
    }

    /// Where the peer was at some time, or is written down to be.
    pub fn known(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let known = self
            .candidates
            .iter()
            .filter(|candidate| candidate.source == Source::Configured || candidate.prober.was_ever_up());
        known.map(|candidate| candidate.address)
    }

    /// A hub does not pass on to this peer.
    pub fn note_absent(&mut self, now: Instant, hub: PeerIndex) {
        self.absent.retain(|(other, until)| *other != hub && *until > now);
        self.absent.push((hub, now + ABSENT_FOR));
    }

    /// The place of the candidate, if it is a new one.
    fn learn(&mut self, now: Instant, address: SocketAddr, source: Source) -> Option<usize> {
        if let Some(known) = self.candidates.iter_mut().find(|candidate| candidate.address == address) {
            known.source = known.source.min(source);
            return None;
        }
        if self.candidates.len() >= MAX_CANDIDATES {
            let useless = self.useless(source)?;
            self.candidates.remove(useless);
        }
        let is_free = |tag: &u32| self.candidates.iter().all(|candidate| candidate.tag != *tag);
        // Not the one that was given back last.
        let tag = (0..=TAG).map(|n| self.added.wrapping_add(n) & TAG).find(is_free)?;
        self.candidates.push(Candidate::new(now, address, source, tag, self.added));
        self.added = self.added.wrapping_add(1);
        Some(self.candidates.len() - 1)
    }

    /// Which candidate makes room for one from `source`: one that never carried, or else the one that has not for the longest time. What
    /// is written down stays; and of what the peer names at once, none makes room for another.
    fn useless(&self, source: Source) -> Option<usize> {
        let gone = self.candidates.iter().enumerate().filter(|(_, candidate)| {
            candidate.source != Source::Configured
                && (source, candidate.source) != (Source::Told, Source::Told)
                && !candidate.prober.is_up()
                && self.current != Some(Way::Direct(candidate.address))
        });
        // Never is before ever.
        gone.min_by_key(|(_, candidate)| candidate.prober.alive()).map(|(place, _)| place)
    }

    /// What is known of each way.
    pub fn ways<'a>(&'a self, now: Instant, legs: &'a [Leg]) -> impl Iterator<Item = WayState> + 'a {
        let direct = self.candidates.iter().map(move |candidate| WayState {
            way: Way::Direct(candidate.address),
            up: candidate.is_up(now, self.probed),
            draining: false,
            rtt: candidate.prober.rtt(),
            since: candidate.prober.is_up().then(|| candidate.prober.since()),
        });
        direct.chain(legs.iter().filter(|leg| leg.relays).map(move |leg| self.via(now, leg)))
    }

    fn via(&self, now: Instant, leg: &Leg) -> WayState {
        let away = self.absent.iter().any(|(hub, until)| *hub == leg.hub && *until > now);
        let theirs = self.told.as_ref().map(|told| told.hubs().find(|reach| reach.hub == leg.id));
        // Until the peer has said anything, its leg is as good as ours.
        let (up, draining, rtt) = match theirs {
            None => (true, false, leg.rtt),
            Some(None) => (false, false, leg.rtt),
            Some(Some(reach)) => (reach.up, reach.draining, reach.rtt),
        };
        WayState {
            way: Way::Via(leg.hub),
            up: leg.up && up && !away,
            draining: leg.draining || draining,
            rtt: Some(leg.rtt + rtt),
            since: None,
        }
    }

    /// Whether the way in use carries, as far as is known.
    #[must_use]
    pub fn carries(&self, now: Instant, legs: &[Leg]) -> bool {
        self.current.is_some_and(|current| self.ways(now, legs).any(|state| state.way == current && state.up))
    }

    /// When the way in use was last known to carry.
    #[must_use]
    pub fn alive(&self, legs: &[Leg]) -> Option<Instant> {
        match self.current? {
            Way::Via(hub) => legs.iter().find(|leg| leg.hub == hub)?.alive,
            Way::Direct(address) => {
                self.candidates.iter().find(|candidate| candidate.address == address)?.prober.alive()
            }
        }
    }

    /// The largest packet in bytes that is taken to pass the way in use: on both legs, when that is through a hub.
    #[must_use]
    pub fn mtu(&self, legs: &[Leg]) -> u16 {
        self.current.map_or(u16::MAX, |way| self.mtu_of(way, legs))
    }

    /// The largest packet in bytes that is taken to pass this way.
    #[must_use]
    pub fn mtu_of(&self, way: Way, legs: &[Leg]) -> u16 {
        match way {
            Way::Direct(address) => {
                let candidate = self.candidates.iter().find(|candidate| candidate.address == address);
                candidate.map_or(u16::MAX, |candidate| candidate.mtu.size())
            }
            Way::Via(hub) => legs.iter().find(|leg| leg.hub == hub).map_or(u16::MAX, |leg| {
                let theirs =
                    self.told.as_ref().and_then(|told| told.hubs().find(|reach| reach.hub == leg.id)?.mtu);
                // Less than that nobody measures: it would only be a way to have our packets cut to crumbs.
                leg.mtu.min(theirs.unwrap_or(u16::MAX).max(BASE))
            }),
        }
    }

    /// Where datagrams go on this way.
    #[must_use]
    pub fn address(way: Way, legs: &[Leg]) -> Option<SocketAddr> {
        match way {
            Way::Direct(address) => Some(address),
            Way::Via(hub) => legs.iter().find(|leg| leg.hub == hub).map(|leg| leg.endpoint),
        }
    }

    /// By which way a datagram from `from` has come.
    #[must_use]
    pub fn way_from(from: SocketAddr, legs: &[Leg]) -> Way {
        legs.iter().find(|leg| leg.endpoint == from).map_or(Way::Direct(from), |leg| Way::Via(leg.hub))
    }

    /// Takes a way into use. `alive`: when the old one was last known to carry, if it is left because it does not.
    pub fn take(&mut self, now: Instant, way: Way, alive: Option<Instant>) {
        if self.current == Some(way) {
            return;
        }
        if self.current.is_some() {
            self.changes += 1;
        }
        if let Some(alive) = self.dark.take().into_iter().chain(alive).min() {
            self.count_outage(now.saturating_duration_since(alive));
        }
        if let Way::Direct(address) = way {
            self.learn(now, address, Source::Heard);
            if let Some(candidate) = self.candidates.iter_mut().find(|c| c.address == address) {
                candidate.used = Some(now);
            }
        }
        (self.current, self.better) = (Some(way), None);
        if self.moving.is_some_and(|moving| moving.to == way) {
            self.moving = None;
        }
    }

    fn count_outage(&mut self, outage: Duration) {
        self.outage += outage;
        self.missed_heartbeats += (outage.as_millis() as u64 + 500) / 1000;
    }

    /// A handshake that this side began was answered over `way`: `true` when a planned move is thereby done.
    pub fn shaken(&mut self, now: Instant, way: Way) -> bool {
        let done = self.moving.take_if(|moving| moving.to == way).is_some();
        if done {
            self.last_return = Some(now);
            self.take(now, way, None);
        }
        done
    }

    /// What is to be done, given our legs.
    pub fn decide(&mut self, now: Instant, legs: &[Leg]) -> Step {
        let best = self.best(now, legs);
        let current = self.current.and_then(|way| self.ways(now, legs).find(|state| state.way == way));
        if current.is_some_and(|current| current.up) {
            if let Some(alive) = self.dark.take() {
                self.count_outage(now.saturating_duration_since(alive));
            }
        } else if self.current.is_some() && self.dark.is_none() {
            self.dark = Some(self.alive(legs).unwrap_or(now));
        }
        let Some(best) = best else {
            self.moving = None;
            return Step::Stay;
        };
        let Some(current) = current.filter(|current| current.up) else {
            self.moving = None;
            return Step::Now(best.way);
        };
        if let Some(moving) = self.moving {
            return self.go_on(now, moving, best);
        }
        if best.way == current.way || !better(&best, &current) {
            self.better = None;
            return Step::Stay;
        }
        if self.shunned.is_some_and(|(way, until)| way == best.way && now < until) {
            return Step::Stay;
        }
        // A hub that is to be left is left without waiting.
        let leaving = current.draining && !best.draining;
        if !leaving && !self.is_ripe(now, &best) {
            return Step::Stay;
        }
        self.moving = Some(Moving { to: best.way, since: now, next: now + MOVE_RETRY });
        Step::Prepare(best.way)
    }

    fn go_on(&mut self, now: Instant, moving: Moving, best: WayState) -> Step {
        if best.way != moving.to || now.saturating_duration_since(moving.since) >= MOVE_PATIENCE {
            self.shunned = Some((moving.to, now + MOVE_PATIENCE));
            self.moving = None;
            return Step::Stay;
        }
        if now < moving.next {
            return Step::Stay;
        }
        self.moving = Some(Moving { next: now + MOVE_RETRY, ..moving });
        Step::Prepare(moving.to)
    }

    /// Whether `best` has been better for long enough, and the last return is long enough ago.
    fn is_ripe(&mut self, now: Instant, best: &WayState) -> bool {
        let since = match self.better {
            Some((way, since)) if way == best.way => since,
            _ => {
                self.better = Some((best.way, now));
                now
            }
        };
        let first = self.changes == 0 && matches!(best.way, Way::Direct(_));
        let spell = if first { FIRST_SPELL } else { SPELL };
        let rested = self.last_return.is_none_or(|at| now.saturating_duration_since(at) >= RETURN_PACE);
        rested && now.saturating_duration_since(since) >= spell
    }

    fn best(&self, now: Instant, legs: &[Leg]) -> Option<WayState> {
        let mut best: Option<WayState> = None;
        for state in self.ways(now, legs).filter(|state| state.up) {
            if best.as_ref().is_none_or(|best| better(&state, best)) {
                best = Some(state);
            }
        }
        best
    }
}

/// Whether `a` is so much better than `b`, which comes before it or is in use, that it is worth a move.
fn better(a: &WayState, b: &WayState) -> bool {
    if a.draining != b.draining {
        return b.draining;
    }
    let (ours, theirs) = (a.rtt.unwrap_or_default(), b.rtt.unwrap_or_default());
    let margin = Duration::from_millis(10);
    match (a.way, b.way) {
        // No hub in between is worth some time.
        (Way::Direct(_), Way::Via(_)) => ours <= theirs + theirs / 2 + margin,
        (Way::Via(_), Way::Direct(_)) => ours + ours / 2 + margin < theirs,
        _ => ours + margin < theirs * 4 / 5,
    }
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
