//! How two gateways find what the other lacks, with bounded traffic: a digest of 64 numbers first, then listings of the ranges
//! that differ, then the records themselves.

use crate::PublicKey;

use super::book::Book;
use super::signing::SignedRecord;

/// The ranges of a digest: the upper 6 bits of a key.
const RANGES: usize = 64;

/// The most entries of a listing: with its head it fills a control message as a record does.
const MAX_HELD: usize = 62;

/// The first 8 bytes of a public key.
pub type KeyId = [u8; 8];

/// The id of a key.
#[must_use]
pub(super) fn key_id(key: &PublicKey) -> KeyId {
    let mut id = KeyId::default();
    id.iter_mut().zip(key.0).for_each(|(to, from)| *to = from);
    id
}

/// A number for each range of keys, the same for two books that hold the same serials of the same keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest([u64; RANGES]);

impl Digest {
    /// The bytes of a digest.
    pub const BYTES: usize = RANGES * 8;

    /// As it travels.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        for (to, from) in bytes.chunks_exact_mut(8).zip(self.0) {
            to.copy_from_slice(&from.to_be_bytes());
        }
        bytes
    }

    /// A digest that has travelled.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let mut digest = Self([0; RANGES]);
        for (to, from) in digest.0.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *to = u64::from_be_bytes(*from);
        }
        digest
    }

    /// Where the first listing of each range that differs begins, in order.
    pub fn differences<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = KeyId> + 'a {
        let pairs = self.0.iter().zip(&other.0).zip(0_u8..);
        pairs.filter(|((a, b), _)| a != b).map(|(_, range)| [range << 2, 0, 0, 0, 0, 0, 0, 0])
    }
}

/// One key that a book holds, and its serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The key.
    pub id: KeyId,
    /// The serial of its newest record.
    pub serial: u64,
}

/// Every key that a book holds from `from` to `to`, both included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    from: KeyId,
    to: KeyId,
    held: Vec<Held>,
}

impl Listing {
    /// The most bytes of a listing.
    pub const MAX_BYTES: usize = 16 + 16 * MAX_HELD;

    /// As it travels: the two ends, then each key's id and serial, in the order of the ids.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = [self.from, self.to].concat();
        for Held { id, serial } in &self.held {
            bytes.extend(id);
            bytes.extend(serial.to_be_bytes());
        }
        bytes
    }

    /// A listing that has travelled. `None` when it is none: not whole entries, too many, or out of order.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (from, rest) = bytes.split_first_chunk()?;
        let (to, rest) = rest.split_first_chunk()?;
        let (entries, []) = rest.as_chunks::<16>() else { return None };
        if entries.len() > MAX_HELD || from > to {
            return None;
        }
        let mut held = Vec::with_capacity(entries.len());
        for entry in entries {
            let (id, serial) = (entry.first_chunk()?, entry.last_chunk()?);
            held.push(Held { id: *id, serial: u64::from_be_bytes(*serial) });
        }
        let sorted = held.is_sorted_by(|a, b| a.id < b.id);
        let inside = held.iter().all(|held| (from..=to).contains(&&held.id));
        (sorted && inside).then_some(Self { from: *from, to: *to, held })
    }

    /// Where the next listing of this range begins; `None` when this one ends it.
    #[must_use]
    pub fn next(&self) -> Option<KeyId> {
        let next = u64::from_be_bytes(self.to).checked_add(1)?.to_be_bytes();
        (range_of(&next) == range_of(&self.to)).then_some(next)
    }
}

fn range_of(id: &KeyId) -> usize {
    let [first, ..] = id;
    usize::from(first >> 2)
}

/// A number for a key and its serial that its neighbours say nothing about (the finaliser of SplitMix64, Steele et al. 2014).
fn mix(id: &KeyId, serial: u64) -> u64 {
    let mut z = u64::from_be_bytes(*id) ^ serial.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Book {
    /// The digest of everything held.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut digest = Digest([0; RANGES]);
        for record in self.records() {
            let id = key_id(&record.record().public_key);
            if let Some(sum) = digest.0.get_mut(range_of(&id)) {
                *sum = sum.wrapping_add(mix(&id, record.record().serial));
            }
        }
        digest
    }

    /// What is held from `from` on to the end of its range of the digest, or as much of it as a listing takes.
    #[must_use]
    pub fn listing(&self, from: KeyId) -> Listing {
        let [first, ..] = from;
        let end = [first | 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let mut held: Vec<Held> = self
            .between(from, end)
            .map(|signed| signed.record())
            .map(|record| Held { id: key_id(&record.public_key), serial: record.serial })
            .take(MAX_HELD + 1)
            .collect();
        // Two keys with the same first 8 bytes do not happen; if they do, one of them is listed.
        held.dedup_by_key(|held| held.id);
        let more = held.len() > MAX_HELD;
        held.truncate(MAX_HELD);
        let to = held.last().filter(|_| more).map_or(end, |last| last.id);
        Listing { from, to, held }
    }

    /// The records of a listing's range that whoever sent it lacks, or has older ones of.
    pub fn missing<'a>(&'a self, theirs: &'a Listing) -> impl Iterator<Item = &'a SignedRecord> + 'a {
        self.between(theirs.from, theirs.to).filter(|ours| {
            let id = key_id(&ours.record().public_key);
            let at = theirs.held.binary_search_by(|held| held.id.cmp(&id)).ok();
            let held = at.and_then(|at| theirs.held.get(at));
            held.is_none_or(|held| held.serial < ours.record().serial)
        })
    }

    /// The keys of a listing that are not held here, or with an older serial: to ask for with [`Book::find`] over there.
    pub fn wanted<'a>(&'a self, theirs: &'a Listing) -> impl Iterator<Item = KeyId> + 'a {
        let older = |held: &&Held| self.find(&held.id).is_none_or(|ours| ours.record().serial < held.serial);
        theirs.held.iter().filter(older).map(|held| held.id)
    }

    /// The newest record of the key with this id.
    #[must_use]
    pub fn find(&self, id: &KeyId) -> Option<&SignedRecord> {
        self.between(*id, *id).next()
    }
}
