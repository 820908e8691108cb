//! Watching the adapter: an address or the link changed, by us or by anybody else.
//!
//! The system's notifications only say **that** something changed (their rows are incomplete); what is there now is asked
//! for anew. A look each second notices what no notification tells: the adapter taken away, a resume from hibernation.
#![allow(unsafe_code, reason = "the calls of the system have no safe form; each says why it is sound")]

use std::{ffi::c_void, io, sync::Arc, time::Duration};

use ipnet::Ipv4Net;
use tokio::sync::Notify;
use windows_sys::Win32::{
    Foundation::{ERROR_SUCCESS, HANDLE},
    NetworkManagement::IpHelper::{
        CancelMibChangeNotify2, MIB_IPINTERFACE_ROW, MIB_NOTIFICATION_TYPE, MIB_UNICASTIPADDRESS_ROW,
        NotifyIpInterfaceChange, NotifyUnicastIpAddressChange,
    },
    Networking::WinSock::AF_INET,
};

use super::host::{Host, connect_host};
use crate::{HostError, HostNet};

/// How often the adapter is looked at without being told.
const PACE: Duration = Duration::from_secs(1);

/// A burst of notifications is over when nothing came for this long.
const QUIET: Duration = Duration::from_millis(3);

/// What the adapter is like now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// It is there.
    Present {
        /// A number of this creation of it: another one than before means another adapter.
        ifindex: u32,
        /// Whether it is administratively up.
        up: bool,
        /// Its IPv4 addresses.
        addresses: Vec<Ipv4Net>,
    },
    /// There is no adapter of that name.
    Gone,
}

/// Tells each time what an adapter is like.
#[derive(Debug)]
pub struct DeviceWatch {
    host: Host,
    told: Arc<Notify>,
    last: Option<DeviceState>,
    went_down: bool,
    _subscriptions: Vec<Subscription>,
}

impl DeviceWatch {
    /// Watches the adapter called `device`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Never on Windows: without notifications, there is the look each second.
    pub fn new(device: &str) -> Result<Self, HostError> {
        let told = Arc::new(Notify::new());
        let subscriptions = Subscription::all(&told).unwrap_or_else(|error| {
            tracing::warn!(%error, "changes of addresses are not notified; they are looked for each second");
            Vec::new()
        });
        Ok(Self {
            host: connect_host(device)?,
            told,
            last: None,
            went_down: false,
            _subscriptions: subscriptions,
        })
    }

    /// Comes back when the adapter is not as it was when its owner last learnt of it.
    ///
    /// # Errors
    /// When the host does not say.
    pub async fn next(&mut self) -> Result<DeviceState, HostError> {
        loop {
            let state = self.query().await?;
            if self.last.as_ref() != Some(&state) {
                if let (Some(DeviceState::Present { up: true, .. }), DeviceState::Present { up: false, .. }) =
                    (&self.last, &state)
                {
                    self.went_down = true;
                }
                self.last = Some(state.clone());
                return Ok(state);
            }
            if tokio::time::timeout(PACE, self.told.notified()).await.is_ok() {
                tokio::time::sleep(QUIET).await;
            }
        }
    }

    /// Notes what the owner has seen by asking himself.
    pub fn learnt(&mut self, state: DeviceState) {
        self.last = Some(state);
    }

    /// Whether the link has been down since the last call.
    pub fn take_went_down(&mut self) -> bool {
        std::mem::take(&mut self.went_down)
    }

    async fn query(&self) -> Result<DeviceState, HostError> {
        let Some(facts) = self.host.device().await? else { return Ok(DeviceState::Gone) };
        let addresses = self.host.device_addresses().await?;
        Ok(DeviceState::Present { ifindex: facts.ifindex, up: facts.up, addresses })
    }
}

/// One subscription; cancelled when it goes, never from within its own callback.
#[derive(Debug)]
struct Subscription {
    handle: HANDLE,
    /// What the callback has; freed after the cancellation, which waits for callbacks that run.
    told: *const Notify,
}

// SAFETY: the handle is a number, and the notifier is shared by count and knows threads.
unsafe impl Send for Subscription {}
// SAFETY: as above.
unsafe impl Sync for Subscription {}

impl Subscription {
    fn all(told: &Arc<Notify>) -> io::Result<Vec<Self>> {
        let mut list = Vec::new();
        for addresses in [true, false] {
            let mut one = Self { handle: std::ptr::null_mut(), told: Arc::into_raw(Arc::clone(told)) };
            // SAFETY: the context stays until the subscription is cancelled; `handle` is written before it is read.
            let error = unsafe {
                let context = one.told.cast::<c_void>();
                if addresses {
                    let call = Some(address_changed as _);
                    NotifyUnicastIpAddressChange(AF_INET, call, context, false, &raw mut one.handle)
                } else {
                    let call = Some(interface_changed as _);
                    NotifyIpInterfaceChange(AF_INET, call, context, false, &raw mut one.handle)
                }
            };
            if error != ERROR_SUCCESS {
                one.handle = std::ptr::null_mut();
                return Err(io::Error::from_raw_os_error(error as i32));
            }
            list.push(one);
        }
        Ok(list)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // SAFETY: made by `all`, and cancelled once; afterwards no callback has the context.
        unsafe {
            if !self.handle.is_null() {
                CancelMibChangeNotify2(self.handle);
            }
            drop(Arc::from_raw(self.told));
        }
    }
}

unsafe extern "system" fn address_changed(
    context: *const c_void,
    _: *const MIB_UNICASTIPADDRESS_ROW,
    _: MIB_NOTIFICATION_TYPE,
) {
    // SAFETY: the context is the notifier, which stays until the subscription is cancelled.
    unsafe { &*context.cast::<Notify>() }.notify_one();
}

unsafe extern "system" fn interface_changed(
    context: *const c_void,
    _: *const MIB_IPINTERFACE_ROW,
    _: MIB_NOTIFICATION_TYPE,
) {
    // SAFETY: as above.
    unsafe { &*context.cast::<Notify>() }.notify_one();
}
