//! The thin leaf over the IP Helper API (iphlpapi): one function a call, names and numbers in plain types.
//!
//! Everything is bound to the adapter's LUID, which stays while the adapter lives: a route that is bound to an address
//! goes when that address goes offline.
#![allow(unsafe_code, reason = "the calls of the system have no safe form; each says why it is sound")]

use std::{io, net::Ipv4Addr, ptr};

use ipnet::Ipv4Net;
use windows_sys::Win32::{
    Foundation::{ERROR_NOT_FOUND, ERROR_OBJECT_ALREADY_EXISTS, ERROR_SUCCESS},
    NetworkManagement::{
        IpHelper::{
            ConvertInterfaceAliasToLuid, ConvertInterfaceLuidToAlias, ConvertInterfaceLuidToGuid,
            CreateIpForwardEntry2, CreateUnicastIpAddressEntry, DeleteIpForwardEntry2,
            DeleteUnicastIpAddressEntry, FreeMibTable, GetIfEntry2, GetIpForwardTable2, GetIpInterfaceEntry,
            GetUnicastIpAddressTable, InitializeIpForwardEntry, InitializeIpInterfaceEntry,
            InitializeUnicastIpAddressEntry, MIB_IF_ROW2, MIB_IPFORWARD_ROW2, MIB_IPFORWARD_TABLE2,
            MIB_IPINTERFACE_ROW, MIB_UNICASTIPADDRESS_ROW, MIB_UNICASTIPADDRESS_TABLE, SetIpInterfaceEntry,
        },
        Ndis::{NET_IF_ADMIN_STATUS_UP, NET_LUID_LH},
    },
    Networking::WinSock::{
        AF_INET, IpDadStatePreferred, MIB_IPPROTO_NETMGMT, RouterDiscoveryDisabled, SOCKADDR_INET,
    },
};
use windows_sys::core::GUID;

use super::security::wide;
use crate::change::InterfaceSetting;

/// A lifetime without end.
const FOREVER: u32 = u32::MAX;

/// The LUID of the interface called `alias`.
#[must_use]
pub fn luid_of(alias: &str) -> Option<u64> {
    let (name, mut luid) = (wide(alias), NET_LUID_LH { Value: 0 });
    // SAFETY: `name` ends with a zero; `luid` is written before it is read.
    let error = unsafe { ConvertInterfaceAliasToLuid(name.as_ptr(), &raw mut luid) };
    // SAFETY: every bit pattern is a number.
    (error == ERROR_SUCCESS).then_some(unsafe { luid.Value })
}

/// The GUID of the interface.
#[must_use]
pub fn guid_of(luid: u64) -> Option<u128> {
    let (luid, mut guid) = (NET_LUID_LH { Value: luid }, GUID::from_u128(0));
    // SAFETY: `guid` is written before it is read.
    let error = unsafe { ConvertInterfaceLuidToGuid(&raw const luid, &raw mut guid) };
    (error == ERROR_SUCCESS).then(|| {
        let tail = u128::from(u64::from_be_bytes(guid.data4));
        u128::from(guid.data1) << 96 | u128::from(guid.data2) << 80 | u128::from(guid.data3) << 64 | tail
    })
}

/// The alias of the interface.
#[must_use]
pub fn alias_of(luid: u64) -> Option<String> {
    let (luid, mut name) = (NET_LUID_LH { Value: luid }, [0_u16; 257]);
    // SAFETY: `name` is as long as the call is told.
    let error = unsafe { ConvertInterfaceLuidToAlias(&raw const luid, name.as_mut_ptr(), name.len()) };
    let length = name.iter().position(|unit| *unit == 0)?;
    (error == ERROR_SUCCESS).then(|| String::from_utf16_lossy(name.get(..length).unwrap_or_default()))
}

/// Whether the interface is administratively up, and its MTU in bytes.
#[must_use]
pub fn link(luid: u64) -> Option<(bool, u32)> {
    // SAFETY: plain data for which zero means "not given".
    let mut row: MIB_IF_ROW2 = unsafe { std::mem::zeroed() };
    row.InterfaceLuid = NET_LUID_LH { Value: luid };
    // SAFETY: the row names the interface, as the call wants it.
    let error = unsafe { GetIfEntry2(&raw mut row) };
    (error == ERROR_SUCCESS).then_some((row.AdminStatus == NET_IF_ADMIN_STATUS_UP, row.Mtu))
}

