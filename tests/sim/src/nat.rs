//! Network address translation of the four kinds (RFC 3489 section 5; RFC 4787 section 4 for mappings that time out).

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Who may answer through a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    /// Anybody.
    FullCone,
    /// Whoever has an address that was spoken to.
    Restricted,
    /// Whoever has an address and port that was spoken to.
    PortRestricted,
    /// A mapping for each destination; only that one.
    Symmetric,
}

impl NatKind {
    pub const ALL: [Self; 4] = [Self::FullCone, Self::Restricted, Self::PortRestricted, Self::Symmetric];
}

/// A translator with one public address.
#[derive(Debug)]
pub struct Nat {
    pub kind: NatKind,
    pub public: Ipv4Addr,
    /// A mapping that nobody inside uses for this long is forgotten.
    pub timeout: Duration,
    next_port: u16,
    mappings: Vec<Mapping>,
}

#[derive(Debug)]
struct Mapping {
    inside: SocketAddr,
    port: u16,
    /// For whom alone it is, on a symmetric one.
    only: Option<SocketAddr>,
    spoken_to: Vec<SocketAddr>,
    used: Duration,
}

impl Nat {
    pub fn new(kind: NatKind, public: Ipv4Addr, timeout: Duration, first_port: u16) -> Self {
        Self { kind, public, timeout, next_port: first_port, mappings: Vec::new() }
    }

    /// Under which address a datagram from `inside` to `to` leaves.
    pub fn outbound(&mut self, now: Duration, inside: SocketAddr, to: SocketAddr) -> SocketAddr {
        self.forget(now);
        let only = (self.kind == NatKind::Symmetric).then_some(to);
        let known = self.mappings.iter().position(|m| m.inside == inside && m.only == only);
        let index = known.unwrap_or_else(|| {
            let port = self.next_port;
            self.next_port = if port >= 65_000 { 20_000 } else { port + 1 };
            self.mappings.push(Mapping { inside, port, only, spoken_to: Vec::new(), used: now });
            self.mappings.len() - 1
        });
        let mapping = &mut self.mappings[index];
        mapping.used = now;
        if !mapping.spoken_to.contains(&to) {
            mapping.spoken_to.push(to);
        }
        (self.public, mapping.port).into()
    }

    /// To whom inside a datagram goes that came for `port`; `None`: nobody, it is dropped.
    pub fn inbound(&mut self, now: Duration, port: u16, from: SocketAddr) -> Option<SocketAddr> {
        self.forget(now);
        let mapping = self.mappings.iter().find(|m| m.port == port)?;
        let allowed = match self.kind {
            NatKind::FullCone => true,
            NatKind::Restricted => mapping.spoken_to.iter().any(|to| to.ip() == from.ip()),
            NatKind::PortRestricted | NatKind::Symmetric => mapping.spoken_to.contains(&from),
        };
        allowed.then_some(mapping.inside)
    }

    /// It restarts: every mapping is gone, and new ones get other ports.
    pub fn rebind(&mut self) {
        self.mappings.clear();
        self.next_port = self.next_port.wrapping_add(137).clamp(20_000, 60_000);
    }

    fn forget(&mut self, now: Duration) {
        let timeout = self.timeout;
        self.mappings.retain(|m| now.saturating_sub(m.used) < timeout);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8, port: u16) -> SocketAddr {
        (Ipv4Addr::new(192, 0, 2, last), port).into()
    }

    /// From whom an inside host hears that has spoken to 1:10 alone: 1:10, 1:11, 2:10.
    fn hears(kind: NatKind) -> [bool; 3] {
        let mut nat = Nat::new(kind, Ipv4Addr::new(198, 51, 100, 1), Duration::from_secs(30), 20_000);
        let outside = nat.outbound(Duration::ZERO, at(100, 5), at(1, 10));
        [at(1, 10), at(1, 11), at(2, 10)]
            .map(|from| nat.inbound(Duration::from_secs(1), outside.port(), from).is_some())
    }

    #[test]
    fn the_four_kinds_let_in_whom_they_should() {
        assert_eq!(hears(NatKind::FullCone), [true, true, true]);
        assert_eq!(hears(NatKind::Restricted), [true, true, false]);
        assert_eq!(hears(NatKind::PortRestricted), [true, false, false]);
        assert_eq!(hears(NatKind::Symmetric), [true, false, false]);
    }

    #[test]
    fn only_a_symmetric_one_has_a_port_for_each_destination_and_all_forget() {
        for kind in NatKind::ALL {
            let mut nat = Nat::new(kind, Ipv4Addr::new(198, 51, 100, 1), Duration::from_secs(30), 20_000);
            let a = nat.outbound(Duration::ZERO, at(100, 5), at(1, 10));
            let b = nat.outbound(Duration::from_secs(20), at(100, 5), at(2, 10));
            assert_eq!(a != b, kind == NatKind::Symmetric);
            assert!(nat.inbound(Duration::from_secs(49), b.port(), at(2, 10)).is_some());
            assert!(nat.inbound(Duration::from_secs(50), b.port(), at(2, 10)).is_none(), "{kind:?} forgets");
            let again = nat.outbound(Duration::from_secs(51), at(100, 5), at(1, 10));
            nat.rebind();
            assert_ne!(nat.outbound(Duration::from_secs(51), at(100, 5), at(1, 10)), again);
        }
    }
}
