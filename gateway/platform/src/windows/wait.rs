//! Waiting for packets: WaitForMultipleObjects over the device's read event, the sockets' events and a waker.
#![allow(unsafe_code, reason = "the calls of the system have no safe form; each says why it is sound")]

use std::{io, ptr, time::Duration};

use windows_sys::Win32::{
    Foundation::{CloseHandle, HANDLE, WAIT_FAILED, WAIT_OBJECT_0, WAIT_TIMEOUT},
    System::Threading::{CreateEventW, INFINITE, SetEvent, WaitForMultipleObjects},
};

use super::device::TunDevice;
use crate::{MAX_WAITED, Ready};

/// An event of the system (CreateEvent): set by one side, and reset by the wait that it ends.
#[derive(Debug)]
pub struct Event(HANDLE);

// SAFETY: a handle is a number that any thread may use; the object behind it is the system's and knows threads.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// An event that is not set.
    ///
    /// # Errors
    /// When the process has no handle left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no name, no attributes; automatic reset, not set.
        let handle = unsafe { CreateEventW(ptr::null(), 0, 0, ptr::null()) };
        if handle.is_null() { Err(io::Error::last_os_error()) } else { Ok(Self(handle)) }
    }

    /// Its handle, valid as long as `self`.
    pub fn handle(&self) -> HANDLE {
        self.0
    }

    /// Sets it.
    ///
    /// # Errors
    /// Never in practice.
    pub fn set(&self) -> io::Result<()> {
        // SAFETY: the handle is open as long as `self`.
        if unsafe { SetEvent(self.0) } == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: opened by `new`, and nobody has a copy.
        unsafe { CloseHandle(self.0) };
    }
}

/// One of the things that can be waited for.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A socket's event, set by what arrives (WSAEventSelect).
    Socket(&'a Event),
    /// The device: its event says that the ring is no longer empty, to one who has found it empty.
    Device(&'a TunDevice),
}

/// What can be waited for with [`wait_readable`].
pub trait Waitable {
    /// Its sources, in an order that stays.
    fn sources(&self) -> Vec<Source<'_>>;
}

/// Ends another thread's [`wait_readable`].
#[derive(Debug)]
pub struct Waker(Event);

impl Waker {
    /// A waker that nobody has pulled.
    ///
    /// # Errors
    /// When the process has no handle left.
    pub fn new() -> io::Result<Self> {
        Event::new().map(Self)
    }

    /// Ends the current wait, or the next one when nobody waits now.
    ///
    /// # Errors
    /// Never in practice.
    pub fn wake(&self) -> io::Result<()> {
        self.0.set()
    }
}

/// Only the source at position `index`: the system names one.
fn only(index: usize) -> Ready {
    let mut ready = Ready::default();
    ready.set_readable(index);
    ready
}

/// Waits until one of `sources` (at most [`MAX_WAITED`]) can be read or failed, `waker` was pulled, or `timeout` is over
/// (`None`: no limit). Of several that are ready at once it may name only one.
///
/// # Errors
/// `InvalidInput` for too many sources; what WaitForMultipleObjects reports.
pub fn wait_readable(sources: &[Source<'_>], waker: &Waker, timeout: Option<Duration>) -> io::Result<Ready> {
    if sources.len() > MAX_WAITED {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} sources", sources.len())));
    }
    // The ring tells only him who has found it empty.
    for (at, source) in sources.iter().enumerate() {
        if let Source::Device(device) = source
            && device.has_packet()
        {
            return Ok(only(at));
        }
    }
    let mut handles = [waker.0.handle(); MAX_WAITED + 1];
    for (handle, source) in handles.iter_mut().skip(1).zip(sources) {
        *handle = match source {
            Source::Socket(event) => event.handle(),
            Source::Device(device) => device.read_event(),
        };
    }
    let count = sources.len() as u32 + 1;
    let millis = timeout.map_or(INFINITE, |time| {
        // Rounded up: a wait that ends early would be made again at once.
        u32::try_from(time.as_micros().div_ceil(1000)).unwrap_or(INFINITE - 1).min(INFINITE - 1)
    });
    // SAFETY: `handles` holds so many open handles, which live as long as the sources and the waker.
    match unsafe { WaitForMultipleObjects(count, handles.as_ptr(), 0, millis) } {
        WAIT_FAILED => Err(io::Error::last_os_error()),
        WAIT_TIMEOUT => Ok(Ready::default()),
        WAIT_OBJECT_0 => {
            let mut ready = Ready::default();
            ready.woken = true;
            Ok(ready)
        }
        other => Ok(only((other - WAIT_OBJECT_0 - 1) as usize)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn the_wait_ends_by_an_event_by_the_waker_or_by_time() {
        let (idle, busy) = (Event::new().unwrap(), Event::new().unwrap());
        let waker = Waker::new().unwrap();
        let sources = [Source::Socket(&idle), Source::Socket(&busy)];
        let wait = |time| wait_readable(&sources, &waker, Some(Duration::from_millis(time))).unwrap();
        assert!(!wait(0).any());
        let start = Instant::now();
        assert!(!wait(20).any());
        assert!(start.elapsed() >= Duration::from_millis(15));
        busy.set().unwrap();
        let ready = wait(1000);
        assert!(ready.is_readable(1) && !ready.is_readable(0) && !ready.woken);
        waker.wake().unwrap();
        assert!(wait(1000).woken);
        assert!(!wait(0).any(), "both are re-armed");
        let many = [Source::Socket(&idle); MAX_WAITED + 1];
        assert!(wait_readable(&many, &waker, Some(Duration::ZERO)).is_err());
    }
}
