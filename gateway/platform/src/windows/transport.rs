//! The underlay on Windows: one UDP socket for IPv4, one for IPv6, on the same port.
//!
//! Equal datagrams for one destination leave as a train (`UDP_SEND_MSG_SIZE`, through quinn-udp) where the socket takes it;
//! elsewhere, and on the way in, each costs a system call.
#![allow(unsafe_code, reason = "the calls of the system have no safe form; each says why it is sound")]

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::windows::io::AsRawSocket,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use overlay_engine::packet::DatagramBatch;
use quinn_udp::{Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use windows_sys::Win32::Networking::WinSock::{
    FD_READ, IP_DONTFRAGMENT, IPPROTO_IP, IPPROTO_IPV6, IPV6_DONTFRAG, SIO_UDP_CONNRESET, SIO_UDP_NETRESET,
    SO_EXCLUSIVEADDRUSE, SOCKET, SOL_SOCKET, WSAEACCES, WSAECONNREFUSED, WSAECONNRESET, WSAEHOSTUNREACH,
    WSAEMSGSIZE, WSAENETDOWN, WSAENETRESET, WSAENETUNREACH, WSAENOBUFS, WSAENOTSOCK, WSAEWOULDBLOCK,
    WSAEventSelect, WSAIoctl, setsockopt,
};

use super::outlet::Outlet;
use super::wait::{Event, Source, Waitable};
use crate::Transport;
use crate::underlay_errors::{Counters, TransportErrors};
use crate::underlay_routes::UnderlayRoutes;

/// Bytes that the system is asked to hold for each socket: about 20 ms at 3 Gb/s.
const SOCKET_BUFFER: usize = 8 << 20;

/// The largest datagram in bytes that is received, until [`UdpTransport::set_max_datagram`]: a jumbo frame.
const MAX_DATAGRAM: usize = 9216;

/// The most bytes of one train: what one UDP datagram may hold.
const MAX_TRAIN: usize = 65_507;

/// How many trains in a row may be refused before the socket sends none any more.
const REFUSALS: u32 = 8;

/// How often a full socket is waited for before a datagram is dropped, [`FULL_WAIT`] each.
const FULL_RETRIES: u32 = 3;
const FULL_WAIT: Duration = Duration::from_millis(1);

/// How often another port is tried when the system's choice for IPv4 is taken for IPv6.
const PORT_TRIES: u32 = 16;

/// Errors of earlier datagrams that one call passes over.
const ERRORS_AT_ONCE: u32 = 16;

/// The UDP sockets of one gateway or hub.
#[derive(Debug)]
pub struct UdpTransport {
    v4: Option<UnderlaySocket>,
    v6: Option<UnderlaySocket>,
    v6_first: AtomicBool,
    port: u16,
    max_datagram: Arc<AtomicUsize>,
    counters: Arc<Counters>,
    /// The host's, as they were last told; none before.
    routes: ArcSwap<UnderlayRoutes>,
    /// Bound to one address of the host: then the system sends by the interface of that address alone (strong host model).
    one_address: bool,
}

/// One socket, and what has been learnt of it.
#[derive(Debug)]
struct UnderlaySocket {
    socket: UdpSocket,
    arrived: Event,
    /// What sends trains; `None` where the socket takes none.
    trains: Option<UdpSocketState>,
    refusals: AtomicU32,
    outlet: Outlet,
}

impl UdpTransport {
    /// Binds to `port` (0: any, the same for both families) of `address`; `None`: of every address, IPv4 and, where the
    /// host has it, IPv6. The port is this process's alone (`SO_EXCLUSIVEADDRUSE`). Datagrams may be fragmented on their
    /// way, as on Linux.
    ///
    /// # Errors
    /// As socket and bind; `AddrInUse` when another program has the port.
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
        let max_datagram = Arc::new(AtomicUsize::new(MAX_DATAGRAM));
        Ok(Self {
            v4,
            v6,
            v6_first: AtomicBool::new(false),
            port,
            max_datagram,
            counters: Arc::default(),
            routes: ArcSwap::default(),
            one_address: address.is_some(),
        })
    }

    /// Windows has no spreading of senders over sockets.
    ///
    /// # Errors
    /// `Unsupported`, always.
    pub fn add_queue(&self) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The largest datagram in bytes that is received whole from now on; longer ones are dropped and counted.
    pub fn set_max_datagram(&self, bytes: usize) {
        self.max_datagram.store(bytes.clamp(1, usize::from(u16::MAX)), Ordering::Relaxed);
    }

    /// The host's routes, from now on: a datagram that they would lead into the overlay leaves by the interface that is the next best,
    /// and by none if there is none. Called again with each change of them; the same ones change nothing.
    pub fn set_routes(&self, routes: UnderlayRoutes) {
        if self.one_address || **self.routes.load() == routes {
            return;
        }
        self.routes.store(Arc::new(routes));
        for (one, ipv4) in [(&self.v4, true), (&self.v6, false)] {
            if let Some(Err(error)) = one.as_ref().map(|one| one.outlet.release(&one.socket, ipv4)) {
                tracing::debug!(%error, "the underlay's socket stays bound to its interface");
            }
        }
    }

    /// Whether the host has IPv6 and a socket for it.
    #[must_use]
    pub fn has_ipv6(&self) -> bool {
        self.v6.is_some()
    }

    /// What went wrong since the start.
    #[must_use]
    pub fn errors(&self) -> TransportErrors {
        self.counters.read()
    }

    fn recv_from(&self, one: &UnderlaySocket, batch: &mut DatagramBatch) -> io::Result<usize> {
        let largest = self.max_datagram.load(Ordering::Relaxed);
        let (mut count, mut errors) = (0, 0);
        while let Some(mut room) = batch.reserve(largest) {
            match one.socket.recv_from(room.buffer()) {
                Ok((len, from)) => {
                    room.commit(from, len);
                    count += 1;
                }
                Err(error) => match error.raw_os_error() {
                    Some(WSAEWOULDBLOCK) => break,
                    Some(WSAENOTSOCK) => return Err(error),
                    // Longer than the room: what has come is cut, and no packet.
                    Some(WSAEMSGSIZE) => _ = self.counters.received_bad.fetch_add(1, Ordering::Relaxed),
                    // An error that an earlier datagram left on the socket: reading it has cleared it.
                    code => {
                        counter_of(&self.counters, code).fetch_add(1, Ordering::Relaxed);
                        errors += 1;
                        if errors > ERRORS_AT_ONCE {
                            break;
                        }
                    }
                },
            }
        }
        Ok(count)
    }
}

