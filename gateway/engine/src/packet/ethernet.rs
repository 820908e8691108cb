//! Ethernet II (RFC 894): addresses, a view of a frame, and a header to write. Only TAP devices have frames.

use std::fmt;

use super::Malformed;

/// Length of the header in bytes.
pub const HEADER: usize = 14;

/// EtherType of IPv4 (RFC 894).
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP (RFC 826).
pub const ARP: u16 = 0x0806;

/// A 48-bit hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Everybody on the link.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// No address: the unknown target of an ARP request.
    pub const ZERO: Self = Self([0; 6]);

    /// Whether it names one station: not a group address (IEEE 802: lowest bit of the first byte), and not all zero.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self != Self::ZERO
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An Ethernet frame, without its checksum.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    fixed: &'a [u8; HEADER],
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Checks that `bytes` hold a header.
    ///
    /// # Errors
    /// Fewer than 14 bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, payload) = bytes.split_first_chunk::<HEADER>().ok_or(Malformed::Truncated {
            what: "Ethernet frame",
            needed: HEADER,
            found: bytes.len(),
        })?;
        Ok(Self { fixed, payload })
    }

    /// Whom it is for.
    #[must_use]
    pub fn destination(&self) -> MacAddr {
        let [a, b, c, d, e, f, ..] = *self.fixed;
        MacAddr([a, b, c, d, e, f])
    }

    /// Who sent it.
    #[must_use]
    pub fn source(&self) -> MacAddr {
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *self.fixed;
        MacAddr([a, b, c, d, e, f])
    }

    /// What it carries: [`IPV4`], [`ARP`] or another.
    #[must_use]
    pub fn ethertype(&self) -> u16 {
        u16::from_be_bytes([self.fixed[12], self.fixed[13]])
    }

    /// What follows the header; a short frame's padding is still there.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// What the header of a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whom it is for.
    pub destination: MacAddr,
    /// Who sends it.
    pub source: MacAddr,
    /// What it carries.
    pub ethertype: u16,
}

impl Header {
    /// Writes the 14 bytes at the start of `out` and gives back what is behind them. `None`, and nothing written, when `out` is too
    /// small.
    pub fn write<'o>(&self, out: &'o mut [u8]) -> Option<&'o mut [u8]> {
        let (header, payload) = out.split_first_chunk_mut::<HEADER>()?;
        [header[0], header[1], header[2], header[3], header[4], header[5]] = self.destination.0;
        [header[6], header[7], header[8], header[9], header[10], header[11]] = self.source.0;
        [header[12], header[13]] = self.ethertype.to_be_bytes();
        Some(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{EtherType, Ethernet2Header, Ethernet2Slice};
    use proptest::prelude::*;

    #[test]
    fn one_station_is_neither_a_group_nor_nobody() {
        assert!(MacAddr([2, 0, 0, 0, 0, 0]).is_unicast());
        assert!(!MacAddr::BROADCAST.is_unicast());
        assert!(!MacAddr::ZERO.is_unicast());
        assert!(!MacAddr([1, 0, 0x5e, 0, 0, 1]).is_unicast());
        assert_eq!(MacAddr([2, 0xab, 0, 9, 0x10, 0xff]).to_string(), "02:ab:00:09:10:ff");
    }

    proptest! {
        #[test]
        fn view_and_header_agree_with_etherparse(
            destination in any::<[u8; 6]>(), source in any::<[u8; 6]>(), ethertype in any::<u16>(), payload in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut bytes = Ethernet2Header { source, destination, ether_type: EtherType(ethertype) }.to_bytes().to_vec();
            bytes.extend(&payload);
            let view = Frame::parse(&bytes).unwrap();
            prop_assert_eq!((view.destination().0, view.source().0, view.ethertype()), (destination, source, ethertype));
            prop_assert_eq!(view.payload(), &payload[..]);

            let mut out = vec![0; 14 + payload.len()];
            let header = Header { destination: MacAddr(destination), source: MacAddr(source), ethertype };
            header.write(&mut out).unwrap().copy_from_slice(&payload);
            prop_assert_eq!(&out, &bytes);
            let read = Ethernet2Slice::from_slice_without_fcs(&out).unwrap();
            prop_assert_eq!((read.destination(), read.source(), read.ether_type().0), (destination, source, ethertype));
        }

        #[test]
        fn arbitrary_bytes_are_a_frame_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(Frame::parse(&bytes).is_ok(), bytes.len() >= 14);
            let header = Header { destination: MacAddr::ZERO, source: MacAddr::ZERO, ethertype: 0 };
            prop_assert_eq!(header.write(&mut bytes.clone()).is_some(), bytes.len() >= 14);
        }
    }
}
