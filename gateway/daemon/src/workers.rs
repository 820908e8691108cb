//! The packet path's threads. Each takes batches from the device, from the underlay, or from both, and runs a batch to completion.
//!
//! A queue is a queue of the device and a socket of the underlay. On a small machine one thread serves both of its sides: what
//! the host answers at once (an echo, TCP's acknowledgement) is then on its way without waking anybody, and the two do not
//! contend for two cores with the programs that the host is there for. Where there are cores to spare, each side has a thread
//! of its own (benches/README.md has the figures).

use crate::pulse::{LAP, Pulse, Pulses};
use overlay_engine::packet::{DatagramBatch, PacketBatch};
use overlay_engine::{Engine, Output};
use overlay_platform::os::{
    MOST_QUEUES as QUEUES_OF_THE_SYSTEM, Waitable, Waker, favour_this_thread, wait_readable,
};
use overlay_platform::{Device, Transport};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A batch from the host: packets, and bytes for them. A read reserves the largest packet there may be, and keeps what came.
const PACKETS: usize = 128;
const BYTES: usize = 256 * 1024;

/// A batch from the underlay: datagrams, and bytes for them. Each message that is received may be a train of 64 KB and 64
/// datagrams, and there is no telling before: so there is room for 16 of them. What is not used is never touched.
const DATAGRAMS: usize = 16 * 64;
const DATAGRAM_BYTES: usize = 16 * 64 * 1024;

/// How many rounds a thread makes before it looks whether it is to stop.
const ROUNDS: u32 = 64;

/// From this many cores on, each side of a queue has a thread of its own.
const CORES_FOR_TWO: usize = 4;

/// This many cores for each queue, when the configuration does not say how many queues there are.
const CORES_PER_QUEUE: usize = 4;

/// More queues than this are made only for who asks for them.
const MOST_QUEUES: usize = 4;

/// How the packet path is spread over threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Queues of the device and sockets of the underlay.
    pub queues: usize,
    /// Each side of a queue has a thread of its own.
    pub two_threads: bool,
}

impl Spread {
    /// What a machine with this many cores is given, `queues` being what the configuration asks for.
    #[must_use]
    pub fn new(queues: Option<NonZeroU16>, cores: usize) -> Self {
        let chosen = (cores / CORES_PER_QUEUE).clamp(1, MOST_QUEUES);
        let queues = queues.map_or(chosen, |queues| usize::from(queues.get()));
        Self { queues, two_threads: cores >= CORES_FOR_TWO }
    }

    /// What this machine is given.
    #[must_use]
    pub fn here(queues: Option<NonZeroU16>) -> Self {
        let spread = Self::new(queues, std::thread::available_parallelism().map_or(1, usize::from));
        Self { queues: spread.queues.min(QUEUES_OF_THE_SYSTEM), ..spread }
    }

    fn sides(self, reads_device: bool) -> &'static [Sides] {
        match (reads_device, self.two_threads) {
            (false, _) => &[Sides::Underlay],
            (true, false) => &[Sides::Both],
            (true, true) => &[Sides::Host, Sides::Underlay],
        }
    }
}

/// Which sides of a queue a thread serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sides {
    Both,
    Host,
    Underlay,
}

impl Sides {
    fn name(self) -> &'static str {
        match self {
            Self::Both => "packets-both",
            Self::Host => "packets-host",
            Self::Underlay => "packets-net",
        }
    }

    /// What fails when a wait of such a thread does.
    fn part(self) -> &'static str {
        if self == Self::Underlay { "underlay" } else { "device" }
    }
}

/// A queue of the device, and a socket of the underlay.
#[derive(Debug)]
pub struct Queue<D, T> {
    /// The engine, which all queues share.
    pub engine: Arc<Engine>,
    /// The device; a hub has none.
    pub device: Option<Arc<D>>,
    /// Packets from the host are taken here; otherwise another queue does that, and here they are only given to the host.
    pub reads_device: bool,
    /// The underlay.
    pub transport: Arc<T>,
}

impl<D, T> Clone for Queue<D, T> {
    fn clone(&self) -> Self {
        Self {
            engine: Arc::clone(&self.engine),
            device: self.device.clone(),
            reads_device: self.reads_device,
            transport: Arc::clone(&self.transport),
        }
    }
}

impl<D: Device, T: Transport> Queue<D, T> {
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
    pulses: Pulses,
}

