//! The packet path's threads: one takes batches from the device, one from the underlay. Each runs a batch to completion.

use overlay_engine::packet::{DatagramBatch, PacketBatch};
use overlay_engine::{Engine, Output};
use overlay_platform::os::{UdpTransport, Waker, wait_readable};
use overlay_platform::{Device, Transport};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

/// A batch from the host: packets, and bytes for them. A read reserves the largest packet there may be, and keeps what came.
const PACKETS: usize = 128;
const BYTES: usize = 256 * 1024;

/// A batch from the underlay: datagrams, and bytes for them. Each message that is received may be a train of 64 KB and 64
/// datagrams, and there is no telling before: so there is room for 16 of them. What is not used is never touched.
const DATAGRAMS: usize = 16 * 64;
const DATAGRAM_BYTES: usize = 16 * 64 * 1024;

/// What the threads share.
#[derive(Debug)]
pub struct Shared<D, T> {
    /// The engine.
    pub engine: Arc<Engine>,
    /// The device; a hub has none.
    pub device: Option<Arc<D>>,
    /// The underlay.
    pub transport: Arc<T>,
}

impl<D, T> Clone for Shared<D, T> {
    fn clone(&self) -> Self {
        Self {
            engine: Arc::clone(&self.engine),
            device: self.device.clone(),
            transport: Arc::clone(&self.transport),
        }
    }
}

impl<D: Device, T: Transport> Shared<D, T> {
    /// Sends what the engine gave back. An error of one packet is that packet's: the batch goes on.
    pub fn deliver(&self, out: &Output) {
        if let Some(device) = &self.device
            && !out.host.is_empty()
            && let Err(error) = device.write_batch(&out.host)
        {
            tracing::debug!(%error, "device");
        }
        if !out.net.is_empty()
            && let Err(error) = self.transport.send_batch(&out.net)
        {
            tracing::debug!(%error, "underlay");
        }
    }
}

/// The running threads. Dropped: they stop.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<(Arc<Waker>, JoinHandle<()>)>,
}

impl Workers {
    /// Starts the threads. `failed` is called by a thread that cannot go on, with the reason.
    ///
    /// # Errors
    /// When the system gives no thread or no event descriptor.
    pub fn start<D, T, F>(shared: &Shared<D, T>, failed: F) -> io::Result<Self>
    where
        D: Device + AsFd + 'static,
        T: Transport + AsFdList + 'static,
        F: Fn(&'static str, io::Error) + Clone + Send + 'static,
    {
        let mut workers = Self { threads: Vec::new() };
        if let Some(device) = shared.device.clone() {
            let (shared, failed) = (shared.clone(), failed.clone());
            workers.spawn("from-host", move |waker| {
                guarded("device", &failed, || from_host(&shared, &*device, waker));
            })?;
        }
        let shared = shared.clone();
        workers.spawn("from-underlay", move |waker| {
            guarded("underlay", &failed, || from_underlay(&shared, waker));
        })?;
        Ok(workers)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce(&Waker) + Send + 'static) -> io::Result<()> {
        let waker = Arc::new(Waker::new()?);
        let woken = Arc::clone(&waker);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&woken))?;
        self.threads.push((waker, thread));
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for (waker, _) in &self.threads {
            let _ = waker.wake();
        }
        for (_, thread) in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Runs a thread's work, and reports how it failed: an error of `part`, or a panic, after which another thread must do it.
fn guarded(
    part: &'static str,
    failed: &impl Fn(&'static str, io::Error),
    work: impl FnOnce() -> io::Result<()>,
) {
    // What a panic leaves half done is one peer's tunnel, which shakes hands anew.
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => failed(part, error),
        Err(_) => failed("worker", io::Error::other("a thread of the packet path panicked")),
    }
}

/// The descriptors of a transport.
pub trait AsFdList {
    /// The descriptors to wait for.
    fn fds(&self) -> Vec<std::os::fd::BorrowedFd<'_>>;
}

impl AsFdList for UdpTransport {
    fn fds(&self) -> Vec<std::os::fd::BorrowedFd<'_>> {
        Self::fds(self).collect()
    }
}

fn from_host<D: Device + AsFd, T: Transport>(
    shared: &Shared<D, T>,
    device: &D,
    waker: &Waker,
) -> io::Result<()> {
    let mut batch = PacketBatch::with_capacity(BYTES, PACKETS);
    let mut out = Output::for_batch(BYTES, PACKETS);
    while !wait_readable(&[device.as_fd()], waker, None)?.woken {
        loop {
            batch.clear();
            if device.read_batch(&mut batch)? == 0 {
                break;
            }
            out.clear();
            shared.engine.handle_host(Instant::now(), &mut batch, &mut out);
            shared.deliver(&out);
        }
    }
    Ok(())
}

fn from_underlay<D: Device, T: Transport + AsFdList>(shared: &Shared<D, T>, waker: &Waker) -> io::Result<()> {
    let mut batch = DatagramBatch::with_capacity(DATAGRAM_BYTES, DATAGRAMS);
    let mut out = Output::for_batch(DATAGRAM_BYTES, DATAGRAMS);
    // Once: the list is made anew at each call.
    let fds = shared.transport.fds();
    while !wait_readable(&fds, waker, None)?.woken {
        loop {
            batch.clear();
            if shared.transport.recv_batch(&mut batch)? == 0 {
                break;
            }
            out.clear();
            shared.engine.handle_underlay(Instant::now(), &batch, &mut out);
            shared.deliver(&out);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn a_thread_that_panics_is_reported_as_one_that_fails() {
        let seen = RefCell::new(Vec::new());
        let failed = |what, error: io::Error| seen.borrow_mut().push((what, error.to_string()));
        guarded("device", &failed, || Ok(()));
        guarded("device", &failed, || Err(io::ErrorKind::BrokenPipe.into()));
        guarded("device", &failed, || panic!("a packet that nobody thought of"));
        let parts: Vec<_> = seen.borrow().iter().map(|(what, _)| *what).collect();
        assert_eq!(parts, ["device", "worker"]);
    }
}
