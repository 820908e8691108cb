//! Files for their owner alone, and the group that a name means.

use nix::sys::stat::{Mode, umask};
use nix::unistd::Group;
use std::{
    fs::{DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::{Mutex, PoisonError},
};

/// How an operator makes a file private that is not: the path goes behind it.
pub const PRIVATE_FIX: &str = "chmod 600";

/// Makes a folder, and those above it, for its owner alone. One that is there stays as it is.
///
/// # Errors
/// As mkdir(2).
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Options that create files for their owner alone.
#[must_use]
pub fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// What is written for a private key: on Linux the text itself, which the file's mode protects.
///
/// # Errors
/// Never on Linux.
pub fn seal_key(text: &str) -> io::Result<Vec<u8>> {
    Ok(text.as_bytes().to_vec())
}

/// Seals a key file where it is, where the system can; `false`: nothing was changed.
///
/// # Errors
/// Never on Linux.
pub fn seal_file(_: &Path) -> io::Result<bool> {
    Ok(false)
}

/// The text of a private key, as [`seal_key`] wrote it or an operator did.
///
/// # Errors
/// Never on Linux.
pub fn open_key(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    Ok(bytes)
}

/// Whether nobody but its owner may read or write the file at `path`.
///
/// # Errors
/// When there is no such file, or it cannot be looked at.
pub fn is_private(path: &Path) -> io::Result<bool> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o077 == 0)
}

/// The number of the group called `name`; `None` when the host has none.
#[must_use]
pub fn group_id(name: &str) -> Option<u32> {
    Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}

/// Runs `make`; what it creates is for its owner alone. The mask is the process's: call it before other threads make files.
pub fn with_private_umask<T>(make: impl FnOnce() -> T) -> T {
    /// Two at once would each put back what the other has set.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = umask(Mode::from_bits_truncate(0o177));
    let made = make();
    umask(before);
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_private_when_only_its_owner_may_touch_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, private) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o622, false)]
        {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_private(file.path()).unwrap(), private, "{mode:o}");
        }
    }
}
