//! The adapter on Windows: a Wintun session. The adapter itself belongs to the [`super::holder`].
//!
//! Packets lie in two rings that driver and program share; nothing but a wait is a system call. One thread at a time
//! writes (release 0.14.1 of the driver has races between producers), whichever it is.
#![allow(unsafe_code, reason = "the calls of the system have no safe form; each says why it is sound")]

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use overlay_engine::packet::PacketBatch;
use windows_sys::Win32::Foundation::{ERROR_BUFFER_OVERFLOW, HANDLE};

use super::{
    dll::{Dll, DllFacts},
    doubles, holder,
    host::Host,
    iphelper,
    wait::{Source, Waitable},
};
use crate::{Device, DeviceDrops, DeviceError, DeviceIdentity, DeviceSpec, Layer, Opened, guid};

/// Bytes of each ring: 16 MiB hold about 40 ms at 3 Gb/s (Wintun takes powers of two from 128 KiB to 64 MiB).
const RING: u32 = 16 << 20;

/// How long the ring is looked at again before the thread goes to sleep, when packets have just come: a wake-up costs
/// about as much.
const SPIN: Duration = Duration::from_micros(50);

/// How long an adapter that the holder has just made may take until it can be opened.
const OPENING: Duration = Duration::from_secs(15);

/// One session with the adapter.
pub struct TunDevice {
    session: Arc<wintun::Session>,
    event: HANDLE,
    reader: Mutex<Reader>,
    writer: Mutex<()>,
    largest: AtomicUsize,
    unread: AtomicU64,
    unwritten: AtomicU64,
    facts: DllFacts,
}

// SAFETY: the event's handle is a number that any thread may use, valid as long as the session; the session is Sync.
unsafe impl Send for TunDevice {}
// SAFETY: as above.
unsafe impl Sync for TunDevice {}

#[derive(Default)]
struct Reader {
    /// A packet that was taken from the ring to see whether there is one.
    next: Option<wintun::Packet>,
    /// The ring was empty when it was last looked at: from then on the event tells.
    empty: bool,
    /// Packets have come since the last wait.
    busy: bool,
}

impl std::fmt::Debug for TunDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunDevice").field("library", &self.facts).finish_non_exhaustive()
    }
}

impl TunDevice {
    /// Opens the adapter that `spec` describes: has it made, or adopts the one that a holder kept.
    ///
    /// # Errors
    /// [`DeviceError`] tells what is in the way and what to do about it.
    pub async fn open(spec: &DeviceSpec, host: &Host) -> Result<Opened<Self>, DeviceError> {
        let name = spec.name.clone();
        check_name(&name)?;
        if spec.layer == Layer::Tap {
            return Err(DeviceError::NoTap);
        }
        let dll = Dll::load()?;
        // Its holder is not asked for this: it has more time to answer below. Under Wine the interface is Linux'.
        if doubles::host(&name).is_none()
            && let Some(luid) = iphelper::luid_of(&name)
            && !iphelper::guid_of(luid).is_some_and(guid::is_ours)
        {
            return Err(DeviceError::NotOurs { name });
        }
        let (about, adopted) = holder::ensure(&name, spec.guid).await?;
        host.note_creation(about.id);
        let session = open_session(&dll, &name).await?;
        let opened = |source| DeviceError::Io { name: name.clone(), source };
        let event = session.get_read_wait_event().map_err(|error| opened(io_error(error)))?;
        let device = Self {
            session: Arc::new(session),
            event: event as HANDLE,
            reader: Mutex::default(),
            writer: Mutex::new(()),
            largest: AtomicUsize::new(usize::from(spec.mtu)),
            unread: AtomicU64::new(0),
            unwritten: AtomicU64::new(0),
            facts: dll.facts,
        };
        let identity = DeviceIdentity { name: spec.name.clone(), ifindex: about.id, mode: spec.layer };
        Ok(Opened { device, adopted, identity })
    }

    /// Wintun has one queue.
    ///
    /// # Errors
    /// `Unsupported`, always.
    pub fn add_queue(&self) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// What did not pass since the device was opened.
    #[must_use]
    pub fn drops(&self) -> DeviceDrops {
        DeviceDrops {
            too_big: self.unread.load(Ordering::Relaxed),
            not_taken: self.unwritten.load(Ordering::Relaxed),
        }
    }

