//! UDP: numbered datagrams at a given rate, and the search for the highest rate at which at most 1 % is lost and none lies in a
//! queue for long.
//!
//! A sender and a receiver, each on a thread in its own namespace, move batches with sendmmsg(2) and recvmmsg(2): what they cost
//! is the same for every contender. A delivered datagram is one whose number came for the first time.

use anyhow::{Result, anyhow, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, MultiHeaders, SockFlag, SockType, SockaddrIn, bind, connect, recvmmsg, sendmmsg,
    setsockopt, socket, sockopt,
};
use overlay_platform::os::netns;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Datagrams in one system call.
const BATCH: usize = 64;

/// Room for one datagram, in bytes.
const ROOM: usize = 2048;

/// The socket buffers, in bytes: large enough that a loss is the tunnel's.
const BUFFER: usize = 8 << 20;

const PORT: u16 = 5300;

/// Longest silence after the last datagram was sent.
const SILENCE: Duration = Duration::from_millis(300);

/// Loss up to which a rate counts (RFC 2544 would have none; a tunnel without a queue for a burst would then never count).
pub const TOLERATED_LOSS: f64 = 0.01;

/// How long after the last datagram was sent the last one may arrive. What comes later lay in a queue: a rate that only fills
/// queues is not carried, and would count for more the deeper a program's buffers are.
pub const TOLERATED_BACKLOG: Duration = Duration::from_millis(20);

/// What became of one rate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Probe {
    /// Datagrams a second that the sender got rid of.
    pub offered: f64,
    /// Datagrams a second that arrived, over the time until the last one did.
    pub delivered: f64,
    /// Share of the sent that did not arrive, 0 to 1.
    pub loss: f64,
    /// How long after the end of the sending the last one arrived.
    pub backlog: Duration,
}

impl Probe {
    fn holds(&self) -> bool {
        self.loss <= TOLERATED_LOSS && self.backlog <= TOLERATED_BACKLOG
    }
}

/// What a search found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The best rate delivered at a tolerated loss, datagrams a second; 0: even the lowest lost more.
    pub rate: f64,
    /// The sender could not offer more: the contender may well carry more.
    pub sender_is_the_limit: bool,
}

/// How a rate is searched.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// Payload of a datagram in bytes.
    pub payload: usize,
    /// How long each rate is tried.
    pub time: Duration,
    /// Halvings between the highest rate that held and the lowest that did not.
    pub steps: u32,
}

/// Searches the highest rate: doubles until more than 1 % is lost, then halves the interval. A rate that fails is tried a second
/// time before it counts as failed.
///
/// # Errors
/// When sockets fail, or nothing at all arrives.
pub fn search(search: Search, mut probe: impl FnMut(Search, f64) -> Result<Probe>) -> Result<Found> {
    const LOWEST: f64 = 1_000.0;
    const FIRST: f64 = 20_000.0;
    const HIGHEST: f64 = 10_000_000.0;
    /// A sender that reaches less of a rate than this cannot go higher.
    const REACHED: f64 = 0.85;
    let mut best = 0.0_f64;
    let mut limit = false;
    let mut holds = |rate: f64| {
        let mut tried = probe(search, rate)?;
        if !tried.holds() {
            tried = probe(search, rate)?;
        }
        if tried.holds() {
            best = best.max(tried.delivered);
            limit = tried.offered < rate * REACHED;
        }
        anyhow::Ok((tried.holds(), limit))
    };
    let (mut good, mut bad) = (0.0, FIRST);
    loop {
        let (held, limited) = holds(bad)?;
        if held && (limited || bad > HIGHEST) {
            return Ok(Found { rate: best, sender_is_the_limit: true });
        }
        match (held, good > 0.0) {
            // Up, until one fails.
            (true, _) if bad >= FIRST => (good, bad) = (bad, bad * 2.0),
            // Down, until one holds.
            (true, _) => {
                (good, bad) = (bad, bad * 2.0);
                break;
            }
            (false, true) => break,
            (false, false) if bad <= LOWEST => return Ok(Found { rate: 0.0, sender_is_the_limit: false }),
            (false, false) => bad /= 2.0,
        }
    }
    for _ in 0..search.steps {
        let middle = f64::sqrt(good * bad);
        let (held, _) = holds(middle)?;
        *(if held { &mut good } else { &mut bad }) = middle;
    }
    Ok(Found { rate: best, sender_is_the_limit: false })
}

