//! Files for SYSTEM, the Administrators and their owner alone, and private keys that only this machine can read (DPAPI).
#![allow(unsafe_code, reason = "the calls of the system have no safe form; each says why it is sound")]

use std::{
    fs::File,
    io::{self, Write},
    os::windows::io::FromRawHandle,
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

use super::{
    places,
    security::{self, access_of, own_sid, wide},
};
use crate::access::{self, Holds, SYSTEM};

/// In front of a sealed key: what follows is a DPAPI blob.
const SEALED: &[u8] = b"overlay-gw DPAPI 1\r\n";

/// Makes a folder, and those above it, for SYSTEM, the Administrators and their owner alone. One that is there stays as it
/// is, or is closed ([`distrust`]).
///
/// # Errors
/// As CreateDirectory; when one that is there is not to be trusted.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    let refuse = || match distrust(path)? {
        Some(why) => Err(io::Error::new(io::ErrorKind::PermissionDenied, why)),
        None => Ok(()),
    };
    refuse()?;
    let missing: Vec<&Path> =
        path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).collect();
    let descriptor = security::private()?;
    let mut overtaken = false;
    for folder in missing.into_iter().rev() {
        let name = wide(folder);
        // SAFETY: `name` ends with a zero, and the attributes live as long as `descriptor`.
        if unsafe { CreateDirectoryW(name.as_ptr(), descriptor.attributes()) } == 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(ERROR_ALREADY_EXISTS as i32) {
                return Err(error);
            }
            overtaken = true;
        }
    }
    if overtaken {
        // Somebody has made one of them since they were looked at.
        refuse()?;
    }
    if path.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

/// Why what is in the folder at `path` may be somebody else's doing, in words: everybody may make folders in `%ProgramData%`, and
/// whoever made ours before us could exchange what is in it. So the folder, and those above it that are ours as well, must belong to
/// SYSTEM, the Administrators or the user of this process, be no link, and let nobody else change what is ours in it. `None`: there
/// is no such reason, or no folder.
///
/// A folder in `%ProgramData%\\overlay-gw` that is only too open is closed here: an administrator's mkdir makes it so, for it
/// inherits that everybody may make files in it, and a service that such a folder has served must start again after an upgrade. What
/// lies in it has to belong to the trusted, who then made it. Elsewhere the list is the operator's, who has chosen the place and may
/// have other things in it: he is told.
///
/// # Errors
/// When a folder cannot be looked at.
pub fn distrust(path: &Path) -> io::Result<Option<String>> {
    let (path, me) = (std::path::absolute(path)?, own_sid()?);
    let (folders, ours) = folders_down_to(&path, &places::root());
    // From above: once a folder is closed, nobody can exchange the next one.
    for (folder, next) in folders.iter().zip(folders.iter().skip(1).map(Some).chain([None])) {
        let holds = match next {
            None => Holds::Ours,
            Some(next) if next.exists() => Holds::AFolderOfOurs,
            Some(_) => Holds::APlaceForOurs,
        };
        match distrust_one(folder, holds, ours, &me) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(None) => {}
            distrusted => return distrusted,
        }
    }
    Ok(None)
}

/// As [`distrust`], of one folder. `ours`: it may be closed.
fn distrust_one(folder: &Path, holds: Holds, ours: bool, me: &str) -> io::Result<Option<String>> {
    let place = folder.display();
    if std::fs::symlink_metadata(folder)?.is_symlink() {
        return Ok(Some(format!("{place} is a link")));
    }
    let access = access_of(folder)?;
    if !access.is_of_the_trusted(me) {
        return Ok(Some(format!("{place} belongs to {}", access.owner)));
    }
    if let Some(stranger) = access.stranger(holds, me)
        && let Some(why) = if ours { close(folder, holds, me)? } else { Some(close_command(folder)) }
    {
        return Ok(Some(format!("{stranger} may change what is in {place}: {why}")));
    }
    // Each time, and once nobody can add to it: what was put there while it was open is still in one that was closed by hand.
    if ours && holds == Holds::Ours { planted(folder, me) } else { Ok(None) }
}

/// Closes a folder of ours that others may change; why it is still open, in words.
fn close(folder: &Path, holds: Holds, me: &str) -> io::Result<Option<String>> {
    if let Err(error) = security::set_list(folder, &security::private()?) {
        return Ok(Some(format!("this process may not close it ({error}); {}", close_command(folder))));
    }
    if access_of(folder)?.stranger(holds, me).is_some() {
        return Ok(Some(close_command(folder)));
    }
    tracing::warn!("others could change what is in {}: it is closed to them now", folder.display());
    Ok(None)
}

