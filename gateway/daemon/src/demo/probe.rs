//! The instruments: echo requests, sequenced UDP, a TCP stream and attempts to connect, from within the namespaces.
//!
//! A socket belongs to the namespace in which it was made, whichever thread uses it later.

use super::interrupt::Interrupt;
use super::show::{Broken, milliseconds};
use overlay_engine::packet::{icmp, ipv4};
use overlay_platform::os::netns;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a blocked call may keep a thread from noticing that it should end.
const GRAIN: Duration = Duration::from_millis(50);

/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// What was asked and what came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// How many were asked for.
    pub sent: usize,
    /// The round trip of each answer.
    pub round_trips: Vec<Duration>,
}

impl Answers {
    /// How many did not come back.
    pub fn lost(&self) -> usize {
        self.sent.saturating_sub(self.round_trips.len())
    }

    /// The middle one of the round trips; half are shorter.
    pub fn median(&self) -> Duration {
        let mut sorted = self.round_trips.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    /// The longest round trip.
    pub fn longest(&self) -> Duration {
        self.round_trips.iter().max().copied().unwrap_or_default()
    }

    /// For programs.
    pub fn values(&self) -> [(&'static str, Value); 4] {
        [
            ("sent", json!(self.sent)),
            ("lost", json!(self.lost())),
            ("rtt_ms", json!(milliseconds(self.median()))),
            ("rtt_max_ms", json!(milliseconds(self.longest()))),
        ]
    }
}

impl std::fmt::Display for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}, {} lost", self.round_trips.len(), self.sent, self.lost())?;
        if self.round_trips.is_empty() {
            return Ok(());
        }
        write!(f, ", round trip {:.2} ms", milliseconds(self.median()))
    }
}

/// Sends `count` echo requests (RFC 792), each after the answer to the one before.
///
/// # Errors
/// When there is no raw socket to be had, or the demo was asked to end.
pub fn ping(
    from: BorrowedFd<'_>,
    to: Ipv4Addr,
    count: u16,
    interrupt: &Interrupt,
) -> Result<Answers, Broken> {
    let socket = netns::run_in(from, || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)))?;
    socket.set_read_timeout(Some(GRAIN))?;
    let mut answers = Answers::default();
    for sequence in 0..count {
        let [a, b] = sequence.to_be_bytes();
        let rest = [0x6f, 0x67, a, b];
        let mut message = [0; icmp::HEADER + 56];
        icmp::Header { kind: icmp::ECHO_REQUEST, code: 0, rest }.write(&[0x42; 56], &mut message);
        let start = Instant::now();
        socket.send_to(&message, &SockAddr::from(SocketAddrV4::new(to, 0)))?;
        answers.sent += 1;
        let mut packet = [0; 256];
        while start.elapsed() < PATIENCE {
            interrupt.check()?;
            let Some(len) = patiently((&socket).read(&mut packet))? else { continue };
            if is_reply(packet.get(..len).unwrap_or_default(), to, rest) {
                answers.round_trips.push(start.elapsed());
                break;
            }
        }
    }
    Ok(answers)
}

fn is_reply(packet: &[u8], from: Ipv4Addr, rest: [u8; 4]) -> bool {
    let Ok(packet) = ipv4::Ipv4::parse(packet) else { return false };
    packet.source() == from
        && icmp::Icmp::parse(packet.payload()).is_ok_and(|message| {
            message.kind() == icmp::ECHO_REPLY && message.rest() == rest && message.checksum_ok()
        })
}

