//! A host in memory: one device, its addresses, its routes and its DNS servers.

use std::{
    net::Ipv4Addr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ipnet::Ipv4Net;

use crate::{
    DeviceFacts, HostError, HostNet, Layer, Outcome,
    change::{Change, FirewallRule},
};

/// What makes two routes the same to a kernel: destination and metric.
pub type RouteKey = (Ipv4Net, u32);

#[derive(Debug, Default)]
struct State {
    next_index: u32,
    device: Option<DeviceFacts>,
    addresses: Vec<Ipv4Net>,
    routes: Vec<RouteKey>,
    dns: Vec<Ipv4Addr>,
    /// Not on the device: they outlive it.
    rules: Vec<FirewallRule>,
}

/// The host.
#[derive(Debug, Default)]
pub struct MemoryHost {
    state: Mutex<State>,
}

impl MemoryHost {
    /// A host without a device.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the device, with our mark, and returns its number. One that is there stays.
    pub fn create_device(&self, layer: Layer) -> u32 {
        let mut state = self.locked();
        if let Some(device) = &state.device {
            return device.ifindex;
        }
        state.next_index += 1;
        let ifindex = state.next_index;
        state.device = Some(DeviceFacts {
            ifindex,
            kind: layer.to_string(),
            marked: true,
            up: false,
            attached: true,
            mtu: 1500,
            mac: Vec::new(),
        });
        ifindex
    }

    /// What another program does that sets the device's DNS servers.
    pub fn foreign_dns(&self, servers: &[Ipv4Addr]) {
        self.locked().dns = servers.to_vec();
    }

    /// Adds an address to the device as another program would.
    pub fn foreign_address(&self, net: Ipv4Net) {
        self.locked().addresses.push(net);
    }

    /// The routes through the device.
    #[must_use]
    pub fn routes(&self) -> Vec<RouteKey> {
        self.locked().routes.clone()
    }

    /// The DNS servers of the device.
    #[must_use]
    pub fn dns(&self) -> Vec<Ipv4Addr> {
        self.locked().dns.clone()
    }

    /// The firewall's rules.
    #[must_use]
    pub fn rules(&self) -> Vec<FirewallRule> {
        self.locked().rules.clone()
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, if there is a device.
    fn with_device(&self) -> Result<MutexGuard<'_, State>, HostError> {
        let state = self.locked();
        match state.device {
            Some(_) => Ok(state),
            None => Err(HostError::NoDevice { name: "memory".into() }),
        }
    }
}

fn key(destination: Ipv4Net, metric: Option<u32>) -> RouteKey {
    (destination, metric.unwrap_or(0))
}

fn add<T: PartialEq>(list: &mut Vec<T>, item: T) -> Outcome {
    if list.contains(&item) {
        return Outcome::AlreadyThere;
    }
    list.push(item);
    Outcome::Added
}

fn take<T: PartialEq>(list: &mut Vec<T>, item: &T) -> bool {
    let before = list.len();
    list.retain(|held| held != item);
    list.len() < before
}

impl HostNet for MemoryHost {
    async fn device(&self) -> Result<Option<DeviceFacts>, HostError> {
        Ok(self.locked().device.clone())
    }

    async fn apply(&self, change: &Change) -> Result<Outcome, HostError> {
        let mut state = self.with_device()?;
        Ok(match change {
            Change::Address { net } | Change::QuietAddress { net } => add(&mut state.addresses, *net),
            Change::Route { destination, metric, .. } => add(&mut state.routes, key(*destination, *metric)),
            Change::Dns { servers } if state.dns == *servers => Outcome::AlreadyThere,
            Change::Dns { .. } if !state.dns.is_empty() => Outcome::OtherServers,
            Change::Dns { servers } => {
                state.dns.clone_from(servers);
                Outcome::Added
            }
            Change::LinkUp
            | Change::Mtu { .. }
            | Change::TxQueueLen { .. }
            | Change::Sysctl { .. }
            | Change::Interface { .. }
            | Change::PrivateNetwork => Outcome::Added,
            Change::Firewall { rule } => add(&mut state.rules, rule.clone()),
        })
    }

    async fn present(&self, change: &Change) -> Result<bool, HostError> {
        let state = self.locked();
        Ok(match change {
            Change::Address { net } | Change::QuietAddress { net } => {
                state.addresses.iter().any(|held| held.addr() == net.addr())
            }
            Change::Route { destination, metric, .. } => state.routes.contains(&key(*destination, *metric)),
            Change::Dns { servers } => state.dns == *servers,
            Change::Firewall { rule } => state.rules.contains(rule),
            _ => false,
        })
    }

    async fn undo(&self, change: &Change) -> Result<bool, HostError> {
        if let Change::Firewall { rule } = change {
            return Ok(take(&mut self.locked().rules, rule));
        }
        let mut state = self.with_device()?;
        Ok(match change {
            Change::Address { net } | Change::QuietAddress { net } => take(&mut state.addresses, net),
            Change::Route { destination, metric, .. } => take(&mut state.routes, &key(*destination, *metric)),
            Change::Dns { servers } if state.dns != *servers => false,
            Change::Dns { .. } => !std::mem::take(&mut state.dns).is_empty(),
            _ => false,
        })
    }

    async fn addresses(&self) -> Result<Vec<(String, Ipv4Net)>, HostError> {
        Ok(self.locked().addresses.iter().map(|net| ("memory".to_owned(), *net)).collect())
    }

    async fn device_addresses(&self) -> Result<Vec<Ipv4Net>, HostError> {
        Ok(self.locked().addresses.clone())
    }

    async fn delete_device(&self) -> Result<bool, HostError> {
        let mut state = self.locked();
        let State { device, addresses, routes, dns, .. } = &mut *state;
        addresses.clear();
        routes.clear();
        dns.clear();
        Ok(device.take().is_some())
    }
}
