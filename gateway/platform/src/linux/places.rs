//! Where things are on a Linux host (Filesystem Hierarchy Standard 3.0).

use std::path::PathBuf;

/// The configuration file when no flag names one.
#[must_use]
pub fn config_file() -> PathBuf {
    "/etc/overlay-gw/config.toml".into()
}

/// The folder that holds a state folder for each instance.
#[must_use]
pub fn state_root() -> PathBuf {
    "/var/lib/overlay-gw".into()
}