/// Nothing yet is no error: a signal or the end of a short wait.
fn patiently<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A thread that serves until it is dropped.
#[derive(Debug)]
pub struct Service {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    fn start(mut serve_one: impl FnMut() -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = thread::Builder::new().name("service".to_owned()).spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                // What one client does wrong does not end the service.
                let _ = serve_one();
            }
        })?;
        Ok(Self { end, thread: Some(thread) })
    }

    /// Sends every datagram back.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn udp_echo(within: BorrowedFd<'_>, at: SocketAddr) -> io::Result<Self> {
        let socket = netns::run_in(within, || UdpSocket::bind(at))?;
        socket.set_read_timeout(Some(GRAIN))?;
        let mut datagram = vec![0; 2048];
        Self::start(move || {
            let Some((len, from)) = patiently(socket.recv_from(&mut datagram))? else { return Ok(()) };
            socket.send_to(datagram.get(..len).unwrap_or_default(), from).map(|_| ())
        })
    }

    /// Tells every TCP client which address of `name` it has reached, on whatever address the host has or will have: as a
    /// database server does that listens on all.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn greeter(within: BorrowedFd<'_>, port: u16, name: &'static str) -> io::Result<Self> {
        let socket = netns::run_in(within, || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)))?;
        socket.set_reuse_address(true)?;
        socket.bind(&SockAddr::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))?;
        socket.listen(64)?;
        socket.set_read_timeout(Some(GRAIN))?;
        Self::start(move || {
            let Some((client, _)) = patiently(socket.accept())? else { return Ok(()) };
            let mut client = TcpStream::from(client);
            let greeting = greeting(name, client.local_addr()?);
            client.set_write_timeout(Some(PATIENCE))?;
            client.write_all(greeting.as_bytes())
        })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a greeter says.
pub fn greeting(name: &str, at: SocketAddr) -> String {
    format!("{name} at {}\n", at.ip())
}

/// Sends `count` numbered datagrams of `size` bytes, one each `pace`, and counts which come back from an echo service.
///
/// # Errors
/// When the network refuses one, or the demo was asked to end.
pub fn udp_flow(
    (from, to): (BorrowedFd<'_>, SocketAddr),
    (count, size, pace): (usize, usize, Duration),
    interrupt: &Interrupt,
    told: &dyn Fn(usize),
) -> Result<Answers, Broken> {
    let socket = netns::run_in(from, || UdpSocket::bind("0.0.0.0:0"))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(GRAIN))?;
    let all_sent = AtomicBool::new(false);
    thread::scope(|scope| {
        let receiver = scope.spawn(|| arrivals(&socket, (count, size), &all_sent, interrupt));
        let sender = || -> Result<Vec<Instant>, Broken> {
            let mut datagram = vec![0x42; size];
            let (start, mut sent) = (Instant::now(), Vec::with_capacity(count));
            for number in 0..count {
                interrupt.check()?;
                let due = start + pace * u32::try_from(number).unwrap_or(u32::MAX);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if let Some(place) = datagram.first_chunk_mut() {
                    *place = u64::try_from(number).unwrap_or(u64::MAX).to_be_bytes();
                }
                sent.push(Instant::now());
                socket.send(&datagram)?;
                if number % 50 == 0 {
                    told(number);
                }
            }
            Ok(sent)
        };
        let sent = sender();
        all_sent.store(true, Ordering::Relaxed);
        let arrived = receiver.join().map_err(|_| Broken::failed("the receiving thread panicked"))??;
        let sent = sent?;
        let round_trips = sent
            .iter()
            .zip(arrived)
            .filter_map(|(sent, arrived)| Some(arrived?.duration_since(*sent)))
            .collect();
        Ok(Answers { sent: sent.len(), round_trips })
    })
}

/// When each of `count` numbered datagrams came; a second copy does not count.
fn arrivals(
    socket: &UdpSocket,
    (count, size): (usize, usize),
    all_sent: &AtomicBool,
    interrupt: &Interrupt,
) -> io::Result<Vec<Option<Instant>>> {
    let mut arrived = vec![None; count];
    let mut datagram = vec![0; size + 1];
    let mut last_seen = Instant::now();
    while arrived.contains(&None) && interrupt.check().is_ok() {
        if let Some(len) = patiently(socket.recv(&mut datagram))? {
            last_seen = Instant::now();
            let number = datagram.first_chunk().map(|number| u64::from_be_bytes(*number));
            let slot = number.and_then(|number| arrived.get_mut(usize::try_from(number).ok()?));
            if let (Some(slot @ None), true) = (slot, len == size) {
                *slot = Some(last_seen);
            }
        } else if all_sent.load(Ordering::Relaxed) && last_seen.elapsed() > PATIENCE {
            break;
        }
    }
    Ok(arrived)
}

