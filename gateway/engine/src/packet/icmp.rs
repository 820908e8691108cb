//! ICMP (RFC 792): a view of a message, and its types.

use super::{Malformed, checksum};

/// Length in bytes of what every message begins with: type, code, checksum and four bytes that the type defines.
pub const HEADER: usize = 8;

/// Echo reply (RFC 792).
pub const ECHO_REPLY: u8 = 0;
/// Destination unreachable (RFC 792).
pub const UNREACHABLE: u8 = 3;
/// Echo request (RFC 792).
pub const ECHO_REQUEST: u8 = 8;
/// Time exceeded (RFC 792).
pub const TIME_EXCEEDED: u8 = 11;

/// Whether a message of this type asks or answers a question: echo (0, 8), router discovery (9, 10; RFC 1256), timestamp (13, 14),
/// information (15, 16), address mask (17, 18; RFC 950), extended echo (42, 43; RFC 8335). All others report an error or are
/// unknown, and an error about them could start a storm (RFC 1122 section 3.2.2).
#[must_use]
pub fn is_query(kind: u8) -> bool {
    matches!(kind, ECHO_REPLY | ECHO_REQUEST | 9 | 10 | 13..=18 | 42 | 43)
}

/// An ICMP message, or the first fragment of one.
#[derive(Clone, Copy, Debug)]
pub struct Icmp<'a> {
    bytes: &'a [u8],
    fixed: &'a [u8; HEADER],
}

impl<'a> Icmp<'a> {
    /// Checks that `bytes`, the payload of an IPv4 packet, hold a header. The checksum is a separate question, since a fragment
    /// cannot answer it: [`Icmp::checksum_ok`].
    ///
    /// # Errors
    /// Fewer than 8 bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let fixed = bytes.first_chunk::<HEADER>().ok_or(Malformed::Truncated {
            what: "ICMP message",
            needed: HEADER,
            found: bytes.len(),
        })?;
        Ok(Self { bytes, fixed })
    }

    /// The type.
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.fixed[0]
    }

    /// The code, whose meaning depends on the type.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.fixed[1]
    }

    /// The checksum field as it stands.
    #[must_use]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.fixed[2], self.fixed[3]])
    }

    /// The four bytes behind the checksum: identifier and sequence of an echo, the next hop's MTU (RFC 1191 section 4).
    #[must_use]
    pub fn rest(&self) -> [u8; 4] {
        [self.fixed[4], self.fixed[5], self.fixed[6], self.fixed[7]]
    }

    /// What follows the eight bytes: an echo's data, or the packet that an error is about.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(HEADER..).unwrap_or_default()
    }

    /// Whether the checksum over the whole message is right (RFC 792).
    #[must_use]
    pub fn checksum_ok(&self) -> bool {
        checksum::checksum(self.bytes) == 0
    }
}

/// The eight bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The type.
    pub kind: u8,
    /// The code.
    pub code: u8,
    /// The four bytes behind the checksum.
    pub rest: [u8; 4],
}

impl Header {
    /// Writes a whole message into `out`: this header, then `payload`, with the checksum over both. The length in bytes; `None`,
    /// and nothing written, when `out` is too small.
    pub fn write(&self, payload: &[u8], out: &mut [u8]) -> Option<usize> {
        let len = HEADER.checked_add(payload.len())?;
        let message = out.get_mut(..len)?;
        let (header, rest) = message.split_first_chunk_mut::<HEADER>()?;
        let [a, b, c, d] = self.rest;
        *header = [self.kind, self.code, 0, 0, a, b, c, d];
        rest.copy_from_slice(payload);
        let check = checksum::Checksum::new().with(header).with(payload).finish();
        [header[2], header[3]] = check.to_be_bytes();
        Some(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Slice, Icmpv4Type};
    use proptest::prelude::*;

    #[test]
    fn errors_and_unknown_types_are_no_queries() {
        let queries: Vec<u8> = (0..=255).filter(|kind| is_query(*kind)).collect();
        assert_eq!(queries, [0, 8, 9, 10, 13, 14, 15, 16, 17, 18, 42, 43]);
    }

    proptest! {
        #[test]
        fn the_view_says_what_etherparse_wrote(id in any::<u16>(), seq in any::<u16>(), data in proptest::collection::vec(any::<u8>(), 0..300), flip in any::<u8>()) {
            let header = Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(IcmpEchoHeader { id, seq }), &data);
            let mut bytes = header.to_bytes().to_vec();
            bytes.extend(&data);
            let view = Icmp::parse(&bytes).unwrap();
            prop_assert_eq!((view.kind(), view.code(), view.checksum()), (ECHO_REQUEST, 0, header.checksum));
            let [a, b, c, d] = view.rest();
            prop_assert_eq!((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])), (id, seq));
            prop_assert_eq!(view.payload(), &data[..]);
            prop_assert!(view.checksum_ok());
            let last = bytes.len() - 1;
            bytes[last] ^= flip;
            prop_assert_eq!(Icmp::parse(&bytes).unwrap().checksum_ok(), flip == 0);
        }

        #[test]
        fn a_message_that_we_write_is_what_etherparse_reads(
            kind in any::<u8>(), code in any::<u8>(), rest in any::<[u8; 4]>(), data in proptest::collection::vec(any::<u8>(), 0..300), room in 0_usize..400,
        ) {
            let mut out = vec![0; room];
            let written = Header { kind, code, rest }.write(&data, &mut out);
            if room < 8 + data.len() {
                prop_assert_eq!(written, None);
                return Ok(());
            }
            prop_assert_eq!(written, Some(8 + data.len()));
            // etherparse asks a timestamp message for its 20 bytes.
            if let Ok(read) = Icmpv4Slice::from_slice(&out[..8 + data.len()]) {
                prop_assert_eq!((read.type_u8(), read.code_u8(), read.bytes5to8()), (kind, code, rest));
            }
            prop_assert!(Icmp::parse(&out[..8 + data.len()]).unwrap().checksum_ok());
        }

        #[test]
        fn arbitrary_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            match Icmp::parse(&bytes) {
                Ok(view) => prop_assert_eq!(view.payload().len() + 8, bytes.len()),
                Err(_) => prop_assert!(bytes.len() < 8),
            }
        }
    }
}
