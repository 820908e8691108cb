//! The book: the newest verified record of each key, and who holds which seat.
//!
//! A seat is what only one member can have: a slot, or the place of the hub of a name. For each key and for each seat the highest
//! serial counts, and both only ever rise. So it does not matter in which order records arrive, how often, or from whom: books
//! that have seen the same records are the same. This rests on the signer's promise that a serial is used once; two records
//! that break it are told apart by who was there first, and the next higher serial settles it everywhere.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};

use ipnet::Ipv4Net;

use crate::network::overlap;
use crate::{MAX_SLOTS, Overlay, PublicKey, Slot};

use super::gossip::KeyId;
use super::record::{Record, RecordKind};
use super::signing::{SignedRecord, SigningPublicKey};

/// The most names of hubs that an overlay ever had.
const MAX_HUBS: usize = 256;
/// The most records of keys that are members no more.
const MAX_DEAD: usize = 8192;
/// The most records that a book holds: a member for each slot and hub, and the keys that no longer are.
pub const MAX_RECORDS: usize = MAX_SLOTS as usize + MAX_HUBS + MAX_DEAD;

/// What only one member can have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Seat {
    Slot(Slot),
    /// By name, in lower case.
    Hub(String),
}

impl Seat {
    fn of(record: &Record) -> Self {
        match record.kind {
            RecordKind::Node(slot) => Self::Slot(slot),
            RecordKind::Hub => Self::Hub(record.name.to_ascii_lowercase()),
        }
    }
}

/// The highest serial that a seat was ever given with, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Taken {
    serial: u64,
    by: PublicKey,
    name: String,
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Taken in: nobody had this key or this seat.
    New,
    /// Taken in: a higher serial for this key, or for its seat with another key (a rebuilt node).
    Newer {
        /// What it takes the place of.
        replaced: Box<Record>,
    },
    /// Held already, word for word.
    Known,
    /// Refused: its key has a record with this higher serial.
    Older {
        /// The serial that is held.
        held: u64,
    },
    /// Refused: its seat was given to somebody else with this serial, and this record's is not higher; or its key has another
    /// record with the same serial.
    SlotTaken {
        /// The name of who has it.
        by: String,
        /// With which serial.
        held: u64,
    },
    /// Refused: not signed with the overlay's signing key, or for another overlay.
    BadSignature,
    /// Refused: signed, but it cannot be in this overlay.
    Invalid(Invalid),
}

impl Merge {
    /// It was neither taken in nor known.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        !matches!(self, Self::New | Self::Newer { .. } | Self::Known)
    }
}

/// Why a signed record cannot be in this overlay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The slot is not one of the overlay's.
    #[error("its slot {0} is none of the overlay {1}")]
    Slot(Slot, Ipv4Net),
    /// A network that is not beyond the overlay.
    #[error("its network {0} overlaps the overlay {1}")]
    Network(Ipv4Net, Ipv4Net),
    /// An endpoint inside the overlay.
    #[error("its endpoint {0} is inside the overlay {1}")]
    Endpoint(String, Ipv4Net),
    /// More hubs than an overlay has.
    #[error("the overlay has had {MAX_HUBS} hubs by name already")]
    Hubs,
}

/// What a key is in the overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No record names it.
    Unknown,
    /// A member.
    Member,
    /// It was revoked.
    Revoked {
        /// With this serial.
        serial: u64,
    },
    /// Its seat or its name was given to another key.
    Displaced {
        /// The name of who has it now.
        by: String,
        /// With this serial.
        serial: u64,
    },
}

/// The newest verified records of one overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Book {
    signing_key: SigningPublicKey,
    overlay: Ipv4Net,
    slot_prefix: u8,
    /// By key: also those that are revoked, or have lost their seat.
    records: BTreeMap<PublicKey, SignedRecord>,
    /// Never forgotten: at most one for each slot and hub's name.
    seats: BTreeMap<Seat, Taken>,
}