    /// The driver's library: its version, and whose signature it bears.
    #[must_use]
    pub fn driver(&self) -> Option<String> {
        Some(format!("wintun.dll {}, {}", self.facts.version, self.facts.signature))
    }

    /// The event that the driver sets when the ring is no longer empty. Valid as long as `self`.
    pub(super) fn read_event(&self) -> HANDLE {
        self.event
    }

    /// Whether a read would give something: a packet, or an error. Looks at the ring again for a moment when packets have
    /// just come.
    pub(super) fn has_packet(&self) -> bool {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if reader.next.is_some() {
            return true;
        }
        let until = Instant::now() + if std::mem::take(&mut reader.busy) { SPIN } else { Duration::ZERO };
        loop {
            match self.session.try_receive() {
                Ok(Some(packet)) => reader.next = Some(packet),
                Ok(None) if Instant::now() < until => {
                    std::hint::spin_loop();
                    continue;
                }
                Ok(None) => {
                    reader.empty = true;
                    return false;
                }
                // The next read reports it.
                Err(_) => {}
            }
            return true;
        }
    }
}

impl Waitable for TunDevice {
    fn sources(&self) -> Vec<Source<'_>> {
        vec![Source::Device(self)]
    }
}

impl Device for TunDevice {
    fn read_batch(&self, batch: &mut PacketBatch) -> io::Result<usize> {
        super::doubles::panic_if_asked();
        let largest = self.largest.load(Ordering::Relaxed);
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        while batch.room() >= largest {
            let packet = match reader.next.take() {
                Some(packet) => packet,
                None => match self.session.try_receive() {
                    Ok(Some(packet)) => packet,
                    Ok(None) => {
                        reader.empty = true;
                        break;
                    }
                    Err(error) if count == 0 => return Err(io_error(error)),
                    Err(_) => break,
                },
            };
            let bytes = packet.bytes();
            if bytes.len() > largest || !batch.push((), bytes) {
                self.unread.fetch_add(1, Ordering::Relaxed);
            } else {
                count += 1;
            }
        }
        reader.busy |= count > 0;
        Ok(count)
    }

    fn write_batch(&self, batch: &PacketBatch) -> io::Result<usize> {
        let _one = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for (_, bytes) in batch.iter() {
            let Ok(length) = u16::try_from(bytes.len()) else {
                self.unwritten.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            match self.session.allocate_send_packet(length) {
                Ok(mut packet) => {
                    packet.bytes_mut().copy_from_slice(bytes);
                    self.session.send_packet(packet);
                    count += 1;
                }
                Err(error) => {
                    let error = io_error(error);
                    if error.raw_os_error() != Some(ERROR_BUFFER_OVERFLOW as i32) {
                        return Err(error);
                    }
                    self.unwritten.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(count)
    }
}

async fn open_session(dll: &Dll, name: &str) -> Result<wintun::Session, DeviceError> {
    let begin = Instant::now();
    let mut said = false;
    loop {
        let opened = wintun::Adapter::open(&dll.wintun, name).and_then(|adapter| adapter.start_session(RING));
        match opened {
            Ok(session) => return Ok(session),
            Err(error) if begin.elapsed() > OPENING => {
                let text = format!(
                    "{error} ({})\n    another program may have a session with it; or start the service again",
                    io::Error::last_os_error()
                );
                return Err(DeviceError::Io { name: name.to_owned(), source: io::Error::other(text) });
            }
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::info!(adapter = name, %error, "the adapter cannot be opened yet");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn check_name(name: &str) -> Result<(), DeviceError> {
    /// Wintun's MAX_ADAPTER_NAME, without the zero at its end.
    const LONGEST: usize = 127;
    /// What neither a pipe's nor an interface's name may hold.
    const FORBIDDEN: &str = "\\/:*?\"<>|%";
    let bad = name.is_empty()
        || name.encode_utf16().count() > LONGEST
        || name.contains(|c: char| c.is_control() || FORBIDDEN.contains(c));
    if bad { Err(DeviceError::BadName { name: name.to_owned() }) } else { Ok(()) }
}

fn io_error(error: wintun::Error) -> io::Error {
    match error {
        wintun::Error::Io(error) => error,
        other => io::Error::other(other.to_string()),
    }
}