impl Workers {
    /// Starts the threads, each of which shows in `pulses` that it goes round. `failed` is called by a thread that cannot go on, with the part that failed and the reason.
    ///
    /// # Errors
    /// When the system gives no thread or no event descriptor.
    pub fn start<D, T, F>(
        queues: &[Queue<D, T>],
        spread: Spread,
        pulses: &Pulses,
        failed: &F,
    ) -> io::Result<Self>
    where
        D: Device + Waitable + 'static,
        T: Transport + Waitable + 'static,
        F: Fn(&'static str, io::Error) + Clone + Send + 'static,
    {
        let mut workers = Self { threads: Vec::new(), pulses: pulses.clone() };
        for queue in queues {
            for &sides in spread.sides(queue.device.is_some() && queue.reads_device) {
                let (queue, failed, pulse) = (queue.clone(), failed.clone(), pulses.join(sides.name()));
                workers.spawn(sides.name(), move |waker| {
                    guarded(&failed, || serve(&queue, sides, waker, &pulse));
                })?;
            }
        }
        Ok(workers)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce(&Waker) + Send + 'static) -> io::Result<()> {
        let waker = Arc::new(Waker::new()?);
        let woken = Arc::clone(&waker);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            settle_in();
            work(&woken);
        })?;
        self.threads.push((waker, thread));
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.pulses.forget();
        for (waker, _) in &self.threads {
            let _ = waker.wake();
        }
        for (_, thread) in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// parking_lot makes a place for a thread when it waits for a lock for the first time, which would be in the middle of a packet's
/// way: so it waits once before, for nothing. Then the scheduler is told what the thread is for.
fn settle_in() {
    let (lock, nobody) = (Mutex::new(()), Condvar::new());
    let _ = nobody.wait_for(&mut lock.lock(), Duration::ZERO);
    if let Err(error) = favour_this_thread() {
        tracing::debug!(%error, "the packet path runs with ordinary priority");
    }
}

/// A part that failed, and how.
type Failed = (&'static str, io::Error);

/// Runs a thread's work, and reports how it failed: an error of a part, or a panic, after which another thread must do it.
fn guarded(failed: &impl Fn(&'static str, io::Error), work: impl FnOnce() -> Result<(), Failed>) {
    // What a panic leaves half done is one peer's tunnel, which shakes hands anew.
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(Ok(())) => {}
        Ok(Err((part, error))) => failed(part, error),
        Err(_) => failed("worker", io::Error::other("a thread of the packet path panicked")),
    }
}

/// What a thread works in. Allocated once.
struct Room {
    packets: PacketBatch,
    datagrams: DatagramBatch,
    out: Output,
}

fn serve<D, T>(queue: &Queue<D, T>, sides: Sides, waker: &Waker, pulse: &Pulse) -> Result<(), Failed>
where
    D: Device + Waitable,
    T: Transport + Waitable,
{
    let device = queue.device.as_deref().filter(|_| sides != Sides::Underlay);
    let transport = Some(&*queue.transport).filter(|_| sides != Sides::Host);
    let mut room = Room {
        packets: PacketBatch::with_capacity(BYTES, PACKETS),
        datagrams: DatagramBatch::with_capacity(DATAGRAM_BYTES, DATAGRAMS),
        out: Output::for_batch(DATAGRAM_BYTES, DATAGRAMS),
    };
    // Once: the list is made anew at each call.
    let mut sources: Vec<_> = device.iter().flat_map(|device| device.sources()).collect();
    sources.extend(transport.iter().flat_map(|transport| transport.sources()));
    loop {
        pulse.beat();
        let ready = wait_readable(&sources, waker, Some(LAP)).map_err(|error| (sides.part(), error))?;
        if ready.woken {
            return Ok(());
        }
        // First the side that is ready; then the sides in turn, until neither has any more: what the host answers at once to
        // what came from the underlay is there when its turn comes.
        let (mut host, mut idle, mut rounds) = (device.is_some() && ready.is_readable(0), 0, 0);
        while idle < 2 && rounds < ROUNDS {
            let some = match (host, device, transport) {
                (true, Some(device), _) => {
                    from_host(queue, device, &mut room).map_err(|error| ("device", error))?
                }
                (false, _, Some(_)) => {
                    from_underlay(queue, &mut room).map_err(|error| ("underlay", error))?
                }
                _ => false,
            };
            idle = if some { 0 } else { idle + 1 };
            host = !host;
            rounds += 1;
        }
    }
}

/// One batch from the device; whether there was any.
fn from_host<D: Device, T: Transport>(queue: &Queue<D, T>, device: &D, room: &mut Room) -> io::Result<bool> {
    let Room { packets, out, .. } = room;
    packets.clear();
    if device.read_batch(packets)? == 0 {
        return Ok(false);
    }
    out.clear();
    queue.engine.handle_host(Instant::now(), packets, out);
    queue.deliver(out);
    Ok(true)
}

/// One batch from the underlay; whether there was any.
fn from_underlay<D: Device, T: Transport>(queue: &Queue<D, T>, room: &mut Room) -> io::Result<bool> {
    let Room { datagrams, out, .. } = room;
    datagrams.clear();
    if queue.transport.recv_batch(datagrams)? == 0 {
        return Ok(false);
    }
    out.clear();
    queue.engine.handle_underlay(Instant::now(), datagrams, out);
    queue.deliver(out);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn a_thread_that_panics_is_reported_as_one_that_fails() {
        let seen = RefCell::new(Vec::new());
        let failed = |what, error: io::Error| seen.borrow_mut().push((what, error.to_string()));
        guarded(&failed, || Ok(()));
        guarded(&failed, || Err(("device", io::ErrorKind::BrokenPipe.into())));
        guarded(&failed, || panic!("a packet that nobody thought of"));
        let parts: Vec<_> = seen.borrow().iter().map(|(what, _)| *what).collect();
        assert_eq!(parts, ["device", "worker"]);
    }

    #[test]
    fn small_machines_have_one_thread_and_large_ones_queues_unless_the_file_says_how_many() {
        let spread = |queues, two_threads| Spread { queues, two_threads };
        let of = |cores| Spread::new(None, cores);
        assert_eq!([1, 2, 3].map(of), [spread(1, false); 3]);
        assert_eq!([4, 8, 64].map(of), [spread(1, true), spread(2, true), spread(4, true)]);
        assert_eq!(Spread::new(NonZeroU16::new(3), 2), spread(3, false));
        assert_eq!(of(2).sides(true), [Sides::Both]);
        assert_eq!(of(8).sides(true), [Sides::Host, Sides::Underlay]);
        assert_eq!(of(8).sides(false), [Sides::Underlay]);
    }
}
