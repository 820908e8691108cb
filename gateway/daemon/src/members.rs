//! The signed members of the overlay, as this host knows them: read at the start, merged with what comes by command or from other
//! gateways, and kept in the state folder, so that the next start needs neither.

use crate::claims::{Claim, Claims};
use crate::config_file::{Origin, in_words};
use crate::exit::Failure;
use crate::state::StateFolder;
use crate::status::Warning;
use overlay_config::Config;
use overlay_config::membership::{
    Applied, Book, Merge, RECORDS_FILE, Record, RecordLines, SignedRecord, Standing,
};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// The members that records name, and where they are kept.
#[derive(Clone, Debug)]
pub struct Members {
    /// None: only the file says who is a member.
    book: Option<Book>,
    state: StateFolder,
    /// What could not be read, or is not believed.
    unread: Vec<Warning>,
    /// Where the file and the records do not agree, and what the records say of this host itself.
    disagreements: Vec<Warning>,
    /// More is known than is kept.
    unkept: bool,
    /// What was refused lately, here or by others, that the operator should know.
    pub claims: Claims,
}

/// What became of one record, as `peer add --json` says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordOutcome {
    /// The member's name.
    pub name: String,
    /// `node` or `hub`.
    pub kind: String,
    /// A node's slot.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slot: Option<String>,
    /// Its key.
    pub public_key: String,
    /// The record's serial.
    pub serial: u64,
    /// It ends the membership.
    pub revoked: bool,
    /// `new`, `newer` (it takes the place of `replaced`), or `known`.
    pub outcome: String,
    /// What it takes the place of, in words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub replaced: Option<String>,
}

impl Members {
    /// The members of the file beside the configuration and of the state folder. Lines that are damaged or not believed are
    /// reported and skipped.
    pub fn open(config: &Config, origin: &Origin, state: &StateFolder) -> Self {
        let mut members = Self {
            book: None,
            state: state.clone(),
            unread: Vec::new(),
            disagreements: Vec::new(),
            unkept: false,
            claims: Claims::default(),
        };
        members.reopen(config, origin);
        members
    }

    /// Reads both files again, for a configuration that may be of another overlay. What is known of the same overlay stays known.
    pub fn reopen(&mut self, config: &Config, origin: &Origin) {
        self.unread.clear();
        let fresh = Book::of(&config.overlay).filter(|_| is_signed(config));
        let same =
            |old: &Book, new: &Book| (old.signing_key(), old.overlay()) == (new.signing_key(), new.overlay());
        self.book = match (self.book.take(), fresh) {
            (Some(old), Some(new)) if same(&old, &new) => Some(old),
            (_, fresh) => fresh,
        };
        if self.book.is_none() {
            return;
        }
        let (path, beside) = origin.records();
        self.read(&path.display().to_string(), beside);
        let kept = self.state.records();
        let path = self.state.path().join(RECORDS_FILE).display().to_string();
        let text = kept.as_deref().unwrap_or_default().to_vec();
        let whole = self.read(&path, kept);
        let Some(book) = &self.book else { return };
        if book.records().next().is_none() && config.peers.is_empty() {
            let text = "no member is known: neither the file nor a signed record names one".to_owned();
            let fix = "put members.records of the pack beside the configuration and reload, or `overlay-gw peer add FILE`";
            self.unread.push(warning("no-members", text, fix));
        } else if RecordLines::write(book.records()).as_bytes() != text {
            // A signing key that was mistyped must not cost the records of the right one.
            if !whole {
                self.state.set_records_aside();
            }
            self.unkept = true;
            self.keep();
        }
        for warning in &self.unread {
            tracing::warn!("{}", warning.text);
        }
    }

    /// Merges a file of records. False: something of it was skipped.
    fn read(&mut self, path: &str, bytes: std::io::Result<Vec<u8>>) -> bool {
        let Some(book) = &mut self.book else { return true };
        let before = self.unread.len();
        let mut skipped = |what: String| {
            let fix = "the others are in use; fetch it anew from the administrator's folder, or from a hub by waiting";
            self.unread.push(warning("records", format!("{path}: {what}"), fix));
        };
        let bytes = bytes.unwrap_or_else(|error| {
            skipped(in_words(&error));
            Vec::new()
        });
        let lines = RecordLines::parse(&bytes);
        for bad in &lines.bad {
            skipped(format!("{bad}; this record is skipped"));
        }
        for (line, record) in &lines.records {
            // Older ones are what another file has newer.
            if let outcome @ (Merge::BadSignature | Merge::Invalid(_)) = book.merge(record) {
                let why = refusal(record.record(), &outcome).unwrap_or_default();
                skipped(format!("line {line}: {why}; this record is skipped"));
            }
        }
        self.unread.len() == before
    }

