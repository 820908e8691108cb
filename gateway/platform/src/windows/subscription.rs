//! The system's notifications that something of its network has changed. They only say **that** it has: their rows are incomplete, and
//! what is there now is asked for anew.
#![allow(unsafe_code, reason = "the calls of the system have no safe form; each says why it is sound")]

use std::{ffi::c_void, io, sync::Arc};

use tokio::sync::Notify;
use windows_sys::Win32::{
    Foundation::{ERROR_SUCCESS, HANDLE},
    NetworkManagement::IpHelper::{
        CancelMibChangeNotify2, MIB_IPFORWARD_ROW2, MIB_IPINTERFACE_ROW, MIB_NOTIFICATION_TYPE,
        MIB_UNICASTIPADDRESS_ROW, NotifyIpInterfaceChange, NotifyRouteChange2, NotifyUnicastIpAddressChange,
    },
    Networking::WinSock::{AF_INET, AF_UNSPEC},
};

/// What is to be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// IPv4 addresses.
    Addresses,
    /// Interfaces of IP: their metrics, and whether they are connected.
    Interfaces,
    /// The forwarding table.
    Routes,
}

/// One subscription; cancelled when it goes, never from within its own callback.
#[derive(Debug)]
pub struct Subscription {
    handle: HANDLE,
    /// What the callback has; freed after the cancellation, which waits for callbacks that run.
    told: *const Notify,
}

// SAFETY: the handle is a number, and the notifier is shared by count and knows threads.
unsafe impl Send for Subscription {}
// SAFETY: as above.
unsafe impl Sync for Subscription {}

impl Subscription {
    /// Has `told` notified of each of `topics`.
    ///
    /// # Errors
    /// What the system says.
    pub fn to(topics: &[Topic], told: &Arc<Notify>) -> io::Result<Vec<Self>> {
        topics.iter().map(|topic| Self::to_one(*topic, told)).collect()
    }

    fn to_one(topic: Topic, told: &Arc<Notify>) -> io::Result<Self> {
        let mut one = Self { handle: std::ptr::null_mut(), told: Arc::into_raw(Arc::clone(told)) };
        let (context, handle) = (one.told.cast::<c_void>(), &raw mut one.handle);
        // SAFETY: the context stays until the subscription is cancelled; the handle is written before it is read.
        let error = unsafe {
            match topic {
                Topic::Addresses => {
                    NotifyUnicastIpAddressChange(AF_INET, Some(address_changed), context, false, handle)
                }
                Topic::Interfaces => {
                    NotifyIpInterfaceChange(AF_UNSPEC, Some(interface_changed), context, false, handle)
                }
                Topic::Routes => NotifyRouteChange2(AF_UNSPEC, Some(route_changed), context, false, handle),
            }
        };
        if error == ERROR_SUCCESS {
            return Ok(one);
        }
        one.handle = std::ptr::null_mut();
        Err(io::Error::from_raw_os_error(error as i32))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // SAFETY: made by `to_one`, and cancelled once; afterwards no callback has the context.
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

unsafe extern "system" fn route_changed(
    context: *const c_void,
    _: *const MIB_IPFORWARD_ROW2,
    _: MIB_NOTIFICATION_TYPE,
) {
    // SAFETY: as above.
    unsafe { &*context.cast::<Notify>() }.notify_one();
}
