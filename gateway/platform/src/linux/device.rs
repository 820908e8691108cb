//! The adapter on Linux: a persistent TUN or TAP device, made or adopted.
//!
//! A device of ours bears a mark, its alias `overlay-gw`, set before the device is made persistent: so whatever kills
//! the process, a device that is left behind is recognisable even when the state folder is lost.

use std::{
    fs::File,
    io::{self, IoSlice, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use overlay_engine::packet::{MAX_PACKET, PacketBatch};
use tokio::time::{Instant, sleep};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::{
    gro::{self, MAX_JOINED},
    gso::Split,
    host::LinuxHost,
    virtio::{VIRTIO_HEADER, VirtioHeader},
    wait::{Source, Waitable},
};
use crate::{
    Device, DeviceDrops, DeviceError, DeviceIdentity, DeviceSpec, HostError, HostNet, Layer, Opened,
};

/// Bytes of an Ethernet header with one VLAN tag (IEEE 802.1Q), in front of a TAP device's packets.
const ETHERNET_HEADER: usize = 18;

/// How long a device that another process holds is waited for, and how often it is tried.
const BUSY_WAIT: Duration = Duration::from_millis(500);
const BUSY_RETRY: Duration = Duration::from_millis(20);

/// One queue of a TUN or TAP device. A TUN device moves super-packets where the kernel can, cut and joined here; a TAP
/// device, or an old kernel, costs a system call a packet.
pub struct TunDevice {
    tun: SyncDevice,
    layer: Layer,
    offload: Option<Offload>,
    shared: Arc<Shared>,
}

/// What the queues of one device have in common.
#[derive(Debug, Default)]
struct Shared {
    largest: AtomicUsize,
    unread: AtomicU64,
    unwritten: AtomicU64,
}

/// A device whose packets bear a virtio header.
struct Offload {
    /// The device's descriptor once more.
    file: File,
    reader: Mutex<Reader>,
    /// Whether UDP datagrams may be joined as well (Linux 6.2).
    udp: AtomicBool,
}

/// The packet that was read last, and how far it has been cut.
struct Reader {
    buffer: Box<[u8]>,
    len: usize,
    split: Option<Split>,
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
        let tun = attach_when_free(spec, host).await?;
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
        let offload = if tun.tcp_gso() { Some(Offload::new(&tun).map_err(opened)?) } else { None };
        let device = Self { tun, layer: spec.layer, offload, shared: Arc::default() };
        device.set_mtu(spec.mtu);
        let identity = DeviceIdentity { name: spec.name.clone(), ifindex: facts.ifindex, mode: spec.layer };
        Ok(Opened { device, adopted: found.is_some(), identity })
    }

    /// Opens one more queue of the same device. The kernel spreads flows over the queues, and keeps each flow on one (the
    /// kernel's networking/tuntap, "Multiqueue tuntap interface").
    ///
    /// # Errors
    /// `Unsupported` for a device that was made with a single queue; whatever the driver says.
    pub fn add_queue(&self) -> io::Result<Self> {
        let tun = self.tun.try_clone()?;
        tun.set_nonblocking(true)?;
        let offload = if self.offload.is_some() { Some(Offload::new(&tun)?) } else { None };
        Ok(Self { tun, layer: self.layer, offload, shared: Arc::clone(&self.shared) })
    }

    /// The largest IP packet in bytes that is read from now on. Does not change the host's MTU.
    pub fn set_mtu(&self, mtu: u16) {
        let header = if self.layer == Layer::Tap { ETHERNET_HEADER } else { 0 };
        self.shared.largest.store(usize::from(mtu) + header, Ordering::Relaxed);
    }

    /// Whether super-packets pass the device.
    #[must_use]
    pub fn has_offload(&self) -> bool {
        self.offload.is_some()
    }

    /// What the device carries.
    #[must_use]
    pub fn layer(&self) -> Layer {
        self.layer
    }

    /// What is known of the driver's library: Linux' driver is the kernel's.
    #[must_use]
    pub fn driver(&self) -> Option<String> {
        None
    }

    /// What did not pass since the device was opened.
    #[must_use]
    pub fn drops(&self) -> DeviceDrops {
        DeviceDrops {
            too_big: self.shared.unread.load(Ordering::Relaxed),
            not_taken: self.shared.unwritten.load(Ordering::Relaxed),
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

impl Waitable for TunDevice {
    fn sources(&self) -> Vec<Source<'_>> {
        vec![self.as_fd()]
    }
}

impl Device for TunDevice {
    fn read_batch(&self, batch: &mut PacketBatch) -> io::Result<usize> {
        let largest = self.shared.largest.load(Ordering::Relaxed);
        if let Some(offload) = &self.offload {
            return offload.read_batch(batch, largest, &self.shared.unread);
        }
        let mut count = 0;
        // One byte more than the largest packet: the kernel cuts what does not fit without a word, and a packet that
        // fills the buffer is taken for one that was cut.
        while let Some(mut room) = batch.reserve(largest + 1) {
            match self.tun.recv(room.buffer()) {
                Ok(len) if len > largest => _ = self.shared.unread.fetch_add(1, Ordering::Relaxed),
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
        if let Some(offload) = &self.offload {
            return offload.write_batch(batch, &self.shared.unwritten);
        }
        let mut count = 0;
        for (_, packet) in batch.iter() {
            match self.tun.send(packet) {
                Ok(_) => count += 1,
                Err(error) if is_gone(&error) => return Err(error),
                Err(_) => _ = self.shared.unwritten.fetch_add(1, Ordering::Relaxed),
            }
        }
        Ok(count)
    }
}

impl Offload {
    fn new(tun: &SyncDevice) -> io::Result<Self> {
        #[allow(unsafe_code, reason = "tun-rs gives its descriptor as a number only")]
        // SAFETY: the descriptor belongs to `tun`, which outlives this call; what is kept is a duplicate.
        let file = unsafe { BorrowedFd::borrow_raw(tun.as_raw_fd()) }.try_clone_to_owned()?.into();
        let buffer = vec![0; VIRTIO_HEADER + MAX_PACKET + 1].into_boxed_slice();
        let reader = Mutex::new(Reader { buffer, len: 0, split: None });
        Ok(Self { file, reader, udp: AtomicBool::new(tun.udp_gso()) })
    }

    fn read_batch(&self, batch: &mut PacketBatch, largest: usize, unread: &AtomicU64) -> io::Result<usize> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        loop {
            count += reader.cut(batch, largest, unread);
            if reader.split.is_some() || batch.room() < largest {
                return Ok(count);
            }
            match (&self.file).read(&mut reader.buffer) {
                Ok(len) => reader.begin(len, unread),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return if count > 0 { Ok(count) } else { Err(error) },
            }
        }
    }

    fn write_batch(&self, batch: &PacketBatch, unwritten: &AtomicU64) -> io::Result<usize> {
        let (mut at, mut taken) = (0, 0);
        // Packets before this position go singly: the host refused them as one.
        let mut single_until = 0;
        while at < batch.len() {
            let from = |at: usize| (at..batch.len()).filter_map(|n| batch.get(n)).map(|(_, packet)| packet);
            let joined = match at < single_until {
                true => None,
                false => gro::join(from(at), self.udp.load(Ordering::Relaxed)),
            };
            let plain = VirtioHeader::default().bytes();
            let mut slices = [IoSlice::new(&[]); MAX_JOINED + 1];
            let count = match &joined {
                Some((count, front)) => {
                    let payloads = from(at).take(*count).map(|packet| gro::payload(front, packet));
                    for (slice, bytes) in
                        slices.iter_mut().zip(std::iter::once(front.bytes()).chain(payloads))
                    {
                        *slice = IoSlice::new(bytes);
                    }
                    *count
                }
                None => {
                    let bytes = [&plain[..], batch.get(at).map_or(&[][..], |(_, packet)| packet)];
                    for (slice, bytes) in slices.iter_mut().zip(bytes) {
                        *slice = IoSlice::new(bytes);
                    }
                    1
                }
            };
            let used = if joined.is_some() { count + 1 } else { 2 };
            match (&self.file).write_vectored(slices.get(..used).unwrap_or_default()) {
                Ok(_) => taken += count,
                Err(error) if is_gone(&error) => return Err(error),
                Err(error) if count > 1 && error.raw_os_error() == Some(libc::EINVAL) => {
                    single_until = at + count;
                    continue;
                }
                Err(_) => _ = unwritten.fetch_add(count as u64, Ordering::Relaxed),
            }
            at += count;
        }
        Ok(taken)
    }
}

impl Reader {
    /// Takes `len` bytes that were read.
    fn begin(&mut self, len: usize, unread: &AtomicU64) {
        self.len = len;
        self.split = self
            .buffer
            .get_mut(..len)
            .and_then(|bytes| bytes.split_first_chunk_mut())
            .and_then(|(header, packet)| Split::new(VirtioHeader::read(*header), packet));
        if self.split.is_none() {
            unread.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Cuts what was read last into `batch`, as far as there is room, and returns how many packets that were.
    fn cut(&mut self, batch: &mut PacketBatch, largest: usize, unread: &AtomicU64) -> usize {
        let Some(mut split) = self.split.take() else { return 0 };
        let packet = self.buffer.get(VIRTIO_HEADER..self.len).unwrap_or_default();
        let mut count = 0;
        while let Some(len) = split.next_len() {
            if len > largest {
                // Somebody raised the MTU: all of it is larger than what we may carry, but perhaps its end.
                unread.fetch_add(1, Ordering::Relaxed);
                return count;
            }
            let Some(mut room) = batch.reserve(len) else {
                self.split = Some(split);
                return count;
            };
            let Some(len) = split.write_next(packet, room.buffer()) else { return count };
            room.commit((), len);
            count += 1;
        }
        count
    }
}

/// Whether the device was deleted under us.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EBADF))
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
async fn attach_when_free(spec: &DeviceSpec, host: &LinuxHost) -> Result<SyncDevice, DeviceError> {
    let end = Instant::now() + BUSY_WAIT;
    loop {
        // A device for several queues takes whoever comes, where one with a single queue says EBUSY: so it is asked before.
        let held = host.device().await?.is_some_and(|facts| facts.attached);
        let result = if held { Err(DeviceError::Busy { name: spec.name.clone() }) } else { attach(spec) };
        match result {
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
    let build = |offload, several| {
        DeviceBuilder::new()
            .name(&spec.name)
            .layer(layer)
            .offload(offload)
            .inherit_enable_state()
            .with(|builder| _ = builder.multi_queue(several))
            .build_sync()
    };
    // A TAP device's frames would have to be parsed behind an Ethernet header, and TAP is for switches and old
    // clusters, not for speed.
    let wanted = spec.offload && spec.layer == Layer::Tun;
    // Always made for several queues, so that a later start may use another number. What is refused: a device that somebody
    // made with a single one; a kernel without the offload. If something else is wrong, the last attempt says it. Without
    // offload, tun-rs also switches off what an earlier run may have switched on in a device that outlived it.
    let mut built = build(wanted, true);
    for (offload, several) in [(wanted, false), (false, true), (false, false)] {
        match &built {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOTTY)) => {
                built = build(offload, several);
            }
            _ => break,
        }
    }
    let name = spec.name.clone();
    built.map_err(|source| match source.raw_os_error() {
        Some(libc::EBUSY) => DeviceError::Busy { name },
        Some(libc::EPERM | libc::EACCES) => DeviceError::Permission { name, source },
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => DeviceError::NoDriver { source },
        _ => DeviceError::Io { name, source },
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