    /// What the engine is told: the file and the members together.
    pub fn apply(&mut self, file: &Config) -> Config {
        let Some(book) = &self.book else {
            self.disagreements.clear();
            return file.clone();
        };
        let Applied { config, warnings } = file.with_members(book);
        let mut now: Vec<Warning> = warnings.iter().map(Warning::from).collect();
        now.extend(own_warning(file, book));
        for warning in now.iter().filter(|warning| !self.disagreements.contains(warning)) {
            tracing::warn!("{}", warning.text);
        }
        self.disagreements = now;
        config
    }

    /// What the operator should know.
    pub fn warnings(&self, now: Instant) -> impl Iterator<Item = Warning> + '_ {
        self.unread.iter().chain(&self.disagreements).cloned().chain(self.claims.warnings(now))
    }

    /// Of these records those that would be refused, one after the other.
    pub fn refused(&self, records: &[SignedRecord]) -> Vec<Claim> {
        let Some(mut book) = self.book.clone() else { return Vec::new() };
        records.iter().filter_map(|record| Claim::of(record, &book.merge(record))).collect()
    }

    /// The book, for the engine: what to hand on to other gateways. `None` when membership is by file.
    #[must_use]
    pub fn book(&self) -> Option<&Book> {
        self.book.as_ref()
    }

    /// Takes records in that the operator has handed over: all of them, or none when one is refused.
    ///
    /// # Errors
    /// Every refusal with its reason; records that cannot be kept on disk.
    pub fn add(&mut self, records: &[SignedRecord]) -> Result<Vec<RecordOutcome>, Failure> {
        let Some(book) = &self.book else {
            return Err(Failure::bad_input(
                "the members of this overlay are those of the configuration file: it takes no signed records",
                "set signing_key in [overlay] (`overlay-gw plan` makes one), or add the peer to the file and `overlay-gw reload`",
            ));
        };
        let mut book = book.clone();
        let outcomes: Vec<_> = records.iter().map(|record| (record.record(), book.merge(record))).collect();
        let refused: Vec<_> =
            outcomes.iter().filter_map(|(record, outcome)| refusal(record, outcome)).collect();
        if !refused.is_empty() {
            for why in &refused {
                tracing::warn!("a record was refused: {why}");
            }
            return Err(Failure::bad_input(
                format!("refused, and nothing was changed: {}", refused.join("; ")),
                "hand over the newest record that `overlay-gw plan add-node` or `plan revoke` wrote, of this overlay",
            ));
        }
        self.state.set_records(&RecordLines::write(book.records())).map_err(|error| {
            Failure::bad_input(
                format!("the records cannot be kept, and nothing was changed: {}", in_words(&error)),
                format!("check the disk and the folder {}", self.state.path().display()),
            )
        })?;
        self.book = Some(book);
        self.unkept = false;
        Ok(outcomes.into_iter().map(|(record, outcome)| told(record, &outcome)).collect())
    }

    /// Takes records in that other gateways handed on, each for itself. What became of each; afterwards the caller puts
    /// [`Members::apply`] in force if something has changed. Refusals are logged: they are how a replay or a stale neighbour shows.
    /// They are kept by the next [`Members::keep`]: a node that joins a large overlay does not write its file for each.
    pub fn merge_from_network(&mut self, records: &[&[u8]]) -> Vec<NetworkOutcome> {
        let Some(book) = &mut self.book else {
            return records.iter().map(|_| NetworkOutcome::NotWanted).collect();
        };
        let mut outcomes = Vec::with_capacity(records.len());
        for bytes in records {
            outcomes.push(match SignedRecord::from_bytes(bytes) {
                Err(error) => {
                    tracing::info!(%error, "bytes from the overlay are no record");
                    NetworkOutcome::Malformed
                }
                Ok(record) => {
                    let outcome = book.merge(&record);
                    // A refused one may be remembered as well.
                    self.unkept |= !matches!(outcome, Merge::Known | Merge::BadSignature | Merge::Invalid(_));
                    match (&outcome, refusal(record.record(), &outcome)) {
                        (_, Some(why)) => tracing::info!("a record from the overlay was refused: {why}"),
                        (Merge::Known, _) => {}
                        _ => tracing::info!("a record from the overlay: {}", record.record()),
                    }
                    NetworkOutcome::Merged(outcome)
                }
            });
        }
        outcomes
    }

    /// Whether [`Members::keep`] has something to do.
    #[must_use]
    pub fn is_unkept(&self) -> bool {
        self.unkept
    }

    /// Writes what is known to the state folder. When that fails it is said, and tried again by the next one.
    pub fn keep(&mut self) {
        let Some(book) = &self.book else { return };
        match self.state.set_records(&RecordLines::write(book.records())) {
            Ok(()) => self.unkept = false,
            Err(error) => {
                tracing::warn!("signed records cannot be kept for the next start: {}", in_words(&error))
            }
        }
    }
}

