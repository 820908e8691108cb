//! The host's addresses, routes and settings on Windows: each [`Change`] as a call of the thin leaves.

use std::{
    io,
    time::{Duration, Instant},
};

use ipnet::Ipv4Net;
use windows_sys::Win32::Foundation::{ERROR_FILE_NOT_FOUND, ERROR_NOT_FOUND};

use super::{
    dns, doubles, holder,
    iphelper::{self, Route},
    policy,
};
use crate::{DeviceFacts, HostError, HostNet, Outcome, change::Change, guid};

/// How long a call may fail with "not found" after the adapter was made: at boot, IP comes to it later
/// (wireguard-windows waits as long).
const SETTLING: Duration = Duration::from_secs(15);

/// Between two tries.
const PACE: Duration = Duration::from_millis(250);

/// The host around one adapter, which need not exist yet.
#[derive(Clone, Debug)]
pub struct Host {
    device: String,
}

/// A host around the adapter called `device`.
///
/// # Errors
/// Never on Windows.
pub fn connect_host(device: &str) -> Result<Host, HostError> {
    Ok(Host { device: device.to_owned() })
}

impl Host {
    /// The adapter's name.
    #[must_use]
    pub fn device_name(&self) -> &str {
        &self.device
    }

    fn luid(&self) -> Result<u64, HostError> {
        iphelper::luid_of(&self.device).ok_or_else(|| HostError::NoDevice { name: self.device.clone() })
    }

    fn guid(&self) -> Result<u128, HostError> {
        let guid = iphelper::guid_of(self.luid()?);
        guid.ok_or_else(|| HostError::NoDevice { name: self.device.clone() })
    }

    /// What the system answers to `change`.
    fn change(&self, change: &Change) -> Result<io::Result<bool>, HostError> {
        if let Some(double) = doubles::host(&self.device) {
            return Ok(double.apply(change));
        }
        Ok(match change {
            Change::Address { net } => iphelper::add_address(self.luid()?, *net, false),
            Change::QuietAddress { net } => iphelper::add_address(self.luid()?, *net, true),
            Change::Interface { setting } => iphelper::set_interface(self.luid()?, *setting),
            Change::Route { .. } => match route(change) {
                Some(route) => iphelper::add_route(self.luid()?, route),
                None => Ok(false),
            },
            Change::Dns { servers } => {
                let guid = self.guid()?;
                if dns::servers(guid) == *servers {
                    Ok(false)
                } else {
                    dns::set(guid, servers).map(|()| true)
                }
            }
            Change::PrivateNetwork => policy::make_private(self.guid()?).map(|()| true),
            Change::Firewall { rule } => policy::add_rule(&self.device, rule),
            // Linux's.
            Change::LinkUp | Change::Mtu { .. } | Change::TxQueueLen { .. } | Change::Sysctl { .. } => {
                Ok(false)
            }
        })
    }
}

impl HostNet for Host {
    async fn device(&self) -> Result<Option<DeviceFacts>, HostError> {
        let about = holder::about(&self.device).await.filter(|about| about.holding);
        let there = iphelper::luid_of(&self.device);
        let Some(luid) = there.filter(|_| doubles::host(&self.device).is_none() || about.is_some()) else {
            return Ok(None);
        };
        let (up, mtu) = iphelper::link(luid).unwrap_or((true, 0));
        let held = iphelper::guid_of(luid);
        Ok(Some(DeviceFacts {
            ifindex: about.map_or(0, |about| about.id),
            kind: "tun".to_owned(),
            marked: held.is_some_and(guid::is_ours) || doubles::host(&self.device).is_some(),
            up,
            attached: false,
            mtu,
            mac: Vec::new(),
        }))
    }

