//! The journal of what overlay-gw added to the host: `host.json` in the state folder.
//!
//! An entry is written **before** its change is made ([`Record::begin`]) and taken out after it is undone, or when it
//! turns out that somebody else had made it ([`Record::forget`]). So an entry says "ours, if it is there". Killed at any
//! point, the program leaves an entry too many but never a change without an entry. Every write is atomic: a temporary
//! file, synced, renamed, and the folder synced.
//!
//! Within another boot, or for another device of the same name, the record says nothing of what was on the device: that
//! went with it. What bears our name and is not on the device ([`Change::bears_our_name`]: firewall rules) outlives both,
//! and stays in the record until it is undone.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{DeviceIdentity, change::Change};

/// The version of the file's format.
pub const VERSION: u32 = 1;

/// The file's name in the state folder.
pub const FILE: &str = "host.json";

/// Who asked for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The configuration.
    Config,
    /// `overlay-gw listener add`.
    Command,
}

/// One change that is ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Who asked for it.
    pub origin: Origin,
    /// What it is.
    #[serde(flatten)]
    pub change: Change,
}

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    version: u32,
    boot_id: String,
    device: DeviceIdentity,
    changes: Vec<Entry>,
}

/// The record of one device, in memory and on disk alike.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    content: Content,
}

/// Why the record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or its folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else than a record.
    #[error(
        "{} is not a record of overlay-gw: {text}\n    it was kept as {}; start again, and addresses and routes that are still on the device will be left alone as somebody else's; to be rid of the device with all of them, {}",
        path.display(), kept_as.display(), crate::os::advice::REMOVE_DEVICE
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// Where it is now.
        kept_as: PathBuf,
        /// What is wrong with it.
        text: String,
    },
    /// The file was written by a newer overlay-gw.
    #[error(
        "{} has version {found}, this program knows {VERSION}\n    use the newer overlay-gw that wrote it, or run its `overlay-gw down` first",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
}

impl Record {
    /// The record in `state_dir` as it is, whatever boot and device it is of; `None` when there is none.
    ///
    /// # Errors
    /// When the file cannot be read; when it is no record, in which case it is renamed to `host.json.broken-N` and kept.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, RecordError> {
        let path = state_dir.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(RecordError::Io { path, source }),
        };
        let version = serde_json::from_slice::<serde_json::Value>(&bytes)
            .ok()
            .and_then(|value| value.get("version").and_then(serde_json::Value::as_u64));
        if let Some(found) = version.filter(|found| *found > u64::from(VERSION)) {
            return Err(RecordError::Newer { path, found });
        }
        match serde_json::from_slice::<Content>(&bytes) {
            Ok(content) => Ok(Some(Self { path, content })),
            Err(error) => {
                let kept_as = set_aside(&path)?;
                Err(RecordError::Broken { path, kept_as, text: error.to_string() })
            }
        }
    }

    /// The record in `state_dir` of `device` within the boot `boot_id`. One of another boot or device is replaced: of it,
    /// what outlives boot and device is left ([`Change::bears_our_name`]). Makes the folder (mode 0700 on Unix is the caller's business) when it is missing.
    ///
    /// # Errors
    /// As [`Record::load`]; when the file cannot be written.
    pub fn open(state_dir: &Path, boot_id: &str, device: &DeviceIdentity) -> Result<Self, RecordError> {
        let mut changes = Vec::new();
        if let Some(record) = Self::load(state_dir)? {
            if record.is_about(boot_id, device) {
                return Ok(record);
            }
            changes = record.content.changes;
            changes.retain(|entry| entry.change.bears_our_name());
        }
        fs::create_dir_all(state_dir)
            .map_err(|source| RecordError::Io { path: state_dir.to_owned(), source })?;
        let content =
            Content { version: VERSION, boot_id: boot_id.to_owned(), device: device.clone(), changes };
        let record = Self { path: state_dir.join(FILE), content };
        record.write(&record.content)?;
        Ok(record)
    }

    /// Whether the record was written in this boot and for this very device.
    #[must_use]
    pub fn is_about(&self, boot_id: &str, device: &DeviceIdentity) -> bool {
        self.is_of(boot_id, &device.name, device.ifindex)
    }

    /// Whether the record was written in this boot and for the device with this name and number.
    #[must_use]
    pub fn is_of(&self, boot_id: &str, name: &str, ifindex: u32) -> bool {
        self.content.boot_id == boot_id
            && self.content.device.name == name
            && self.content.device.ifindex == ifindex
    }

    /// The number of the recorded device, if the record is of this boot and of a device with this name: what
    /// [`crate::DeviceSpec::recorded_index`] wants.
    #[must_use]
    pub fn index_of(&self, boot_id: &str, name: &str) -> Option<u32> {
        let device = &self.content.device;
        (self.content.boot_id == boot_id && device.name == name).then_some(device.ifindex)
    }

    /// The boot that the record is of.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.content.boot_id
    }

    /// The device that the record is of.
    #[must_use]
    pub fn device(&self) -> &DeviceIdentity {
        &self.content.device
    }

    /// What is ours, in the order in which it was made.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.content.changes
    }

    /// Whether `change` is ours.
    #[must_use]
    pub fn is_ours(&self, change: &Change) -> bool {
        self.content.changes.iter().any(|entry| entry.change == *change)
    }

    /// Writes down that `changes` are about to be made. Those that are written down already stay as they are.
    ///
    /// # Errors
    /// When the file cannot be written; then nothing may be changed on the host.
    pub fn begin(&mut self, changes: &[Change], origin: Origin) -> Result<(), RecordError> {
        let mut content = self.content.clone();
        for change in changes.iter().filter(|change| change.is_recorded()) {
            if !content.changes.iter().any(|entry| entry.change == *change) {
                content.changes.push(Entry { origin, change: change.clone() });
            }
        }
        self.replace(content)
    }

    /// Strikes out `changes`: they were undone, or are not ours after all.
    ///
    /// # Errors
    /// When the file cannot be written; then the entries stay.
    pub fn forget(&mut self, changes: &[Change]) -> Result<(), RecordError> {
        let mut content = self.content.clone();
        content.changes.retain(|entry| !changes.contains(&entry.change));
        self.replace(content)
    }

    /// Removes the file: the device is gone.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove(self) -> Result<(), RecordError> {
        match fs::remove_file(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(RecordError::Io { path: self.path, source })
            }
            _ => Ok(()),
        }
    }

    fn replace(&mut self, content: Content) -> Result<(), RecordError> {
        if content != self.content {
            self.write(&content)?;
            self.content = content;
        }
        Ok(())
    }

    fn write(&self, content: &Content) -> Result<(), RecordError> {
        write_atomically(&self.path, content)
            .map_err(|source| RecordError::Io { path: self.path.clone(), source })
    }
}