/// Every IPv4 address of the host, with the LUID of its interface.
///
/// # Errors
/// What the system says.
pub fn addresses() -> io::Result<Vec<(u64, Ipv4Net)>> {
    let mut table: *mut MIB_UNICASTIPADDRESS_TABLE = ptr::null_mut();
    // SAFETY: `table` is written before it is read.
    check(unsafe { GetUnicastIpAddressTable(AF_INET, &raw mut table) })?;
    // SAFETY: the call has put so many rows there, which stay until they are freed below.
    let rows = unsafe {
        std::slice::from_raw_parts((&raw const (*table).Table).cast(), (*table).NumEntries as usize)
    };
    let held = rows.iter().filter_map(|row: &MIB_UNICASTIPADDRESS_ROW| {
        // SAFETY: every bit pattern is a number.
        let luid = unsafe { row.InterfaceLuid.Value };
        Some((luid, Ipv4Net::new(ipv4(&row.Address)?, row.OnLinkPrefixLength).ok()?))
    });
    let held = held.collect();
    // SAFETY: allocated by the call above, and not used any more.
    unsafe { FreeMibTable(table.cast()) };
    Ok(held)
}

/// Adds an address to the interface; `quiet`: the host's own connections do not come from it, and it is not registered
/// in DNS. `false`: it was there. Duplicate detection is the interface's setting.
///
/// # Errors
/// What the system says.
pub fn add_address(luid: u64, net: Ipv4Net, quiet: bool) -> io::Result<bool> {
    let mut row = address_row(luid, net);
    row.SkipAsSource = quiet;
    row.DadState = IpDadStatePreferred;
    (row.ValidLifetime, row.PreferredLifetime) = (FOREVER, FOREVER);
    // SAFETY: the row is complete.
    added(unsafe { CreateUnicastIpAddressEntry(&raw const row) })
}

/// Removes an address from the interface; `false`: it was not there.
///
/// # Errors
/// What the system says.
pub fn remove_address(luid: u64, net: Ipv4Net) -> io::Result<bool> {
    let row = address_row(luid, net);
    // SAFETY: the row names interface and address, as the call wants it.
    removed(unsafe { DeleteUnicastIpAddressEntry(&raw const row) })
}

fn address_row(luid: u64, net: Ipv4Net) -> MIB_UNICASTIPADDRESS_ROW {
    // SAFETY: plain data; the call fills it in.
    let mut row = unsafe {
        let mut row: MIB_UNICASTIPADDRESS_ROW = std::mem::zeroed();
        InitializeUnicastIpAddressEntry(&raw mut row);
        row
    };
    row.InterfaceLuid = NET_LUID_LH { Value: luid };
    row.Address = sockaddr(net.addr());
    row.OnLinkPrefixLength = net.prefix_len();
    row
}

/// A route through the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub destination: Ipv4Net,
    /// The next hop; `None`: the destination is on the link.
    pub via: Option<Ipv4Addr>,
    /// What is added to the interface's metric.
    pub metric: u32,
}

/// The IPv4 routes through the interface.
///
/// # Errors
/// What the system says.
pub fn routes(luid: u64) -> io::Result<Vec<Route>> {
    let mut table: *mut MIB_IPFORWARD_TABLE2 = ptr::null_mut();
    // SAFETY: `table` is written before it is read.
    check(unsafe { GetIpForwardTable2(AF_INET, &raw mut table) })?;
    // SAFETY: the call has put so many rows there, which stay until they are freed below.
    let rows = unsafe {
        std::slice::from_raw_parts((&raw const (*table).Table).cast(), (*table).NumEntries as usize)
    };
    let held = rows.iter().filter_map(|row: &MIB_IPFORWARD_ROW2| {
        // SAFETY: every bit pattern is a number.
        if unsafe { row.InterfaceLuid.Value } != luid {
            return None;
        }
        let destination =
            Ipv4Net::new(ipv4(&row.DestinationPrefix.Prefix)?, row.DestinationPrefix.PrefixLength).ok()?;
        let via = ipv4(&row.NextHop).filter(|hop| !hop.is_unspecified());
        Some(Route { destination, via, metric: row.Metric })
    });
    let held = held.collect();
    // SAFETY: allocated by the call above, and not used any more.
    unsafe { FreeMibTable(table.cast()) };
    Ok(held)
}

/// Adds a route through the interface; `false`: it was there.
///
/// # Errors
/// What the system says.
pub fn add_route(luid: u64, route: Route) -> io::Result<bool> {
    let row = route_row(luid, route);
    // SAFETY: the row is complete.
    added(unsafe { CreateIpForwardEntry2(&raw const row) })
}

/// Removes a route through the interface; `false`: it was not there.
///
/// # Errors
/// What the system says.
pub fn remove_route(luid: u64, route: Route) -> io::Result<bool> {
    let row = route_row(luid, route);
    // SAFETY: the row names interface, destination and next hop, as the call wants it.
    removed(unsafe { DeleteIpForwardEntry2(&raw const row) })
}

