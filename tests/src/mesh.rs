//! A beat a second from each of many nodes to each other one: a cluster in which everybody watches everybody.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::node::Node;

/// The time between two beats of a pair.
const BEAT: Duration = Duration::from_secs(1);
/// As long as nothing arrives for this time after the end, nothing is under way any more.
const QUIET: Duration = Duration::from_secs(1);
/// How long a receiver waits for a datagram before it looks whether the end has come.
const POLL: Duration = Duration::from_millis(100);
/// The receivers' socket buffers, bytes: what a busy machine does not read at once must not count as lost.
const BUFFER: usize = 1 << 20;

/// Beats between every two nodes, in both directions. Each node's beats are spread evenly over the second.
pub struct Mesh {
    shared: Arc<Shared>,
    senders: Vec<JoinHandle<()>>,
    receivers: Vec<JoinHandle<()>>,
}

struct Shared {
    addresses: Vec<SocketAddrV4>,
    end: AtomicBool,
    /// For each pair, how many beats were sent.
    sent: Vec<AtomicUsize>,
    /// For each receiver and sender, which beats have come.
    seen: Vec<Mutex<Vec<Vec<bool>>>>,
}

/// How many beats each pair lost.
#[derive(Debug, Default)]
pub struct Losses {
    /// How many beats were sent.
    pub sent: usize,
    /// `pairs[n]`: how many pairs lost `n` beats.
    pub pairs: Vec<usize>,
    /// The pairs that lost the most, as places in the order of the nodes, sender first.
    pub worst: Vec<(usize, usize)>,
}

impl Losses {
    /// The most that a pair has lost.
    #[must_use]
    pub fn most(&self) -> usize {
        self.pairs.len().saturating_sub(1)
    }
}

impl Mesh {
    /// Starts the beats, to `port` of each of these nodes at its address.
    ///
    /// # Panics
    /// When a socket cannot be made.
    #[must_use]
    #[track_caller]
    pub fn start(nodes: &[(Node, Ipv4Addr)], port: u16) -> Self {
        let count = nodes.len();
        let shared = Arc::new(Shared {
            addresses: nodes.iter().map(|(_, address)| SocketAddrV4::new(*address, port)).collect(),
            end: AtomicBool::new(false),
            sent: (0..count * count).map(|_| AtomicUsize::new(0)).collect(),
            seen: (0..count).map(|_| Mutex::new(vec![Vec::new(); count])).collect(),
        });
        let sockets: Vec<_> = nodes
            .iter()
            .map(|(node, _)| {
                node.inside(|| {
                    let inbound = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("the beats' port");
                    nix::sys::socket::setsockopt(&inbound, nix::sys::socket::sockopt::RcvBufForce, &BUFFER)
                        .expect("a large buffer");
                    inbound.set_read_timeout(Some(POLL)).unwrap();
                    (inbound, UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port"))
                })
            })
            .collect();
        let (mut senders, mut receivers) = (Vec::new(), Vec::new());
        for (own, (inbound, outbound)) in sockets.into_iter().enumerate() {
            let with = Arc::clone(&shared);
            receivers.push(thread::spawn(move || with.receive(own, &inbound)));
            let with = Arc::clone(&shared);
            senders.push(thread::spawn(move || with.send(own, &outbound)));
        }
        Self { shared, senders, receivers }
    }

    /// How many of all pairs have not got a single beat through yet.
    #[must_use]
    pub fn silent(&self) -> usize {
        let came = |seen: &Vec<bool>| seen.contains(&true);
        let heard = self
            .shared
            .seen
            .iter()
            .map(|seen| seen.lock().unwrap().iter().filter(|beats| came(beats)).count());
        let count = self.shared.addresses.len();
        count * (count - 1) - heard.sum::<usize>()
    }

    /// How many beats each pair has sent.
    #[must_use]
    pub fn mark(&self) -> Vec<usize> {
        self.shared.sent.iter().map(|sent| sent.load(Ordering::Acquire)).collect()
    }

    /// The beats that the pair with the fewest has sent since `mark`.
    #[must_use]
    pub fn since(&self, mark: &[usize]) -> usize {
        let count = self.shared.addresses.len();
        let pairs = self.mark().into_iter().zip(mark).enumerate();
        let others = pairs.filter(|(place, _)| place / count != place % count);
        others.map(|(_, (now, then))| now - then).min().unwrap_or(0)
    }

    /// Ends the beats, waits for those that are still under way, and counts those since `mark`.
    #[must_use]
    pub fn stop(mut self, mark: &[usize]) -> Losses {
        self.finish();
        let count = self.shared.addresses.len();
        let mut losses = Losses::default();
        for (place, (sent, mark)) in self.shared.sent.iter().zip(mark).enumerate() {
            let (from, to) = (place / count, place % count);
            if from == to {
                continue;
            }
            let sent = sent.load(Ordering::Acquire);
            let seen = self.shared.seen[to].lock().unwrap();
            let lost = (*mark..sent).filter(|&beat| seen[from].get(beat) != Some(&true)).count();
            losses.sent += sent - mark;
            if losses.pairs.len() <= lost {
                losses.pairs.resize(lost + 1, 0);
                losses.worst.clear();
            }
            losses.pairs[lost] += 1;
            if lost == losses.most() {
                losses.worst.push((from, to));
            }
        }
        losses
    }

    fn finish(&mut self) {
        self.shared.end.store(true, Ordering::Release);
        for thread in self.senders.drain(..).chain(self.receivers.drain(..)) {
            let _ = thread.join();
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Shared {
    fn send(&self, own: usize, socket: &UdpSocket) {
        let count = self.addresses.len();
        let others: Vec<usize> = (1..count).map(|step| (own + step) % count).collect();
        let step = BEAT / u32::try_from(others.len()).unwrap();
        let mut due = Instant::now();
        for &to in others.iter().cycle() {
            if self.end.load(Ordering::Acquire) {
                return;
            }
            let now = Instant::now();
            match due.checked_duration_since(now) {
                Some(early) => thread::sleep(early),
                // Who was not let run does not catch up.
                None => due = now,
            }
            due += step;
            let sent = &self.sent[own * count + to];
            let beat = sent.load(Ordering::Relaxed);
            let mut datagram = [0; 16];
            datagram[..8].copy_from_slice(&(own as u64).to_be_bytes());
            datagram[8..].copy_from_slice(&(beat as u64).to_be_bytes());
            // What the kernel refuses counts as sent, and so as lost.
            let _ = socket.send_to(&datagram, self.addresses[to]);
            sent.store(beat + 1, Ordering::Release);
        }
    }

    fn receive(&self, own: usize, socket: &UdpSocket) {
        let mut datagram = [0; 64];
        let mut quiet = Instant::now();
        loop {
            match socket.recv(&mut datagram) {
                Ok(16) => {
                    quiet = Instant::now();
                    let number = |bytes: &[u8]| {
                        usize::try_from(u64::from_be_bytes(bytes.try_into().unwrap())).unwrap()
                    };
                    let (from, beat) = (number(&datagram[..8]), number(&datagram[8..16]));
                    let mut seen = self.seen[own].lock().unwrap();
                    let beats = &mut seen[from];
                    beats.resize(beats.len().max(beat + 1), false);
                    beats[beat] = true;
                }
                _ if self.end.load(Ordering::Acquire) && quiet.elapsed() > QUIET => return,
                _ => {}
            }
        }
    }
}
