//! The adapter on Linux: a persistent TUN or TAP device, made or adopted.
//!
//! A device of ours bears a mark, its alias `overlay-gw`, set before the device is made persistent: so whatever kills
//! the process, a device that is left behind is recognisable even when the state folder is lost.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use overlay_engine::packet::PacketBatch;
use tokio::time::{Instant, sleep};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::host::LinuxHost;
use crate::{Device, DeviceError, DeviceIdentity, DeviceSpec, HostError, HostNet, Layer, Opened};

/// Bytes of an Ethernet header with one VLAN tag (IEEE 802.1Q), in front of a TAP device's packets.
const ETHERNET_HEADER: usize = 18;

/// How long a device that another process holds is waited for, and how often it is tried.
const BUSY_WAIT: Duration = Duration::from_millis(500);
const BUSY_RETRY: Duration = Duration::from_millis(20);

/// A TUN or TAP device with one queue, one system call a packet.
pub struct TunDevice {
    tun: SyncDevice,
    layer: Layer,
    largest: AtomicUsize,
    unread: AtomicU64,
    unwritten: AtomicU64,
}

/// Packets that did not pass the device since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceDrops {
    /// From the host, but larger than the MTU we know.
    pub too_big: u64,
    /// Towards the host, who did not take it: the link is down, its memory is full, or it is no packet.
    pub not_taken: u64,
}

impl std::fmt::Debug for TunDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunDevice").field("layer", &self.layer).finish_non_exhaustive()
    }
}

impl TunDevice {
    /// Opens the device that `spec` describes: makes it, persistent and marked as ours, or adopts the one that an
    /// earlier run left behind. `host` must be about the same device.
    ///
    /// # Errors
    /// [`DeviceError`] tells what is in the way and what to do about it.
    pub async fn open(spec: &DeviceSpec, host: &LinuxHost) -> Result<Opened<Self>, DeviceError> {
        let name = spec.name.clone();
        check_name(&name)?;
        let found = host.device().await?;
        if let Some(facts) = &found {
            if facts.kind != spec.layer.to_string() {
                return Err(DeviceError::Foreign { name, kind: facts.kind.clone(), wanted: spec.layer });
            }
            if !facts.marked && spec.recorded_index != Some(facts.ifindex) {
                return Err(DeviceError::NotOurs { name });
            }
        }
        let tun = attach_when_free(spec).await?;
        let facts = host.device().await?.ok_or_else(|| HostError::NoDevice { name: spec.name.clone() })?;
        if !facts.marked {
            host.mark_device().await?;
        }
        let opened = |source| DeviceError::Io { name: spec.name.clone(), source };
        tun.persist().map_err(opened)?;
        tun.set_nonblocking(true).map_err(opened)?;
        if let (Layer::Tap, Some(mac)) = (spec.layer, spec.mac)
            && facts.mac != mac
        {
            host.set_mac(mac).await?;
        }
        let device = Self {
            tun,
            layer: spec.layer,
            largest: AtomicUsize::new(0),
            unread: AtomicU64::new(0),
            unwritten: AtomicU64::new(0),
        };
        device.set_mtu(spec.mtu);
        let identity = DeviceIdentity { name: spec.name.clone(), ifindex: facts.ifindex, mode: spec.layer };
        Ok(Opened { device, adopted: found.is_some(), identity })
    }

    /// The largest IP packet in bytes that is read from now on. Does not change the host's MTU.
    pub fn set_mtu(&self, mtu: u16) {
        let header = if self.layer == Layer::Tap { ETHERNET_HEADER } else { 0 };
        self.largest.store(usize::from(mtu) + header, Ordering::Relaxed);
    }

    /// What the device carries.
    #[must_use]
    pub fn layer(&self) -> Layer {
        self.layer
    }

    /// What did not pass since the device was opened.
    #[must_use]
    pub fn drops(&self) -> DeviceDrops {
        DeviceDrops {
            too_big: self.unread.load(Ordering::Relaxed),
            not_taken: self.unwritten.load(Ordering::Relaxed),
        }
    }
}

impl AsFd for TunDevice {
    #[allow(unsafe_code, reason = "tun-rs gives its descriptor as a number only")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to `self.tun`, which lives as long as the borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.tun.as_raw_fd()) }
    }
}

impl Device for TunDevice {
    fn read_batch(&self, batch: &mut PacketBatch) -> io::Result<usize> {
        let largest = self.largest.load(Ordering::Relaxed);
        let mut count = 0;
        // One byte more than the largest packet: the kernel cuts what does not fit without a word, and a packet that
        // fills the buffer is taken for one that was cut.
        while let Some(mut room) = batch.reserve(largest + 1) {
            match self.tun.recv(room.buffer()) {
                Ok(len) if len > largest => _ = self.unread.fetch_add(1, Ordering::Relaxed),
                Ok(len) => {
                    room.commit((), len);
                    count += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return if count > 0 { Ok(count) } else { Err(error) },
            }
        }
        Ok(count)
    }

    fn write_batch(&self, batch: &PacketBatch) -> io::Result<usize> {
        let mut count = 0;
        for (_, packet) in batch.iter() {
            match self.tun.send(packet) {
                Ok(_) => count += 1,
                // The device was deleted under us.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EBADF)) => {
                    return Err(error);
                }
                Err(_) => _ = self.unwritten.fetch_add(1, Ordering::Relaxed),
            }
        }
        Ok(count)
    }
}

fn check_name(name: &str) -> Result<(), DeviceError> {
    let fits = (1..libc::IFNAMSIZ).contains(&name.len());
    let clean = !name.contains(|c: char| c == '/' || c == '%' || c == ':' || c == '\0' || c.is_whitespace());
    if fits && clean && name != "." && name != ".." {
        Ok(())
    } else {
        Err(DeviceError::BadName { name: name.to_owned() })
    }
}

/// Attaches; while another process holds the device, tries for [`BUSY_WAIT`]: one that was killed may not be gone yet.
async fn attach_when_free(spec: &DeviceSpec) -> Result<SyncDevice, DeviceError> {
    let end = Instant::now() + BUSY_WAIT;
    loop {
        match attach(spec) {
            Err(DeviceError::Busy { .. }) if Instant::now() < end => sleep(BUSY_RETRY).await,
            result => return result,
        }
    }
}

fn attach(spec: &DeviceSpec) -> Result<SyncDevice, DeviceError> {
    let layer = match spec.layer {
        Layer::Tun => tun_rs::Layer::L3,
        Layer::Tap => tun_rs::Layer::L2,
    };
    let name = spec.name.clone();
    DeviceBuilder::new().name(&name).layer(layer).inherit_enable_state().build_sync().map_err(|source| {
        match source.raw_os_error() {
            Some(libc::EBUSY) => DeviceError::Busy { name },
            Some(libc::EPERM | libc::EACCES) => DeviceError::Permission { name, source },
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => DeviceError::NoDriver { source },
            _ => DeviceError::Io { name, source },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_kernel_would_refuse_or_expand_is_refused() {
        for name in ["", "a-name-of-16-chr", "tun%d", "a b", "a/b", ".", "..", "a:1"] {
            assert!(matches!(check_name(name), Err(DeviceError::BadName { .. })), "{name:?}");
        }
        for name in ["Overlay", "ov.1", "a-name-of-15-ch"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }
}
