//! Where things are on a Windows host: `%ProgramData%\\overlay-gw`.
#![allow(unsafe_code, reason = "the calls of the system have no safe form; each says why it is sound")]

use std::{ffi::OsString, os::windows::ffi::OsStringExt, path::PathBuf, ptr};

use windows_sys::Win32::{
    Foundation::S_OK,
    System::Com::CoTaskMemFree,
    UI::Shell::{FOLDERID_ProgramData, SHGetKnownFolderPath},
};

/// The folder of everything that is not the program. The system is asked, not the environment: that is whoever's who started
/// the program.
#[must_use]
pub fn root() -> PathBuf {
    let mut text: *mut u16 = ptr::null_mut();
    // SAFETY: `text` is written before it is read; it ends with a zero, and is freed as the call says.
    let data = unsafe {
        let found = SHGetKnownFolderPath(&FOLDERID_ProgramData, 0, ptr::null_mut(), &raw mut text);
        let data = (found == S_OK && !text.is_null()).then(|| {
            let length = (0..).take_while(|&at| *text.add(at) != 0).count();
            OsString::from_wide(std::slice::from_raw_parts(text, length))
        });
        CoTaskMemFree(text.cast());
        data
    };
    // The default of all Windows versions.
    PathBuf::from(data.unwrap_or_else(|| "C:\\ProgramData".into())).join("overlay-gw")
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
