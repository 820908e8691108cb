//! A queue of the device that carries nothing and keeps its carrier: for whoever is to hold it while no gateway runs.
//!
//! The kernel takes the carrier away when the last queue is closed, and counts a queue that is switched off
//! (drivers/net/tun.c, `__tun_detach`); it gives no packet to such a queue, and whoever holds it need not read.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use super::device::TunDevice;

/// TUNSETQUEUE and IFF_DETACH_QUEUE of linux/if_tun.h.
const TUNSETQUEUE: libc::c_ulong = 0x4004_54d9;
const IFF_DETACH_QUEUE: libc::c_short = 0x0400;

/// One more queue of `device`, switched off. As long as anybody has it, the device has a carrier.
///
/// # Errors
/// As [`TunDevice::add_queue`]; what TUNSETQUEUE says.
#[allow(unsafe_code, reason = "nix has no call for it")]
pub fn idle_queue(device: &TunDevice) -> io::Result<OwnedFd> {
    let queue = device.add_queue()?;
    let held = queue.as_fd().try_clone_to_owned()?;
    // SAFETY: plain data for which zero means "not given"; the call reads the flags alone.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_flags = IFF_DETACH_QUEUE;
    // SAFETY: the descriptor is open, and the request is as large as the call reads.
    if unsafe { libc::ioctl(held.as_raw_fd(), TUNSETQUEUE, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(held)
}
