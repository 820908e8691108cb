//! Reading the configuration from the disk, with the files that it names.

use crate::cli::Global;
use crate::exit::Failure;
use crate::random;
use crate::state::or_empty;
use overlay_config::membership::RECORDS_FILE;
use overlay_config::{Config, FileError, FileText, Files, HostFacts, Overrides, PrivateKey, Source};
use overlay_platform::os::{self, places};
use parking_lot::Mutex;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Node or hub: which kind of file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `up`
    Node,
    /// `hub`
    Hub,
}

/// Where a configuration came from, to read it again.
#[derive(Clone, Debug)]
pub struct Origin {
    kind: Kind,
    path: PathBuf,
    /// The operator named the file: it must be there.
    named: bool,
    overrides: Overrides,
    /// Another account will use the keys: one that is sealed for it is taken as it is, and another stands in for it.
    pub for_another_account: bool,
    /// The key files that were read last.
    keys: Arc<Mutex<Vec<PathBuf>>>,
}

impl Origin {
    /// The origin that the command line says.
    #[must_use]
    pub fn new(kind: Kind, global: &Global, overrides: Overrides) -> Self {
        let path = global.config.clone().unwrap_or_else(places::config_file);
        let named = global.config.is_some();
        Self { kind, path, named, overrides, for_another_account: false, keys: Arc::default() }
    }

    /// Uses this key where the file names none.
    pub fn set_state_key(&mut self, key: overlay_config::PrivateKey) {
        self.overrides.state_key = Some(key);
    }

    /// Reads and checks everything. Nothing is changed.
    ///
    /// # Errors
    /// Every mistake at once, each with its place.
    pub fn load(&self, host: &HostFacts) -> Result<Config, Failure> {
        let source = match std::fs::read(&self.path) {
            Ok(bytes) => Some(Source { name: self.path.display().to_string(), bytes }),
            Err(error) if error.kind() == ErrorKind::NotFound && self.may_be_absent() => None,
            Err(error) => {
                return Err(Failure::bad_input(
                    format!("{}: {}", self.path.display(), in_words(&error)),
                    "name the file with --config FILE; `overlay-gw plan` writes one, and `overlay-gw up --slot 56` needs none",
                ));
            }
        };
        let folder = self.path.parent().unwrap_or(Path::new("")).to_owned();
        let files = Folder {
            path: folder,
            for_another_account: self.for_another_account,
            read: Arc::clone(&self.keys),
        };
        let config = match (self.kind, source) {
            (Kind::Node, source) => overlay_config::load_node(source.as_ref(), &self.overrides, &files, host),
            (Kind::Hub, Some(source)) => overlay_config::load_hub(&source, &self.overrides, &files, host),
            (Kind::Hub, None) => {
                return Err(Failure::bad_input(
                    "a hub needs a configuration file",
                    "write one with `overlay-gw plan`",
                ));
            }
        };
        Ok(config?)
    }

    /// Seals the key files that are in clear, where the system can do that.
    pub fn seal_keys(&self) {
        for path in self.key_files() {
            match os::seal_file(&path) {
                Ok(true) => tracing::info!(file = %path.display(), "the key is sealed now"),
                Ok(false) => {}
                Err(error) => tracing::warn!(file = %path.display(), %error, "the key cannot be sealed"),
            }
        }
    }

    /// The key files that were read last.
    #[must_use]
    pub fn key_files(&self) -> Vec<PathBuf> {
        self.keys.lock().clone()
    }

    /// The signed records beside the file, as they lie there; none when there are none.
    ///
    /// # Errors
    /// When there is such a file and it cannot be read.
    pub fn records(&self) -> (PathBuf, std::io::Result<Vec<u8>>) {
        let path = self.path.with_file_name(RECORDS_FILE);
        let bytes = or_empty(std::fs::read(&path));
        (path, bytes)
    }

    fn may_be_absent(&self) -> bool {
        !self.named && self.kind == Kind::Node && self.overrides.slot.is_some()
    }
}

/// Key files, relative to the folder of the configuration, or to that of a plan.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    for_another_account: bool,
    read: Arc<Mutex<Vec<PathBuf>>>,
}

impl Folder {
    /// The files of `path`.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, for_another_account: false, read: Arc::default() }
    }
}

impl Files for Folder {
    fn read(&self, path: &Path) -> Result<FileText, FileError> {
        let path = self.path.join(path);
        let in_file_error = |error: std::io::Error| match error.kind() {
            ErrorKind::NotFound => FileError::Missing,
            ErrorKind::PermissionDenied => FileError::Denied,
            _ => FileError::Other(in_words(&error)),
        };
        let bytes = std::fs::read(&path).map_err(in_file_error)?;
        let bytes = match os::open_key(bytes) {
            // It cannot be compared with others; the rest of the file is checked all the same.
            Err(_) if self.for_another_account => {
                PrivateKey::from_bytes(random::key()).to_base64().as_bytes().to_vec()
            }
            opened => opened.map_err(in_file_error)?,
        };
        let private = os::is_private(&path).map_err(in_file_error)?;
        let mut read = self.read.lock();
        if !read.contains(&path) {
            read.push(path);
        }
        Ok(FileText { bytes: bytes.into(), private })
    }

    fn private_fix(&self, path: &str) -> String {
        os::private_fix(path)
    }
}

/// What the operating system says, without its error number.
#[must_use]
pub fn in_words(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such file".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}
