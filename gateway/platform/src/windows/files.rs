//! Files for SYSTEM, the Administrators and their owner alone, and private keys that only this machine can read (DPAPI).
#![allow(unsafe_code, reason = "the calls of the system have no safe form; each says why it is sound")]

use std::{
    fs::File,
    io::{self, Write},
    os::windows::{ffi::OsStrExt, io::FromRawHandle},
    path::{Path, PathBuf},
    ptr,
};

use windows_sys::Win32::{
    Foundation::{ERROR_ALREADY_EXISTS, GENERIC_READ, GENERIC_WRITE, INVALID_HANDLE_VALUE, LocalFree},
    Security::Cryptography::{
        CRYPT_INTEGER_BLOB, CRYPTPROTECT_LOCAL_MACHINE, CRYPTPROTECT_UI_FORBIDDEN, CryptProtectData,
        CryptUnprotectData,
    },
    Storage::FileSystem::{
        CREATE_ALWAYS, CREATE_NEW, CreateDirectoryW, CreateFileW, FILE_ATTRIBUTE_NORMAL, FILE_SHARE_DELETE,
        FILE_SHARE_READ, FILE_SHARE_WRITE, OPEN_ALWAYS, OPEN_EXISTING, TRUNCATE_EXISTING,
    },
};

use super::security::{self, Access, SYSTEM, own_sid};

/// How an operator makes a file private that is not: the path goes behind it.
pub const PRIVATE_FIX: &str =
    "icacls FILE /inheritance:r /grant:r *S-1-5-18:F *S-1-5-32-544:F, where FILE is";

/// In front of a sealed key: what follows is a DPAPI blob.
const SEALED: &[u8] = b"overlay-gw DPAPI 1\r\n";

/// Makes a folder, and those above it, for SYSTEM, the Administrators and their owner alone. One that is there stays as it
/// is.
///
/// # Errors
/// As CreateDirectory; when one that is there is not to be trusted ([`distrust`]).
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    if let Some(why) = distrust(path)? {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let missing: Vec<&Path> =
        path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).collect();
    let descriptor = security::private()?;
    for folder in missing.into_iter().rev() {
        let name: Vec<u16> = folder.as_os_str().encode_wide().chain([0]).collect();
        // SAFETY: `name` ends with a zero, and the attributes live as long as `descriptor`.
        if unsafe { CreateDirectoryW(name.as_ptr(), descriptor.attributes()) } == 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(ERROR_ALREADY_EXISTS as i32) {
                return Err(error);
            }
        }
    }
    if path.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

/// Why what is in the folder at `path` may be somebody else's doing, in words: everybody may make folders in `%ProgramData%`, and
/// whoever made ours before us could exchange what is in it. So the folder, and those above it that are ours as well, must belong to
/// SYSTEM, the Administrators or the user of this process, and be no link. `None`: there is no such reason, or no folder.
///
/// # Errors
/// When a folder cannot be looked at.
pub fn distrust(path: &Path) -> io::Result<Option<String>> {
    let (root, me) = (super::places::root(), own_sid()?);
    for folder in path.ancestors().take_while(|folder| *folder == path || folder.starts_with(&root)) {
        let found = match std::fs::symlink_metadata(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            found => found?,
        };
        if found.is_symlink() {
            return Ok(Some(format!("{} is a link", folder.display())));
        }
        let access = Access::of(folder)?;
        if !access.is_of_the_trusted(&me) {
            return Ok(Some(format!("{} belongs to {}", folder.display(), access.owner)));
        }
    }
    Ok(None)
}

/// Options that create files for SYSTEM, the Administrators and their owner alone, whatever the folder's list says.
#[must_use]
pub fn private_file() -> PrivateFile {
    PrivateFile::default()
}

/// How a private file is opened; as [`std::fs::OpenOptions`], which cannot name who may have it.
#[derive(Clone, Copy, Debug, Default)]
pub struct PrivateFile {
    create: bool,
    create_new: bool,
    truncate: bool,
}

impl PrivateFile {
    /// Always for writing.
    #[must_use]
    pub fn write(self, _: bool) -> Self {
        self
    }

    /// Made if it is not there.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Made, and an error if it is there.
    #[must_use]
    pub fn create_new(mut self, create_new: bool) -> Self {
        self.create_new = create_new;
        self
    }

    /// Emptied.
    #[must_use]
    pub fn truncate(mut self, truncate: bool) -> Self {
        self.truncate = truncate;
        self
    }

