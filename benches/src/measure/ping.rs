//! Round trips: ICMP echoes at a steady pace, timed by the kernel's stamp on what comes back.

use anyhow::{Context, Result, bail};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind,
    connect, recvmsg, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use overlay_platform::os::netns;
use std::fs;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Bytes behind the ICMP header, as ping(8) sends.
const PAYLOAD: usize = 56;

/// The type of an echo request, and of a reply (RFC 792).
const ECHO: u8 = 8;
const ECHO_REPLY: u8 = 0;

/// How long the last answers are waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a flood sends.
const BURST: Duration = Duration::from_millis(1);

/// Round trips of one series.
#[derive(Clone, Debug, Default)]
pub struct RoundTrips {
    /// Each that came back, shortest first.
    pub times: Vec<Duration>,
    /// How many were sent.
    pub sent: usize,
}

impl RoundTrips {
    /// The time below which `share` (0 to 1) of the round trips were; `None` when none came back.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let position = (self.times.len() as f64 * share) as usize;
        self.times.get(position.min(self.times.len().checked_sub(1)?)).copied()
    }
}

/// Sends `count` echoes, one each `pace`, from `namespace` to `to`.
///
/// # Errors
/// Without the right to raw sockets.
pub fn ping(namespace: BorrowedFd<'_>, to: Ipv4Addr, count: u16, pace: Duration) -> Result<RoundTrips> {
    Ok(netns::run_in(namespace, || Pinger::new(to)?.series(count, pace))?)
}

/// Waits until an echo comes back.
///
/// # Errors
/// When none does within `patience`.
pub fn wait_for_path(namespace: BorrowedFd<'_>, to: Ipv4Addr, patience: Duration) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < patience {
        let answered = netns::run_in(namespace, || {
            let mut pinger = Pinger::new(to)?;
            // No route yet: not yet.
            if pinger.send(0).is_err() {
                return Ok(false);
            }
            pinger.receive_until(Instant::now() + Duration::from_millis(200), 1)?;
            Ok(!pinger.found.is_empty())
        });
        if answered.context("a raw socket")? {
            return Ok(());
        }
        sleep(Duration::from_millis(50));
    }
    bail!("nothing came back from {to} within {} s", patience.as_secs())
}

/// Sends `rate` echoes a second from `namespace` to `to` until `ended`, in bursts of a millisecond, and reads no answer: whether and how
/// fast answers come makes no difference to what the flood itself costs. Returns how many were sent.
///
/// # Errors
/// Without the right to raw sockets.
pub fn flood(namespace: BorrowedFd<'_>, to: Ipv4Addr, rate: u32, ended: &AtomicBool) -> Result<u64> {
    Ok(netns::run_in(namespace, || {
        let mut pinger = Pinger::new(to)?;
        // Full with the first answer: the others are dropped where they would be queued.
        setsockopt(&pinger.socket, sockopt::RcvBuf, &1)?;
        let (start, mut sent) = (Instant::now(), 0);
        while !ended.load(Relaxed) {
            let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u64;
            while sent < due {
                pinger.send(0)?;
                pinger.left.clear();
                sent += 1;
            }
            sleep(BURST);
        }
        Ok(sent)
    })?)
}

/// How many echo replies have come to `namespace` so far (proc_net(5), `snmp`).
///
/// # Errors
/// When the kernel does not say.
pub fn replies(namespace: BorrowedFd<'_>) -> Result<u64> {
    let text = netns::run_in(namespace, || fs::read_to_string("/proc/thread-self/net/snmp"))?;
    count_of(&text, "Icmp:", "InEchoReps").context("/proc/net/snmp does not count echo replies")
}

/// A counter of a table whose lines begin with `kind`: first the names, then the values.
fn count_of(text: &str, kind: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.split_whitespace().next() == Some(kind));
    let at = lines.next()?.split_whitespace().position(|word| word == name)?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

struct Pinger {
    socket: OwnedFd,
    identifier: u16,
    /// When each echo left; by its sequence number.
    left: Vec<TimeSpec>,
    found: Vec<Duration>,
}

