//! UDP (RFC 768): a checked view of a datagram.

use std::net::Ipv4Addr;

use super::{Malformed, checksum::Checksum, ipv4};

/// Length of the header in bytes.
pub const HEADER: usize = 8;

/// A UDP datagram whose length has been checked.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a> {
    /// Exactly the length that the header says.
    bytes: &'a [u8],
    fixed: &'a [u8; HEADER],
}

impl<'a> Udp<'a> {
    /// Checks `bytes`, the payload of an unfragmented IPv4 packet. What follows the datagram's length is cut off.
    ///
    /// # Errors
    /// Fewer bytes than a header or than the length field says, or a length below the header's own.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let truncated = |needed| Malformed::Truncated { what: "UDP datagram", needed, found: bytes.len() };
        let fixed = bytes.first_chunk::<HEADER>().ok_or(truncated(HEADER))?;
        let len = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        if len < HEADER {
            return Err(Malformed::Length { what: "UDP datagram", found: len, least: HEADER });
        }
        Ok(Self { bytes: bytes.get(..len).ok_or(truncated(len))?, fixed })
    }

    /// The port it comes from; 0 when it wants no answer.
    #[must_use]
    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.fixed[0], self.fixed[1]])
    }

    /// The port it is for.
    #[must_use]
    pub fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.fixed[2], self.fixed[3]])
    }

    /// What it carries.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(HEADER..).unwrap_or_default()
    }

    /// Whether the checksum is right, or absent (zero, RFC 768).
    #[must_use]
    pub fn checksum_ok(&self, source: Ipv4Addr, destination: Ipv4Addr) -> bool {
        if (self.fixed[6], self.fixed[7]) == (0, 0) {
            return true;
        }
        let Ok(len) = u16::try_from(self.bytes.len()) else { return false };
        let sum = Checksum::new().with_pseudo_header(source, destination, ipv4::UDP, len);
        sum.with(self.bytes).finish() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IpNumber, Ipv4Header, UdpHeader};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_view_says_what_etherparse_wrote(
            source in any::<[u8; 4]>(), destination in any::<[u8; 4]>(), from in any::<u16>(), to in any::<u16>(),
            data in proptest::collection::vec(any::<u8>(), 0..300), trailing in 0_usize..20, flip in any::<u8>(),
        ) {
            let ip = Ipv4Header::new(0, 64, IpNumber::UDP, source, destination).unwrap();
            let mut bytes = UdpHeader::with_ipv4_checksum(from, to, &ip, &data).unwrap().to_bytes().to_vec();
            bytes.extend(&data);
            bytes.resize(bytes.len() + trailing, 0xee);
            let view = Udp::parse(&bytes).unwrap();
            prop_assert_eq!((view.source_port(), view.destination_port()), (from, to));
            prop_assert_eq!(view.payload(), &data[..]);
            prop_assert!(view.checksum_ok(source.into(), destination.into()));
            bytes[0] ^= flip;
            prop_assert_eq!(Udp::parse(&bytes).unwrap().checksum_ok(source.into(), destination.into()), flip == 0);
            bytes[6..8].fill(0);
            prop_assert!(Udp::parse(&bytes).unwrap().checksum_ok(source.into(), destination.into()));
        }

        #[test]
        fn arbitrary_bytes_are_a_datagram_or_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), small in any::<bool>()) {
            if small && bytes.len() > 4 {
                bytes[4] = 0;
            }
            if let Ok(view) = Udp::parse(&bytes) {
                prop_assert!(view.payload().len() + 8 <= bytes.len());
                let _ = view.checksum_ok(Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST);
            }
        }
    }
}
