//! Sequenced UDP: a sender with a steady rate and a receiver that counts what is missing. TCP would hide a loss.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::node::Node;
use crate::wait::{PATIENCE, until_in};

/// Bytes of a datagram: the sequence number, when it was sent, and padding.
const LENGTH: usize = 200;
/// Behind schedule by more than this, the sender does not catch up: a burst would overflow queues that have nothing to do with the test.
const HICCUP: Duration = Duration::from_millis(20);
/// Who waits for beats of one a second has missed the one that comes later than this.
const LATE: Duration = Duration::from_secs(1);
/// The receiver's socket buffer, bytes: what a busy machine does not read at once must not count as lost.
const BUFFER: usize = 8 << 20;

/// A running flow of datagrams from one node to another.
pub struct Flow {
    end: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    seen: Arc<Mutex<Seen>>,
    sender: Option<JoinHandle<Duration>>,
    receiver: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    /// Per sequence number, how often it came.
    count: Vec<u8>,
    received: u64,
    late: u64,
    reordered: u64,
    highest: Option<u64>,
    last: Option<Instant>,
    longest_gap: Duration,
}

/// What became of a flow.
#[derive(Debug)]
pub struct Tally {
    /// Datagrams sent.
    pub sent: u64,
    /// Sequence numbers that never came.
    pub lost: Vec<u64>,
    /// Datagrams that came more than a second after they were sent.
    pub late: u64,
    /// Datagrams that came more than once.
    pub duplicated: u64,
    /// Datagrams that came after a later one.
    pub reordered: u64,
    /// The longest time without a datagram.
    pub longest_gap: Duration,
    /// The longest time by which the sender itself came too late: the machine paused, and nothing was sent.
    pub pause: Duration,
}

