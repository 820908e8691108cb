//! The underlay on Linux: one UDP socket for IPv4, one for IPv6, on the same port, in batches.
//!
//! Equal datagrams for one destination leave as a train, one message that the kernel (or the network card) cuts, and
//! arrive as one where the kernel could join them. Where that is refused, by kernel, socket or path, they go singly.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{setsockopt, sockopt},
};
use overlay_engine::packet::{DatagramBatch, Filled};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::mmsg::{self, MAX_MESSAGES, MAX_SEGMENTS, MAX_TRAIN, Message};
use super::wait::{Source, Waitable};
use crate::Transport;
use crate::underlay_errors::{Counters, TransportErrors};

/// Bytes that the kernel is asked to hold for each socket: about 20 ms at 3 Gb/s, a few scheduler slices.
const SOCKET_BUFFER: usize = 8 << 20;

/// The largest datagram in bytes that is received, until [`UdpTransport::set_max_datagram`]: a jumbo frame.
const MAX_DATAGRAM: usize = 9216;

/// Room in bytes for one message of joined datagrams: the kernel joins no more than an IP packet holds.
const JOINED: usize = 65_535;

/// How many messages are received with one call when the last ones were trains: about as many bytes as the cache holds
/// beside what becomes of them.
const TRAINS: usize = 4;

/// How many trains in a row may be refused before the socket sends none any more. A single refusal may be the path's.
const REFUSALS: u32 = 8;

/// The least MTU in bytes of a link that IPv6 runs on (RFC 8200 section 5), less the headers of IPv6 and UDP: segments that small are
/// not refused for their size.
const LEAST_MTU: usize = 1_280 - 40 - 8;

/// How often a full socket is waited for before what is left of the run is dropped, [`FULL_WAIT`] each.
const FULL_RETRIES: u32 = 3;
const FULL_WAIT: Duration = Duration::from_millis(2);

/// How often another port is tried when the system's choice for IPv4 is taken for IPv6.
const PORT_TRIES: u32 = 16;

/// The UDP sockets of one gateway or hub, or of one of its queues.
#[derive(Debug)]
pub struct UdpTransport {
    v4: Option<UnderlaySocket>,
    v6: Option<UnderlaySocket>,
    v6_first: AtomicBool,
    common: Arc<Common>,
}

/// What the queues of one underlay have in common.
#[derive(Debug)]
struct Common {
    port: u16,
    max_datagram: AtomicUsize,
    counters: Counters,
}

/// One socket, and what has been learnt of it.
#[derive(Debug)]
struct UnderlaySocket {
    socket: UdpSocket,
    trains: Trains,
    /// Whether the kernel joins what arrives.
    joins: bool,
    /// Whether what arrived last was joined.
    joined: AtomicBool,
}

/// What a socket has shown of trains.
#[derive(Debug)]
struct Trains {
    /// Only of datagrams smaller than this leave trains; 0: none do.
    below: AtomicUsize,
    /// Trains refused since the last one that was taken.
    refusals: AtomicU32,
}

impl UdpTransport {
    /// Binds to `port` (0: any, the same for both families) of `address`; `None`: of every address, IPv4 and, where the
    /// host has it, IPv6.
    ///
    /// Datagrams are sent without "don't fragment" (`IP_PMTUDISC_OMIT`), as the kernel's own WireGuard does: a path with
    /// a smaller MTU fragments them instead of losing them in silence, and a forged "fragmentation needed" cannot shrink
    /// the path. With the default overlay MTU of 1,420 bytes, no datagram exceeds 1,500.
    ///
    /// # Errors
    /// As socket(2) and bind(2); `AddrInUse` when another program has the port.
    pub fn bind(address: Option<IpAddr>, port: u16) -> io::Result<Self> {
        let (v4, v6) = match address {
            Some(ip @ IpAddr::V4(_)) => (Some(UnderlaySocket::open(ip, port)?), None),
            Some(ip @ IpAddr::V6(_)) => (None, Some(UnderlaySocket::open(ip, port)?)),
            None => bind_both(port)?,
        };
        let port = match v4.as_ref().or(v6.as_ref()) {
            Some(one) => one.socket.local_addr()?.port(),
            None => return Err(io::ErrorKind::Unsupported.into()),
        };
        let max_datagram = AtomicUsize::new(MAX_DATAGRAM);
        let common = Arc::new(Common { port, max_datagram, counters: Counters::default() });
        Ok(Self { v4, v6, v6_first: AtomicBool::new(false), common })
    }