/// What became of bytes from another gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkOutcome {
    /// A record, and what became of it.
    Merged(Merge),
    /// No record.
    Malformed,
    /// Membership is by file here.
    NotWanted,
}

fn is_signed(config: &Config) -> bool {
    config.overlay.membership == overlay_config::Membership::Signed
}

/// Why a record was not taken in.
fn refusal(record: &Record, outcome: &Merge) -> Option<String> {
    let why = match outcome {
        Merge::New | Merge::Newer { .. } | Merge::Known => return None,
        Merge::Older { held } => format!("its key has a record with serial {held}"),
        Merge::SlotTaken { by, held } => {
            format!("its place is taken by {by}, with serial {held}, and this one is not newer")
        }
        Merge::BadSignature => "it is not signed with the signing key of this overlay".to_owned(),
        Merge::Invalid(why) => why.to_string(),
    };
    Some(format!("{record}: {why}"))
}

fn told(record: &Record, outcome: &Merge) -> RecordOutcome {
    let (outcome, replaced) = match outcome {
        Merge::Newer { replaced } => ("newer", Some(replaced.to_string())),
        Merge::Known => ("known", None),
        _ => ("new", None),
    };
    RecordOutcome {
        name: record.name.clone(),
        kind: if record.is_hub() { "hub" } else { "node" }.to_owned(),
        slot: record.slot().map(|slot| slot.to_string()),
        public_key: record.public_key.to_string(),
        serial: record.serial,
        revoked: record.revoked,
        outcome: outcome.to_owned(),
        replaced,
    }
}

/// What the records say of this host itself that its operator should know.
fn own_warning(file: &Config, book: &Book) -> Option<Warning> {
    let own = file.private_key()?.public();
    let name = file.name();
    match book.standing(&own) {
        Standing::Revoked { serial } => Some(warning(
            "revoked",
            format!(
                "the membership of this host, `{name}`, was revoked (serial {serial}): the others end their sessions with it"
            ),
            "if it is to be a member, ask the administrator for a new pack (`overlay-gw plan add-node`)",
        )),
        Standing::Displaced { by, serial } => Some(warning(
            "displaced",
            format!(
                "the place of this host, `{name}`, was given to another key: `{by}` has it, with serial {serial}"
            ),
            "stop this one if the machine was rebuilt; else ask the administrator for a pack with a slot of its own",
        )),
        Standing::Unknown | Standing::Member => None,
    }
}

