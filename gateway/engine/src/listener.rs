//! Which addresses are live here: those of the slot, and floating ones, that are on the device now, as the platform reads
//! them. What others have stands in [`claim`](crate::claim).

use arc_swap::{ArcSwapOption, Guard};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Whether an address of the slot is on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It is.
    Live,
    /// It is not.
    Offline,
    /// Nobody has told the engine yet what is on the device.
    Unknown,
}

/// The addresses on the device. Replaced as a whole; readers never wait.
#[derive(Debug, Default)]
pub struct LiveAddresses(ArcSwapOption<Vec<Ipv4Addr>>);

impl LiveAddresses {
    /// Replaces what is known; `None`: nothing is.
    pub fn set(&self, addresses: Option<Vec<Ipv4Addr>>) {
        self.0.store(addresses.map(|mut addresses| {
            addresses.sort_unstable();
            Arc::new(addresses)
        }));
    }

    /// Whether anything is known.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.0.load().is_some()
    }

    /// What is known now, for a whole batch.
    #[must_use]
    pub fn load(&self) -> LiveNow {
        LiveNow(self.0.load())
    }
}

/// What was known of the addresses on the device at one moment.
#[derive(Debug)]
pub struct LiveNow(Guard<Option<Arc<Vec<Ipv4Addr>>>>);

impl LiveNow {
    /// Whether `address` is on the device.
    #[must_use]
    pub fn state(&self, address: Ipv4Addr) -> Liveness {
        match &*self.0 {
            Some(live) if live.binary_search(&address).is_ok() => Liveness::Live,
            Some(_) => Liveness::Offline,
            None => Liveness::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_live_while_it_is_on_the_device_and_unknown_before_anyone_looked() {
        let live = LiveAddresses::default();
        let [a, b] = [Ipv4Addr::new(172, 16, 8, 57), Ipv4Addr::new(172, 16, 8, 59)];
        assert_eq!(live.load().state(a), Liveness::Unknown);
        live.set(Some(vec![b, a]));
        assert_eq!((live.load().state(a), live.load().state(b)), (Liveness::Live, Liveness::Live));
        live.set(Some(vec![a]));
        assert_eq!(live.load().state(b), Liveness::Offline);
        live.set(None);
        assert_eq!(live.load().state(a), Liveness::Unknown);
    }
}