    /// Binds one more socket of each family to the same addresses and port. The kernel spreads senders over the queues, and
    /// keeps each sender on one (socket(7), `SO_REUSEPORT`).
    ///
    /// # Errors
    /// As socket(2), setsockopt(2) and bind(2).
    pub fn add_queue(&self) -> io::Result<Self> {
        let beside =
            |socket: &Option<UnderlaySocket>| socket.as_ref().map(UnderlaySocket::beside).transpose();
        let (v4, v6) = (beside(&self.v4)?, beside(&self.v6)?);
        Ok(Self { v4, v6, v6_first: AtomicBool::new(false), common: Arc::clone(&self.common) })
    }

    /// The largest datagram in bytes that is received whole from now on; longer ones are dropped and counted. A smaller
    /// one lets more datagrams fit into a batch.
    pub fn set_max_datagram(&self, bytes: usize) {
        self.common.max_datagram.store(bytes.clamp(1, usize::from(u16::MAX)), Ordering::Relaxed);
    }

    /// The sockets, to wait for with [`super::wait_readable`].
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.v4.iter().chain(&self.v6).map(|one| one.socket.as_fd())
    }

    /// Whether the host has IPv6 and a socket for it.
    #[must_use]
    pub fn has_ipv6(&self) -> bool {
        self.v6.is_some()
    }

    /// What went wrong since the start.
    #[must_use]
    pub fn errors(&self) -> TransportErrors {
        self.common.counters.read()
    }

    fn socket_for(&self, to: SocketAddr) -> Option<&UnderlaySocket> {
        if to.is_ipv4() { self.v4.as_ref() } else { self.v6.as_ref() }
    }

    fn recv_from(&self, one: &UnderlaySocket, batch: &mut DatagramBatch) -> io::Result<usize> {
        let largest = self.common.max_datagram.load(Ordering::Relaxed);
        let (most, each) = if one.joins {
            let places = (batch.places() / MAX_SEGMENTS).max(1);
            let few = if one.joined.load(Ordering::Relaxed) { TRAINS } else { MAX_MESSAGES };
            (few.min(places), JOINED)
        } else {
            (MAX_MESSAGES, largest)
        };
        let mut run = batch.reserve_run(most, each);
        if run.count() == 0 {
            return Ok(0);
        }
        let mut received = [None; MAX_MESSAGES];
        let got = loop {
            match mmsg::receive(one.socket.as_fd(), run.buffers(), &mut received) {
                Ok(got) => break got,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(0),
                    Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT | libc::EINVAL) => return Err(error),
                    Some(libc::EINTR) => {}
                    // An error that an earlier datagram left on the socket: reading it has cleared it.
                    code => {
                        counter_of(&self.common.counters, code).fetch_add(1, Ordering::Relaxed);
                        return Ok(0);
                    }
                },
            }
        };
        let (mut count, mut bad, mut trains) = (0, 0, false);
        let filled = received.into_iter().take(got).map(|message| {
            let message = message?;
            let stride = message.stride.unwrap_or(message.len);
            let datagrams = message.len.div_ceil(stride.max(1)).max(1);
            trains |= datagrams > 1;
            if message.truncated || stride > largest || message.from.is_none() {
                bad += datagrams;
                return None;
            }
            count += datagrams;
            Some(Filled { meta: message.from?, len: message.len, stride })
        });
        let left_out = run.commit(filled);
        one.joined.store(trains, Ordering::Relaxed);
        if bad + left_out > 0 {
            self.common.counters.received_bad.fetch_add((bad + left_out) as u64, Ordering::Relaxed);
        }
        Ok(count - left_out)
    }
}

impl Waitable for UdpTransport {
    fn sources(&self) -> Vec<Source<'_>> {
        self.fds().collect()
    }
}

impl UnderlaySocket {
    fn open(ip: IpAddr, port: u16) -> io::Result<Self> {
        Self::learn(open(SocketAddr::new(ip, port), false)?)
    }

    /// One more for the same address.
    fn beside(&self) -> io::Result<Self> {
        // Only now, and not before the first was bound: then the port of another program of the same user would have been
        // shared with it instead of refused.
        SockRef::from(&self.socket).set_reuse_port(true)?;
        Self::learn(open(self.socket.local_addr()?, true)?)
    }

    fn learn(socket: UdpSocket) -> io::Result<Self> {
        let trains = Trains::new(mmsg::can_cut(socket.as_fd()));
        let joins = mmsg::join_received(socket.as_fd()).is_ok();
        Ok(Self { socket, trains, joins, joined: AtomicBool::new(false) })
    }
}

impl Trains {
    fn new(cuts: bool) -> Self {
        Self { below: AtomicUsize::new(if cuts { usize::MAX } else { 0 }), refusals: AtomicU32::new(0) }
    }