    /// Opens it.
    ///
    /// # Errors
    /// As CreateFile.
    pub fn open(self, path: &Path) -> io::Result<File> {
        let name: Vec<u16> = path.as_os_str().encode_wide().chain([0]).collect();
        let descriptor = security::private()?;
        let disposition = match self {
            Self { create_new: true, .. } => CREATE_NEW,
            Self { create: true, truncate: true, .. } => CREATE_ALWAYS,
            Self { create: true, .. } => OPEN_ALWAYS,
            Self { truncate: true, .. } => TRUNCATE_EXISTING,
            _ => OPEN_EXISTING,
        };
        // SAFETY: `name` ends with a zero, and the attributes live as long as `descriptor`.
        let handle = unsafe {
            CreateFileW(
                name.as_ptr(),
                GENERIC_READ | GENERIC_WRITE,
                FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
                descriptor.attributes(),
                disposition,
                FILE_ATTRIBUTE_NORMAL,
                ptr::null_mut(),
            )
        };
        if handle == INVALID_HANDLE_VALUE {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle is open, and this is its only owner.
        Ok(unsafe { File::from_raw_handle(handle) })
    }
}

/// Whether nobody but SYSTEM, the Administrators and its owner may read or write the file at `path`.
///
/// # Errors
/// When there is no such file, or it cannot be looked at.
pub fn is_private(path: &Path) -> io::Result<bool> {
    Ok(Access::of(path)?.is_private(&own_sid()?))
}

/// Groups are not a number here: the control pipe is for SYSTEM and the Administrators.
#[must_use]
pub fn group_id(_: &str) -> Option<u32> {
    None
}

/// What is written for a private key: sealed by DPAPI (CryptProtectData). By the service, for SYSTEM alone; by an
/// administrator who runs the gateway by hand, for this machine, so that a service which is installed later can open it. The
/// folder's access list keeps others out in both cases.
///
/// # Errors
/// When the system cannot seal.
pub fn seal_key(text: &str) -> io::Result<Vec<u8>> {
    let input = blob(text.as_bytes())?;
    let whole_machine = if own_sid()? == SYSTEM { 0 } else { CRYPTPROTECT_LOCAL_MACHINE };
    let mut output = CRYPT_INTEGER_BLOB { cbData: 0, pbData: ptr::null_mut() };
    // SAFETY: `input` is as long as it says; `output` is written before it is read; nothing else is given.
    let done = unsafe {
        CryptProtectData(
            &raw const input,
            ptr::null(),
            ptr::null(),
            ptr::null(),
            ptr::null(),
            whole_machine | CRYPTPROTECT_UI_FORBIDDEN,
            &raw mut output,
        )
    };
    if done == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok([SEALED, &taken(&output)].concat())
}

/// The text of a private key, as [`seal_key`] wrote it or an operator did.
///
/// # Errors
/// When it was sealed on another machine or for another account, or changed since.
pub fn open_key(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    let Some(sealed) = bytes.strip_prefix(SEALED) else { return Ok(bytes) };
    let input = blob(sealed)?;
    let mut output = CRYPT_INTEGER_BLOB { cbData: 0, pbData: ptr::null_mut() };
    // SAFETY: as in `seal_key`.
    let done = unsafe {
        CryptUnprotectData(
            &raw const input,
            ptr::null_mut(),
            ptr::null(),
            ptr::null(),
            ptr::null(),
            CRYPTPROTECT_UI_FORBIDDEN,
            &raw mut output,
        )
    };
    if done == 0 {
        let why = io::Error::last_os_error();
        let text = format!(
            "this key was sealed on another machine or for another account, or was damaged (DPAPI: {why})"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(taken(&output))
}

/// Whether the file holds a key that is not sealed.
#[must_use]
pub fn is_clear_key(bytes: &[u8]) -> bool {
    !bytes.starts_with(SEALED)
}

/// Seals the key file at `path` where it is, if it is in clear: a sealed copy takes its place. `false`: it was sealed.
///
/// # Errors
/// When it cannot be read, sealed or replaced; then it is as it was.
pub fn seal_file(path: &Path) -> io::Result<bool> {
    let bytes = std::fs::read(path)?;
    if !is_clear_key(&bytes) {
        return Ok(false);
    }
    let text = String::from_utf8(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let fresh = PathBuf::from(format!("{}.new", path.display()));
    let mut file = private_file().create(true).truncate(true).open(&fresh)?;
    file.write_all(&seal_key(&text)?)?;
    file.sync_all()?;
    drop(file);
    // What the clear bytes were is gone from the file system's view; the disk's own old blocks are not.
    std::fs::rename(&fresh, path)?;
    Ok(true)
}

fn blob(bytes: &[u8]) -> io::Result<CRYPT_INTEGER_BLOB> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(CRYPT_INTEGER_BLOB { cbData: length, pbData: bytes.as_ptr().cast_mut() })
}

/// The bytes that DPAPI has given, whose memory is wiped and freed.
fn taken(output: &CRYPT_INTEGER_BLOB) -> Vec<u8> {
    // SAFETY: DPAPI has put so many bytes there, and wants them freed so; nobody uses them any more.
    unsafe {
        let given = std::slice::from_raw_parts_mut(output.pbData, output.cbData as usize);
        let bytes = given.to_vec();
        given.fill(0);
        LocalFree(output.pbData.cast());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_ones_own_is_trusted_and_so_is_none() {
        // That of somebody else is shown by `security`'s tests alone: Wine has one user.
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("state");
        assert_eq!(distrust(&folder).unwrap(), None);
        create_private_dir(&folder).unwrap();
        assert_eq!(distrust(&folder).unwrap(), None);
        assert_eq!(distrust(&super::super::places::root()).unwrap(), None);
    }

    #[test]
    fn a_sealed_key_is_opened_again_here_and_a_changed_one_is_not() {
        let sealed = seal_key("a private key\n").unwrap();
        assert!(!sealed.windows(7).any(|part| part == b"private"));
        assert_eq!(open_key(sealed.clone()).unwrap(), b"a private key\n");
        let mut changed = sealed;
        let last = changed.len() - 40;
        changed[last] ^= 1;
        assert!(open_key(changed).is_err());
        assert_eq!(open_key(b"in clear".to_vec()).unwrap(), b"in clear");
    }

    #[test]
    fn a_clear_key_file_is_sealed_in_its_place_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("private.key");
        std::fs::write(&path, "clear\n").unwrap();
        assert!(seal_file(&path).unwrap());
        assert!(!seal_file(&path).unwrap());
        let bytes = std::fs::read(&path).unwrap();
        assert!(!is_clear_key(&bytes));
        assert_eq!(open_key(bytes).unwrap(), b"clear\n");
        assert!(is_private(&path).unwrap(), "{:?}", Access::of(&path));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
