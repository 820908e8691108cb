//! How signed records spread: a node and its hubs tell each other what they hold, and hand on what the other lacks. Hubs reach
//! each other through the nodes that both have.
//!
//! ```text
//! at hello:      digest → listings of the ranges that differ → the records that are missing there, and a wish for those missing here
//! at a change:   the record itself, to everybody but where it came from; who knows it already hands it on no further
//! ```

use overlay_config::membership::{Book, Digest, KeyId, Listing};
use std::collections::VecDeque;

/// Messages that wait to be sent; beyond that they are dropped, and the next hello makes it good.
const MOST_WAITING: usize = 20_000;

/// The most keys in one wish.
const MOST_WANTED: usize = 100;

const DIGEST: u8 = 1;
const LISTING: u8 = 2;
const WANTED: u8 = 3;
const RECORD: u8 = 4;

/// What is to be told to whom.
#[derive(Debug, Default)]
pub struct Gossip {
    waiting: VecDeque<([u8; 32], Vec<u8>)>,
}

impl Gossip {
    /// A peer has said hello.
    pub fn greeted(&mut self, book: &Book, peer: [u8; 32]) {
        self.tell(peer, DIGEST, &book.digest().to_bytes());
    }

    /// A peer has told something: the record in it, if it is one.
    pub fn heard<'a>(&mut self, book: &Book, peer: [u8; 32], bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (kind, body) = bytes.split_first()?;
        match *kind {
            DIGEST => {
                let theirs = Digest::from_bytes(body.try_into().ok()?);
                for from in book.digest().differences(&theirs) {
                    self.list(book, peer, from);
                }
            }
            LISTING => {
                let theirs = Listing::from_bytes(body)?;
                for record in book.missing(&theirs) {
                    self.tell(peer, RECORD, &record.to_bytes());
                }
                let wanted: Vec<KeyId> = book.wanted(&theirs).take(MOST_WANTED).collect();
                if !wanted.is_empty() {
                    self.tell(peer, WANTED, &wanted.concat());
                }
            }
            WANTED => {
                for id in body.as_chunks::<8>().0.iter().take(MOST_WANTED) {
                    if let Some(record) = book.find(id) {
                        self.tell(peer, RECORD, &record.to_bytes());
                    }
                }
            }
            RECORD => return Some(body),
            // Of a later version.
            _ => {}
        }
        None
    }

    /// A record is new here: `peers` are to know.
    pub fn spread(&mut self, peers: impl Iterator<Item = [u8; 32]>, record: &[u8]) {
        for peer in peers {
            self.tell(peer, RECORD, record);
        }
    }

    /// The next message and who is to have it.
    pub fn next(&mut self) -> Option<([u8; 32], Vec<u8>)> {
        self.waiting.pop_front()
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn list(&mut self, book: &Book, peer: [u8; 32], from: KeyId) {
        let mut next = Some(from);
        while let Some(from) = next {
            let listing = book.listing(from);
            self.tell(peer, LISTING, &listing.to_bytes());
            next = listing.next();
        }
    }

    fn tell(&mut self, peer: [u8; 32], kind: u8, body: &[u8]) {
        if self.waiting.len() < MOST_WAITING {
            self.waiting.push_back((peer, [&[kind], body].concat()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use overlay_config::membership::{MAX_RECORD_BYTES, Record, RecordKind, SignedRecord, SigningKey};
    use overlay_config::{PublicKey, Slot};
    use overlay_engine::control::MAX_MEMBERSHIP;

    const _: () = assert!(Digest::BYTES < MAX_MEMBERSHIP && Listing::MAX_BYTES < MAX_MEMBERSHIP);
    const _: () = assert!(MAX_RECORD_BYTES < MAX_MEMBERSHIP && MOST_WANTED * 8 < MAX_MEMBERSHIP);

    fn record(key: &SigningKey, number: u8, serial: u64) -> SignedRecord {
        let slot = Slot::new(format!("10.0.{number}.0/29").parse().unwrap()).unwrap();
        let mut public_key = [number; 32];
        public_key[0] = number.wrapping_mul(37);
        let record = Record {
            name: format!("node-{number}"),
            public_key: PublicKey(public_key),
            kind: RecordKind::Node(slot),
            hubs: Vec::new(),
            networks: Vec::new(),
            endpoints: Vec::new(),
            serial,
            revoked: false,
        };
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
        at_a.greeted(&a, [0; 32]);
        at_b.greeted(&b, [0; 32]);
        let mut told = 0;
        let mut pass = |from: &mut Gossip, to: &mut Gossip, book: &mut Book| {
            while let Some((_, bytes)) = from.next() {
                told += 1;
                assert!(bytes.len() <= MAX_MEMBERSHIP);
                if let Some(bytes) = to.heard(book, [0; 32], &bytes) {
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
        at_a.greeted(&a, [0; 32]);
        let (_, digest) = at_a.next().unwrap();
        assert_eq!(at_b.heard(&b, [0; 32], &digest), None);
        assert!(at_b.is_empty(), "nothing more to say");
    }

    #[test]
    fn strange_bytes_lead_to_nothing() {
        let book = Book::new(SigningKey::from_bytes([7; 32]).public(), "10.0.0.0/16".parse().unwrap(), 29);
        let mut gossip = Gossip::default();
        for bytes in [&[][..], &[DIGEST], &[LISTING, 1, 2], &[WANTED, 9], &[77; 40]] {
            assert_eq!(gossip.heard(&book, [0; 32], bytes), None);
        }
        assert!(gossip.is_empty());
    }
}
