//! Files for their owner alone, and the group that a name means.

use nix::sys::stat::{Mode, umask};
use nix::unistd::{Group, geteuid};
use std::{
    fs::{DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::{Mutex, PoisonError},
};

/// How an operator makes the file at `path` private.
#[must_use]
pub fn private_fix(path: &str) -> String {
    format!("chmod 600 {path}")
}

/// Makes a folder, and those above it, for its owner alone. One that is there stays as it is.
///
/// # Errors
/// As mkdir(2); when one that is there is not to be trusted ([`distrust`]).
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    if let Some(why) = distrust(path)? {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Why what is in the folder at `path` may be somebody else's doing, in words: it, or a link in its place, belongs neither to root
/// nor to the user of this process, or everybody may write to it. `None`: there is no such reason, or no folder.
///
/// # Errors
/// As stat(2).
pub fn distrust(path: &Path) -> io::Result<Option<String>> {
    for look in [std::fs::symlink_metadata::<&Path>, std::fs::metadata::<&Path>] {
        let found = match look(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        if found.uid() != 0 && found.uid() != geteuid().as_raw() {
            return Ok(Some(format!("{} belongs to user {}", path.display(), found.uid())));
        }
        if found.is_dir() && found.mode() & 0o002 != 0 {
            return Ok(Some(format!("everybody may write to {}", path.display())));
        }
    }
    Ok(None)
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

    #[test]
    fn a_folder_of_another_user_or_for_everybody_is_not_trusted_nor_a_link_of_another() {
        use std::os::unix::fs::{chown, lchown, symlink};
        let outer = tempfile::tempdir().unwrap();
        let (folder, link) = (outer.path().join("state"), outer.path().join("link"));
        assert_eq!(distrust(&folder).unwrap(), None, "it is not there");
        create_private_dir(&folder).unwrap();
        symlink(&folder, &link).unwrap();
        assert_eq!((distrust(&folder).unwrap(), distrust(&link).unwrap()), (None, None));
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(distrust(&folder).unwrap().unwrap().starts_with("everybody may write to "));
        assert!(distrust(&link).unwrap().is_some());
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o775)).unwrap();
        assert_eq!(distrust(&folder).unwrap(), None, "a group is whom the operator has put into it");
        if !geteuid().is_root() {
            println!("not root: what belongs to another user cannot be made");
            return;
        }
        lchown(&link, Some(1000), None).unwrap();
        assert!(distrust(&link).unwrap().unwrap().ends_with("link belongs to user 1000"));
        chown(&folder, Some(1000), None).unwrap();
        assert!(distrust(&folder).unwrap().unwrap().ends_with("state belongs to user 1000"));
        let refused = create_private_dir(&folder).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(create_private_dir(&folder.join("below")).is_ok(), "only the folder itself is looked at");
    }
}
