//! The state folder: the key that `up --slot` makes, the listeners that were added by command, and a lock.

use crate::exit::Failure;
use overlay_config::PrivateKey;
use overlay_config::membership::RECORDS_FILE;
use overlay_platform::os::{self, places};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A file of the folder.
pub const KEY: &str = "private.key";
/// A file of the folder.
pub const LISTENERS: &str = "listeners.json";
/// A file of the folder.
pub const CLOCK: &str = "clock.json";

/// A file of the folder.
pub const LOCK: &str = "lock";

/// A wall clock that went back by less than this is no matter: handshakes have a grain of seconds.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// The state folder of one instance.
#[derive(Clone, Debug)]
pub struct StateFolder(PathBuf);

#[derive(Default, Serialize, Deserialize)]
struct Listeners {
    version: u32,
    listeners: Vec<Ipv4Addr>,
}

#[derive(Serialize, Deserialize)]
struct Clock {
    version: u32,
    unix_s: u64,
}

/// Refuses the folder of this `name` when somebody else has made it or may write to it. What to do then is `foreign`, and when it cannot
/// be looked at `unseen`.
///
/// # Errors
/// As above.
pub fn check_folder(name: &str, folder: &Path, foreign: &str, unseen: &str) -> Result<(), Failure> {
    let place = folder.display();
    let (what, fix) = match os::distrust(folder) {
        Ok(None) => return Ok(()),
        Ok(Some(why)) => (format!("the {name} folder {place} is not used: {why}"), foreign),
        Err(error) => (format!("cannot look at the {name} folder {place}: {error}"), unseen),
    };
    Err(Failure::bad_input(what, fix))
}

impl StateFolder {
    /// The folder that a flag names, or the default one of `instance`. Nothing is created.
    #[must_use]
    pub fn new(flag: Option<&Path>, instance: &str) -> Self {
        Self(flag.map_or_else(|| places::state_root().join(instance), Path::to_owned))
    }

    /// The path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Refuses a folder that somebody else has made or may write to: a key, a record or a lock in it could be his.
    ///
    /// # Errors
    /// When it is such a folder, or cannot be looked at.
    pub fn check(&self) -> Result<(), Failure> {
        check_folder(
            "state",
            &self.0,
            "find out who did that, move the folder away and start again, or choose another with --state-dir DIR",
            "choose a folder that can be read with --state-dir DIR",
        )
    }