impl Book {
    /// An empty book of the overlay with this CIDR, cut into slots of this prefix length, whose records this key signs.
    #[must_use]
    pub fn new(signing_key: SigningPublicKey, overlay: Ipv4Net, slot_prefix: u8) -> Self {
        Self { signing_key, overlay, slot_prefix, records: BTreeMap::new(), seats: BTreeMap::new() }
    }

    /// An empty book of this overlay, if its records are signed.
    #[must_use]
    pub fn of(overlay: &Overlay) -> Option<Self> {
        overlay.signing_key.map(|key| Self::new(key, overlay.cidr, overlay.slot_prefix))
    }

    /// Takes a record in, if it is signed and newer than what is held. Whatever it is, a refusal takes nothing from anybody.
    pub fn merge(&mut self, signed: &SignedRecord) -> Merge {
        let record = signed.record();
        let held = self.records.get(&record.public_key);
        if held == Some(signed) {
            return Merge::Known;
        }
        if !signed.is_signed_by(&self.signing_key, self.overlay) {
            return Merge::BadSignature;
        }
        if held.is_some_and(|held| held.says_the_same(signed)) {
            return Merge::Known;
        }
        if let Some(why) = self.invalid(record) {
            return Merge::Invalid(why);
        }
        let seat = Seat::of(record);
        let taken = self.seats.get(&seat);
        // The same serial twice: who was there first stays.
        if let Some(held) = held.map(SignedRecord::record).filter(|held| held.serial == record.serial) {
            return Merge::SlotTaken { by: held.name.clone(), held: held.serial };
        }
        let other = |taken: &&Taken| taken.serial == record.serial && taken.by != record.public_key;
        if let Some(taken) = taken.filter(other) {
            return Merge::SlotTaken { by: taken.name.clone(), held: taken.serial };
        }
        let outcome = match (held.map(SignedRecord::record), taken) {
            (Some(held), _) if held.serial > record.serial => Merge::Older { held: held.serial },
            (_, Some(taken)) if taken.serial > record.serial => {
                Merge::SlotTaken { by: taken.name.clone(), held: taken.serial }
            }
            (held, taken) => {
                let displaced = || self.records.get(&taken?.by).map(SignedRecord::record);
                match held.or_else(displaced) {
                    Some(replaced) => Merge::Newer { replaced: Box::new(replaced.clone()) },
                    None => Merge::New,
                }
            }
        };
        // Refused or not, it is remembered what the signer has said: in another order of arrival it would have been.
        if taken.is_none_or(|taken| taken.serial < record.serial) {
            let taken = Taken { serial: record.serial, by: record.public_key, name: record.name.clone() };
            self.seats.insert(seat, taken);
        }
        match self.records.entry(record.public_key) {
            Entry::Vacant(entry) => _ = entry.insert(signed.clone()),
            Entry::Occupied(mut entry) if entry.get().record().serial < record.serial => {
                entry.insert(signed.clone());
            }
            Entry::Occupied(_) => {}
        }
        if self.records.len() > MAX_RECORDS {
            self.forget_oldest();
        }
        outcome
    }

    /// Everything that is held, in the order of the keys: for other gateways, and for the disk.
    pub fn records(&self) -> impl Iterator<Item = &SignedRecord> {
        self.records.values()
    }

    /// The members: not revoked, and with no higher serial for their seat or their name. In the order of their slots, hubs first
    /// by name.
    #[must_use]
    pub fn members(&self) -> Vec<&Record> {
        let mut by_name: HashMap<String, &Record> = HashMap::new();
        for record in self.records.values().map(SignedRecord::record).filter(|record| self.is_seated(record))
        {
            let holder = by_name.entry(record.name.to_ascii_lowercase()).or_insert(record);
            if (holder.serial, holder.public_key) < (record.serial, record.public_key) {
                *holder = record;
            }
        }
        let mut members: Vec<_> = by_name.into_values().collect();
        members.sort_by(|a, b| (a.slot(), &a.name).cmp(&(b.slot(), &b.name)));
        members
    }

