//! Another node, as this node sees it: its paths, the session that tries direct ones, and what each has told the other.

use crate::peer::PeerIndex;
use crate::peer::mtu::SIZE_PROBE;
use crate::peer::path::{Candidate, Paths, Way};
use crate::peer::probe::{PACE, Prober};
use crate::peer::proof::Proof;
use crate::peer::tunnel::Tunnel;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A peer that we send to and that says nothing for this long is asked whether it is there.
const QUIET: Duration = Duration::from_millis(400);

/// Our whereabouts, and our listeners, are told again when they are not noted: after this, then twice as long, up to the last.
const TELL_AGAIN: Duration = Duration::from_millis(100);
const TELL_AGAIN_AT_MOST: Duration = Duration::from_secs(20);

/// Probes to a direct candidate that never answered, and how far apart.
const TRIES: u32 = 3;
const TRY_PACE: Duration = Duration::from_millis(150);

/// A candidate that carried once is tried for longer, at this pace; so is one that carries and is not in use.
const STANDBY_TRIES: u32 = 60;
const STANDBY_PACE: Duration = Duration::from_secs(1);

/// A candidate that was tried in vain is tried again after this long.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// A hub's word that the peer has no end-to-end sessions counts this long.
const PLAIN_FOR: Duration = Duration::from_secs(5);

/// Another node.
#[derive(Debug)]
pub struct NodePeer {
    /// The ways to it.
    pub paths: Paths,
    /// The session that tries direct paths, and its local number.
    pub tries: Option<(Box<Tunnel>, u16)>,
    /// Asks whether it is there, while it is not heard.
    pub quiet: Option<Prober>,
    /// The way by which it is asked.
    asked_by: Option<Way>,
    /// There was an end-to-end session: from then on nothing goes to it, or comes from it, in any other way.
    pub sealed: bool,
    /// The hub that said that it has no end-to-end sessions, and until when that counts.
    plain_via: Option<(PeerIndex, Instant)>,
    told: Told,
    told_listeners: Told,
    /// Packets sent when last looked, and when there were new ones.
    sent: (u64, Option<Instant>),
    last_from: Option<SocketAddr>,
    /// What its endpoints have shown by handshakes; the nonces are those of the session that tries direct paths.
    pub proof: Proof,
    /// Where the peer was when the session began, if it began that.
    began: Option<SocketAddr>,
    /// It was heard from somewhere else, which is to be tried.
    fresh: bool,
    /// The largest packet in bytes that is taken to pass the path in use.
    pub mtu: u16,
}

impl Default for NodePeer {
    fn default() -> Self {
        Self {
            paths: Paths::default(),
            tries: None,
            quiet: None,
            asked_by: None,
            sealed: false,
            plain_via: None,
            told: Told::default(),
            told_listeners: Told::default(),
            sent: (0, None),
            last_from: None,
            proof: Proof::new(1),
            began: None,
            fresh: false,
            mtu: u16::MAX,
        }
    }
}

/// What is to be thought of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// It is heard, or nothing is sent to it.
    Well,
    /// A probe of this number is due in the session itself.
    Ask(u32),
    /// Several were not answered: it is not there, or not reached by the path in use.
    Gone,
}

/// What we have told of our own whereabouts, or listeners.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    noted: u32,
    saying: u32,
    due: Option<Instant>,
    tries: u32,
}

impl Told {
    /// Whether that of `revision` is to be told now, or once more.
    pub fn is_due(&mut self, now: Instant, revision: u32) -> bool {
        if self.noted >= revision {
            return false;
        }
        if self.saying != revision {
            (self.saying, self.due, self.tries) = (revision, None, 0);
        }
        if self.due.is_some_and(|due| now < due) {
            return false;
        }
        let pause = TELL_AGAIN.saturating_mul(1 << self.tries.min(16)).min(TELL_AGAIN_AT_MOST);
        self.tries += 1;
        self.due = Some(now + pause);
        true
    }

    /// The peer has noted what was told as `revision`.
    pub fn note(&mut self, revision: u32) {
        self.noted = self.noted.max(revision);
    }
}

impl NodePeer {
    /// A node whose configured endpoint is `endpoint`.
    #[must_use]
    pub fn new(now: Instant, endpoint: Option<SocketAddr>) -> Self {
        Self { paths: Paths::new(now, endpoint), ..Self::default() }
    }

