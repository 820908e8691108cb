//! This boot, and this version of Windows.
#![allow(unsafe_code, reason = "the calls of the system have no safe form; each says why it is sound")]

use std::{io, ptr};

use windows_sys::{
    Wdk::System::SystemServices::RtlGetVersion,
    Win32::{
        Foundation::{ERROR_FILE_NOT_FOUND, ERROR_SUCCESS},
        System::{
            Registry::{
                HKEY, HKEY_LOCAL_MACHINE, KEY_QUERY_VALUE, KEY_SET_VALUE, REG_OPTION_VOLATILE, REG_SZ,
                RRF_RT_REG_SZ, RegCloseKey, RegCreateKeyExW, RegDeleteTreeW, RegGetValueW, RegSetValueExW,
            },
            SystemInformation::OSVERSIONINFOW,
        },
    },
    core::w,
};

use super::security::wide;
use crate::HostError;

/// The first Windows that is supported: Server 2016 and Windows 10 of 2016.
const OLDEST_BUILD: u32 = 14_393;

/// The id of this boot, for a record: it is kept in a registry key that goes when the system does (a volatile one), for
/// Windows has no such number that a change of the clock leaves alone.
///
/// # Errors
/// When the registry cannot be written: by one who is no administrator.
pub fn boot_id() -> io::Result<String> {
    let software = create(HKEY_LOCAL_MACHINE, "SOFTWARE\\overlay-gw", 0)?;
    let boot = create(software.0, "Boot", REG_OPTION_VOLATILE)?;
    let mut text = [0_u16; 64];
    let mut size = size_of_val(&text) as u32;
    // SAFETY: `text` is as long as the call is told; the names end with a zero.
    let found = unsafe {
        RegGetValueW(
            boot.0,
            ptr::null(),
            w!("Id"),
            RRF_RT_REG_SZ,
            ptr::null_mut(),
            text.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    match found {
        ERROR_SUCCESS => {
            let length = text.iter().position(|unit| *unit == 0).unwrap_or(text.len());
            return Ok(String::from_utf16_lossy(text.get(..length).unwrap_or_default()));
        }
        ERROR_FILE_NOT_FOUND => {}
        error => return Err(io::Error::from_raw_os_error(error as i32)),
    }
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| io::Error::other("the system gives no randomness"))?;
    let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let value = wide(&id);
    // SAFETY: `value` is as long as the call is told, its zero included.
    let set = unsafe {
        RegSetValueExW(
            boot.0,
            w!("Id"),
            0,
            REG_SZ,
            value.as_ptr().cast(),
            size_of_val(value.as_slice()) as u32,
        )
    };
    if set == ERROR_SUCCESS { Ok(id) } else { Err(io::Error::from_raw_os_error(set as i32)) }
}

/// Takes away what is in the registry of this program: the boot's id. A record that is still there is one of another boot from then on.
///
/// # Errors
/// What the registry says.
pub fn forget() -> io::Result<()> {
    // SAFETY: the name ends with a zero.
    match unsafe { RegDeleteTreeW(HKEY_LOCAL_MACHINE, w!("SOFTWARE\\overlay-gw")) } {
        ERROR_SUCCESS | ERROR_FILE_NOT_FOUND => Ok(()),
        error => Err(io::Error::from_raw_os_error(error as i32)),
    }
}

/// Checks that this Windows is 10 or Server 2016, or newer.
///
/// # Errors
/// [`HostError::WindowsTooOld`].
pub fn check_kernel() -> Result<(), HostError> {
    let mut version =
        OSVERSIONINFOW { dwOSVersionInfoSize: size_of::<OSVERSIONINFOW>() as u32, ..Default::default() };
    // SAFETY: the structure says its size.
    unsafe { RtlGetVersion(&raw mut version) };
    if version.dwMajorVersion >= 10 && version.dwBuildNumber >= OLDEST_BUILD {
        return Ok(());
    }
    let found = format!("{}.{}.{}", version.dwMajorVersion, version.dwMinorVersion, version.dwBuildNumber);
    Err(HostError::WindowsTooOld { found })
}

/// An open registry key.
pub(super) struct Key(pub(super) HKEY);

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: opened by `create`, and nobody has a copy.
        unsafe { RegCloseKey(self.0) };
    }
}

/// Opens or makes a key below `parent`.
pub(super) fn create(parent: HKEY, name: &str, options: u32) -> io::Result<Key> {
    let name = wide(name);
    let mut key: HKEY = ptr::null_mut();
    // SAFETY: `name` ends with a zero; `key` is written before it is read.
    let error = unsafe {
        RegCreateKeyExW(
            parent,
            name.as_ptr(),
            0,
            ptr::null(),
            options,
            KEY_QUERY_VALUE | KEY_SET_VALUE | KEY_CREATE_SUB_KEY,
            ptr::null(),
            &raw mut key,
            ptr::null_mut(),
        )
    };
    if error == ERROR_SUCCESS { Ok(Key(key)) } else { Err(io::Error::from_raw_os_error(error as i32)) }
}

/// To make keys below it (winnt.h).
const KEY_CREATE_SUB_KEY: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_has_one_id_and_this_windows_is_new_enough() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        assert_eq!(boot_id().unwrap().len(), 32);
        check_kernel().unwrap();
    }
}
