//! wintun.dll: loaded from the program's own folder and from nowhere else, and only when it is WireGuard LLC's.
#![allow(unsafe_code, reason = "the calls of the system have no safe form; each says why it is sound")]

use std::{
    ffi::c_void,
    fs, io,
    os::windows::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    ptr,
};

use sha2::Digest as _;
use windows_sys::{
    Win32::{
        Foundation::INVALID_HANDLE_VALUE,
        Security::{
            Cryptography::{CERT_NAME_SIMPLE_DISPLAY_TYPE, CertGetNameStringW},
            WinTrust::{
                WINTRUST_ACTION_GENERIC_VERIFY_V2, WINTRUST_DATA, WINTRUST_FILE_INFO, WTD_CHOICE_FILE,
                WTD_REVOKE_NONE, WTD_STATEACTION_CLOSE, WTD_STATEACTION_VERIFY, WTD_UI_NONE,
                WTHelperGetProvCertFromChain, WTHelperGetProvSignerFromChain, WTHelperProvDataFromStateData,
                WinVerifyTrust,
            },
        },
        Storage::FileSystem::{
            FILE_SHARE_READ, GetFileVersionInfoSizeW, GetFileVersionInfoW, VS_FIXEDFILEINFO, VerQueryValueW,
        },
        System::LibraryLoader::{LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR, LOAD_LIBRARY_SEARCH_SYSTEM32},
    },
    core::w,
};

use super::security::wide;
use crate::DeviceError;

/// The file's name.
const NAME: &str = "wintun.dll";

/// Who signs it.
const SIGNER: &str = "WireGuard LLC";

/// The oldest release that is used: 0.14 has other functions than those before, and 0.14.1 mends it (Wintun's release notes).
const OLDEST: Version = Version([0, 14, 1]);

/// SHA-256 of the files of release 0.14.1, x86-64 and ARM64, with which this program was made. They are taken as they
/// are, also by a host that lacks the certificates to check a signature.
const KNOWN: [&str; 2] = [
    "e5da8447dc2c320edc0fc52fa01885c103de8c118481f683643cacc3220dafce",
    "f7ba89005544be9d85231a9e0d5f23b2d15b3311667e2dad0debd344918a3f80",
];

/// The loaded library, and what is known of it.
pub struct Dll {
    /// Its functions.
    pub wintun: wintun::Wintun,
    /// What `status` shows of it.
    pub facts: DllFacts,
}

/// What `status` shows of the driver's library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DllFacts {
    /// The file.
    pub path: PathBuf,
    /// Its version, as its resources say.
    pub version: String,
    /// Whose it is, and how that was found out.
    pub signature: String,
}

impl std::fmt::Debug for Dll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dll").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Dll {
    /// Checks and loads the library beside the program.
    ///
    /// # Errors
    /// [`DeviceError::NoLibrary`] when it is not there or not the real one.
    pub fn load() -> Result<Self, DeviceError> {
        Self::load_from(&beside_the_program()).map_err(|source| DeviceError::NoLibrary { source })
    }

    fn load_from(path: &Path) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        // Nobody can change or replace it between the check and the loading.
        let held = fs::OpenOptions::new().read(true).share_mode(FILE_SHARE_READ).open(path).map_err(named)?;
        let version = version(path);
        let signature = check(path, version).map_err(named)?;
        let version = version.map_or_else(|| "unknown".to_owned(), |version| version.to_string());
        let flags = LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR | LOAD_LIBRARY_SEARCH_SYSTEM32;
        // SAFETY: the file was checked: it is the library that this program was made for, or its makers signed it.
        let library = unsafe { libloading::os::windows::Library::load_with_flags(path, flags) };
        let library = library.map_err(|error| named(io::Error::other(error.to_string())))?;
        // SAFETY: as above; its functions are those of wintun.h.
        let wintun = unsafe { wintun::load_from_library(library) };
        let wintun = wintun.map_err(|error| named(io::Error::other(error.to_string())))?;
        drop(held);
        Ok(Self { wintun, facts: DllFacts { path: path.to_owned(), version, signature } })
    }
}

/// Removes the driver from the system (WintunDeleteDriver). Windows keeps it while any program has an adapter of it; one that comes later
/// brings it again.
///
/// # Errors
/// When the library is not there or not the real one; what the system says.
pub fn delete_driver() -> io::Result<()> {
    let dll = Dll::load().map_err(io::Error::other)?;
    // SAFETY: the function of wintun.h, which takes nothing.
    if unsafe { dll.wintun.WintunDeleteDriver() } == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn beside_the_program() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program.parent().unwrap_or(Path::new("")).join(NAME)
}

/// A release of the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version([u32; 3]);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self([major, minor, patch]) = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// Refuses a release before [`OLDEST`], and one that does not say which it is.
fn check_version(version: Option<Version>) -> io::Result<()> {
    let found = match version {
        Some(version) if version >= OLDEST => return Ok(()),
        Some(version) => format!("it is version {version}"),
        None => "it does not say its version".to_owned(),
    };
    Err(refused(format!("{found}, and {OLDEST} or newer is needed")))
}

/// Whose the file is, in words; refused when it is nobody's that we know, or too old.
fn check(path: &Path, version: Option<Version>) -> io::Result<String> {
    let bytes = fs::read(path)?;
    let digest = sha2::Sha256::digest(&bytes);
    let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    if KNOWN.contains(&hash.as_str()) {
        return Ok(format!("{SIGNER} (the file that this program was made with)"));
    }
    match signer(path) {
        Ok(signer) if signer == SIGNER => {
            check_version(version)?;
            Ok(format!("{signer} (signature checked)"))
        }
        Ok(other) => Err(refused(format!("it is signed by {other}, not by {SIGNER}"))),
        Err(_) if super::doubles::accepts_unsigned() => Ok("none: a double for tests".to_owned()),
        Err(error) => Err(refused(format!("its signature does not hold: {error}"))),
    }
}