fn route_row(luid: u64, route: Route) -> MIB_IPFORWARD_ROW2 {
    // SAFETY: plain data; the call fills it in.
    let mut row = unsafe {
        let mut row: MIB_IPFORWARD_ROW2 = std::mem::zeroed();
        InitializeIpForwardEntry(&raw mut row);
        row
    };
    row.InterfaceLuid = NET_LUID_LH { Value: luid };
    row.DestinationPrefix.Prefix = sockaddr(route.destination.network());
    row.DestinationPrefix.PrefixLength = route.destination.prefix_len();
    row.NextHop = sockaddr(route.via.unwrap_or(Ipv4Addr::UNSPECIFIED));
    row.Metric = route.metric;
    row.Protocol = MIB_IPPROTO_NETMGMT;
    row
}

/// Sets the interface's IPv4 settings. `false`: all were as wanted.
///
/// # Errors
/// What the system says.
pub fn set_interface(luid: u64, setting: InterfaceSetting) -> io::Result<bool> {
    // SAFETY: plain data; the calls fill it in.
    let mut row = unsafe {
        let mut row: MIB_IPINTERFACE_ROW = std::mem::zeroed();
        InitializeIpInterfaceEntry(&raw mut row);
        row.InterfaceLuid = NET_LUID_LH { Value: luid };
        row.Family = AF_INET;
        check(GetIpInterfaceEntry(&raw mut row))?;
        row
    };
    let there = match setting {
        InterfaceSetting::DadTransmits { count } => std::mem::replace(&mut row.DadTransmits, count) == count,
        InterfaceSetting::NoRouterDiscovery => {
            std::mem::replace(&mut row.RouterDiscoveryBehavior, RouterDiscoveryDisabled)
                == RouterDiscoveryDisabled
        }
        InterfaceSetting::Metric { metric } => {
            let automatic = std::mem::replace(&mut row.UseAutomaticMetric, false);
            std::mem::replace(&mut row.Metric, metric) == metric && !automatic
        }
        InterfaceSetting::StrongHost => {
            let send = std::mem::replace(&mut row.WeakHostSend, false);
            let receive = std::mem::replace(&mut row.WeakHostReceive, false);
            !send && !receive
        }
        InterfaceSetting::NlMtu { bytes } => {
            std::mem::replace(&mut row.NlMtu, u32::from(bytes)) == u32::from(bytes)
        }
    };
    if there {
        return Ok(false);
    }
    // What the call gives for IPv4 is not what it takes (its documentation, "SitePrefixLength").
    row.SitePrefixLength = 0;
    // SAFETY: the row is complete.
    check(unsafe { SetIpInterfaceEntry(&raw mut row) })?;
    Ok(true)
}

fn sockaddr(address: Ipv4Addr) -> SOCKADDR_INET {
    // SAFETY: plain data for which zero means "not given".
    let mut inet: SOCKADDR_INET = unsafe { std::mem::zeroed() };
    inet.Ipv4.sin_family = AF_INET;
    inet.Ipv4.sin_addr.S_un.S_addr = u32::from_ne_bytes(address.octets());
    inet
}

fn ipv4(inet: &SOCKADDR_INET) -> Option<Ipv4Addr> {
    // SAFETY: the family says which of them it is; every bit pattern is a number.
    unsafe {
        (inet.si_family == AF_INET).then(|| Ipv4Addr::from(inet.Ipv4.sin_addr.S_un.S_addr.to_ne_bytes()))
    }
}

/// The result that an error of this API stands for.
///
/// # Errors
/// Every other than `ERROR_SUCCESS`.
pub fn check(error: u32) -> io::Result<()> {
    if error == ERROR_SUCCESS { Ok(()) } else { Err(io::Error::from_raw_os_error(error as i32)) }
}

fn added(error: u32) -> io::Result<bool> {
    if error == ERROR_OBJECT_ALREADY_EXISTS { Ok(false) } else { check(error).map(|()| true) }
}

fn removed(error: u32) -> io::Result<bool> {
    if error == ERROR_NOT_FOUND { Ok(false) } else { check(error).map(|()| true) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_addresses_have_interfaces_with_names() {
        let held = addresses().unwrap();
        let (luid, net) = held.iter().find(|(_, net)| net.addr().is_loopback()).unwrap();
        assert_eq!(net.prefix_len(), 8);
        let alias = alias_of(*luid).unwrap();
        assert_eq!(luid_of(&alias), Some(*luid));
        assert!(guid_of(*luid).is_some() && link(*luid).is_some());
        assert_eq!(luid_of("no such interface"), None);
        assert!(routes(*luid).is_ok());
    }

    #[test]
    fn an_address_survives_the_systems_form() {
        let address = Ipv4Addr::new(172, 16, 8, 57);
        assert_eq!(ipv4(&sockaddr(address)), Some(address));
    }
}
