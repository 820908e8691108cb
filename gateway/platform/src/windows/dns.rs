//! DNS servers of one interface: SetInterfaceDnsSettings where the system has it (Windows 10 2004, Server 2022); elsewhere, on Server
//! 2016 and 2019, the registry value that it writes, and the DNS client is told to read its parameters again, as OpenVPN's service
//! does after it has changed them. (DhcpNotifyConfigChange of dhcpcsvc.dll is not documented.) Never NRPT, which can break a domain controller.
#![allow(unsafe_code, reason = "the calls of the system have no safe form; each says why it is sound")]

use std::{io, net::Ipv4Addr, ptr};

use windows_sys::{
    Win32::{
        Foundation::{ERROR_FILE_NOT_FOUND, ERROR_SUCCESS, FreeLibrary},
        NetworkManagement::IpHelper::{
            DNS_INTERFACE_SETTINGS, DNS_INTERFACE_SETTINGS_VERSION1, DNS_SETTING_NAMESERVER,
        },
        System::{
            LibraryLoader::{GetProcAddress, LOAD_LIBRARY_SEARCH_SYSTEM32, LoadLibraryExW},
            Registry::{HKEY_LOCAL_MACHINE, REG_SZ, RRF_RT_REG_SZ, RegGetValueW, RegSetValueExW},
            Services::{
                CloseServiceHandle, ControlService, OpenSCManagerW, OpenServiceW, SC_MANAGER_CONNECT,
                SERVICE_CONTROL_PARAMCHANGE, SERVICE_PAUSE_CONTINUE, SERVICE_STATUS,
            },
        },
    },
    core::{GUID, s, w},
};

use super::{boot, security::wide};

/// SetInterfaceDnsSettings (netioapi.h). Looked up at run time: a program that imports it does not start on Server 2016
/// and 2019.
type SetInterfaceDnsSettings = unsafe extern "system" fn(GUID, *const DNS_INTERFACE_SETTINGS) -> u32;

/// Sets the servers of the interface; none: takes them away.
///
/// # Errors
/// What the system says.
pub fn set(guid: u128, servers: &[Ipv4Addr]) -> io::Result<()> {
    let list: Vec<String> = servers.iter().map(ToString::to_string).collect();
    let list = wide(list.join(","));
    let Some(error) = through_the_api(guid, &list) else { return through_the_registry(guid, &list) };
    if error == ERROR_SUCCESS { Ok(()) } else { Err(io::Error::from_raw_os_error(error as i32)) }
}

/// The servers of the interface; empty when none were set.
#[must_use]
pub fn servers(guid: u128) -> Vec<Ipv4Addr> {
    let (path, mut text) = (wide(key(guid)), [0_u16; 512]);
    let mut size = size_of_val(&text) as u32;
    // SAFETY: `text` is as long as the call is told; the names end with a zero.
    let error = unsafe {
        RegGetValueW(
            HKEY_LOCAL_MACHINE,
            path.as_ptr(),
            w!("NameServer"),
            RRF_RT_REG_SZ,
            ptr::null_mut(),
            text.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if error != ERROR_SUCCESS {
        return Vec::new();
    }
    let length = text.iter().position(|unit| *unit == 0).unwrap_or(text.len());
    let text = String::from_utf16_lossy(text.get(..length).unwrap_or_default());
    text.split([',', ' ']).filter_map(|server| server.parse().ok()).collect()
}

/// What the API says; `None` where there is none.
fn through_the_api(guid: u128, list: &[u16]) -> Option<u32> {
    // SAFETY: the names end with a zero; only the system's own folder is searched.
    let library =
        unsafe { LoadLibraryExW(w!("iphlpapi.dll"), ptr::null_mut(), LOAD_LIBRARY_SEARCH_SYSTEM32) };
    if library.is_null() {
        return None;
    }
    // SAFETY: the library is loaded until it is freed below.
    let found = unsafe { GetProcAddress(library, s!("SetInterfaceDnsSettings")) };
    let error = found.map(|function| {
        let settings = DNS_INTERFACE_SETTINGS {
            Version: DNS_INTERFACE_SETTINGS_VERSION1,
            Flags: u64::from(DNS_SETTING_NAMESERVER),
            NameServer: list.as_ptr().cast_mut(),
            // SAFETY: plain data for which zero means "not given".
            ..unsafe { std::mem::zeroed() }
        };
        // SAFETY: it is the function of that name, whose type netioapi.h says; `list` ends with a zero.
        unsafe {
            let function: SetInterfaceDnsSettings = std::mem::transmute(function);
            function(GUID::from_u128(guid), &raw const settings)
        }
    });
    // SAFETY: loaded above.
    unsafe { FreeLibrary(library) };
    error
}

fn through_the_registry(guid: u128, list: &[u16]) -> io::Result<()> {
    let key = boot::create(HKEY_LOCAL_MACHINE, &key(guid), 0)?;
    let size = size_of_val(list) as u32;
    // SAFETY: `list` is as long as the call is told, its zero included.
    match unsafe { RegSetValueExW(key.0, w!("NameServer"), 0, REG_SZ, list.as_ptr().cast(), size) } {
        ERROR_SUCCESS | ERROR_FILE_NOT_FOUND => {}
        error => return Err(io::Error::from_raw_os_error(error as i32)),
    }
    // What is written counts from the next start of the service, or change of the network, in any case.
    if let Err(error) = tell_the_client() {
        tracing::warn!(%error, "the DNS client could not be told of its new servers; it sees them when the network changes next");
    }
    Ok(())
}

/// Has the DNS client read its parameters again (SERVICE_CONTROL_PARAMCHANGE).
fn tell_the_client() -> io::Result<()> {
    let check = |done: bool| if done { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: the names end with a zero; each handle is looked at before it is used, and closed once.
    unsafe {
        let manager = OpenSCManagerW(ptr::null(), ptr::null(), SC_MANAGER_CONNECT);
        check(!manager.is_null())?;
        let service = OpenServiceW(manager, w!("Dnscache"), SERVICE_PAUSE_CONTINUE);
        let told = check(!service.is_null()).and_then(|()| {
            let mut status = SERVICE_STATUS::default();
            let told = check(ControlService(service, SERVICE_CONTROL_PARAMCHANGE, &raw mut status) != 0);
            CloseServiceHandle(service);
            told
        });
        CloseServiceHandle(manager);
        told
    }
}

fn key(guid: u128) -> String {
    format!(
        "SYSTEM\\CurrentControlSet\\Services\\Tcpip\\Parameters\\Interfaces\\{{{}}}",
        crate::guid::dashed(guid)
    )
}
