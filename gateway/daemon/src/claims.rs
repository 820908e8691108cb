//! Records that are refused: who has handed one over, and whose place it claims, are told.
//!
//! A record that is not signed, or not newer than what is held, changes nothing. But somebody has it, and believes in it or means harm:
//! the member whose slot, name or key it names should know.

use crate::status::Warning;
use overlay_config::membership::{Book, Merge, Record, SignedRecord};
use std::time::{Duration, Instant};

/// How long a refused claim is shown, and how many.
const SHOWN: Duration = Duration::from_secs(3600);
const MOST: usize = 4;

/// Between two claims from the overlay of which others are told.
const TELL_PACE: Duration = Duration::from_millis(200);

const OLDER: u8 = 1;
const TAKEN: u8 = 2;
const UNSIGNED: u8 = 3;
const INVALID: u8 = 4;

/// A record that somebody has refused, as it is told to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The record.
    pub record: SignedRecord,
    reason: u8,
    /// The serial that is held.
    held: u64,
}

impl Claim {
    /// The claim of a record that came to this; none when it was taken in.
    pub fn of(record: &SignedRecord, outcome: &Merge) -> Option<Self> {
        let (reason, held) = match outcome {
            Merge::New | Merge::Newer { .. } | Merge::Known => return None,
            Merge::Older { held } => (OLDER, *held),
            Merge::SlotTaken { held, .. } => (TAKEN, *held),
            Merge::BadSignature => (UNSIGNED, 0),
            Merge::Invalid(_) => (INVALID, 0),
        };
        Some(Self { record: record.clone(), reason, held })
    }

    /// As it travels: why, the serial that is held, the record.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&[self.reason], self.held.to_be_bytes().as_slice(), &self.record.to_bytes()].concat()
    }

    /// The claim that these bytes are.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (reason, rest) = bytes.split_first()?;
        let (held, record) = rest.split_first_chunk()?;
        let record = SignedRecord::from_bytes(record).ok()?;
        Some(Self { record, reason: *reason, held: u64::from_be_bytes(*held) })
    }

    /// Whether it is to be told when it came through the overlay: there older records pass from one to another as well, and mean
    /// nothing but that somebody was away.
    pub fn is_worse_than_old(&self) -> bool {
        matches!(self.reason, UNSIGNED | INVALID)
    }

    /// The members of `book` whose slot, name or key it claims.
    pub fn concerns<'a>(&self, book: &'a Book) -> impl Iterator<Item = &'a Record> {
        let (claim, unsigned) = (self.record.record().clone(), self.reason == UNSIGNED);
        book.members().into_iter().filter(move |member| {
            let place = member.slot() == claim.slot() && claim.slot().is_some();
            let named = place || member.name.eq_ignore_ascii_case(&claim.name);
            if member.public_key == claim.public_key { unsigned } else { named }
        })
    }

    fn why(&self) -> String {
        match self.reason {
            OLDER => format!("its key has a newer record, with serial {}", self.held),
            TAKEN => format!("that is taken, with serial {}, and this one is not newer", self.held),
            UNSIGNED => "it is not signed with the signing key of this overlay".to_owned(),
            _ => "it cannot be in this overlay".to_owned(),
        }
    }
}

/// What was refused lately, for the operator of this host.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    shown: Vec<(Warning, Instant)>,
    /// When others were told last of what came through the overlay.
    told: Option<Instant>,
}

impl Claims {
    /// A claim to the place of this host, `name`, was refused by a gateway.
    pub fn against(&mut self, now: Instant, name: &str, by: &str, claim: &Claim) {
        let text = format!(
            "{by} refused a record that claims the place of this host, `{name}`, for the key {}: {} ({})",
            claim.record.record().public_key,
            claim.why(),
            claim.record.record(),
        );
        let fix = "nothing has changed here; if nobody has just set this machine up anew, find out who has that record";
        self.note(now, Warning { code: "claim-refused".to_owned(), text, fix: fix.to_owned() });
    }

    /// A record that this host had handed on was refused.
    pub fn refused(&mut self, now: Instant, by: &str, claim: &Claim) {
        let text =
            format!("{by} refused a record of this host's: {} ({})", claim.why(), claim.record.record());
        let fix = "fetch the records anew from the administrator's folder";
        self.note(now, Warning { code: "record-refused".to_owned(), text, fix: fix.to_owned() });
    }

