//! DNS servers through a double of systemd-resolved, on a bus of its own.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "these are tests")]

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use overlay_platform::os::resolved::{BusAddress, DnsOutcome, Resolved};
use zbus::{OwnedObjectPath, fdo, interface};

/// A private bus, which ends with the test.
struct Bus {
    daemon: Child,
    address: String,
}

impl Bus {
    /// `None`, with the reason printed, where there is no dbus-daemon.
    fn start() -> Option<Self> {
        let daemon = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--nopidfile", "--print-address=1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut daemon) = daemon else {
            eprintln!("skipped: no dbus-daemon on this machine (apt install dbus-daemon)");
            return None;
        };
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Some(Self { daemon, address: address.trim().to_owned() })
    }

    fn address(&self) -> BusAddress {
        BusAddress::At(self.address.clone())
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        _ = self.daemon.kill();
        _ = self.daemon.wait();
    }
}

/// What the double was told, by link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    dns: Vec<(i32, Vec<u8>)>,
    default_route: Option<bool>,
}

type Links = Arc<Mutex<HashMap<i32, Told>>>;

/// The double's Manager, with the signatures of org.freedesktop.resolve1(5).
struct Manager(Links);

/// The double's only link.
struct Link(Links, i32);

#[interface(name = "org.freedesktop.resolve1.Manager")]
impl Manager {
    #[zbus(name = "SetLinkDNS")]
    fn set_link_dns(&self, ifindex: i32, addresses: Vec<(i32, Vec<u8>)>) -> fdo::Result<()> {
        if ifindex == 666 {
            return Err(fdo::Error::AccessDenied("interactive authentication required".into()));
        }
        self.0.lock().unwrap().entry(ifindex).or_default().dns = addresses;
        Ok(())
    }

    fn set_link_default_route(&self, ifindex: i32, enable: bool) {
        self.0.lock().unwrap().entry(ifindex).or_default().default_route = Some(enable);
    }

    fn revert_link(&self, ifindex: i32) {
        self.0.lock().unwrap().remove(&ifindex);
    }

    fn get_link(&self, ifindex: i32) -> fdo::Result<OwnedObjectPath> {
        let path = format!("/org/freedesktop/resolve1/link/_{ifindex}");
        OwnedObjectPath::try_from(path).map_err(|error| fdo::Error::Failed(error.to_string()))
    }
}

#[interface(name = "org.freedesktop.resolve1.Link")]
impl Link {
    #[zbus(property, name = "DNS")]
    fn dns(&self) -> Vec<(i32, Vec<u8>)> {
        self.0.lock().unwrap().get(&self.1).cloned().unwrap_or_default().dns
    }
}

#[tokio::test]
async fn servers_are_set_for_the_link_alone_read_back_and_reverted() {
    let Some(bus) = Bus::start() else { return };
    assert!(Resolved::connect(&bus.address()).await.is_none(), "a bus without resolved");
    let links = Links::default();
    let double = zbus::connection::Builder::address(bus.address.as_str())
        .serve_at("/org/freedesktop/resolve1", Manager(links.clone()))
        .serve_at("/org/freedesktop/resolve1/link/_7", Link(links.clone(), 7))
        .name("org.freedesktop.resolve1")
        .build()
        .await
        .unwrap();
    let resolved = Resolved::connect(&bus.address()).await.unwrap();
    let servers = [Ipv4Addr::new(172, 16, 0, 1), Ipv4Addr::new(172, 16, 0, 2)];
    assert_eq!(resolved.servers(7).await, Some(vec![]));
    assert_eq!(resolved.set(7, &servers).await.unwrap(), DnsOutcome::Set);
    let told = links.lock().unwrap().get(&7).cloned().unwrap();
    assert_eq!(told.dns, [(2, vec![172, 16, 0, 1]), (2, vec![172, 16, 0, 2])]);
    assert_eq!(told.default_route, Some(true), "names of the domain are resolved there");
    assert_eq!(resolved.servers(7).await, Some(servers.to_vec()));
    let error = resolved.set(666, &servers).await.unwrap_err().to_string();
    assert!(error.contains("authentication required") && error.contains("172.16.0.1"), "{error}");
    resolved.revert(7).await.unwrap();
    assert_eq!(links.lock().unwrap().get(&7), None);
    // It goes away in mid-life.
    double.close().await.unwrap();
    assert_eq!(resolved.set(7, &servers).await.unwrap(), DnsOutcome::NoResolved);
    resolved.revert(7).await.unwrap();
}

#[tokio::test]
async fn without_a_bus_there_is_no_resolved() {
    let nowhere = BusAddress::At("unix:path=/nonexistent/bus".into());
    assert!(Resolved::connect(&nowhere).await.is_none());
}
