//! A host in memory, which refuses from any point on when told to: what is left behind by a stop at every step can be
//! seen with it.

use std::{
    io,
    net::Ipv4Addr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ipnet::Ipv4Net;

use crate::{DeviceFacts, HostError, HostNet, Layer, Outcome, change::Change};

/// What makes two routes the same to a kernel: destination and metric.
pub type RouteKey = (Ipv4Net, u32);

#[derive(Debug, Default)]
struct State {
    next_index: u32,
    device: Option<DeviceFacts>,
    addresses: Vec<Ipv4Net>,
    routes: Vec<RouteKey>,
    dns: Vec<Ipv4Addr>,
    steps_left: Option<usize>,
}

/// The host. Its methods that change something count as one step each.
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
            carrier: true,
            mtu: 1500,
            mac: Vec::new(),
        });
        ifindex
    }

    /// From now on only `steps` more changes succeed; `None`: all do.
    pub fn stop_after(&self, steps: Option<usize>) {
        self.locked().steps_left = steps;
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

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, if one more step may be taken on a device that exists.
    fn step(&self, what: &dyn std::fmt::Display) -> Result<MutexGuard<'_, State>, HostError> {
        let mut state = self.locked();
        match &mut state.steps_left {
            Some(0) => {
                return Err(HostError::Refused {
                    what: what.to_string(),
                    source: io::ErrorKind::Interrupted.into(),
                });
            }
            Some(left) => *left -= 1,
            None => {}
        }
        if state.device.is_none() {
            return Err(HostError::NoDevice { name: "memory".into() });
        }
        Ok(state)
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
        let mut state = self.step(change)?;
        Ok(match change {
            Change::Address { net } => add(&mut state.addresses, *net),
            Change::Route { destination, metric, .. } => add(&mut state.routes, key(*destination, *metric)),
            Change::Dns { servers } if state.dns == *servers => Outcome::AlreadyThere,
            Change::Dns { servers } => {
                state.dns.clone_from(servers);
                Outcome::Added
            }
            Change::LinkUp | Change::Mtu { .. } | Change::TxQueueLen { .. } | Change::Sysctl { .. } => {
                Outcome::Added
            }
        })
    }

    async fn present(&self, change: &Change) -> Result<bool, HostError> {
        let state = self.locked();
        Ok(match change {
            Change::Address { net } => state.addresses.iter().any(|held| held.addr() == net.addr()),
            Change::Route { destination, metric, .. } => state.routes.contains(&key(*destination, *metric)),
            Change::Dns { .. } => !state.dns.is_empty(),
            Change::LinkUp | Change::Mtu { .. } | Change::TxQueueLen { .. } | Change::Sysctl { .. } => false,
        })
    }

    async fn undo(&self, change: &Change) -> Result<bool, HostError> {
        let mut state = self.step(change)?;
        Ok(match change {
            Change::Address { net } => take(&mut state.addresses, net),
            Change::Route { destination, metric, .. } => take(&mut state.routes, &key(*destination, *metric)),
            Change::Dns { .. } => !std::mem::take(&mut state.dns).is_empty(),
            Change::LinkUp | Change::Mtu { .. } | Change::TxQueueLen { .. } | Change::Sysctl { .. } => false,
        })
    }

    async fn addresses(&self) -> Result<Vec<(String, Ipv4Net)>, HostError> {
        Ok(self.locked().addresses.iter().map(|net| ("memory".to_owned(), *net)).collect())
    }

    async fn device_addresses(&self) -> Result<Vec<Ipv4Net>, HostError> {
        Ok(self.locked().addresses.clone())
    }

    async fn delete_device(&self) -> Result<bool, HostError> {
        let mut state = self.step(&"delete the device")?;
        (state.device, state.addresses, state.routes, state.dns) = (None, vec![], vec![], vec![]);
        Ok(true)
    }
}
