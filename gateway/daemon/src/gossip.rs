//! How signed records spread: a node and its hubs tell each other what they hold, and hand on what the other lacks. Hubs reach
//! each other through the nodes that both have.
//!
//! ```text
//! to compare:    digest → listings of the ranges that differ → the records that are missing there, and a wish for those missing here
//! at a change:   the record itself, to everybody but where it came from; who knows it already hands it on no further
//! at a refusal:  the record that was refused and why, from a hub to who handed it on and to whose place it claims
//! ```
//!
//! Nothing of it is acknowledged. So two compare at hello, a moment after a record was handed on, when something could not be sent,
//! when a hub is there again, and once a minute in any case: what was lost is made good.
//!
//! Who asks for a lot makes only itself wait: each peer has a queue of its own, and one message of each is sent in turn.

use overlay_config::membership::{Book, Digest, KeyId, Listing};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Messages that wait to be sent, altogether and for one peer. Beyond that they are dropped, and the two compare anew.
const MOST_WAITING: usize = 20_000;
const MOST_FOR_ONE: usize = 1_000;

/// As many may wait for one peer however many wait for others.
const FEW: usize = 8;

/// The most keys in one wish.
const MOST_WANTED: usize = 100;

/// With whom a node has compared, it compares again after this long.
const BELIEVED: Duration = Duration::from_secs(60);

/// So long after a record was handed on the two compare: it may have been lost.
const CHECK: Duration = Duration::from_secs(1);

/// A peer's digests are answered at this pace at most: each may lead to a listing of all that is held.
const ANSWER_PACE: Duration = Duration::from_millis(500);

const DIGEST: u8 = 1;
const LISTING: u8 = 2;
const WANTED: u8 = 3;
const RECORD: u8 = 4;
const REFUSED: u8 = 5;

/// A peer is told at this pace at most what was refused.
const REFUSED_PACE: Duration = Duration::from_secs(1);