    /// What a key is here.
    #[must_use]
    pub fn standing(&self, key: &PublicKey) -> Standing {
        let Some(record) = self.get(key) else { return Standing::Unknown };
        if record.revoked {
            return Standing::Revoked { serial: record.serial };
        }
        if let Some(taken) = self.seats.get(&Seat::of(record)).filter(|taken| taken.by != *key) {
            return Standing::Displaced { by: taken.name.clone(), serial: taken.serial };
        }
        let mut members = self.members().into_iter();
        match members.find(|member| member.name.eq_ignore_ascii_case(&record.name)) {
            Some(other) if other.public_key != *key => {
                Standing::Displaced { by: other.name.clone(), serial: other.serial }
            }
            _ => Standing::Member,
        }
    }

    /// The newest record of a key.
    #[must_use]
    pub fn get(&self, key: &PublicKey) -> Option<&Record> {
        self.records.get(key).map(SignedRecord::record)
    }

    /// The highest serial of all.
    #[must_use]
    pub fn highest_serial(&self) -> u64 {
        let records = self.records.values().map(|record| record.record().serial);
        records.chain(self.seats.values().map(|taken| taken.serial)).max().unwrap_or(0)
    }

    /// The overlay that it is of.
    #[must_use]
    pub fn overlay(&self) -> Ipv4Net {
        self.overlay
    }

    /// Whose signature it believes.
    #[must_use]
    pub fn signing_key(&self) -> SigningPublicKey {
        self.signing_key
    }

    /// The records of the keys with ids from `from` to `to`.
    pub(super) fn between(&self, from: KeyId, to: KeyId) -> impl Iterator<Item = &SignedRecord> {
        let end = |id: KeyId, fill: u8| {
            let mut key = [fill; 32];
            key.iter_mut().zip(id).for_each(|(to, from)| *to = from);
            PublicKey(key)
        };
        // A range that ends before it begins would panic.
        let keys = (from <= to).then(|| end(from, 0)..=end(to, 0xff));
        keys.into_iter().flat_map(|keys| self.records.range(keys)).map(|(_, record)| record)
    }

    fn is_seated(&self, record: &Record) -> bool {
        let holds = |taken: &Taken| taken.by == record.public_key && taken.serial == record.serial;
        !record.revoked && self.seats.get(&Seat::of(record)).is_some_and(holds)
    }

    /// Lets the record with the lowest serial go that is no member's. What it said of its seat stays.
    fn forget_oldest(&mut self) {
        let records = self.records.values().map(SignedRecord::record);
        let dead = records.filter(|record| !self.is_seated(record));
        if let Some(key) = dead.min_by_key(|r| (r.serial, r.public_key)).map(|record| record.public_key) {
            self.records.remove(&key);
        }
    }

    fn invalid(&self, record: &Record) -> Option<Invalid> {
        let overlay = self.overlay;
        if let Some(slot) = record.slot()
            && (!overlay.contains(&slot.net()) || slot.net().prefix_len() != self.slot_prefix)
        {
            return Some(Invalid::Slot(slot, overlay));
        }
        if let Some(net) = record.networks.iter().find(|net| overlap(**net, overlay)) {
            return Some(Invalid::Network(*net, overlay));
        }
        let mut endpoints = record.endpoints.iter();
        if let Some(inside) =
            endpoints.find(|endpoint| endpoint.ipv4().is_some_and(|ip| overlay.contains(&ip)))
        {
            return Some(Invalid::Endpoint(inside.to_string(), overlay));
        }
        let seat = Seat::of(record);
        let hubs = || self.seats.keys().filter(|seat| matches!(seat, Seat::Hub(_))).count();
        if record.is_hub() && !self.seats.contains_key(&seat) && hubs() >= MAX_HUBS {
            return Some(Invalid::Hubs);
        }
        None
    }
}