/// Streams `total` bytes over one TCP connection into `to`'s namespace, compares each there, and returns the time.
///
/// # Errors
/// When it breaks, or a byte differs, or the demo was asked to end.
pub fn tcp_transfer(
    from: BorrowedFd<'_>,
    (to, at): (BorrowedFd<'_>, SocketAddr),
    total: usize,
    interrupt: &Interrupt,
    told: &dyn Fn(usize),
) -> Result<Duration, Broken> {
    let listener = netns::run_in(to, || std::net::TcpListener::bind(at))?;
    let mut client = netns::run_in(from, || TcpStream::connect_timeout(&at, PATIENCE))?;
    let (mut server, _) = listener.accept()?;
    for end in [&client, &server] {
        end.set_read_timeout(Some(PATIENCE * 5))?;
        end.set_write_timeout(Some(PATIENCE * 5))?;
    }
    // An odd length: a piece that is lost, doubled or moved shows.
    let mut pattern = vec![0; 65_521];
    crate::random::fill(&mut pattern);
    let pattern = pattern.as_slice();
    let start = Instant::now();
    thread::scope(|scope| {
        let receiver = scope.spawn(move || -> io::Result<usize> {
            let (mut received, mut buffer) = (0, vec![0; pattern.len()]);
            while received < total {
                let at = received % pattern.len();
                let wanted = pattern.get(at..).unwrap_or_default();
                let wanted = wanted.get(..total - received).unwrap_or(wanted);
                let room = buffer.get_mut(..wanted.len()).unwrap_or_default();
                let len = server.read(room)?;
                if len == 0 || room.get(..len) != wanted.get(..len) {
                    return Err(io::Error::other(format!(
                        "the stream was cut or changed after {received} bytes"
                    )));
                }
                received += len;
            }
            // So that the sender's clock stops when all has arrived.
            server.write_all(b"!")?;
            Ok(received)
        });
        let mut sender = || -> Result<(), Broken> {
            let mut left = total;
            while left > 0 {
                interrupt.check()?;
                let piece = pattern.get(..left).unwrap_or(pattern);
                client.write_all(piece)?;
                left -= piece.len();
                told(total - left);
            }
            client.read_exact(&mut [0])?;
            Ok(())
        };
        let sent = sender();
        let time = start.elapsed();
        // Wakes the receiver, if it still waits.
        let _ = client.shutdown(std::net::Shutdown::Both);
        let received = receiver.join().map_err(|_| Broken::failed("the receiving thread panicked"))?;
        // A stream that was changed is the better reason.
        if !matches!(sent, Err(Broken::Interrupted)) {
            received?;
        }
        sent.map(|()| time)
    })
}

/// What came of an attempt to connect, and when.
#[derive(Debug)]
pub struct Attempt {
    /// A connection, or how the network refused it.
    pub outcome: io::Result<TcpStream>,
    /// How long it took.
    pub took: Duration,
    /// When it was known.
    pub at: Instant,
}

impl Attempt {
    /// Whether it was refused, the way that a closed port is.
    pub fn is_refused(&self) -> bool {
        matches!(&self.outcome, Err(error) if error.kind() == ErrorKind::ConnectionRefused)
    }

    /// The greeting, if there is one.
    pub fn greeting(&mut self) -> Option<String> {
        let stream = self.outcome.as_mut().ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// In words.
    pub fn words(&self) -> String {
        match &self.outcome {
            Ok(_) => "connected".to_owned(),
            Err(error) => error.to_string(),
        }
    }
}

/// Tries to connect, from within a namespace.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn connect(from: BorrowedFd<'_>, to: SocketAddr, patience: Duration) -> io::Result<Attempt> {
    netns::run_in(from, || Ok(attempt(to, patience)))
}

/// Tries to connect again and again until `wanted` is satisfied; `None` when it is not within `patience`.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn connect_until(
    from: BorrowedFd<'_>,
    to: SocketAddr,
    patience: Duration,
    wanted: fn(&Attempt) -> bool,
) -> io::Result<Option<Attempt>> {
    // Short, so that one attempt whose answer was rate limited does not hide the change.
    let each = Duration::from_millis(20);
    netns::run_in(from, || {
        let start = Instant::now();
        while start.elapsed() < patience {
            let attempt = attempt(to, each);
            if wanted(&attempt) {
                return Ok(Some(attempt));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(None)
    })
}

fn attempt(to: SocketAddr, patience: Duration) -> Attempt {
    let start = Instant::now();
    let outcome = TcpStream::connect_timeout(&to, patience);
    let at = Instant::now();
    Attempt { outcome, took: at - start, at }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_come_back_is_lost_and_the_middle_round_trip_is_told() {
        let trips = [3, 1, 20].map(Duration::from_millis);
        let answers = Answers { sent: 4, round_trips: trips.to_vec() };
        assert_eq!((answers.lost(), answers.median(), answers.longest()), (1, trips[0], trips[2]));
        assert_eq!(answers.to_string(), "3 of 4, 1 lost, round trip 3.00 ms");
        assert_eq!(answers.values()[1], ("lost", json!(1)));
        assert_eq!(Answers { sent: 5, round_trips: vec![] }.to_string(), "0 of 5, 5 lost");
    }

    #[test]
    fn only_the_echo_reply_that_was_asked_for_counts() {
        let (us, them) = (Ipv4Addr::new(172, 16, 8, 57), Ipv4Addr::new(172, 16, 8, 56));
        let rest = [0x6f, 0x67, 0, 7];
        let packet = |kind: u8, source: Ipv4Addr, rest: [u8; 4]| {
            let mut message = [0; 16];
            icmp::Header { kind, code: 0, rest }.write(&[1; 8], &mut message).unwrap();
            let header = ipv4::Header::new(source, us, 1, message.len());
            let mut packet = vec![0; header.total_len()];
            header.write(&mut packet).unwrap().copy_from_slice(&message);
            packet
        };
        assert!(is_reply(&packet(icmp::ECHO_REPLY, them, rest), them, rest));
        assert!(!is_reply(&packet(icmp::ECHO_REQUEST, them, rest), them, rest));
        assert!(!is_reply(&packet(icmp::ECHO_REPLY, us, rest), them, rest));
        assert!(!is_reply(&packet(icmp::ECHO_REPLY, them, [0x6f, 0x67, 0, 8]), them, rest));
        assert!(!is_reply(&[0; 10], them, rest));
    }

    #[test]
    fn the_instruments_work_on_the_loopback_interface_of_this_namespace() {
        let Ok(here) = netns::current() else { return };
        use std::os::fd::AsFd;
        let Ok(port) = netns::run_in(&here, || UdpSocket::bind("127.0.0.1:0")) else { return };
        let at = port.local_addr().unwrap();
        drop(port);
        let interrupt = Interrupt::default();
        let echo = Service::udp_echo(here.as_fd(), at).unwrap();
        let flow = (100, 200, Duration::from_micros(100));
        let answers = udp_flow((here.as_fd(), at), flow, &interrupt, &|_| ()).unwrap();
        assert_eq!((answers.sent, answers.lost()), (100, 0));
        drop(echo);
        tcp_transfer(here.as_fd(), (here.as_fd(), at), 300_000, &interrupt, &|_| ()).unwrap();
        assert!(connect(here.as_fd(), at, PATIENCE).unwrap().is_refused());
        let _greeter = Service::greeter(here.as_fd(), at.port(), "me").unwrap();
        assert_eq!(connect(here.as_fd(), at, PATIENCE).unwrap().greeting().unwrap(), "me at 127.0.0.1\n");
    }
}