    /// The peer has restarted, or is met for the first time. `direct`: it answers probes of direct paths.
    pub fn meet(&mut self, now: Instant, direct: bool) {
        self.paths.forget(now, direct);
        self.quiet = None;
        self.forget_told();
    }

    /// The peer knows nothing of what was told before.
    pub fn forget_told(&mut self) {
        (self.told, self.told_listeners) = (Told::default(), Told::default());
    }

    /// A message came that was sealed in a session, and may be the first one.
    pub fn begins(&mut self, datagram: &[u8]) {
        if let Some(at) = self.proof.completed(datagram) {
            self.began = Some(at);
        }
    }

    /// Where the peer was when the session began: it has read there what completed the handshake. `from`: where that is not known,
    /// and the last message came from, which was the response to our initiation if it was `answered`.
    pub fn began_by(
        &mut self,
        from: SocketAddr,
        answered: bool,
        legs: impl Fn(SocketAddr) -> Way,
    ) -> Option<Way> {
        let began = self.began.take().filter(|_| !answered);
        let way = legs(began.unwrap_or(from));
        match way {
            Way::Via(_) => Some(way),
            // Initiations go only where the peer was known to be.
            Way::Direct(address) if began.is_some() || self.paths.is_known(address) => Some(way),
            // Somebody may have been quicker with a copy. Through a hub that carries it would have gone as well.
            Way::Direct(_) => self.paths.known().next().map(Way::Direct).filter(|_| answered),
        }
    }

    /// Something authentic came from `from`: by which way datagrams go from now on, when that has changed. `roams`: the peer is where
    /// its last datagram came from (WireGuard paper, section 2.1), if that is known already. Any other place is only a candidate,
    /// until its probes are answered; and a path through a hub does not roam.
    pub fn arrived(
        &mut self,
        now: Instant,
        from: SocketAddr,
        roams: Option<bool>,
        legs: impl Fn(SocketAddr) -> Way,
    ) -> Option<Way> {
        if self.last_from == Some(from) {
            return None;
        }
        let way = legs(from);
        if let Way::Direct(address) = way {
            self.fresh |= self.paths.heard(now, address);
        }
        let way = match (self.paths.current(), way) {
            (None, Way::Via(_)) => Some(way),
            (None, Way::Direct(address)) if roams == Some(true) || self.paths.is_known(address) => Some(way),
            (None, Way::Direct(_)) => self.began.map(legs),
            (Some(Way::Direct(old)), Way::Direct(new)) if roams == Some(true) && old != new => Some(way),
            _ => None,
        };
        if roams.is_some() {
            self.last_from = Some(from);
        }
        way.inspect(|way| self.paths.take(now, *way, None))
    }

    /// Whether it was heard from somewhere new since the last call.
    pub fn take_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    /// Whether our whereabouts of this revision are to be told now; then they count as told once more.
    pub fn tells(&mut self, now: Instant, revision: u32) -> bool {
        self.told.is_due(now, revision)
    }

    /// The peer has noted our whereabouts.
    pub fn noted(&mut self, revision: u32) {
        self.told.note(revision);
    }

    /// As [`NodePeer::tells`], for our listeners.
    pub fn tells_listeners(&mut self, now: Instant, revision: u32) -> bool {
        self.told_listeners.is_due(now, revision)
    }

    /// The peer has noted our listeners.
    pub fn noted_listeners(&mut self, revision: u32) {
        self.told_listeners.note(revision);
    }

    /// A hub says that the peer has no end-to-end sessions.
    pub fn note_plain(&mut self, now: Instant, hub: PeerIndex) {
        self.plain_via = Some((hub, now + PLAIN_FOR));
    }

    /// Whether that hub has just said so.
    #[must_use]
    pub fn is_plain_via(&self, now: Instant, hub: PeerIndex) -> bool {
        self.plain_via.is_some_and(|(via, until)| via == hub && now < until)
    }

    /// Looks after a peer that we send to (`sent` packets up to now) and that says nothing.
    pub fn watch(&mut self, now: Instant, sent: u64, heard: Option<Instant>) -> Watched {
        if sent != self.sent.0 {
            self.sent = (sent, Some(now));
        }
        let recent =
            |at: Option<Instant>, span| at.is_some_and(|at| now.saturating_duration_since(at) < span);
        // Heard since the last packet that went to it: nothing is open.
        let settled = heard.is_some_and(|heard| self.sent.1.is_none_or(|sent| heard >= sent));
        if settled || recent(heard, QUIET) || !recent(self.sent.1, Duration::from_secs(2)) {
            self.quiet = None;
            return Watched::Well;
        }
        // What was asked by a way that has been left since says nothing of the way in use.
        if self.asked_by != self.paths.current() {
            (self.asked_by, self.quiet) = (self.paths.current(), None);
        }
        let quiet = self.quiet.get_or_insert_with(|| Prober::trusting(now));
        match quiet.poll(now) {
            (Some(_), _) => {
                self.quiet = None;
                self.sent.1 = None;
                Watched::Gone
            }
            (None, probe) => probe.map_or(Watched::Well, Watched::Ask),
        }
    }

