//! The host's whole forwarding table, of both families, as the underlay needs it to find its way beside the overlay.
#![allow(unsafe_code, reason = "the calls of the system have no safe form; each says why it is sound")]

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ptr,
};

use ipnet::IpNet;
use windows_sys::Win32::{
    Foundation::ERROR_BUFFER_OVERFLOW,
    NetworkManagement::{
        IpHelper::{
            FreeMibTable, GAA_FLAG_SKIP_ANYCAST, GAA_FLAG_SKIP_DNS_SERVER, GAA_FLAG_SKIP_FRIENDLY_NAME,
            GAA_FLAG_SKIP_MULTICAST, GAA_FLAG_SKIP_UNICAST, GetAdaptersAddresses, GetIpForwardTable2,
            IP_ADAPTER_ADDRESSES_LH, MIB_IPFORWARD_ROW2, MIB_IPFORWARD_TABLE2,
        },
        Ndis::IfOperStatusUp,
    },
    Networking::WinSock::{AF_INET, AF_INET6, AF_UNSPEC, SOCKADDR_INET},
};

use super::iphelper::check;
use crate::underlay_routes::Row;

/// The rows whose interface is up: the system keeps those of a cable that is out.
///
/// # Errors
/// What the system says.
pub fn rows() -> io::Result<Vec<Row>> {
    let metrics = interface_metrics()?;
    let mut table: *mut MIB_IPFORWARD_TABLE2 = ptr::null_mut();
    // SAFETY: `table` is written before it is read.
    check(unsafe { GetIpForwardTable2(AF_UNSPEC, &raw mut table) })?;
    // SAFETY: the call has put so many rows there, which stay until they are freed below.
    let held: &[MIB_IPFORWARD_ROW2] = unsafe {
        std::slice::from_raw_parts((&raw const (*table).Table).cast(), (*table).NumEntries as usize)
    };
    let rows = held.iter().filter_map(|row| {
        let destination = ip(&row.DestinationPrefix.Prefix)?;
        // SAFETY: every bit pattern is a number.
        let interface = unsafe { row.InterfaceLuid.Value };
        let metrics = metrics.get(&interface)?;
        let metric = if destination.is_ipv4() { metrics.ipv4 } else { metrics.ipv6 };
        Some(Row {
            destination: IpNet::new(destination, row.DestinationPrefix.PrefixLength).ok()?,
            interface,
            index: row.InterfaceIndex,
            metric: row.Metric.saturating_add(metric),
        })
    });
    let rows = rows.collect();
    // SAFETY: allocated by the call above, and not used any more.
    unsafe { FreeMibTable(table.cast()) };
    Ok(rows)
}

/// What an interface adds to the metric of a route, for each family.
struct Metrics {
    ipv4: u32,
    ipv6: u32,
}

/// The metrics of each interface that is up, by LUID.
fn interface_metrics() -> io::Result<HashMap<u64, Metrics>> {
    let list = adapters()?;
    let mut metrics = HashMap::new();
    let mut next: *const IP_ADAPTER_ADDRESSES_LH = list.as_ptr().cast();
    // SAFETY: the system has made a list in `list`, which lives as long as this; its last member points nowhere.
    while let Some(adapter) = unsafe { next.as_ref() } {
        if adapter.OperStatus == IfOperStatusUp {
            // SAFETY: every bit pattern is a number.
            let luid = unsafe { adapter.Luid.Value };
            metrics.insert(luid, Metrics { ipv4: adapter.Ipv4Metric, ipv6: adapter.Ipv6Metric });
        }
        next = adapter.Next;
    }
    Ok(metrics)
}

/// The system's list of the interfaces, without what this file does not ask for. Of numbers as long as a pointer, for that is how it
/// is aligned. At least one: a host without any is `ERROR_NO_DATA`.
fn adapters() -> io::Result<Vec<u64>> {
    /// What the documentation of GetAdaptersAddresses recommends to begin with, in bytes.
    const ROOM: u32 = 15_000;
    /// How often it may have grown between the question how long it is and the next.
    const TRIES: u32 = 5;
    let asked = GAA_FLAG_SKIP_UNICAST
        | GAA_FLAG_SKIP_ANYCAST
        | GAA_FLAG_SKIP_MULTICAST
        | GAA_FLAG_SKIP_DNS_SERVER
        | GAA_FLAG_SKIP_FRIENDLY_NAME;
    let mut bytes = ROOM;
    for _ in 0..TRIES {
        let mut list = vec![0_u64; (bytes as usize).div_ceil(size_of::<u64>())];
        let room = list.as_mut_ptr().cast();
        // SAFETY: the room is at least as long as the call is told.
        match unsafe { GetAdaptersAddresses(AF_UNSPEC.into(), asked, ptr::null(), room, &raw mut bytes) } {
            // `bytes` is now what it takes.
            ERROR_BUFFER_OVERFLOW => {}
            error => return check(error).map(|()| list),
        }
    }
    Err(io::Error::from_raw_os_error(ERROR_BUFFER_OVERFLOW as i32))
}

fn ip(inet: &SOCKADDR_INET) -> Option<IpAddr> {
    // SAFETY: the family says which of them it is; every bit pattern is a number.
    unsafe {
        match inet.si_family {
            AF_INET => Some(Ipv4Addr::from(inet.Ipv4.sin_addr.S_un.S_addr.to_ne_bytes()).into()),
            AF_INET6 => Some(Ipv6Addr::from(inet.Ipv6.sin6_addr.u.Byte).into()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_has_an_interface_and_every_interface_a_metric() {
        // Wine shows Linux' main table, which has no row for 127.0.0.0/8, and may be empty.
        assert!(rows().unwrap().iter().all(|row| row.index > 0 && row.interface > 0));
        assert!(!interface_metrics().unwrap().is_empty());
    }
}