    async fn apply(&self, change: &Change) -> Result<Outcome, HostError> {
        let begin = Instant::now();
        loop {
            let not_yet = [ERROR_NOT_FOUND, ERROR_FILE_NOT_FOUND];
            match self.change(change)? {
                Ok(true) => return Ok(Outcome::Added),
                Ok(false) => return Ok(Outcome::AlreadyThere),
                Err(error)
                    if error.raw_os_error().is_some_and(|code| not_yet.contains(&(code as u32)))
                        && begin.elapsed() < SETTLING =>
                {
                    tracing::info!(%change, "the adapter does not take it yet");
                    tokio::time::sleep(PACE).await;
                }
                Err(source) => {
                    return Err(HostError::Refused { what: format!("{change} on {}", self.device), source });
                }
            }
        }
    }

    async fn present(&self, change: &Change) -> Result<bool, HostError> {
        if let Some(double) = doubles::host(&self.device) {
            return Ok(double.present(change));
        }
        Ok(match change {
            Change::Address { net } | Change::QuietAddress { net } => {
                self.device_addresses().await?.iter().any(|held| held.addr() == net.addr())
            }
            Change::Route { .. } => {
                let held = iphelper::routes(self.luid()?).map_err(|error| asked("routes", error))?;
                route(change).is_some_and(|wanted| {
                    held.iter().any(|held| (held.destination, held.via) == (wanted.destination, wanted.via))
                })
            }
            Change::Dns { .. } => !dns::servers(self.guid()?).is_empty(),
            Change::Firewall { rule } => policy::has_rule(&self.device, rule),
            Change::LinkUp
            | Change::Mtu { .. }
            | Change::TxQueueLen { .. }
            | Change::Sysctl { .. }
            | Change::Interface { .. }
            | Change::PrivateNetwork => false,
        })
    }

    async fn undo(&self, change: &Change) -> Result<bool, HostError> {
        let done = if let Some(double) = doubles::host(&self.device) {
            double.undo(change)
        } else {
            match change {
                Change::Address { net } | Change::QuietAddress { net } => {
                    iphelper::remove_address(self.luid()?, *net)
                }
                Change::Route { .. } => match route(change) {
                    Some(route) => iphelper::remove_route(self.luid()?, route),
                    None => Ok(false),
                },
                Change::Dns { servers } => {
                    let guid = self.guid()?;
                    // Servers that somebody else set since are not ours to take away.
                    if dns::servers(guid) == *servers {
                        dns::set(guid, &[]).map(|()| true)
                    } else {
                        Ok(false)
                    }
                }
                Change::Firewall { rule } => policy::remove_rule(&self.device, rule),
                Change::LinkUp
                | Change::Mtu { .. }
                | Change::TxQueueLen { .. }
                | Change::Sysctl { .. }
                | Change::Interface { .. }
                | Change::PrivateNetwork => Ok(false),
            }
        };
        done.map_err(|source| HostError::Refused {
            what: format!("undo {change} on {}", self.device),
            source,
        })
    }

    async fn addresses(&self) -> Result<Vec<(String, Ipv4Net)>, HostError> {
        let held = iphelper::addresses().map_err(|error| asked("addresses", error))?;
        Ok(held.into_iter().filter_map(|(luid, net)| Some((iphelper::alias_of(luid)?, net))).collect())
    }

    async fn device_addresses(&self) -> Result<Vec<Ipv4Net>, HostError> {
        if let Some(double) = doubles::host(&self.device) {
            return Ok(double.addresses());
        }
        let Some(device) = iphelper::luid_of(&self.device) else { return Ok(Vec::new()) };
        let held = iphelper::addresses().map_err(|error| asked("addresses", error))?;
        Ok(held.into_iter().filter(|(luid, _)| *luid == device).map(|(_, net)| net).collect())
    }

    async fn delete_device(&self) -> Result<bool, HostError> {
        let ended = holder::end(&self.device).await?;
        if let Some(double) = doubles::host(&self.device) {
            double.forget();
        }
        Ok(ended)
    }
}

fn route(change: &Change) -> Option<Route> {
    let Change::Route { destination, via, metric, .. } = *change else { return None };
    Some(Route { destination: destination.trunc(), via, metric: metric.unwrap_or(0) })
}

fn asked(what: &str, source: io::Error) -> HostError {
    HostError::Refused { what: format!("ask for the {what} of the host"), source }
}