    /// The probe that is due to the direct candidate at `place`: its number and where it goes.
    pub fn try_candidate(&mut self, now: Instant, place: usize) -> Option<(u32, SocketAddr)> {
        let current = self.paths.current();
        let candidate = self.paths.candidates_mut().get_mut(place)?;
        let in_use = current == Some(Way::Direct(candidate.address));
        let covered = candidate.is_covered();
        let prober = &mut candidate.prober;
        let (pace, most) = match (prober.is_up(), prober.was_ever_up()) {
            (true, _) if in_use => (PACE, u32::MAX),
            (true, _) => (STANDBY_PACE, u32::MAX),
            (false, true) => (STANDBY_PACE, STANDBY_TRIES),
            (false, false) => (TRY_PACE, TRIES),
        };
        if candidate.tries >= most || !covered {
            // The last ones still may be missed, or answered; then it rests.
            if now.saturating_duration_since(prober.last_sent()) >= TRY_AGAIN {
                candidate.tries = 0;
            }
            prober.poll_only(now);
            return None;
        }
        prober.set_pace(pace);
        let number = prober.poll(now).1?;
        candidate.tries = if prober.is_up() { 0 } else { candidate.tries + 1 };
        candidate.heard = candidate.heard.saturating_sub(1);
        Some((candidate.named(number), candidate.address))
    }

    /// There is no session to probe the candidates in. One that was up is asked in vain, and so is down in a moment: nobody
    /// could say otherwise, and it may well be the path that keeps that session from beginning.
    pub fn try_in_vain(&mut self, now: Instant) {
        for candidate in self.paths.candidates_mut().iter_mut().filter(|candidate| candidate.prober.is_up()) {
            candidate.prober.poll(now);
        }
    }

    /// The probe of the direct candidate's MTU that is due: its number, how large it must be, and where it goes. `most`: the
    /// device's MTU.
    pub fn size_candidate(
        &mut self,
        now: Instant,
        place: usize,
        most: u16,
    ) -> Option<(u32, u16, SocketAddr)> {
        let candidate = self.paths.candidates_mut().get_mut(place)?;
        let prober = &candidate.prober;
        let alive = prober.alive().filter(|_| prober.is_up());
        let (number, size) = candidate.mtu.poll(now, most, alive, prober.patience())?;
        Some((candidate.named(number) | SIZE_PROBE, size, candidate.address))
    }

    /// A direct probe was answered; whether more passes now, or less, than was known.
    pub fn tried(&mut self, now: Instant, number: u32) -> bool {
        let mut candidates = self.paths.candidates_mut().iter_mut();
        let Some(candidate) = candidates.find(|candidate| candidate.is_named(number)) else { return false };
        if number & SIZE_PROBE != 0 {
            let counted = candidate.counted(number, candidate.mtu.sent());
            return candidate.mtu.answered(now, counted);
        }
        let counted = candidate.counted(number, candidate.prober.sent());
        candidate.prober.answered(now, counted);
        false
    }