    /// Sends the datagrams at positions `run`, all of one family, through the socket of these trains.
    fn send_run(
        &self,
        batch: &DatagramBatch,
        run: Range<usize>,
        counters: &Counters,
        kernel: &impl Kernel,
    ) -> io::Result<usize> {
        let Range { start: from, end: to } = run;
        let (mut at, mut sent, mut waits) = (from, 0, 0);
        // Datagrams before this position go singly: their train was refused.
        let mut single_until = from;
        while at < to {
            // How many datagrams each message of this call holds.
            let mut counts = [0_usize; MAX_MESSAGES];
            let (mut next, mut slots) = (at, counts.iter_mut());
            let messages = std::iter::from_fn(|| {
                let below = self.below.load(Ordering::Relaxed);
                let small = || batch.get(next).is_some_and(|(_, first)| first.len() < below);
                let alone = next < single_until || !small();
                let most = if alone { 1 } else { MAX_SEGMENTS.min(to - next) };
                let train = batch.train(next, most, MAX_TRAIN).filter(|_| next < to)?;
                *slots.next()? = train.count;
                next += train.count;
                let stride = if train.count > 1 { u16::try_from(train.stride).ok() } else { None };
                Some(Message { to: train.meta, bytes: train.bytes, stride })
            });
            match kernel.send(messages) {
                // The kernel takes none only when there is none.
                Ok(0) => break,
                Ok(taken) => {
                    let taken = counts.iter().take(taken);
                    if taken.clone().any(|count| *count > 1) {
                        self.refusals.store(0, Ordering::Relaxed);
                    }
                    let datagrams: usize = taken.sum();
                    (at, sent, waits) = (at + datagrams, sent + datagrams, 0);
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN | libc::ENOBUFS) if waits < FULL_RETRIES => {
                        waits += 1;
                        kernel.wait()?;
                    }
                    Some(libc::EAGAIN | libc::ENOBUFS) => {
                        counters.no_buffer.fetch_add((to - at) as u64, Ordering::Relaxed);
                        break;
                    }
                    Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT) => return Err(error),
                    code => match counts.first() {
                        Some(count) if *count > 1 && !is_unreachable(code) => {
                            self.refused(code, batch.get(at).map_or(0, |(_, first)| first.len()));
                            single_until = at + count;
                        }
                        Some(count) if *count > 1 => {
                            counters.unreachable.fetch_add(*count as u64, Ordering::Relaxed);
                            at += count;
                        }
                        _ => {
                            counter_of(counters, code).fetch_add(1, Ordering::Relaxed);
                            at += 1;
                        }
                    },
                },
            }
        }
        Ok(sent)
    }

    /// Learns from the refusal of a train whose datagrams have `stride` bytes. A segment larger than the device takes is the path's
    /// affair (EMSGSIZE, and EINVAL before Linux 6.14): smaller ones may well go, when the path's MTU is known. A device that cannot
    /// add checksums says EIO; all else is final.
    fn refused(&self, code: Option<i32>, stride: usize) {
        let refusals = match code {
            Some(libc::EMSGSIZE) => return,
            Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP) => REFUSALS,
            Some(libc::EINVAL | libc::EIO) => self.refusals.fetch_add(1, Ordering::Relaxed) + 1,
            // The destination's affair, or an earlier datagram's: its datagrams are about to be tried one by one.
            _ => return,
        };
        if refusals < REFUSALS {
            return;
        }
        self.refusals.store(0, Ordering::Relaxed);
        let below = if code == Some(libc::EINVAL) && stride > LEAST_MTU { stride } else { 0 };
        if self.below.fetch_min(below, Ordering::Relaxed) > below {
            tracing::info!(
                ?code,
                below,
                "the kernel refuses UDP segmentation; larger datagrams go singly from now on"
            );
        }
    }
}

/// What takes messages: the kernel's socket, and in tests one that refuses on demand.
trait Kernel {
    /// Takes messages from the front, at most [`MAX_MESSAGES`], and says how many.
    fn send<'a>(&self, messages: impl Iterator<Item = Message<'a>>) -> io::Result<usize>;

    /// Waits a little for room.
    fn wait(&self) -> io::Result<()>;
}

impl Kernel for UdpSocket {
    fn send<'a>(&self, messages: impl Iterator<Item = Message<'a>>) -> io::Result<usize> {
        mmsg::send(self.as_fd(), messages)
    }

    fn wait(&self) -> io::Result<()> {
        wait_writable(self)
    }
}

/// A socket, of IPv6 or not, that sends with "don't fragment". That is the socket's, and set for the moment of the call only: what a
/// packet thread sends by it meanwhile is not to be fragmented either, which it hardly ever would have been. A socket of its own would
/// have to be read as well.
struct Unfragmented<'a>(&'a UdpSocket, bool);