/// What in the folder may have been put there by a stranger, in words.
fn planted(folder: &Path, me: &str) -> io::Result<Option<String>> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (path, access) = (entry.path(), access_of(&entry.path())?);
        if entry.file_type()?.is_symlink() {
            return Ok(Some(format!("{} is a link", path.display())));
        }
        if !access.is_of_the_trusted(me) {
            return Ok(Some(format!("{} belongs to {}", path.display(), access.owner)));
        }
    }
    Ok(None)
}

/// How an operator closes a folder.
fn close_command(folder: &Path) -> String {
    format!("close it with\n    {}", access::closing_commands(&folder.to_string_lossy()))
}

/// The folders from `root`, when `path` lies below it, to the one at `path`, which is absolute; and whether it does. However the path is
/// written: in other letters, or by short names.
fn folders_down_to<'a>(path: &'a Path, root: &Path) -> (Vec<&'a Path>, bool) {
    let canonical = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folded = |path: &Path| path.to_string_lossy().to_lowercase();
    let (root, real_root) = (folded(root), folded(&canonical(root)));
    let is_root = |folder: &&Path| folded(folder) == root || folded(&canonical(folder)) == real_root;
    let above = path.ancestors().position(|folder| is_root(&folder));
    let mut folders: Vec<&Path> = path.ancestors().take(above.unwrap_or_default() + 1).collect();
    folders.reverse();
    (folders, above.is_some())
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
        let name = wide(path);
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

/// Whether nobody but SYSTEM, the Administrators and its owner may read or write the file at `path`, and the owner is one of them or
/// the user of this process.
///
/// # Errors
/// When there is no such file, or it cannot be looked at.
pub fn is_private(path: &Path) -> io::Result<bool> {
    Ok(access_of(path)?.is_private(&own_sid()?))
}

/// As [`is_private`], in the eyes of the service: it runs as SYSTEM, to whom the user of this process is another.
///
/// # Errors
/// As there.
pub fn is_private_for_service(path: &Path) -> io::Result<bool> {
    Ok(access_of(path)?.is_private(&super::doubles::service_account().unwrap_or_else(|| SYSTEM.to_owned())))
}

/// How an operator makes the file at `path` private, one command a line.
#[must_use]
pub fn private_fix(path: &str) -> String {
    access::private_commands(path)
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
        // That of somebody else is shown by the tests of `access` alone: Wine has one user.
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("state");
        assert_eq!(distrust(&folder).unwrap(), None);
        create_private_dir(&folder).unwrap();
        assert_eq!(distrust(&folder).unwrap(), None);
        assert_eq!(planted(&folder, &own_sid().unwrap()).unwrap(), None);
        assert_eq!(distrust(&places::root()).unwrap(), None);
    }

    #[test]
    fn a_path_below_the_root_is_known_in_other_letters_and_by_a_detour() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("Data").join("overlay-gw");
        let names = |path: &Path| {
            let path = std::path::absolute(path).unwrap();
            let (folders, below) = folders_down_to(&path, &root);
            let names =
                folders.iter().map(|folder| folder.file_name().unwrap().to_string_lossy().into_owned());
            (names.collect::<Vec<_>>().join(" "), below)
        };
        for there in [false, true] {
            if there {
                create_private_dir(&root.join("state")).unwrap();
            }
            assert_eq!(names(&root.join("state")), ("overlay-gw state".to_owned(), true));
            let shouted = outer.path().join("DATA").join("Overlay-GW").join("state").join("x");
            assert_eq!(names(&shouted), ("Overlay-GW state x".to_owned(), true));
            let detour = root.join("logs").join("..").join("state");
            assert_eq!(names(&detour), ("overlay-gw state".to_owned(), true));
            assert_eq!(names(&root), ("overlay-gw".to_owned(), true));
            assert_eq!(names(&outer.path().join("Data")), ("Data".to_owned(), false));
            assert_eq!(names(&outer.path().join("overlay-gw-2").join("state")), ("state".to_owned(), false));
        }
    }

    #[test]
    fn a_folder_that_others_may_change_is_refused_with_the_command_that_closes_it_or_closed_where_it_is_ours()
    {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("open");
        create_private_dir(&folder).unwrap();
        security::set_list(&folder, &security::Descriptor::new("D:P(A;OICI;FA;;;WD)").unwrap()).unwrap();
        let me = own_sid().unwrap();

        let why = distrust(&folder).unwrap().unwrap();
        assert!(why.contains("Everyone") && why.contains("icacls"), "{why}");
        assert!(create_private_dir(&folder).is_err());
        let closed = distrust_one(&folder, Holds::Ours, true, &me).unwrap();
        assert_eq!(closed, None);
        assert_eq!(distrust(&folder).unwrap(), None);
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
        assert!(is_private(&path).unwrap(), "{:?}", access_of(&path));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