    /// When something is due with the direct candidates.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let due = |candidate: &Candidate| {
            let active = candidate.prober.is_up() || candidate.tries < TRIES && candidate.is_covered();
            let sized = candidate.prober.is_up().then(|| candidate.mtu.deadline());
            (active && self.tries.is_some())
                .then(|| sized.map_or(candidate.prober.deadline(), |at| at.min(candidate.prober.deadline())))
        };
        let direct = self.paths.candidates().iter().filter_map(due).min();
        let quiet = self.quiet.as_ref().map(Prober::deadline);
        direct.into_iter().chain(quiet).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{HubReach, Whereabouts};

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn at(n: u16) -> SocketAddr {
        ([203, 0, 113, 1], n).into()
    }

    #[test]
    fn whereabouts_are_told_until_they_are_noted_and_not_too_often() {
        let (mut node, mut now) = (NodePeer::default(), Instant::now());
        assert!(!node.tells(now, 0), "nothing to tell");
        let mut told = 0;
        for _ in 0..600 {
            told += u32::from(node.tells(now, 1));
            now += ms(100);
        }
        assert!((8..=12).contains(&told), "{told} in a minute");
        node.noted(1);
        assert!(!node.tells(now + TELL_AGAIN_AT_MOST, 1));
        assert!(node.tells(now, 2), "a change, at once");
        assert!(!node.tells(now, 2));
        node.meet(now, true);
        assert!(node.tells(now, 2), "a peer that has restarted");
    }

    #[test]
    fn a_peer_that_answers_is_not_asked_and_one_that_does_not_is_given_up_in_time() {
        let (mut node, start) = (NodePeer::default(), Instant::now());
        let (mut now, mut sent) = (start, 0);
        for _ in 0..100 {
            (now, sent) = (now + ms(50), sent + 1);
            assert_eq!(node.watch(now, sent, Some(now - ms(50))), Watched::Well);
        }
        let (fault, mut asked) = (now, 0);
        let lost = loop {
            (now, sent) = (now + ms(10), sent + 1);
            match node.watch(now, sent, Some(fault)) {
                Watched::Well => {}
                Watched::Ask(_) => asked += 1,
                Watched::Gone => break now - fault,
            }
        };
        assert!(asked >= 3 && lost < ms(1300), "{asked}, {lost:?}");
        // Nothing is sent: nothing is asked.
        for _ in 0..100 {
            now += ms(100);
            assert_eq!(node.watch(now, sent, Some(fault)), Watched::Well);
        }
    }

    #[test]
    fn a_peer_that_is_silent_for_the_way_it_was_asked_by_is_asked_anew_by_the_next() {
        let (mut node, start) = (NodePeer::default(), Instant::now());
        node.paths.take(start, Way::Via(1), None);
        let (mut now, mut sent, mut moved, mut asked) = (start + QUIET, 0, None, 0);
        let given_up = loop {
            (now, sent) = (now + ms(10), sent + 1);
            match node.watch(now, sent, Some(start)) {
                Watched::Well => {}
                Watched::Ask(_) => asked += u32::from(moved.is_some()),
                Watched::Gone => break now,
            }
            // Just before it would have been given up, its hub is found dead.
            if moved.is_none() && now - start >= QUIET + ms(670) {
                node.paths.take(now, Way::Via(2), None);
                moved = Some(now);
            }
        };
        let moved = moved.expect("it is not given up before");
        assert!(asked >= 3 && given_up - moved >= PACE + QUIET, "{asked} {:?}", given_up - moved);
    }

    #[test]
    fn candidates_get_three_probes_each_and_rest_unless_one_answers() {
        let mut now = Instant::now();
        let mut node = NodePeer::new(now, Some(at(1)));
        let mut told = Whereabouts::new(1);
        for n in 2..=6 {
            told.add_address(at(n));
        }
        node.paths.tell(now, told, |_| true);
        let mut sent = std::collections::HashMap::new();
        for _ in 0..500 {
            now += ms(50);
            for place in 0..8 {
                if let Some((number, to)) = node.try_candidate(now, place) {
                    *sent.entry(to.port()).or_insert(0) += 1;
                    if to == at(3) {
                        node.tried(now + ms(5), number);
                    }
                }
            }
        }
        assert_eq!([1, 2, 4, 5, 6].map(|n| sent[&n]), [3; 5]);
        assert!((20..=30).contains(&sent[&3]), "{} in 25 s, not in use", sent[&3]);
        node.paths.take(now, Way::Direct(at(3)), None);
        sent.clear();
        for _ in 0..200 {
            now += ms(50);
            for place in 0..8 {
                if let Some((number, to)) = node.try_candidate(now, place) {
                    *sent.entry(to.port()).or_insert(0) += 1;
                    node.tried(now + ms(5), number);
                }
            }
        }
        assert!((35..=42).contains(&sent[&3]), "{} in 10 s, in use", sent[&3]);
    }

    #[test]
    fn an_answer_that_comes_late_is_not_taken_for_one_of_a_candidate_that_came_later() {
        let now = Instant::now();
        let mut node = NodePeer::new(now, None);
        let mut late = Vec::new();
        for n in 0..100 {
            node.paths.heard(now, at(n));
            let place = node.paths.candidates().len() - 1;
            late.extend(node.try_candidate(now, place).map(|(number, _)| number));
            let known = late.len().saturating_sub(node.paths.candidates().len());
            for number in &late[..known] {
                assert!(!node.tried(now, *number));
                assert!(!node.tried(now, *number | SIZE_PROBE));
            }
            assert!(node.paths.candidates().iter().all(|candidate| !candidate.prober.was_ever_up()));
        }
        node.tried(now, late[99]);
        let up = node.paths.candidates().iter().filter(|candidate| candidate.prober.was_ever_up());
        assert_eq!(up.map(|candidate| candidate.address).collect::<Vec<_>>(), [at(99)]);
    }

    #[test]
    fn a_hub_that_comes_or_goes_is_no_reason_to_try_candidates_again_and_a_new_address_is() {
        let mut now = Instant::now();
        let mut node = NodePeer::new(now, None);
        let mut tell = |now: &mut Instant, revision, addresses: std::ops::Range<u16>, hub_up| {
            let mut told = Whereabouts::new(revision);
            assert!(addresses.into_iter().all(|n| told.add_address(at(n))));
            let hub = crate::control::HubId::of(&[7; 32]);
            let reach = HubReach { hub, up: hub_up, draining: false, rtt: Duration::ZERO, mtu: None };
            told.add_hub(reach);
            assert!(node.paths.tell(*now, told, |_| true));
            let mut sent = 0;
            for _ in 0..100 {
                *now += ms(50);
                sent += (0..4).filter(|&place| node.try_candidate(*now, place).is_some()).count();
            }
            sent
        };
        assert_eq!(tell(&mut now, 1, 1..3, true), 6);
        assert_eq!(tell(&mut now, 2, 1..3, false), 0);
        assert_eq!(tell(&mut now, 3, 1..4, false), 9);
    }

    #[test]
    fn a_direct_path_that_cannot_be_probed_any_more_is_given_up() {
        let mut now = Instant::now();
        let mut node = NodePeer::new(now, Some(at(1)));
        node.meet(now, true);
        let (number, _) = node.try_candidate(now, 0).unwrap();
        node.tried(now + ms(5), number);
        node.paths.take(now, Way::Direct(at(1)), None);
        assert!(node.paths.carries(now, &[]));
        let fault = now;
        while node.paths.carries(now, &[]) {
            node.try_in_vain(now);
            now += ms(10);
            assert!(now - fault < ms(1500), "a path that nobody looks after counts as one that carries");
        }
        // It is tried again when that is possible.
        assert!(node.try_candidate(now + PACE, 0).is_some());
    }

    #[test]
    fn a_direct_path_roams_only_with_a_peer_that_cannot_be_asked_and_one_through_a_hub_does_not() {
        let now = Instant::now();
        let mut node = NodePeer::default();
        let ask = |node: &mut NodePeer, n, roams| node.arrived(now, at(n), roams, Way::Direct);
        let to = |n| Some(Way::Direct(at(n)));
        assert_eq!(ask(&mut node, 1, None), None, "it may still say hello");
        assert_eq!(ask(&mut node, 1, Some(true)), to(1), "it has not");
        assert_eq!(node.arrived(now, at(1), Some(true), |_| panic!("asked once")), None);
        assert_eq!(ask(&mut node, 2, Some(true)), to(2));
        assert_eq!(ask(&mut node, 3, Some(false)), None, "it can be asked");
        assert!(node.take_fresh() && !node.take_fresh());
        assert_eq!(node.arrived(now, at(9), Some(true), |_| Way::Via(1)), None);
        node.paths.take(now, Way::Via(1), None);
        assert_eq!(ask(&mut node, 4, Some(true)), None);
        for n in [3, 4] {
            assert!(
                node.paths.candidates().iter().any(|candidate| candidate.address == at(n)),
                "to be tried"
            );
        }
    }

    #[test]
    fn who_is_heard_from_elsewhere_gets_a_probe_for_each_datagram_and_no_more() {
        let mut now = Instant::now();
        let mut node = NodePeer::default();
        let mut probes = |node: &mut NodePeer, datagrams: u32| {
            (0..datagrams).for_each(|_| _ = node.paths.heard(now, at(1)));
            let sent = (0..100).filter(|_| {
                now += ms(50);
                node.try_candidate(now, 0).is_some()
            });
            sent.count()
        };
        assert_eq!([1, 0, 2, 0].map(|datagrams| probes(&mut node, datagrams)), [1, 0, 2, 0]);
        now += TRY_AGAIN;
        assert_eq!(node.try_candidate(now, 0), None, "nothing came from there since");
        assert_eq!(node.deadline(), None);
    }
}