impl Flow {
    /// Sends `rate` datagrams a second from `from` to `address`, which is an address of `to`; `source` binds the sender.
    ///
    /// # Panics
    /// When a socket cannot be made.
    #[track_caller]
    pub fn start(from: &Node, source: Option<Ipv4Addr>, to: &Node, address: SocketAddrV4, rate: u32) -> Self {
        let inbound = to.inside(|| {
            let socket =
                UdpSocket::bind((Ipv4Addr::UNSPECIFIED, address.port())).expect("the receiver's port");
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &BUFFER)
                .expect("a large buffer");
            socket
        });
        inbound.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let outbound =
            from.inside(|| UdpSocket::bind((source.unwrap_or(Ipv4Addr::UNSPECIFIED), 0)).expect("a port"));
        // A tunnel that takes no packets for a while must not stop the clock of the beats.
        outbound.set_nonblocking(true).unwrap();
        let begin = Instant::now();
        let end = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let receiver = {
            let (end, seen) = (Arc::clone(&end), Arc::clone(&seen));
            thread::spawn(move || receive(&inbound, begin, &end, &seen))
        };
        let sender = {
            let (end, sent) = (Arc::clone(&end), Arc::clone(&sent));
            thread::spawn(move || send(&outbound, begin, address, rate, &end, &sent))
        };
        Self { end, sent, seen, sender: Some(sender), receiver: Some(receiver) }
    }

    /// Datagrams that have come so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.seen.lock().unwrap().received
    }

    /// Waits until `count` more datagrams have come.
    ///
    /// # Panics
    /// When they do not come in [`PATIENCE`].
    #[track_caller]
    pub fn wait_more(&self, count: u64) {
        let goal = self.received() + count;
        let what = format!("{count} more datagrams of the flow arrive");
        until_in(PATIENCE + Duration::from_millis(count * 4), &what, || self.received() >= goal);
    }

    /// Ends the flow, waits for what is still under way, and counts.
    #[must_use]
    pub fn stop(mut self) -> Tally {
        let pause = self.finish();
        let sent = self.sent.load(Ordering::Acquire);
        let seen = self.seen.lock().unwrap();
        let count = |number: u64| {
            usize::try_from(number).ok().and_then(|index| seen.count.get(index)).copied().unwrap_or(0)
        };
        Tally {
            sent,
            lost: (0..sent).filter(|&number| count(number) == 0).collect(),
            duplicated: (0..sent).map(|number| u64::from(count(number).saturating_sub(1))).sum(),
            reordered: seen.reordered,
            late: seen.late,
            longest_gap: seen.longest_gap,
            pause,
        }
    }

    fn finish(&mut self) -> Duration {
        self.end.store(true, Ordering::Release);
        let pause = self.sender.take().and_then(|sender| sender.join().ok());
        let _ = self.receiver.take().map(JoinHandle::join);
        pause.unwrap_or_default()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Tally {
    /// # Panics
    /// When a datagram is missing; the message has the numbers.
    #[track_caller]
    pub fn nothing_lost(&self) {
        let first: Vec<_> = self.lost.iter().take(20).collect();
        assert!(
            self.lost.is_empty(),
            "{} of {} datagrams were lost, the first: {first:?}; longest gap {:?}",
            self.lost.len(),
            self.sent,
            self.longest_gap
        );
        assert!(self.sent > 0, "nothing was sent");
    }
}

/// Returns by how much it was late at most.
fn send(
    socket: &UdpSocket,
    begin: Instant,
    address: SocketAddrV4,
    rate: u32,
    end: &AtomicBool,
    sent: &AtomicU64,
) -> Duration {
    let step = Duration::from_secs(1) / rate;
    let (mut due, mut pause) = (begin, Duration::ZERO);
    let mut datagram = [0; LENGTH];
    while !end.load(Ordering::Acquire) {
        let now = Instant::now();
        if let Some(early) = due.checked_duration_since(now) {
            thread::sleep(early);
        }
        let behind = Instant::now().saturating_duration_since(due);
        pause = pause.max(behind);
        if behind > HICCUP {
            due += behind;
        }
        due += step;
        let number = sent.load(Ordering::Relaxed);
        datagram[..8].copy_from_slice(&number.to_be_bytes());
        datagram[8..16].copy_from_slice(&(begin.elapsed().as_nanos() as u64).to_be_bytes());
        // What the kernel refuses (no route for a moment, no room since nobody takes packets from the device, an ICMP error that
        // came back) counts as sent, and so as lost.
        let _ = socket.send_to(&datagram, address);
        sent.store(number + 1, Ordering::Release);
    }
    pause
}

fn receive(socket: &UdpSocket, begin: Instant, end: &AtomicBool, seen: &Mutex<Seen>) {
    let mut datagram = [0; 2048];
    let mut quiet = Instant::now();
    loop {
        match socket.recv(&mut datagram) {
            Ok(length) if length >= 16 => {
                let now = Instant::now();
                quiet = now;
                let number = u64::from_be_bytes(datagram[..8].try_into().unwrap());
                let index = usize::try_from(number).unwrap();
                let took = (now - begin).saturating_sub(Duration::from_nanos(u64::from_be_bytes(
                    datagram[8..16].try_into().unwrap(),
                )));
                let mut seen = seen.lock().unwrap();
                if seen.count.len() <= index {
                    seen.count.resize(index + 1, 0);
                }
                seen.count[index] = seen.count[index].saturating_add(1);
                seen.received += 1;
                seen.late += u64::from(took > LATE);
                if seen.highest.is_some_and(|highest| number < highest) {
                    seen.reordered += 1;
                }
                seen.highest = seen.highest.max(Some(number));
                if let Some(last) = seen.last.replace(now) {
                    seen.longest_gap = seen.longest_gap.max(now - last);
                }
            }
            // A second of silence after the end: nothing is under way any more.
            _ if end.load(Ordering::Acquire) && quiet.elapsed() > Duration::from_secs(1) => return,
            _ => {}
        }
    }
}