impl Waitable for UdpTransport {
    fn sources(&self) -> Vec<Source<'_>> {
        self.v4.iter().chain(&self.v6).map(|one| Source::Socket(&one.arrived)).collect()
    }
}

impl Transport for UdpTransport {
    fn send_batch(&self, batch: &DatagramBatch) -> io::Result<usize> {
        let (mut at, mut sent, routes) = (0, 0, self.routes.load());
        while let Some((to, _)) = batch.get(at) {
            let one = if to.is_ipv4() { &self.v4 } else { &self.v6 };
            let Some(one) = one else {
                self.counters.no_socket.fetch_add(1, Ordering::Relaxed);
                at += 1;
                continue;
            };
            let (passed, taken) = one.send_next(batch, at, &routes, &self.counters)?;
            at += passed.max(1);
            sent += taken;
        }
        Ok(sent)
    }

    fn send_whole(&self, batch: &DatagramBatch) -> io::Result<usize> {
        let (mut sent, routes) = (0, self.routes.load());
        for (to, bytes) in batch.iter() {
            let one = if to.is_ipv4() { &self.v4 } else { &self.v6 };
            let Some(one) = one else {
                self.counters.no_socket.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            // It is the socket's, and set for this moment only; what another thread sends meanwhile hardly ever is fragmented.
            let result = one.outlet.aim(&one.socket, &routes, to).and_then(|_turn| {
                patiently(|| {
                    let _ = allow_fragments(&one.socket, to, false);
                    let result = one.socket.send_to(bytes, to);
                    let _ = allow_fragments(&one.socket, to, true);
                    result.map(|_| ())
                })
            });
            match result {
                Ok(()) => sent += 1,
                // Larger than the interface's own MTU: that is an answer as well.
                Err(error) if error.raw_os_error() == Some(WSAEMSGSIZE) => {}
                Err(error) if error.raw_os_error() == Some(WSAENOTSOCK) => return Err(error),
                Err(error) => {
                    let counter = counter_of(&self.counters, error.raw_os_error());
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(sent)
    }

    fn recv_batch(&self, batch: &mut DatagramBatch) -> io::Result<usize> {
        // In turn, so that one family cannot starve the other.
        let v6_first = self.v6_first.fetch_xor(true, Ordering::Relaxed);
        let (first, second) = if v6_first { (&self.v6, &self.v4) } else { (&self.v4, &self.v6) };
        let mut count = 0;
        for one in [first, second].into_iter().flatten() {
            count += self.recv_from(one, batch)?;
        }
        Ok(count)
    }

    fn local_port(&self) -> u16 {
        self.port
    }
}

impl UnderlaySocket {
    fn open(ip: IpAddr, port: u16) -> io::Result<Self> {
        let address = SocketAddr::new(ip, port);
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        let raw = socket.as_raw_socket() as SOCKET;
        set_option(raw, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, 1)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // The system may give less; what it gives is enough to go on.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        socket.bind(&address.into())?;
        socket.set_nonblocking(true)?;
        // A datagram that nobody took must not end the next receive (Microsoft KB 263823).
        for control in [SIO_UDP_CONNRESET, SIO_UDP_NETRESET] {
            let _ = switch_off(raw, control);
        }
        let socket = UdpSocket::from(socket);
        let trains =
            UdpSocketState::new(UdpSockRef::from(&socket)).ok().filter(|state| state.max_gso_segments() > 1);
        // quinn-udp forbids fragments; a path with a smaller MTU would then lose what it cannot carry whole.
        let _ = allow_fragments(&socket, address, true);
        let arrived = Event::new()?;
        // SAFETY: socket and event are open, and both live as long as what is made here.
        if unsafe { WSAEventSelect(raw, arrived.handle() as isize, FD_READ as i32) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { socket, arrived, trains, refusals: AtomicU32::new(0), outlet: Outlet::default() })
    }

    /// Sends the datagram at position `at`, and those behind it that make a train with it: how many were passed, and how
    /// many of them the host took.
    fn send_next(
        &self,
        batch: &DatagramBatch,
        at: usize,
        routes: &UnderlayRoutes,
        counters: &Counters,
    ) -> io::Result<(usize, usize)> {
        let state = self.trains.as_ref().filter(|_| self.refusals.load(Ordering::Relaxed) < REFUSALS);
        let most = state.map_or(1, UdpSocketState::max_gso_segments);
        let Some(train) = batch.train(at, most, MAX_TRAIN) else { return Ok((1, 0)) };
        let _turn = match self.outlet.aim(&self.socket, routes, train.meta) {
            Ok(turn) => turn,
            Err(error) => {
                counter_of(counters, error.raw_os_error()).fetch_add(train.count as u64, Ordering::Relaxed);
                return Ok((train.count, 0));
            }
        };
        if let Some(state) = state
            && train.count > 1
        {
            let transmit = Transmit {
                destination: train.meta,
                ecn: None,
                contents: train.bytes,
                segment_size: Some(train.stride),
                src_ip: None,
            };
            if patiently(|| state.try_send(UdpSockRef::from(&self.socket), &transmit)).is_ok() {
                self.refusals.store(0, Ordering::Relaxed);
                return Ok((train.count, train.count));
            }
            // The path's fault or the socket's: these go singly.
            self.refusals.fetch_add(1, Ordering::Relaxed);
        }
        let mut taken = 0;
        for position in at..at + train.count {
            let Some((to, bytes)) = batch.get(position) else { break };
            match patiently(|| self.socket.send_to(bytes, to).map(|_| ())) {
                Ok(()) => taken += 1,
                Err(error) if error.raw_os_error() == Some(WSAENOTSOCK) => return Err(error),
                Err(error) => _ = counter_of(counters, error.raw_os_error()).fetch_add(1, Ordering::Relaxed),
            }
        }
        Ok((train.count, taken))
    }
}

/// Where an error of this system is counted.
fn counter_of(counters: &Counters, code: Option<i32>) -> &AtomicU64 {
    match code {
        Some(WSAENETUNREACH | WSAEHOSTUNREACH | WSAENETDOWN) => &counters.unreachable,
        Some(WSAECONNRESET | WSAECONNREFUSED | WSAENETRESET) => &counters.refused,
        Some(WSAEMSGSIZE) => &counters.too_big,
        Some(WSAEWOULDBLOCK | WSAENOBUFS) => &counters.no_buffer,
        Some(WSAEACCES) => &counters.forbidden,
        _ => &counters.other,
    }
}

/// Sends, and waits a little while the socket is full.
fn patiently(mut send: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let mut waits = 0;
    loop {
        match send() {
            Err(error)
                if matches!(error.raw_os_error(), Some(WSAEWOULDBLOCK | WSAENOBUFS))
                    && waits < FULL_RETRIES =>
            {
                waits += 1;
                std::thread::sleep(FULL_WAIT);
            }
            done => return done,
        }
    }
}

/// Whether what the socket sends may be fragmented on its way (`IP_DONTFRAGMENT`, `IPV6_DONTFRAG`). `address`: of the socket's family.
fn allow_fragments(socket: &UdpSocket, address: SocketAddr, allowed: bool) -> io::Result<()> {
    let (level, option) = match address {
        SocketAddr::V4(_) => (IPPROTO_IP, IP_DONTFRAGMENT),
        SocketAddr::V6(_) => (IPPROTO_IPV6, IPV6_DONTFRAG),
    };
    set_option(socket.as_raw_socket() as SOCKET, level, option, (!allowed).into())
}

/// Sets an option of a socket whose value is a number.
///
/// # Errors
/// As setsockopt.
pub fn set_option(socket: SOCKET, level: i32, option: i32, value: i32) -> io::Result<()> {
    let size = size_of::<i32>() as i32;
    // SAFETY: the value is as long as the call is told.
    let done = unsafe { setsockopt(socket, level, option, (&raw const value).cast(), size) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Switches a behaviour of the socket off.
fn switch_off(socket: SOCKET, control: u32) -> io::Result<()> {
    let (off, mut used) = (0_i32, 0);
    let size = size_of::<i32>() as u32;
    // SAFETY: the value is as long as the call is told; nothing is given back; the call is done when it returns.
    let done = unsafe {
        WSAIoctl(
            socket,
            control,
            (&raw const off).cast(),
            size,
            ptr::null_mut(),
            0,
            &raw mut used,
            ptr::null_mut(),
            None,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn bind_both(port: u16) -> io::Result<(Option<UnderlaySocket>, Option<UnderlaySocket>)> {
    let mut last = None;
    for _ in 0..PORT_TRIES {
        let v4 = UnderlaySocket::open(Ipv4Addr::UNSPECIFIED.into(), port)?;
        let chosen = v4.socket.local_addr()?.port();
        match UnderlaySocket::open(Ipv6Addr::UNSPECIFIED.into(), chosen) {
            Ok(v6) => return Ok((Some(v4), Some(v6))),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && port == 0 => last = Some(error),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            // A host without IPv6.
            Err(_) => return Ok((Some(v4), None)),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::{Waker, wait_readable};
    use crate::underlay_routes::Row;
    use windows_sys::Win32::Networking::WinSock::{IP_UNICAST_IF, getsockopt};

    fn local() -> UdpTransport {
        UdpTransport::bind(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap()
    }

    fn receive(transport: &UdpTransport, wanted: usize) -> Vec<Vec<u8>> {
        let (mut batch, waker) = (DatagramBatch::with_capacity(1 << 20, 64), Waker::new().unwrap());
        let mut got = Vec::new();
        while got.len() < wanted {
            let ready = wait_readable(&transport.sources(), &waker, Some(Duration::from_secs(5))).unwrap();
            assert!(ready.any(), "{} of {wanted}", got.len());
            batch.clear();
            while transport.recv_batch(&mut batch).unwrap() > 0 {}
            got.extend(batch.iter().map(|(_, bytes)| bytes.to_vec()));
        }
        got
    }

    #[test]
    fn equal_datagrams_and_others_arrive_in_order_and_each_by_itself() {
        let (a, b) = (local(), local());
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, b.local_port()));
        let mut batch = DatagramBatch::with_capacity(1 << 20, 64);
        let sent: Vec<Vec<u8>> =
            (0..20_u8).map(|n| vec![n; if n < 15 { 1000 } else { 100 + usize::from(n) }]).collect();
        for bytes in &sent {
            assert!(batch.push(to, bytes));
        }
        assert_eq!(a.send_batch(&batch).unwrap(), sent.len());
        assert_eq!(receive(&b, sent.len()), sent);
    }

    #[test]
    fn a_datagram_that_nobody_takes_ends_nothing_and_a_port_has_one_owner() {
        let (a, b) = (local(), local());
        let gone = {
            let gone = local();
            SocketAddr::from((Ipv4Addr::LOCALHOST, gone.local_port()))
        };
        let mut batch = DatagramBatch::with_capacity(1 << 16, 64);
        batch.push(gone, b"nobody");
        batch.push(SocketAddr::from((Ipv4Addr::LOCALHOST, b.local_port())), b"somebody");
        batch.push(SocketAddr::from((Ipv6Addr::LOCALHOST, b.local_port())), b"no socket");
        assert_eq!(a.send_batch(&batch).unwrap(), 2);
        assert_eq!(receive(&b, 1), [b"somebody"]);
        assert_eq!(a.errors().no_socket, 1);
        assert!(UdpTransport::bind(Some(Ipv4Addr::LOCALHOST.into()), b.local_port()).is_err());
    }

    /// The overlay's device, and the interface of 127.0.0.0/8 (1 on every Windows).
    const DEVICE: u64 = 9;
    const LOOPBACK: u32 = 1;

    /// A host whose route to 127.0.0.1 leads into the overlay, before that of its own to 127.0.0.0/8.
    fn led_astray() -> Vec<Row> {
        let row = |destination: &str, index| Row {
            destination: destination.parse().unwrap(),
            interface: u64::from(index),
            index,
            metric: 1,
        };
        vec![row("127.0.0.0/8", LOOPBACK), row("127.0.0.1/32", DEVICE as u32)]
    }

    fn bound(transport: &UdpTransport) -> u32 {
        let (mut value, mut size) = (0_u32, 4_i32);
        let socket = transport.v4.as_ref().unwrap().socket.as_raw_socket() as SOCKET;
        // SAFETY: the value is as long as the call is told.
        let done =
            unsafe { getsockopt(socket, IPPROTO_IP, IP_UNICAST_IF, (&raw mut value).cast(), &raw mut size) };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
        u32::from_be(value)
    }

    #[test]
    fn a_datagram_that_the_overlay_would_take_leaves_by_the_interface_behind_it_and_later_ones_as_the_host_likes()
     {
        let (a, b) = (UdpTransport::bind(None, 0).unwrap(), local());
        let mut batch = DatagramBatch::with_capacity(1 << 16, 64);
        batch.push(SocketAddr::from((Ipv4Addr::LOCALHOST, b.local_port())), b"somebody");
        assert_eq!((a.send_batch(&batch).unwrap(), bound(&a)), (1, 0));
        let rows = led_astray();
        a.set_routes(UnderlayRoutes::new(rows.clone(), Some(DEVICE)));
        assert_eq!(bound(&a), 0, "nothing has been sent");
        assert_eq!((a.send_batch(&batch).unwrap(), bound(&a)), (1, LOOPBACK));
        assert_eq!((a.send_whole(&batch).unwrap(), bound(&a)), (1, LOOPBACK));
        a.set_routes(UnderlayRoutes::new(rows, None));
        assert_eq!((a.send_batch(&batch).unwrap(), bound(&a)), (1, 0));
        assert_eq!(receive(&b, 4), [b"somebody"; 4]);
    }

    #[test]
    fn a_datagram_that_has_no_way_but_the_overlay_is_not_sent_and_one_address_keeps_its_own_interface() {
        let (a, fixed, b) = (UdpTransport::bind(None, 0).unwrap(), local(), local());
        let mut batch = DatagramBatch::with_capacity(1 << 16, 64);
        batch.push(SocketAddr::from((Ipv4Addr::LOCALHOST, b.local_port())), b"somebody");
        let mut rows = led_astray();
        rows.retain(|row| row.interface == DEVICE);
        let routes = UnderlayRoutes::new(rows, Some(DEVICE));
        a.set_routes(routes.clone());
        assert_eq!((a.send_batch(&batch).unwrap(), a.send_whole(&batch).unwrap()), (0, 0));
        assert_eq!(a.errors().unreachable, 2);
        fixed.set_routes(routes);
        assert_eq!((fixed.send_batch(&batch).unwrap(), bound(&fixed)), (1, 0));
        assert_eq!(receive(&b, 1), [b"somebody"]);
    }
}
