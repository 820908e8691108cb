//! What a configuration is read from: its text, key files, flags, and what the host is like.

use std::path::Path;

use ipnet::Ipv4Net;
use zeroize::Zeroizing;

use crate::PrivateKey;

/// A configuration file, already read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// How diagnostics call it: the path as the operator wrote it.
    pub name: String,
    /// Its bytes; not yet known to be text.
    pub bytes: Vec<u8>,
}

/// A key file's content.
#[derive(Clone, Debug)]
pub struct FileText {
    /// The bytes, wiped when dropped.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Nobody but its owner may read it.
    pub private: bool,
}

/// Why a file could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// There is none of that name.
    #[error("there is no such file")]
    Missing,
    /// This process may not read it.
    #[error("this process may not read it")]
    Denied,
    /// Anything else: what the operating system says.
    #[error("{0}")]
    Other(String),
}

/// Reads the files that a configuration names. A relative path is relative to the configuration file.
pub trait Files {
    /// The content of one file.
    ///
    /// # Errors
    /// When it cannot be read; the diagnostic says why and names the key that refers to it.
    fn read(&self, path: &Path) -> Result<FileText, FileError>;

    /// How the operator of this system makes the file at `path` private, one command a line.
    fn private_fix(&self, path: &str) -> String {
        format!("chmod 600 {path}")
    }
}

/// What flags say instead of the file. A mistake in one is reported at its flag, line 0.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--slot`: `56` or `172.16.8.56`.
    pub slot: Option<String>,
    /// `--overlay`: a CIDR.
    pub overlay: Option<String>,
    /// `--device`: a name.
    pub device: Option<String>,
    /// `--mode`: `tun` or `tap`.
    pub mode: Option<String>,
    /// `--listen`: `[ADDR:]PORT`.
    pub listen: Option<String>,
    /// The key of the state folder, if there is one: used when the file names none.
    pub state_key: Option<PrivateKey>,
}

/// What the host has that an overlay may collide with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Every IPv4 address of the host: the interface, and the address with its prefix length.
    pub addresses: Vec<(String, Ipv4Net)>,
}