/// Sends datagrams of `search.payload` bytes from `from` to `address` in `to`, `rate` a second.
///
/// # Errors
/// When sockets fail.
pub fn probe(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    address: Ipv4Addr,
    search: Search,
    rate: f64,
) -> Result<Probe> {
    ensure!((8..=ROOM).contains(&search.payload), "a payload of {} bytes has no room", search.payload);
    let sent_all = AtomicBool::new(false);
    // What an earlier probe left in a queue is not taken for this one's.
    let mut series = [0; 4];
    getrandom::fill(&mut series)?;
    let series = u64::from(u32::from_ne_bytes(series)) << 32;
    let (ready, wait) = mpsc::channel();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            netns::run_in(to, || {
                let socket = open()?;
                bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(address, PORT)))?;
                let _ = ready.send(());
                receive(&socket, series, &sent_all)
            })
        });
        let _ = wait.recv_timeout(Duration::from_secs(5));
        let sent = netns::run_in(from, || {
            let socket = open()?;
            connect(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(address, PORT)))?;
            send(&socket, search, series, rate)
        });
        sent_all.store(true, Relaxed);
        let (received, last) = receiver.join().map_err(|_| anyhow!("the receiver panicked"))??;
        let (sent, start, end) = sent?;
        let backlog = last.saturating_duration_since(end);
        let time = (end - start).as_secs_f64();
        Ok(Probe {
            offered: sent as f64 / time,
            delivered: received as f64 / (time + backlog.as_secs_f64()),
            loss: 1.0 - received as f64 / sent.max(1) as f64,
            backlog,
        })
    })
}

fn open() -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // Beyond the system's limit with the right to it, else up to the limit.
    if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &BUFFER)?;
    }
    if setsockopt(&socket, sockopt::SndBufForce, &BUFFER).is_err() {
        setsockopt(&socket, sockopt::SndBuf, &BUFFER)?;
    }
    Ok(socket)
}