/// What a peer has told that others have to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// A record.
    Record(&'a [u8]),
    /// One that it has refused, and why.
    Refused(&'a [u8]),
}

/// What is to be told to whom.
#[derive(Debug, Default)]
pub struct Gossip {
    partners: HashMap<[u8; 32], Partner>,
    /// For whom something waits, whose turn is next first.
    turns: VecDeque<[u8; 32]>,
    waiting: usize,
}

/// Somebody who keeps records as well.
#[derive(Debug, Default)]
struct Partner {
    waiting: VecDeque<Vec<u8>>,
    /// When to compare with it.
    compare: Option<Instant>,
    /// When a digest of its was answered.
    answered: Option<Instant>,
    /// When it was told of a record that was refused.
    refused: Option<Instant>,
}

impl Gossip {
    /// A peer has said hello, or is there again.
    pub fn greeted(&mut self, now: Instant, peer: [u8; 32]) {
        self.partners.entry(peer).or_default().compare = Some(now);
    }

    /// A message to a peer could not be sent.
    pub fn lost(&mut self, now: Instant, peer: &[u8; 32]) {
        if let Some(partner) = self.partners.get_mut(peer) {
            partner.compare = Some(now);
        }
    }

    /// Whether [`Gossip::compare`] has something to do.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.partners.values().any(|partner| partner.compare.is_some_and(|at| at <= now))
    }

    /// Compares with whom it is time to. `peers`: everybody who keeps records, and whether there is a session. `asks`: this side goes on
    /// comparing by itself, as nodes do; a hub has many of them.
    pub fn compare(
        &mut self,
        now: Instant,
        book: &Book,
        asks: bool,
        peers: impl Iterator<Item = ([u8; 32], bool)>,
    ) {
        let there: HashMap<_, _> = peers.collect();
        self.partners.retain(|key, _| there.contains_key(key));
        self.turns.retain(|key| there.contains_key(key));
        self.waiting = self.partners.values().map(|partner| partner.waiting.len()).sum();
        for (peer, _) in there.into_iter().filter(|(_, session)| *session) {
            let partner = self.partners.entry(peer).or_default();
            if partner.compare.is_some_and(|at| at <= now) {
                partner.compare = asks.then_some(now + BELIEVED);
                self.tell(now, peer, DIGEST, &book.digest().to_bytes());
            }
        }
    }

    /// A record was refused: `peer` is to know.
    pub fn refused(&mut self, now: Instant, peer: [u8; 32], claim: &[u8]) {
        let partner = self.partners.entry(peer).or_default();
        if partner.refused.is_none_or(|at| now.saturating_duration_since(at) >= REFUSED_PACE) {
            partner.refused = Some(now);
            self.tell(now, peer, REFUSED, claim);
        }
    }

    /// A peer has told something: the record in it, if there is one.
    pub fn heard<'a>(
        &mut self,
        now: Instant,
        book: &Book,
        peer: [u8; 32],
        bytes: &'a [u8],
    ) -> Option<Heard<'a>> {
        let (kind, body) = bytes.split_first()?;
        match *kind {
            DIGEST => {
                let theirs = Digest::from_bytes(body.try_into().ok()?);
                let partner = self.partners.entry(peer).or_default();
                if partner.answered.is_some_and(|at| now.saturating_duration_since(at) < ANSWER_PACE) {
                    return None;
                }
                partner.answered = Some(now);
                for from in book.digest().differences(&theirs) {
                    self.list(now, book, peer, from);
                }
            }
            LISTING => {
                let theirs = Listing::from_bytes(body)?;
                for record in book.missing(&theirs) {
                    self.tell(now, peer, RECORD, &record.to_bytes());
                }
                let wanted: Vec<KeyId> = book.wanted(&theirs).take(MOST_WANTED).collect();
                if !wanted.is_empty() {
                    self.tell(now, peer, WANTED, &wanted.concat());
                }
            }
            WANTED => {
                let wanted: BTreeSet<_> = body.as_chunks::<8>().0.iter().take(MOST_WANTED).collect();
                for record in wanted.into_iter().filter_map(|id| book.find(id)) {
                    self.tell(now, peer, RECORD, &record.to_bytes());
                }
            }
            RECORD => return Some(Heard::Record(body)),
            REFUSED => return Some(Heard::Refused(body)),
            // Of a later version.
            _ => {}
        }
        None
    }

    /// A record is new here: `peers` are to know, before all else that waits for them, and `first` before the others.
    pub fn spread(
        &mut self,
        now: Instant,
        peers: impl Iterator<Item = [u8; 32]>,
        first: Option<[u8; 32]>,
        record: &[u8],
    ) {
        for peer in peers {
            let most = self.most_for_one();
            let partner = self.partners.entry(peer).or_default();
            partner.compare = Some(partner.compare.map_or(now + CHECK, |at| at.min(now + CHECK)));
            if partner.waiting.len() >= most {
                continue;
            }
            partner.waiting.push_front([&[RECORD], record].concat());
            self.waiting += 1;
            if Some(peer) == first {
                self.turns.retain(|key| *key != peer);
                self.turns.push_front(peer);
            } else if partner.waiting.len() == 1 {
                self.turns.push_back(peer);
            }
        }
    }

    /// The next message and who is to have it.
    pub fn next(&mut self) -> Option<([u8; 32], Vec<u8>)> {
        loop {
            let peer = self.turns.pop_front()?;
            let Some(partner) = self.partners.get_mut(&peer) else { continue };
            let Some(bytes) = partner.waiting.pop_front() else { continue };
            self.waiting = self.waiting.saturating_sub(1);
            if !partner.waiting.is_empty() {
                self.turns.push_back(peer);
            }
            return Some((peer, bytes));
        }
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    fn most_for_one(&self) -> usize {
        if self.waiting < MOST_WAITING { MOST_FOR_ONE } else { FEW }
    }

    fn list(&mut self, now: Instant, book: &Book, peer: [u8; 32], from: KeyId) {
        let mut next = Some(from);
        while let Some(from) = next {
            let listing = book.listing(from);
            self.tell(now, peer, LISTING, &listing.to_bytes());
            next = listing.next();
        }
    }

    fn tell(&mut self, now: Instant, peer: [u8; 32], kind: u8, body: &[u8]) {
        let most = self.most_for_one();
        let partner = self.partners.entry(peer).or_default();
        if partner.waiting.len() >= most {
            partner.compare = Some(now + BELIEVED);
            return;
        }
        partner.waiting.push_back([&[kind], body].concat());
        self.waiting += 1;
        if partner.waiting.len() == 1 {
            self.turns.push_back(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::tests::node;
    use overlay_config::membership::{MAX_RECORD_BYTES, SignedRecord, SigningKey};
    use overlay_engine::control::MAX_MEMBERSHIP;

    const _: () = assert!(Digest::BYTES < MAX_MEMBERSHIP && Listing::MAX_BYTES < MAX_MEMBERSHIP);
    const _: () = assert!(MAX_RECORD_BYTES < MAX_MEMBERSHIP && MOST_WANTED * 8 < MAX_MEMBERSHIP);

    fn record(key: &SigningKey, number: u8, serial: u64) -> SignedRecord {
        let mut public_key = [number; 32];
        public_key[0] = number.wrapping_mul(37);
        let record = node(public_key, &format!("node-{number}"), &format!("10.0.{number}.0/29"), serial);
        key.sign(record, "10.0.0.0/16".parse().unwrap()).unwrap()
    }

    #[test]
    fn two_books_hold_the_same_after_one_hello_each() {
        let key = SigningKey::from_bytes([7; 32]);
        let new = || Book::new(key.public(), "10.0.0.0/16".parse().unwrap(), 29);
        let (mut a, mut b) = (new(), new());
        for number in 0..200 {
            if number % 3 != 0 {
                a.merge(&record(&key, number, 1));
            }
            if number % 5 != 0 {
                b.merge(&record(&key, number, if number % 7 == 0 { 2 } else { 1 }));
            }
        }
        let (mut at_a, mut at_b) = (Gossip::default(), Gossip::default());
        let now = Instant::now();
        let peer = || std::iter::once(([0; 32], true));
        at_a.greeted(now, [0; 32]);
        at_a.compare(now, &a, false, peer());
        at_b.greeted(now, [0; 32]);
        at_b.compare(now, &b, true, peer());
        let mut told = 0;
        let mut pass = |from: &mut Gossip, to: &mut Gossip, book: &mut Book| {
            while let Some((_, bytes)) = from.next() {
                told += 1;
                assert!(bytes.len() <= MAX_MEMBERSHIP);
                if let Some(Heard::Record(bytes)) = to.heard(now, book, [0; 32], &bytes) {
                    book.merge(&SignedRecord::from_bytes(bytes).unwrap());
                }
            }
        };
        while !at_a.is_empty() || !at_b.is_empty() {
            pass(&mut at_a, &mut at_b, &mut b);
            pass(&mut at_b, &mut at_a, &mut a);
        }
        assert_eq!(a.digest(), b.digest());
        assert!(told < 600, "{told} messages");
        at_a.greeted(now, [0; 32]);
        at_a.compare(now, &a, false, peer());
        let (_, digest) = at_a.next().unwrap();
        assert_eq!(at_b.heard(now + ANSWER_PACE, &b, [0; 32], &digest), None);
        assert!(at_b.is_empty(), "nothing more to say");
    }

    fn book() -> (SigningKey, Book) {
        let key = SigningKey::from_bytes([7; 32]);
        let book = Book::new(key.public(), "10.0.0.0/16".parse().unwrap(), 29);
        (key, book)
    }

    /// Who has a message waiting, in the order of sending.
    fn sent(gossip: &mut Gossip) -> Vec<(u8, u8)> {
        std::iter::from_fn(|| gossip.next()).map(|(peer, bytes)| (peer[0], bytes[0])).collect()
    }

    #[test]
    fn what_may_have_been_lost_is_asked_for_again() {
        let (key, book) = book();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (one, two) = ([1; 32], [2; 32]);
        let both = |session| [(one, true), (two, session)].into_iter();
        // A hub compares with nobody by itself, but when it has told something, when that failed, and at hello.
        let mut hub = Gossip::default();
        hub.compare(at(0), &book, false, both(true));
        assert_eq!(sent(&mut hub), []);
        hub.spread(at(0), [one, two].into_iter(), None, &record(&key, 1, 1).to_bytes());
        assert_eq!(sent(&mut hub), [(1, RECORD), (2, RECORD)]);
        hub.lost(at(0), &two);
        hub.compare(at(0), &book, false, both(false));
        assert_eq!(sent(&mut hub), [], "no session with two, and one is asked a moment later");
        hub.compare(at(1), &book, false, both(false));
        assert_eq!(sent(&mut hub), [(1, DIGEST)]);
        hub.compare(at(20), &book, false, both(true));
        assert_eq!(sent(&mut hub), [(2, DIGEST)]);
        hub.compare(at(200), &book, false, both(true));
        assert_eq!(sent(&mut hub), []);
        hub.greeted(at(200), one);
        hub.compare(at(200), &book, false, both(true));
        assert_eq!(sent(&mut hub), [(1, DIGEST)]);
        // A node asks at hello, and then every minute; whoever is no peer any more is forgotten.
        let mut node = Gossip::default();
        node.greeted(at(0), one);
        for (second, told) in [(0, true), (1, false), (59, false), (60, true), (61, false), (120, true)] {
            assert_eq!(node.is_due(at(second)), told, "{second}");
            node.compare(at(second), &book, true, std::iter::once((one, true)));
            assert_eq!(!sent(&mut node).is_empty(), told, "{second}");
        }
        node.compare(at(121), &book, true, std::iter::empty());
        assert!(node.partners.is_empty());
    }

    #[test]
    fn what_was_refused_is_told_once_a_second_at_most() {
        let (_, book) = book();
        let (mut gossip, start) = (Gossip::default(), Instant::now());
        for tenth in 0..30 {
            gossip.refused(start + Duration::from_millis(tenth * 100), [1; 32], b"claim");
        }
        let told: Vec<_> = std::iter::from_fn(|| gossip.next()).collect();
        assert_eq!(told.len(), 3);
        assert_eq!(gossip.heard(start, &book, [1; 32], &told[0].1), Some(Heard::Refused(b"claim")));
    }

    #[test]
    fn who_asks_for_a_lot_makes_nobody_else_wait() {
        let (key, mut book) = book();
        for number in 0..=255 {
            book.merge(&record(&key, number, 1));
        }
        let now = Instant::now();
        let (greedy, other, ended) = ([1; 32], [2; 32], [3; 32]);
        let mut gossip = Gossip::default();
        let nothing = [&[LISTING][..], &self::book().1.listing([0; 8]).to_bytes()].concat();
        for _ in 0..10_000 {
            gossip.heard(now, &book, greedy, &nothing);
            gossip.heard(now, &book, greedy, &[[WANTED].as_slice(), &[9; 800]].concat());
            gossip.heard(now, &book, greedy, &[[DIGEST].as_slice(), &[9; Digest::BYTES]].concat());
        }
        assert_eq!(gossip.waiting, MOST_FOR_ONE);
        gossip.spread(now, [greedy, other, ended].into_iter(), Some(ended), &record(&key, 3, 2).to_bytes());
        let first: Vec<_> = std::iter::from_fn(|| gossip.next()).take(3).map(|(peer, _)| peer).collect();
        assert_eq!(first, [ended, greedy, other]);
        // When all the room is taken, each other still has a little.
        for number in 0..100_u8 {
            for _ in 0..20 {
                gossip.heard(now, &book, [number; 32], &nothing);
            }
        }
        assert!(gossip.waiting <= MOST_WAITING + 100 * FEW, "{}", gossip.waiting);
        assert!(
            gossip
                .partners
                .values()
                .all(|partner| partner.waiting.len() >= FEW || partner.waiting.is_empty())
        );
    }

    #[test]
    fn strange_bytes_lead_to_nothing() {
        let book = Book::new(SigningKey::from_bytes([7; 32]).public(), "10.0.0.0/16".parse().unwrap(), 29);
        let mut gossip = Gossip::default();
        for bytes in [&[][..], &[DIGEST], &[LISTING, 1, 2], &[WANTED, 9], &[77; 40]] {
            assert_eq!(gossip.heard(Instant::now(), &book, [0; 32], bytes), None);
        }
        assert!(gossip.is_empty());
    }
}
