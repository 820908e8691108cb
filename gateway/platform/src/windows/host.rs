//! The host's addresses, routes and settings on Windows: each [`Change`] as a call of the thin leaves.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use ipnet::Ipv4Net;
use windows_sys::Win32::Foundation::{ERROR_FILE_NOT_FOUND, ERROR_NOT_FOUND};

use super::{
    category::Category,
    dns, doubles,
    holder::{self, Heard},
    iphelper::{self, Route},
    policy,
};
use crate::{DeviceFacts, HostError, HostNet, Outcome, change::Change, guid};

/// How long a call may fail with "not found" after the adapter was made: at boot, IP comes to it later
/// (wireguard-windows waits as long).
const SETTLING: Duration = Duration::from_secs(15);

/// Between two tries.
const PACE: Duration = Duration::from_millis(250);

/// How long the adapter's holder has to say who it is. One that takes longer is not waited for: the adapter is there all the same.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long one has that did not answer before: who asks has packets to look after.
const NO_PATIENCE: Duration = Duration::from_millis(100);

/// The host around one adapter, which need not exist yet.
#[derive(Clone, Debug)]
pub struct Host {
    device: String,
    creation: Arc<Creation>,
    category: Arc<Category>,
}

/// Which creation of the adapter its holder has named last.
#[derive(Debug, Default)]
struct Creation {
    /// Its number; 0: none was named.
    id: AtomicU32,
    /// The holder has not answered when it was last asked.
    silent: AtomicBool,
}

impl Creation {
    /// The number of the adapter that is there; `None`: no holder of ours has it. A holder that does not answer has what it had: that
    /// the adapter is gone is told by the holder's end, by the system, or by the session.
    ///
    /// # Errors
    /// When the holder does not answer, and never has.
    fn after(&self, heard: Heard, device: &str) -> Result<Option<u32>, HostError> {
        let silent = matches!(heard, Heard::Nothing(_));
        if self.silent.swap(silent, Relaxed) != silent {
            match &heard {
                Heard::Nothing(error) => {
                    tracing::warn!(%error, device, "the process that holds the adapter does not answer; the adapter is taken to be there as before")
                }
                _ => tracing::info!(device, "the process that holds the adapter can be asked again"),
            }
        }
        match heard {
            Heard::Holder(about) if about.holding => {
                self.id.store(about.id, Relaxed);
                Ok(Some(about.id))
            }
            Heard::Holder(_) | Heard::NoHolder => Ok(None),
            Heard::Nothing(source) => match self.id.load(Relaxed) {
                0 => Err(asked("adapter", holder::in_words(&source))),
                id => Ok(Some(id)),
            },
        }
    }
}

/// A host around the adapter called `device`.
///
/// # Errors
/// Never on Windows.
pub fn connect_host(device: &str) -> Result<Host, HostError> {
    Ok(Host { device: device.to_owned(), creation: Arc::default(), category: Arc::default() })
}

impl Host {
    /// The adapter's name.
    #[must_use]
    pub fn device_name(&self) -> &str {
        &self.device
    }

    /// Notes which creation of the adapter somebody else was told of by its holder.
    pub(super) fn note_creation(&self, id: u32) {
        self.creation.id.store(id, Relaxed);
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
            if *change == Change::PrivateNetwork
                && let Some(why) = double.refuses_category()
            {
                self.category.failed(why);
            }
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
            Change::PrivateNetwork => {
                let guid = self.guid()?;
                self.category.settle(move || policy::make_private(guid)).map(|()| true)
            }
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
        let Some(luid) = iphelper::luid_of(&self.device) else { return Ok(None) };
        let double = doubles::host(&self.device).is_some();
        let patience = if self.creation.silent.load(Relaxed) { NO_PATIENCE } else { PATIENCE };
        let id = self.creation.after(holder::about(&self.device, patience).await, &self.device)?;
        // Under Wine the interface is Linux', and is there without an adapter.
        if double && id.is_none() {
            return Ok(None);
        }
        let (up, mtu) = iphelper::link(luid).unwrap_or((true, 0));
        let held = iphelper::guid_of(luid);
        Ok(Some(DeviceFacts {
            ifindex: id.unwrap_or(0),
            kind: "tun".to_owned(),
            marked: held.is_some_and(guid::is_ours) || double,
            up,
            attached: false,
            mtu,
            mac: Vec::new(),
        }))
    }

    async fn apply(&self, change: &Change) -> Result<Outcome, HostError> {
        let begin = Instant::now();
        if let Change::Dns { servers } = change {
            let held = match doubles::host(&self.device) {
                Some(double) => double.dns(),
                None => dns::servers(self.guid()?),
            };
            // Ours of before were taken back before these are set.
            if !held.is_empty() && held != *servers {
                return Ok(Outcome::OtherServers);
            }
        }
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
            Change::Dns { servers } => dns::servers(self.guid()?) == *servers,
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

    fn network_trouble(&self) -> Option<String> {
        self.category.trouble()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::holder::About;

    #[test]
    fn a_holder_that_does_not_answer_has_what_it_had_and_one_that_has_ended_has_nothing() {
        let says = |id, holding| {
            Heard::Holder(About { process: 1, id, guid: String::new(), holding, trouble: None })
        };
        let silence = || Heard::Nothing(io::ErrorKind::TimedOut.into());
        let creation = Creation::default();
        let after = |heard| creation.after(heard, "Overlay");
        assert!(after(silence()).is_err(), "nothing is known yet");
        assert_eq!(after(says(7, false)).unwrap(), None, "it is being made");
        assert_eq!(after(says(7, true)).unwrap(), Some(7));
        assert_eq!(after(silence()).unwrap(), Some(7));
        assert_eq!(after(silence()).unwrap(), Some(7));
        assert_eq!(after(Heard::NoHolder).unwrap(), None);
        assert_eq!(after(says(8, true)).unwrap(), Some(8));
        assert_eq!(after(silence()).unwrap(), Some(8));
    }
}