    /// Makes the folder, for its owner alone, if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self) -> Result<(), Failure> {
        os::create_private_dir(&self.0).map_err(|error| {
            Failure::bad_input(
                format!("cannot make the state folder {}: {error}", self.0.display()),
                "choose a folder that can be written with --state-dir DIR",
            )
        })
    }

    /// Where the key of the folder is, or will be.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.0.join(KEY)
    }

    /// The key of the folder, if there is one.
    ///
    /// # Errors
    /// When there is one and it cannot be used: it is never replaced.
    pub fn key(&self) -> Result<Option<PrivateKey>, Failure> {
        let path = self.key_file();
        let bad = |what: String| {
            Failure::bad_input(
                format!("{}: {what}", path.display()),
                "put the key back, or move the file away and a new key is made (the others must learn it)",
            )
        };
        let bytes = match fs::read(&path).and_then(os::open_key) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(bad(error.to_string())),
        };
        if !os::is_private(&path).map_err(|error| bad(error.to_string()))? {
            return Err(Failure::bad_input(
                format!("{}: others can read this key", path.display()),
                os::private_fix(&path.to_string_lossy()),
            ));
        }
        let text = String::from_utf8(bytes).map_err(|_| bad("no text".to_owned()))?;
        PrivateKey::from_base64(text.trim()).map(Some).map_err(|error| bad(error.to_string()))
    }

    /// Makes the folder's key, mode 0600, out of 32 random bytes.
    ///
    /// # Errors
    /// When it cannot be written. An existing key is not replaced.
    pub fn make_key(&self, random: [u8; 32]) -> Result<PrivateKey, Failure> {
        let key = PrivateKey::from_bytes(random);
        let (path, fresh) = (self.key_file(), self.0.join(format!("{KEY}.tmp")));
        // A full disk or a kill in the middle must not leave half a key: it would stop every start from then on. The link fails
        // where a rename would replace.
        let _ = fs::remove_file(&fresh);
        let written = os::seal_key(&format!("{}\n", *key.to_base64()))
            .and_then(|sealed| {
                let mut file = os::private_file().write(true).create_new(true).open(&fresh)?;
                file.write_all(&sealed)?;
                file.sync_all()
            })
            .and_then(|()| fs::hard_link(&fresh, &path));
        let _ = fs::remove_file(&fresh);
        written.map_err(|error| {
            Failure::bad_input(
                format!("cannot write the key {}: {error}", path.display()),
                "check the disk and the folder",
            )
        })?;
        Ok(key)
    }

    /// Takes the folder for this process, until the returned file is closed.
    ///
    /// # Errors
    /// When another process has it.
    pub fn lock(&self) -> Result<File, Failure> {
        let path = self.0.join(LOCK);
        let file =
            os::private_file().create(true).truncate(false).write(true).open(&path).map_err(|error| {
                Failure::bad_input(
                    format!("cannot open {}: {error}", path.display()),
                    "check the folder's owner and mode",
                )
            })?;
        file.try_lock().map_err(|_| {
            Failure::bad_input(
                format!("another overlay-gw uses the state folder {}", self.0.display()),
                "stop it with `overlay-gw down`, or give this one its own --state-dir",
            )
        })?;
        Ok(file)
    }

    /// The listeners that were added by command.
    #[must_use]
    pub fn listeners(&self) -> Vec<Ipv4Addr> {
        let text = fs::read_to_string(self.0.join(LISTENERS)).unwrap_or_default();
        serde_json::from_str::<Listeners>(&text).map(|file| file.listeners).unwrap_or_default()
    }

    /// Remembers the listeners that were added by command.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_listeners(&self, listeners: &[Ipv4Addr]) -> std::io::Result<()> {
        self.write_json(LISTENERS, &Listeners { version: 1, listeners: listeners.to_vec() })
    }

    /// Forgets the listeners: `down`.
    pub fn clear_listeners(&self) {
        let _ = fs::remove_file(self.0.join(LISTENERS));
    }

    /// How far the wall clock is behind the last time that this folder saw, if it is: peers refuse handshakes that are
    /// older than one they have seen (WireGuard paper, section 5.4.2).
    #[must_use]
    pub fn clock_behind(&self, now: SystemTime) -> Option<Duration> {
        let text = fs::read_to_string(self.0.join(CLOCK)).ok()?;
        let last = UNIX_EPOCH + Duration::from_secs(serde_json::from_str::<Clock>(&text).ok()?.unix_s);
        last.duration_since(now).ok().filter(|behind| *behind > CLOCK_TOLERANCE)
    }

    /// Remembers the wall clock.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn note_clock(&self, now: SystemTime) -> std::io::Result<()> {
        let unix_s = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.write_json(CLOCK, &Clock { version: 1, unix_s })
    }

    /// The signed records that were kept, as they lie in the file.
    ///
    /// # Errors
    /// When there is such a file and it cannot be read.
    pub fn records(&self) -> std::io::Result<Vec<u8>> {
        or_empty(fs::read(self.0.join(RECORDS_FILE)))
    }

    /// Keeps signed records in the place of those before.
    ///
    /// # Errors
    /// When the file cannot be written; then the one before is still there, whole.
    pub fn set_records(&self, text: &str) -> std::io::Result<()> {
        write_whole(&self.0, RECORDS_FILE, text.as_bytes())
    }

    /// Puts the signed records aside, under a name of their own, before others take their place.
    pub fn set_records_aside(&self) {
        let from = self.0.join(RECORDS_FILE);
        let to = self.0.join(format!("{RECORDS_FILE}.skipped"));
        if let Err(error) = fs::rename(&from, &to) {
            tracing::warn!(%error, "{} cannot be put aside", from.display());
        }
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> std::io::Result<()> {
        write_whole(&self.0, name, &serde_json::to_vec(value)?)
    }
}

/// The bytes of a file, none when it is not there.
///
/// # Errors
/// Any other reason why they cannot be read.
pub fn or_empty(read: std::io::Result<Vec<u8>>) -> std::io::Result<Vec<u8>> {
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

/// Writes a file of `folder`, mode 0600, whole or not at all: whatever happens, the old or the new one is there.
///
/// # Errors
/// When it cannot be written.
pub fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let (path, fresh) = (folder.join(name), folder.join(format!("{name}.tmp")));
    let mut file = os::private_file().write(true).create(true).truncate(true).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, &path)?;
    // The name as well: without it, the old file may be back after a power failure. Not every system can do this.
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_for_its_owner_alone_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::new(Some(&folder.path().join("a/b")), "x");
        state.create().unwrap();
        assert!(state.key().unwrap().is_none());
        let made = state.make_key([7; 32]).unwrap();
        assert_eq!(state.key().unwrap().unwrap().public(), made.public());
        assert!(state.make_key([8; 32]).is_err());
    }

    #[test]
    fn a_key_that_could_not_be_written_leaves_nothing_that_stops_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::new(Some(folder.path()), "x");
        // Stands for a disk that takes nothing.
        let fresh = folder.path().join("private.key.tmp");
        fs::create_dir(&fresh).unwrap();
        assert!(state.make_key([7; 32]).is_err());
        assert!(state.key().unwrap().is_none());
        // Killed in the middle of writing.
        fs::remove_dir(&fresh).unwrap();
        fs::write(&fresh, "half").unwrap();
        let made = state.make_key([7; 32]).unwrap();
        assert_eq!(state.key().unwrap().unwrap().public(), made.public());
        assert!(!fresh.exists());
    }

    #[test]
    fn a_clock_that_was_set_back_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::new(Some(folder.path()), "x");
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert_eq!(state.clock_behind(now), None);
        state.note_clock(now).unwrap();
        assert_eq!(state.clock_behind(now + Duration::from_secs(5)), None);
        assert_eq!(state.clock_behind(now - Duration::from_secs(60)), Some(Duration::from_secs(60)));
    }

    #[test]
    fn two_processes_cannot_have_one_folder() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::new(Some(folder.path()), "x");
        let held = state.lock().unwrap();
        assert!(state.lock().is_err());
        drop(held);
        assert!(state.lock().is_ok());
    }
}
