//! The host's event log: source `overlay-gw`, event ids that stay, their texts in the program's message table
//! (`windows/events.mc`).

use super::HostEvent;
use overlay_platform::os::security::wide;
use std::io;
use std::path::Path;
use std::ptr;
use windows_sys::Win32::Foundation::ERROR_SUCCESS;
use windows_sys::Win32::System::EventLog::{
    DeregisterEventSource, EVENTLOG_ERROR_TYPE, EVENTLOG_INFORMATION_TYPE, EVENTLOG_WARNING_TYPE,
    RegisterEventSourceW, ReportEventW,
};
use windows_sys::Win32::System::Registry::{
    HKEY, HKEY_LOCAL_MACHINE, KEY_SET_VALUE, REG_DWORD, REG_EXPAND_SZ, RegCloseKey, RegCreateKeyExW,
    RegDeleteTreeW, RegSetValueExW,
};
use windows_sys::core::w;

/// The id of the event that says that the service did not come as far as packets.
const START_FAILED: u32 = 3;

/// The id of the event that says that there is no log file.
const NO_LOG: u32 = 12;

/// Where the source is registered.
const SOURCE: windows_sys::core::PCWSTR =
    w!("SYSTEM\\CurrentControlSet\\Services\\EventLog\\Application\\overlay-gw");

/// Writes an event. One that cannot be written is lost: the log file has more anyway.
pub fn write(event: HostEvent, what: &str) {
    let kind = match event {
        HostEvent::Ready | HostEvent::Stopping | HostEvent::PathRestored => EVENTLOG_INFORMATION_TYPE,
        HostEvent::AdapterLost => EVENTLOG_WARNING_TYPE,
        HostEvent::Panicked => EVENTLOG_ERROR_TYPE,
    };
    report(kind, event as u32, what);
}

/// Writes that the service did not come as far as packets, and why.
pub fn write_start_failed(why: &str) {
    report(EVENTLOG_ERROR_TYPE, START_FAILED, why);
}

/// Writes that there is no log file, and why. There is nothing else that has it.
pub fn write_no_log(why: &str) {
    report(EVENTLOG_WARNING_TYPE, NO_LOG, why);
}

#[allow(unsafe_code, reason = "the event log has no other way in")]
fn report(kind: u16, id: u32, what: &str) {
    let text = wide(what);
    let strings = [text.as_ptr()];
    // SAFETY: all texts end with a zero and live until the call is over.
    unsafe {
        let source = RegisterEventSourceW(ptr::null(), w!("overlay-gw"));
        if !source.is_null() {
            ReportEventW(source, kind, 0, id, ptr::null_mut(), 1, 0, strings.as_ptr(), ptr::null());
            DeregisterEventSource(source);
        }
    }
}

/// Registers the source, with `program` as the file that has the texts.
///
/// # Errors
/// When the registry cannot be written.
#[allow(unsafe_code, reason = "the registry has no other way in")]
pub fn register(program: &Path) -> io::Result<()> {
    let path = wide(program);
    let types = EVENTLOG_ERROR_TYPE as u32 | EVENTLOG_WARNING_TYPE as u32 | EVENTLOG_INFORMATION_TYPE as u32;
    let check = |error| match error {
        ERROR_SUCCESS => Ok(()),
        error => Err(io::Error::from_raw_os_error(error as i32)),
    };
    let mut key: HKEY = ptr::null_mut();
    // SAFETY: names and values end with a zero or are as long as the call is told; the key is closed once.
    unsafe {
        check(RegCreateKeyExW(
            HKEY_LOCAL_MACHINE,
            SOURCE,
            0,
            ptr::null(),
            0,
            KEY_SET_VALUE,
            ptr::null(),
            &raw mut key,
            ptr::null_mut(),
        ))?;
        let (size, bytes) = (size_of_val(path.as_slice()) as u32, path.as_ptr().cast());
        let file = RegSetValueExW(key, w!("EventMessageFile"), 0, REG_EXPAND_SZ, bytes, size);
        let types = RegSetValueExW(key, w!("TypesSupported"), 0, REG_DWORD, (&raw const types).cast(), 4);
        RegCloseKey(key);
        check(file).and_then(|()| check(types))
    }
}

/// Takes the source out.
#[allow(unsafe_code, reason = "the registry has no other way in")]
pub fn unregister() {
    // SAFETY: the name ends with a zero.
    unsafe { RegDeleteTreeW(HKEY_LOCAL_MACHINE, SOURCE) };
}