/// Sends for `search.time`, and returns how many, and from when to when.
fn send(socket: &OwnedFd, search: Search, series: u64, rate: f64) -> io::Result<(u64, Instant, Instant)> {
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut buffers = vec![[0; ROOM]; BATCH];
    let nowhere = [None; BATCH];
    let mut sent = 0_u64;
    let start = Instant::now();
    loop {
        let elapsed = start.elapsed();
        if elapsed >= search.time {
            return Ok((sent, start, start + elapsed));
        }
        let due = (elapsed.as_secs_f64() * rate) as u64;
        let count = due.saturating_sub(sent).min(BATCH as u64) as usize;
        if count == 0 {
            thread::sleep(Duration::from_micros(50));
            continue;
        }
        for (number, buffer) in (sent..).zip(buffers.iter_mut().take(count)) {
            if let Some(field) = buffer.first_chunk_mut() {
                *field = (series | number).to_le_bytes();
            }
        }
        let payload = |buffer| <[u8; ROOM]>::as_slice(buffer).get(..search.payload).unwrap_or_default();
        let slices: Vec<_> =
            buffers.iter().take(count).map(|buffer| [IoSlice::new(payload(buffer))]).collect();
        match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, nowhere, [], MsgFlags::empty()) {
            Ok(results) => sent += results.count() as u64,
            // A queue on the way is full, or an ICMP error came back: go on.
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::ECONNREFUSED | Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Counts the numbers that arrive, until all were sent and there is silence. How many, and when the last one came.
fn receive(socket: &OwnedFd, series: u64, sent_all: &AtomicBool) -> io::Result<(u64, Instant)> {
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut buffers = vec![[0; ROOM]; BATCH];
    let mut seen = Seen::default();
    let mut last = Instant::now();
    loop {
        let mut wanted = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wanted, PollTimeout::from(50_u8)) {
            Ok(0) if sent_all.load(Relaxed) && last.elapsed() >= SILENCE => return Ok((seen.count, last)),
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let count =
            match recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, MsgFlags::MSG_DONTWAIT, None) {
                Ok(results) => results.count(),
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => continue,
                Err(error) => return Err(error.into()),
            };
        for buffer in buffers.iter().take(count) {
            // Of another series, the number is beyond all that count.
            seen.note(u64::from_le_bytes(*buffer.first_chunk().unwrap_or(&[0; 8])) ^ series);
        }
        last = Instant::now();
    }
}

/// Which numbers have arrived.
#[derive(Debug, Default)]
struct Seen {
    words: Vec<u64>,
    count: u64,
}

impl Seen {
    fn note(&mut self, number: u64) {
        /// More than a sender gets rid of in minutes; anything above is not ours.
        const MOST: u64 = 1 << 28;
        if number >= MOST {
            return;
        }
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if word >= self.words.len() {
            self.words.resize((word + 1).next_power_of_two(), 0);
        }
        if let Some(word) = self.words.get_mut(word).filter(|word| **word & bit == 0) {
            *word |= bit;
            self.count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEARCH: Search = Search { payload: 64, time: Duration::ZERO, steps: 6 };

    /// A tunnel that carries `capacity` a second, and a sender that offers at most `most`.
    fn tunnel(capacity: f64, most: f64) -> impl FnMut(Search, f64) -> Result<Probe> {
        move |_, rate| {
            let offered = rate.min(most);
            let delivered = offered.min(capacity);
            Ok(Probe { offered, delivered, loss: 1.0 - delivered / offered, backlog: Duration::ZERO })
        }
    }

    #[test]
    fn the_search_comes_within_3_percent_below_the_capacity() {
        for capacity in [1_500.0, 19_000.0, 20_000.0, 77_000.0, 160_000.0, 3_000_000.0] {
            let found = search(SEARCH, tunnel(capacity, f64::INFINITY)).unwrap();
            assert!((capacity * 0.97..=capacity).contains(&found.rate), "{found:?} of {capacity}");
            assert!(!found.sender_is_the_limit);
        }
    }

    #[test]
    fn a_sender_that_cannot_offer_more_is_said_to_be_the_limit() {
        let found = search(SEARCH, tunnel(1e9, 500_000.0)).unwrap();
        assert!(found.sender_is_the_limit);
        assert_eq!(found.rate, 500_000.0);
    }

    #[test]
    fn a_tunnel_that_carries_nothing_has_no_rate() {
        assert_eq!(search(SEARCH, tunnel(10.0, f64::INFINITY)).unwrap().rate, 0.0);
    }

    #[test]
    fn a_rate_that_only_fills_queues_does_not_count() {
        let capacity = 100_000.0_f64;
        let found = search(SEARCH, |_, rate| {
            // One second of sending; everything is kept, and comes late.
            let backlog = Duration::from_secs_f64((rate / capacity - 1.0).max(0.0));
            Ok(Probe { offered: rate, delivered: capacity.min(rate), loss: 0.0, backlog })
        });
        let rate = found.unwrap().rate;
        assert!((capacity * 0.97..=capacity).contains(&rate), "{rate}");
    }

    #[test]
    fn a_number_counts_once() {
        let mut seen = Seen::default();
        for number in [5, 1_000_000, 5, 0, u64::MAX] {
            seen.note(number);
        }
        assert_eq!(seen.count, 3);
    }
}