    /// Whether others are to be told now of a claim that came through the overlay: whoever sends one after the other does not keep this
    /// gateway busy with finding out whom they concern.
    pub fn may_tell(&mut self, now: Instant) -> bool {
        let rested = self.told.is_none_or(|at| now.saturating_duration_since(at) >= TELL_PACE);
        if rested {
            self.told = Some(now);
        }
        rested
    }

    fn note(&mut self, now: Instant, warning: Warning) {
        let known = self.shown.iter().position(|(known, _)| *known == warning);
        match known {
            Some(place) => drop(self.shown.remove(place)),
            None => tracing::warn!("{}", warning.text),
        }
        self.shown.push((warning, now));
        if self.shown.len() > MOST {
            self.shown.remove(0);
        }
    }

    /// What is to be shown.
    pub fn warnings(&self, now: Instant) -> impl Iterator<Item = Warning> + '_ {
        let recent = self.shown.iter().filter(move |(_, at)| now.saturating_duration_since(*at) < SHOWN);
        recent.map(|(warning, _)| warning.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::tests::node;
    use overlay_config::DEFAULT_OVERLAY;
    use overlay_config::membership::SigningKey;

    fn record(signer: u8, key: u8, octet: u8, name: &str, serial: u64) -> SignedRecord {
        let record = node([key; 32], name, &format!("172.16.8.{octet}/29"), serial);
        SigningKey::from_bytes([signer; 32]).sign(record, DEFAULT_OVERLAY).unwrap()
    }

    #[test]
    fn a_claim_concerns_who_has_the_place_the_name_or_the_key() {
        let mut book = Book::new(SigningKey::from_bytes([1; 32]).public(), DEFAULT_OVERLAY, 29);
        for (key, octet, name) in [(1, 56, "one"), (2, 64, "two"), (3, 72, "three")] {
            assert_eq!(book.merge(&record(1, key, octet, name, 5)), Merge::New);
        }
        let mut concerned = |record: SignedRecord| {
            let outcome = book.merge(&record);
            let claim = Claim::of(&record, &outcome)?;
            assert_eq!(Claim::from_bytes(&claim.to_bytes()), Some(claim.clone()));
            let names: Vec<_> = claim.concerns(&book).map(|member| member.name.clone()).collect();
            Some((names.concat(), claim.is_worse_than_old()))
        };
        let told = |names: &str, worse| Some((names.to_owned(), worse));
        assert_eq!(concerned(record(1, 9, 56, "new", 4)), told("one", false), "an older claim to a slot");
        assert_eq!(concerned(record(2, 9, 56, "new", 9)), told("one", true), "an unsigned one");
        assert_eq!(concerned(record(2, 9, 80, "Two", 9)), told("two", true), "a name");
        assert_eq!(concerned(record(2, 3, 80, "four", 9)), told("three", true), "a key");
        assert_eq!(
            concerned(record(1, 3, 72, "three", 4)),
            told("", false),
            "its own old record is no claim"
        );
        assert_eq!(concerned(record(1, 9, 56, "one", 9)), None, "a rebuilt node takes its place");
        assert_eq!(Claim::from_bytes(b"\x03short"), None);
    }

    #[test]
    fn the_last_claims_are_shown_for_an_hour() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        for n in 0..20 {
            let claim = Claim::of(&record(2, n % 6, 56, "one", 1), &Merge::BadSignature).unwrap();
            claims.against(now + Duration::from_secs(n.into()), "one", "`hub-a`", &claim);
        }
        let shown: Vec<_> = claims.warnings(now + Duration::from_secs(60)).collect();
        assert_eq!(shown.len(), MOST);
        assert!(shown.iter().all(|warning| warning.code == "claim-refused"), "{shown:?}");
        assert_eq!(claims.warnings(now + SHOWN + Duration::from_secs(20)).count(), 0);
        let told = (0..1_000).filter(|n| claims.may_tell(now + Duration::from_millis(*n)));
        assert_eq!(told.count(), 5, "in a second");
    }
}