impl Pinger {
    fn new(to: Ipv4Addr) -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::Icmp,
        )?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)))?;
        // Only what comes from there; a route need not exist yet.
        let _ = connect(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(to, 0)));
        let mut identifier = [0; 2];
        getrandom::fill(&mut identifier).map_err(io::Error::other)?;
        Ok(Self { socket, identifier: u16::from_ne_bytes(identifier), left: Vec::new(), found: Vec::new() })
    }

    fn series(mut self, count: u16, pace: Duration) -> io::Result<RoundTrips> {
        let start = Instant::now();
        for sequence in 0..count {
            self.receive_until(start + pace * u32::from(sequence), usize::MAX)?;
            self.send(sequence)?;
        }
        self.receive_until(Instant::now() + PATIENCE, usize::from(count))?;
        self.found.sort_unstable();
        Ok(RoundTrips { times: self.found, sent: usize::from(count) })
    }

    fn send(&mut self, sequence: u16) -> io::Result<()> {
        let mut packet = [0; 8 + PAYLOAD];
        packet[0] = ECHO;
        [packet[4], packet[5]] = self.identifier.to_be_bytes();
        [packet[6], packet[7]] = sequence.to_be_bytes();
        [packet[2], packet[3]] = checksum(&packet).to_be_bytes();
        self.left.push(clock_gettime(ClockId::CLOCK_REALTIME)?);
        match send(self.socket.as_raw_fd(), &packet, MsgFlags::empty()) {
            // A queue is full: this one is lost.
            Ok(_) | Err(Errno::ENOBUFS | Errno::EAGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes what comes back, until `deadline` or until `enough` have come.
    fn receive_until(&mut self, deadline: Instant, enough: usize) -> io::Result<()> {
        while self.found.len() < enough {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let timeout = PollTimeout::try_from(left.as_millis().max(1)).unwrap_or(PollTimeout::ZERO);
            let mut wanted = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut wanted, timeout) {
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(time) = self.receive()? {
                self.found.push(time);
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<Option<Duration>> {
        let mut packet = [0; 256];
        let mut control = cmsg_space!(TimeSpec);
        let (len, arrived) = {
            let mut slices = [IoSliceMut::new(&mut packet)];
            match recvmsg::<()>(
                self.socket.as_raw_fd(),
                &mut slices,
                Some(&mut control),
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(message) => {
                    let stamp = message.cmsgs()?.find_map(|cmsg| match cmsg {
                        ControlMessageOwned::ScmTimestampns(stamp) => Some(stamp),
                        _ => None,
                    });
                    (message.bytes, stamp)
                }
                // An ICMP error about one of ours is no answer.
                Err(Errno::EAGAIN | Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::ECONNREFUSED) => {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        };
        // A raw socket hands over the IPv4 header as well (raw(7)).
        let header = usize::from(packet.first().unwrap_or(&0) & 0x0f) * 4;
        let Some([ECHO_REPLY, _, _, _, i0, i1, s0, s1, ..]) = packet.get(header..len) else {
            return Ok(None);
        };
        let sequence = usize::from(u16::from_be_bytes([*s0, *s1]));
        let ours = u16::from_be_bytes([*i0, *i1]) == self.identifier;
        let (Some(left), Some(arrived)) = (self.left.get(sequence).filter(|_| ours), arrived) else {
            return Ok(None);
        };
        Ok(Some(Duration::from(arrived).saturating_sub(Duration::from(*left))))
    }
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_came_back() {
        let times = (1..=100).map(Duration::from_millis).collect();
        let trips = RoundTrips { times, sent: 200 };
        assert_eq!(trips.quantile(0.5), Some(Duration::from_millis(51)));
        assert_eq!(trips.quantile(0.99), Some(Duration::from_millis(100)));
        assert_eq!(trips.quantile(1.0), Some(Duration::from_millis(100)));
        assert_eq!(RoundTrips::default().quantile(0.5), None);
    }

    #[test]
    fn a_counter_is_found_by_its_name() {
        let text = "Ip: Forwarding\nIp: 2\nIcmp: InMsgs InEchoReps OutMsgs\nIcmp: 9 7 5\nIcmpMsg: InType0\nIcmpMsg: 3\n";
        assert_eq!(count_of(text, "Icmp:", "InEchoReps"), Some(7));
        assert_eq!(count_of(text, "Icmp:", "InType0"), None);
    }

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