fn refused(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

/// Who signed the file, if the system trusts the signature (WinVerifyTrust).
fn signer(path: &Path) -> io::Result<String> {
    let name = wide(path);
    // SAFETY: both are plain data for which zero means "not given".
    let (mut file, mut data): (WINTRUST_FILE_INFO, WINTRUST_DATA) = unsafe { std::mem::zeroed() };
    file.cbStruct = size_of::<WINTRUST_FILE_INFO>() as u32;
    file.pcwszFilePath = name.as_ptr();
    data.cbStruct = size_of::<WINTRUST_DATA>() as u32;
    data.dwUIChoice = WTD_UI_NONE;
    // A node that boots has no network to ask for revocations, and must start all the same.
    data.fdwRevocationChecks = WTD_REVOKE_NONE;
    data.dwUnionChoice = WTD_CHOICE_FILE;
    data.Anonymous.pFile = &raw mut file;
    data.dwStateAction = WTD_STATEACTION_VERIFY;
    let mut action = WINTRUST_ACTION_GENERIC_VERIFY_V2;
    let window = INVALID_HANDLE_VALUE;
    // SAFETY: `data` and what it points to live until the state is closed below.
    let verdict = unsafe { WinVerifyTrust(window, &raw mut action, (&raw mut data).cast::<c_void>()) };
    let signer = if verdict == 0 {
        // SAFETY: the state was made by the call above, and is closed below.
        unsafe { signer_name(&data) }
    } else {
        Err(io::Error::from_raw_os_error(verdict))
    };
    data.dwStateAction = WTD_STATEACTION_CLOSE;
    // SAFETY: as above.
    unsafe { WinVerifyTrust(window, &raw mut action, (&raw mut data).cast::<c_void>()) };
    signer
}

/// # Safety
/// `data` holds the state of a check that has succeeded.
unsafe fn signer_name(data: &WINTRUST_DATA) -> io::Result<String> {
    let missing = || io::Error::other("the signature names nobody");
    // SAFETY: by the caller's word; each pointer is looked at before it is used.
    unsafe {
        let provider = WTHelperProvDataFromStateData(data.hWVTStateData);
        if provider.is_null() {
            return Err(missing());
        }
        let signer = WTHelperGetProvSignerFromChain(provider, 0, 0, 0);
        if signer.is_null() {
            return Err(missing());
        }
        let certificate = WTHelperGetProvCertFromChain(signer, 0);
        if certificate.is_null() || (*certificate).pCert.is_null() {
            return Err(missing());
        }
        let mut name = [0_u16; 256];
        let length = CertGetNameStringW(
            (*certificate).pCert,
            CERT_NAME_SIMPLE_DISPLAY_TYPE,
            0,
            ptr::null(),
            name.as_mut_ptr(),
            name.len() as u32,
        );
        let name = name.get(..(length as usize).saturating_sub(1)).unwrap_or_default();
        Ok(String::from_utf16_lossy(name))
    }
}

/// The version in the file's resources.
fn version(path: &Path) -> Option<Version> {
    let name = wide(path);
    // SAFETY: `name` ends with a zero; `block` is as long as the call is told; what is found lies in it.
    unsafe {
        let length = GetFileVersionInfoSizeW(name.as_ptr(), ptr::null_mut());
        let mut block = vec![0_u8; length as usize];
        if length == 0 || GetFileVersionInfoW(name.as_ptr(), 0, length, block.as_mut_ptr().cast()) == 0 {
            return None;
        }
        let (mut found, mut size): (*mut c_void, u32) = (ptr::null_mut(), 0);
        let done = VerQueryValueW(block.as_ptr().cast(), w!("\\"), &raw mut found, &raw mut size);
        if done == 0 || (size as usize) < size_of::<VS_FIXEDFILEINFO>() {
            return None;
        }
        let info = found.cast::<VS_FIXEDFILEINFO>().read_unaligned();
        let (high, low) = (info.dwFileVersionMS, info.dwFileVersionLS);
        Some(Version([high >> 16, high & 0xffff, low >> 16]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_or_not_wireguards_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        assert_eq!(Dll::load_from(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(&path, "not a library").unwrap();
        let error = Dll::load_from(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains(NAME), "{error}");
    }

    #[test]
    fn a_library_before_0_14_1_or_without_a_version_is_refused_with_what_is_needed() {
        for enough in [[0, 14, 1], [0, 14, 2], [0, 15, 0], [1, 0, 0]] {
            check_version(Some(Version(enough))).unwrap();
        }
        for old in [[0, 14, 0], [0, 13, 9], [0, 8, 1], [0, 0, 0]] {
            let error = check_version(Some(Version(old))).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            let text = error.to_string();
            assert!(text.contains(&Version(old).to_string()), "{text}");
            assert!(text.contains("0.14.1 or newer is needed"), "{text}");
        }
        assert!(check_version(None).unwrap_err().to_string().contains("does not say"));
    }

    #[test]
    fn the_version_is_read_from_the_files_resources() {
        // Stands for the driver's library: Wine's own libraries have such resources as well.
        let system = std::env::var_os("SystemRoot").unwrap();
        let library = Path::new(&system).join("system32").join("ntdll.dll");
        assert!(version(&library).unwrap() > Version([0, 0, 0]));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        fs::write(&path, "not a library").unwrap();
        assert_eq!(version(&path), None);
    }
}
