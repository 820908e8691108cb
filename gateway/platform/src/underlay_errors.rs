//! What an underlay did not carry, counted by cause. Which error of the system is which cause, its leaf says.

use std::sync::atomic::{AtomicU64, Ordering};

/// Datagrams that were not sent, or not received whole, since the start, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportErrors {
    /// No route to the destination, or the network is down (ENETUNREACH, EHOSTUNREACH, ENETDOWN).
    pub unreachable: u64,
    /// The other side has no such port (ECONNREFUSED).
    pub refused: u64,
    /// Larger than the path or the socket takes (EMSGSIZE).
    pub too_big: u64,
    /// The socket's buffer stayed full (EAGAIN, ENOBUFS).
    pub no_buffer: u64,
    /// A firewall of this host forbids it (EPERM, EACCES).
    pub forbidden: u64,
    /// For IPv6 without an IPv6 socket, or the other way round.
    pub no_socket: u64,
    /// Received, but longer than the buffer, or from no IP address.
    pub received_bad: u64,
    /// Anything else.
    pub other: u64,
}

/// [`TransportErrors`] as they are counted.
#[derive(Debug, Default)]
pub struct Counters {
    pub unreachable: AtomicU64,
    pub refused: AtomicU64,
    pub too_big: AtomicU64,
    pub no_buffer: AtomicU64,
    pub forbidden: AtomicU64,
    pub no_socket: AtomicU64,
    pub received_bad: AtomicU64,
    pub other: AtomicU64,
}

impl Counters {
    /// The counts now: each by itself, not one moment.
    pub fn read(&self) -> TransportErrors {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TransportErrors {
            unreachable: count(&self.unreachable),
            refused: count(&self.refused),
            too_big: count(&self.too_big),
            no_buffer: count(&self.no_buffer),
            forbidden: count(&self.forbidden),
            no_socket: count(&self.no_socket),
            received_bad: count(&self.received_bad),
            other: count(&self.other),
        }
    }
}
