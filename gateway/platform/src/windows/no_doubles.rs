//! No doubles: what is shipped speaks to the system alone.

use std::{convert::Infallible, io, net::Ipv4Addr};

use ipnet::Ipv4Net;

use crate::change::Change;

/// Nobody stands for the host.
pub fn host(_: &str) -> Option<&'static RecordingHost> {
    None
}

/// Whether a library that nobody signed is taken.
pub fn accepts_unsigned() -> bool {
    false
}

/// Services run as the system says.
pub fn service_account() -> Option<String> {
    None
}

/// Whether the adapter that is there is still the one that was made with the GUID `made`.
pub fn is_still_there(_: &str, there: Option<u128>, made: u128) -> bool {
    there == Some(made)
}

/// No test can ask for anything.
pub fn panic_if_asked() {}

/// Never there.
pub struct RecordingHost(Infallible);

impl RecordingHost {
    /// Never called.
    pub fn apply(&self, _: &Change) -> io::Result<bool> {
        match self.0 {}
    }

    /// Never called.
    pub fn refuses_category(&self) -> Option<String> {
        match self.0 {}
    }

    /// Never called.
    pub fn present(&self, _: &Change) -> bool {
        match self.0 {}
    }

    /// Never called.
    pub fn undo(&self, _: &Change) -> io::Result<bool> {
        match self.0 {}
    }

    /// Never called.
    pub fn addresses(&self) -> Vec<Ipv4Net> {
        match self.0 {}
    }

    /// Never called.
    pub fn dns(&self) -> Vec<Ipv4Addr> {
        match self.0 {}
    }

    /// Never called.
    pub fn forget(&self) {
        match self.0 {}
    }
}