fn warning(code: &str, text: String, fix: &str) -> Warning {
    Warning { code: code.to_owned(), text, fix: fix.to_owned() }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cli::Global;
    use crate::config_file::Kind;
    use overlay_config::membership::{RecordKind, SigningKey};
    use overlay_config::{DEFAULT_OVERLAY, HostFacts, Overrides, PublicKey, Slot};
    use std::fs;
    use std::path::Path;

    fn administrator() -> SigningKey {
        SigningKey::from_bytes([42; 32])
    }

    /// A node's record that says nothing but what it must.
    pub fn node(public_key: [u8; 32], name: &str, slot: &str, serial: u64) -> Record {
        Record {
            public_key: PublicKey(public_key),
            name: name.to_owned(),
            kind: RecordKind::Node(Slot::new(slot.parse().unwrap()).unwrap()),
            serial,
            revoked: false,
            hubs: Vec::new(),
            networks: Vec::new(),
            endpoints: Vec::new(),
        }
    }

    fn record(key: u8, octet: u8, serial: u64) -> SignedRecord {
        let record = node([key; 32], &format!("cluster-{octet}"), &format!("172.16.8.{octet}/29"), serial);
        administrator().sign(record, DEFAULT_OVERLAY).unwrap()
    }

    /// A hub whose file names nobody, its origin, and its members.
    fn hub(folder: &Path) -> (Config, Origin, Members) {
        let config = folder.join("config.toml");
        let key = administrator().public();
        let text = format!(
            "version = 1\n[hub]\nname = \"hub-a\"\nlisten_port = 1\n[overlay]\nsigning_key = \"{key}\"\n"
        );
        fs::write(&config, text).unwrap();
        let global = Global { config: Some(config), state_dir: None, control: None, json: false, verbose: 0 };
        let origin = Origin::new(Kind::Hub, &global, Overrides::default());
        let file = origin.load(&HostFacts::default()).unwrap();
        let state = StateFolder::new(Some(&folder.join("state")), "");
        state.create().unwrap();
        let members = Members::open(&file, &origin, &state);
        (file, origin, members)
    }

    fn names(file: &Config, members: &mut Members) -> Vec<String> {
        members.apply(file).peers.into_iter().map(|peer| peer.name).collect()
    }

    #[test]
    fn records_of_other_gateways_are_taken_in_each_for_itself_and_kept_for_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let (file, origin, mut members) = hub(folder.path());
        let forged = SigningKey::from_bytes([1; 32]).sign(record(9, 88, 9).record().clone(), DEFAULT_OVERLAY);
        let all = [
            record(1, 56, 1).to_bytes(),
            b"noise".to_vec(),
            forged.unwrap().to_bytes(),
            record(2, 56, 1).to_bytes(),
            record(3, 64, 2).to_bytes(),
        ];
        let outcomes = members.merge_from_network(&all.each_ref().map(Vec::as_slice));
        use NetworkOutcome::{Malformed, Merged};
        let taken = Merge::SlotTaken { by: "cluster-56".into(), held: 1 };
        let expected =
            [Merged(Merge::New), Malformed, Merged(Merge::BadSignature), Merged(taken), Merged(Merge::New)];
        assert_eq!(outcomes, expected);
        assert_eq!(names(&file, &mut members), ["cluster-56", "cluster-64"]);
        assert!(members.is_unkept());
        members.keep();
        assert!(!members.is_unkept());
        members.merge_from_network(&[&all[0]]);
        assert!(!members.is_unkept(), "what was known costs no writing");
        let state = members.state.clone();
        let mut again = Members::open(&file, &origin, &state);
        assert_eq!(names(&file, &mut again), ["cluster-56", "cluster-64"]);
    }

    #[test]
    fn what_cannot_be_kept_is_not_taken_in_by_command() {
        let folder = tempfile::tempdir().unwrap();
        let (file, _, mut members) = hub(folder.path());
        // Stands for a disk that takes nothing.
        let in_the_way = members.state.path().join(format!("{RECORDS_FILE}.tmp"));
        fs::create_dir(&in_the_way).unwrap();
        assert!(members.add(&[record(1, 56, 1)]).unwrap_err().text.contains("nothing was changed"));
        assert_eq!(names(&file, &mut members), [""; 0]);
        fs::remove_dir(&in_the_way).unwrap();
        assert_eq!(members.add(&[record(1, 56, 1)]).unwrap()[0].outcome, "new");
        assert_eq!(names(&file, &mut members), ["cluster-56"]);
    }

    #[test]
    fn records_of_another_signing_key_are_put_aside_and_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let (file, origin, mut members) = hub(folder.path());
        members.add(&[record(1, 56, 1)]).unwrap();
        let kept = members.state.records().unwrap();
        let mut other = file.clone();
        other.overlay.signing_key = Some(SigningKey::from_bytes([1; 32]).public());
        members.reopen(&other, &origin);
        assert_eq!(names(&other, &mut members), [""; 0]);
        let warnings: Vec<_> = members.warnings(Instant::now()).map(|warning| warning.code).collect();
        assert_eq!(warnings, ["records", "no-members"]);
        members.reopen(&file, &origin);
        assert_eq!(names(&file, &mut members), ["cluster-56"], "the right key is back");
        assert_eq!(members.state.records().unwrap(), kept);
    }

    #[test]
    fn the_newer_of_the_packs_record_and_the_kept_one_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (file, origin, mut members) = hub(folder.path());
        members.add(&[record(1, 56, 1), record(2, 64, 5)]).unwrap();
        let pack = [record(1, 56, 3), record(2, 64, 4)];
        fs::write(folder.path().join(RECORDS_FILE), RecordLines::write(&pack)).unwrap();
        members.reopen(&file, &origin);
        let held: Vec<_> = members.book().unwrap().members().iter().map(|record| record.serial).collect();
        assert_eq!(held, [3, 5]);
        let text = String::from_utf8(members.state.records().unwrap()).unwrap();
        assert!(text.contains("serial 3") && text.contains("serial 5"), "{text}");
    }
}
