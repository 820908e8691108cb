//! Where things are on a Windows host: `%ProgramData%\overlay-gw`.

use std::path::PathBuf;

/// The folder of everything that is not the program.
#[must_use]
pub fn root() -> PathBuf {
    // Set by the system for every process; the value is the default of all Windows versions.
    let data = std::env::var_os("ProgramData").unwrap_or_else(|| "C:\\ProgramData".into());
    PathBuf::from(data).join("overlay-gw")
}

/// The configuration file when no flag names one.
#[must_use]
pub fn config_file() -> PathBuf {
    root().join("config.toml")
}

/// The folder that holds a state folder for each instance.
#[must_use]
pub fn state_root() -> PathBuf {
    root().join("state")
}

/// The folder of the service's log files.
#[must_use]
pub fn logs() -> PathBuf {
    root().join("logs")
}