impl Kernel for Unfragmented<'_> {
    fn send<'a>(&self, messages: impl Iterator<Item = Message<'a>>) -> io::Result<usize> {
        let Self(socket, ipv6) = *self;
        mmsg::allow_fragments(socket.as_fd(), ipv6, false)?;
        let result = mmsg::send(socket.as_fd(), messages);
        mmsg::allow_fragments(socket.as_fd(), ipv6, true)?;
        result
    }

    fn wait(&self) -> io::Result<()> {
        wait_writable(self.0)
    }
}

/// Sends one datagram, and waits a little while the socket is full: a probe that does not leave would count as lost.
fn send_patiently(kernel: &impl Kernel, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    let mut waits = 0;
    loop {
        match kernel.send(std::iter::once(Message { to, bytes, stride: None })) {
            Ok(_) => return Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN | libc::ENOBUFS) if waits < FULL_RETRIES => {
                    waits += 1;
                    kernel.wait()?;
                }
                _ => return Err(error),
            },
        }
    }
}

impl Transport for UdpTransport {
    fn send_batch(&self, batch: &DatagramBatch) -> io::Result<usize> {
        let (mut at, mut sent) = (0, 0);
        while let Some((to, _)) = batch.get(at) {
            let same =
                |position: &usize| batch.get(*position).is_some_and(|(a, _)| a.is_ipv4() == to.is_ipv4());
            let end = at + (at..batch.len()).take_while(same).count();
            match self.socket_for(to) {
                Some(one) => {
                    sent += one.trains.send_run(batch, at..end, &self.common.counters, &one.socket)?;
                }
                None => _ = self.common.counters.no_socket.fetch_add((end - at) as u64, Ordering::Relaxed),
            }
            at = end;
        }
        Ok(sent)
    }

    fn send_whole(&self, batch: &DatagramBatch) -> io::Result<usize> {
        let mut sent = 0;
        for (to, bytes) in batch.iter() {
            let Some(one) = self.socket_for(to) else {
                self.common.counters.no_socket.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let result = send_patiently(&Unfragmented(&one.socket, to.is_ipv6()), to, bytes);
            match result {
                Ok(()) => sent += 1,
                // Larger than the device's own MTU: that is an answer as well.
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {}
                Err(error) => {
                    let counter = counter_of(&self.common.counters, error.raw_os_error());
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(sent)
    }

    fn recv_batch(&self, batch: &mut DatagramBatch) -> io::Result<usize> {
        let mut count = 0;
        // In turn, so that a flood on one family does not starve the other.
        let order = match self.v6_first.fetch_xor(true, Ordering::Relaxed) {
            true => [&self.v6, &self.v4],
            false => [&self.v4, &self.v6],
        };
        for socket in order.into_iter().flatten() {
            count += self.recv_from(socket, batch)?;
        }
        Ok(count)
    }

    fn local_port(&self) -> u16 {
        self.common.port
    }
}

/// Where an error of this system is counted.
fn counter_of(counters: &Counters, code: Option<i32>) -> &AtomicU64 {
    match code {
        code if is_unreachable(code) => &counters.unreachable,
        Some(libc::ECONNREFUSED) => &counters.refused,
        Some(libc::EMSGSIZE) => &counters.too_big,
        Some(libc::EPERM | libc::EACCES) => &counters.forbidden,
        _ => &counters.other,
    }
}

/// Whether the destination cannot be reached, by whatever is sent.
fn is_unreachable(code: Option<i32>) -> bool {
    matches!(code, Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN))
}

fn bind_both(port: u16) -> io::Result<(Option<UnderlaySocket>, Option<UnderlaySocket>)> {
    let mut tries = 0;
    loop {
        tries += 1;
        let v4 = optional(UnderlaySocket::open(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))?;
        let chosen =
            v4.as_ref().map_or(Ok(port), |one| Ok::<_, io::Error>(one.socket.local_addr()?.port()))?;
        match optional(UnderlaySocket::open(IpAddr::V6(Ipv6Addr::UNSPECIFIED), chosen)) {
            Ok(v6) => return Ok((v4, v6)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && port == 0 && tries < PORT_TRIES => {}
            Err(error) => return Err(error),
        }
    }
}

/// `None` when the host lacks the address family.
fn optional(socket: io::Result<UnderlaySocket>) -> io::Result<Option<UnderlaySocket>> {
    match socket {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn open(address: SocketAddr, beside: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    mmsg::allow_fragments(socket.as_fd(), address.is_ipv6(), true)?;
    // The forced ones need CAP_NET_ADMIN; the plain ones are cut to net.core.[rw]mem_max without an error.
    if setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER).is_err() {
        socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    }
    if setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER).is_err() {
        socket.set_send_buffer_size(SOCKET_BUFFER)?;
    }
    socket.set_reuse_port(beside)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn wait_writable(socket: &UdpSocket) -> io::Result<()> {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    let timeout = PollTimeout::try_from(FULL_WAIT).unwrap_or(PollTimeout::ZERO);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