fn write_atomically(path: &Path, content: &Content) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(content)?;
    bytes.push(b'\n');
    let temporary = path.with_extension("json.new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    // The rename itself must be on disk. Where a folder cannot be opened as a file (Windows), renames are journalled.
    if let Some(folder) = path.parent().and_then(|folder| fs::File::open(folder).ok()) {
        folder.sync_all()?;
    }
    Ok(())
}

/// Renames `path` to the first free `path.broken-N`.
fn set_aside(path: &Path) -> Result<PathBuf, RecordError> {
    let mut number = 1_u32;
    let kept_as = loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".broken-{number}"));
        let candidate = PathBuf::from(name);
        if !candidate.exists() {
            break candidate;
        }
        number = number.saturating_add(1);
    };
    fs::rename(path, &kept_as).map_err(|source| RecordError::Io { path: path.to_owned(), source })?;
    Ok(kept_as)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layer, change::FirewallRule};

    fn device(ifindex: u32) -> DeviceIdentity {
        DeviceIdentity { name: "Overlay".into(), ifindex, mode: Layer::Tun }
    }

    fn address(last: u8) -> Change {
        Change::Address { net: format!("172.16.8.{last}/29").parse().unwrap() }
    }

    #[test]
    fn what_was_begun_is_there_after_a_restart_with_its_origin() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::open(dir.path(), "boot", &device(7)).unwrap();
        record.begin(&[address(57), Change::LinkUp], Origin::Config).unwrap();
        record.begin(&[address(59), address(57)], Origin::Command).unwrap();
        drop(record);
        let mut record = Record::open(dir.path(), "boot", &device(7)).unwrap();
        assert!(record.is_ours(&address(57)) && !record.is_ours(&address(60)));
        let origins: Vec<_> = record.entries().iter().map(|e| (e.change.clone(), e.origin)).collect();
        assert_eq!(origins, [(address(57), Origin::Config), (address(59), Origin::Command)]);
        record.forget(&[address(57)]).unwrap();
        assert!(!Record::load(dir.path()).unwrap().unwrap().is_ours(&address(57)));
    }

    #[test]
    fn a_record_of_another_boot_or_another_device_says_that_firewall_rules_alone_are_left() {
        let rule = FirewallRule {
            name: "SMB (TCP 445)".into(),
            purpose: "File shares.".into(),
            protocol: 6,
            local_ports: Some("445".into()),
        };
        let rule = Change::Firewall { rule };
        for (boot, index) in [("later", 7), ("boot", 8)] {
            let dir = tempfile::tempdir().unwrap();
            let mut record = Record::open(dir.path(), "boot", &device(7)).unwrap();
            record.begin(&[address(57), rule.clone()], Origin::Config).unwrap();
            let left = [Entry { origin: Origin::Config, change: rule.clone() }];
            assert_eq!(Record::open(dir.path(), boot, &device(index)).unwrap().entries(), left);
            // It is written down: the program may be killed before the host is settled.
            let record = Record::load(dir.path()).unwrap().unwrap();
            assert_eq!(
                (record.entries(), record.boot_id(), record.device().ifindex),
                (&left[..], boot, index)
            );
        }
    }

    #[test]
    fn a_broken_record_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        for (number, text) in [(1, "{\"version\": 1, \"boot"), (2, "\u{0}\u{1}"), (3, "{}"), (4, "")] {
            fs::write(dir.path().join(FILE), text).unwrap();
            let error = Record::load(dir.path()).unwrap_err().to_string();
            let kept = dir.path().join(format!("host.json.broken-{number}"));
            assert!(error.contains("host.json") && error.contains(&kept.display().to_string()), "{error}");
            assert_eq!(fs::read_to_string(kept).unwrap(), text);
            assert!(Record::load(dir.path()).unwrap().is_none());
        }
    }

    #[test]
    fn a_record_of_a_newer_program_is_refused_and_left_in_place() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{\"version\": 2}").unwrap();
        assert!(matches!(Record::load(dir.path()), Err(RecordError::Newer { found: 2, .. })));
        assert!(dir.path().join(FILE).exists());
    }

    #[test]
    fn a_temporary_file_left_by_a_crash_is_not_taken_for_the_record() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::open(dir.path(), "boot", &device(7)).unwrap();
        record.begin(&[address(57)], Origin::Config).unwrap();
        fs::write(dir.path().join("host.json.new"), "{half").unwrap();
        let mut record = Record::open(dir.path(), "boot", &device(7)).unwrap();
        assert!(record.is_ours(&address(57)));
        record.begin(&[address(58)], Origin::Config).unwrap();
        assert!(Record::load(dir.path()).unwrap().unwrap().is_ours(&address(58)));
    }
}
