//! IPv4 (RFC 791): a checked view of a packet, a header to write, and the one change that forwarding makes to it.

use std::net::Ipv4Addr;

use super::{Malformed, checksum};

/// Length in bytes of a header without options (RFC 791 section 3.1).
pub const HEADER: usize = 20;

/// Length in bytes of the longest header: 15 words (RFC 791 section 3.1).
pub const MAX_HEADER: usize = 60;

/// Protocol number of ICMP (RFC 792).
pub const ICMP: u8 = 1;
/// Protocol number of TCP (RFC 9293).
pub const TCP: u8 = 6;
/// Protocol number of UDP (RFC 768).
pub const UDP: u8 = 17;

/// "Do not fragment", in the 16-bit word of flags and offset (RFC 791 section 3.1).
const DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments", in the same word.
const MORE_FRAGMENTS: u16 = 0x2000;
/// The offset, in units of 8 bytes, in the same word.
const OFFSET: u16 = 0x1fff;

/// An IPv4 packet whose version and lengths have been checked; nothing behind its total length belongs to it.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    /// Exactly the total length.
    bytes: &'a [u8],
    /// The first 20 of them.
    fixed: &'a [u8; HEADER],
}

impl<'a> Ipv4<'a> {
    /// Checks `bytes` (RFC 1122 section 3.2.1, RFC 1812 section 5.2.2 (1), (3) to (5)): version 4, a header of at least 20
    /// bytes, and a total length that covers the header and is there. What follows the total length (Ethernet padding) is cut
    /// off. The header's checksum is a separate question: [`Ipv4::header_checksum_ok`].
    ///
    /// # Errors
    /// What is wrong, with the offending value.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let found = bytes.len();
        let truncated = |needed| Malformed::Truncated { what: "IPv4 packet", needed, found };
        let fixed = bytes.first_chunk::<HEADER>().ok_or(truncated(HEADER))?;
        let version = fixed[0] >> 4;
        if version != 4 {
            return Err(Malformed::Value { what: "IP version", found: version.into(), expected: 4 });
        }
        let header = header_len(fixed);
        if header < HEADER {
            return Err(Malformed::Length { what: "IPv4 header", found: header, least: HEADER });
        }
        let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if total < header {
            return Err(Malformed::Length { what: "IPv4 packet", found: total, least: header });
        }
        let bytes = bytes.get(..total).ok_or(truncated(total))?;
        Ok(Self { bytes, fixed })
    }

    /// The whole packet: exactly as many bytes as its total length says.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The header with its options, 20 to 60 bytes.
    #[must_use]
    pub fn header(&self) -> &'a [u8] {
        self.bytes.get(..header_len(self.fixed)).unwrap_or_default()
    }

    /// The options, 0 to 40 bytes, padding included.
    #[must_use]
    pub fn options(&self) -> &'a [u8] {
        self.header().get(HEADER..).unwrap_or_default()
    }

    /// What the packet carries.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(header_len(self.fixed)..).unwrap_or_default()
    }

    /// Who sent it.
    #[must_use]
    pub fn source(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.fixed[12], self.fixed[13], self.fixed[14], self.fixed[15])
    }

    /// Whom it is for.
    #[must_use]
    pub fn destination(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.fixed[16], self.fixed[17], self.fixed[18], self.fixed[19])
    }

    /// The protocol of the payload: [`ICMP`], [`TCP`], [`UDP`] or another.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.fixed[9]
    }

    /// How many more hops it may travel.
    #[must_use]
    pub fn ttl(&self) -> u8 {
        self.fixed[8]
    }

    /// The type-of-service byte: DSCP and ECN today (RFC 2474, RFC 3168).
    #[must_use]
    pub fn tos(&self) -> u8 {
        self.fixed[1]
    }

    /// What ties the fragments of one datagram together.
    #[must_use]
    pub fn identification(&self) -> u16 {
        u16::from_be_bytes([self.fixed[4], self.fixed[5]])
    }

    /// Whether the sender forbids fragmentation.
    #[must_use]
    pub fn dont_fragment(&self) -> bool {
        self.flags_and_offset() & DONT_FRAGMENT != 0
    }

    /// Whether fragments behind this one exist.
    #[must_use]
    pub fn more_fragments(&self) -> bool {
        self.flags_and_offset() & MORE_FRAGMENTS != 0
    }

    /// Where in its datagram the payload belongs, in bytes: a multiple of 8, at most 65,528.
    #[must_use]
    pub fn fragment_offset(&self) -> u16 {
        (self.flags_and_offset() & OFFSET) << 3
    }

    /// Whether this is a piece of a datagram, the first one included.
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.flags_and_offset() & (MORE_FRAGMENTS | OFFSET) != 0
    }

    /// Whether the payload begins with the header of its protocol.
    #[must_use]
    pub fn is_first_or_whole(&self) -> bool {
        self.flags_and_offset() & OFFSET == 0
    }

    /// Whether the header's checksum is right (RFC 791 section 3.1, RFC 1812 section 5.2.2 (2)).
    #[must_use]
    pub fn header_checksum_ok(&self) -> bool {
        checksum::checksum(self.header()) == 0
    }

    fn flags_and_offset(&self) -> u16 {
        u16::from_be_bytes([self.fixed[6], self.fixed[7]])
    }
}

/// The length in bytes that the header says of itself.
fn header_len(fixed: &[u8; HEADER]) -> usize {
    usize::from(fixed[0] & 0x0f) * 4
}

/// Takes one hop off the time to live and keeps the header's checksum as right or wrong as it was (RFC 1812 section 5.3.1, RFC
/// 1624). `false`, and nothing touched, when the packet may travel no further (its TTL is 0 or 1) or is shorter than a header.
pub fn decrement_ttl(packet: &mut [u8]) -> bool {
    let Some(header) = packet.first_chunk_mut::<HEADER>() else { return false };
    let (ttl, protocol) = (header[8], header[9]);
    if ttl <= 1 {
        return false;
    }
    let check = checksum::update(
        u16::from_be_bytes([header[10], header[11]]),
        u16::from_be_bytes([ttl, protocol]),
        u16::from_be_bytes([ttl - 1, protocol]),
    );
    header[8] = ttl - 1;
    [header[10], header[11]] = check.to_be_bytes();
    true
}

/// Puts the right checksum into a header of 20 to 60 bytes.
pub(crate) fn set_header_checksum(header: &mut [u8]) {
    if let Some(field) = header.get_mut(10..12) {
        field.fill(0);
    }
    let check = checksum::checksum(header);
    if let Some(field) = header.get_mut(10..12) {
        field.copy_from_slice(&check.to_be_bytes());
    }
}

/// What a header without options says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who sends it.
    pub source: Ipv4Addr,
    /// Whom it is for.
    pub destination: Ipv4Addr,
    /// The protocol of the payload.
    pub protocol: u8,
    /// How many hops it may travel.
    pub ttl: u8,
    /// The type-of-service byte.
    pub tos: u8,
    /// What ties the fragments of one datagram together.
    pub identification: u16,
    /// Whether fragmentation is forbidden.
    pub dont_fragment: bool,
    /// Whether fragments behind this one exist.
    pub more_fragments: bool,
    /// Where in its datagram the payload belongs, in bytes; a multiple of 8.
    pub fragment_offset: u16,
    /// Length of the payload in bytes, at most 65,515.
    pub payload_len: usize,
}

impl Header {
    /// Time to live of packets that start here (RFC 1700, "Assigned numbers": 64).
    pub const TTL: u8 = 64;

    /// A whole packet with nothing special about it: TTL 64, TOS 0, identification 0, may be fragmented.
    #[must_use]
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload_len: usize) -> Self {
        Self {
            source,
            destination,
            protocol,
            ttl: Self::TTL,
            tos: 0,
            identification: 0,
            dont_fragment: false,
            more_fragments: false,
            fragment_offset: 0,
            payload_len,
        }
    }

    /// Length of the whole packet in bytes.
    #[must_use]
    pub fn total_len(&self) -> usize {
        HEADER.saturating_add(self.payload_len)
    }

    /// Writes the 20 bytes, checksum included, at the start of `out` and gives back the `payload_len` bytes behind them for
    /// the payload to be written. `None`, and nothing written, when `out` or the 16-bit total length is too small for both.
    pub fn write<'o>(&self, out: &'o mut [u8]) -> Option<&'o mut [u8]> {
        let total = u16::try_from(self.total_len()).ok()?;
        let (header, payload) = out.get_mut(..usize::from(total))?.split_first_chunk_mut::<HEADER>()?;
        let mut word = (self.fragment_offset >> 3) & OFFSET;
        if self.dont_fragment {
            word |= DONT_FRAGMENT;
        }
        if self.more_fragments {
            word |= MORE_FRAGMENTS;
        }
        header[0] = 0x45;
        header[1] = self.tos;
        [header[2], header[3]] = total.to_be_bytes();
        [header[4], header[5]] = self.identification.to_be_bytes();
        [header[6], header[7]] = word.to_be_bytes();
        header[8] = self.ttl;
        header[9] = self.protocol;
        [header[12], header[13], header[14], header[15]] = self.source.octets();
        [header[16], header[17], header[18], header[19]] = self.destination.octets();
        set_header_checksum(header);
        Some(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv4HeaderSlice, Ipv4Options};
    use proptest::prelude::*;

    prop_compose! {
        /// A header as etherparse writes it, with the length of its payload and its options set by hand.
        fn reference()(
            source in any::<[u8; 4]>(), destination in any::<[u8; 4]>(), protocol in any::<u8>(), ttl in any::<u8>(), id in any::<u16>(),
            df in any::<bool>(), mf in any::<bool>(), offset in 0_u16..0x2000, words in 0_usize..=10, option in any::<[u8; 40]>(),
            payload in 0_usize..1500, dscp in 0_u8..64, ecn in 0_u8..4,
        ) -> (Ipv4Header, usize) {
            let mut header = Ipv4Header::new(payload as u16, ttl, IpNumber(protocol), source, destination).unwrap();
            header.options = Ipv4Options::try_from(&option[..words * 4]).unwrap();
            header.total_len = (20 + words * 4 + payload) as u16;
            header.identification = id;
            header.dont_fragment = df;
            header.more_fragments = mf;
            header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
            header.dscp = etherparse::IpDscp::try_new(dscp).unwrap();
            header.ecn = etherparse::IpEcn::try_new(ecn).unwrap();
            header.header_checksum = header.calc_header_checksum();
            (header, payload)
        }
    }

    fn packet((header, payload): &(Ipv4Header, usize)) -> Vec<u8> {
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend((0..*payload).map(|i| i as u8));
        bytes
    }

    #[test]
    fn a_length_that_lies_is_refused_with_its_value() {
        let mut bytes = [0_u8; 40];
        assert!(Header::new([1, 2, 3, 4].into(), [5, 6, 7, 8].into(), UDP, 20).write(&mut bytes).is_some());
        let with = |at: usize, value: u8| {
            let mut bytes = bytes;
            bytes[at] = value;
            Ipv4::parse(&bytes).err()
        };
        assert_eq!(with(0, 0x65), Some(Malformed::Value { what: "IP version", found: 6, expected: 4 }));
        assert_eq!(with(0, 0x44), Some(Malformed::Length { what: "IPv4 header", found: 16, least: 20 }));
        assert_eq!(with(3, 19), Some(Malformed::Length { what: "IPv4 packet", found: 19, least: 20 }));
        assert_eq!(with(3, 41), Some(Malformed::Truncated { what: "IPv4 packet", needed: 41, found: 40 }));
        assert_eq!(with(3, 40), None);
        assert!(Ipv4::parse(&bytes[..19]).is_err());
    }

    #[test]
    fn a_packet_out_of_hops_is_left_untouched() {
        for ttl in [0, 1] {
            let mut bytes = [0_u8; 20];
            let header = Header { ttl, ..Header::new([1, 2, 3, 4].into(), [5, 6, 7, 8].into(), UDP, 0) };
            assert!(header.write(&mut bytes).is_some());
            let before = bytes;
            assert!(!decrement_ttl(&mut bytes));
            assert_eq!(bytes, before);
        }
        assert!(!decrement_ttl(&mut [64; 19]));
    }

    proptest! {
        #[test]
        fn the_view_says_what_etherparse_wrote(made in reference(), trailing in 0_usize..50) {
            let (header, payload) = &made;
            let exact = packet(&made);
            let mut bytes = exact.clone();
            bytes.resize(exact.len() + trailing, 0xee);
            let view = Ipv4::parse(&bytes).unwrap();
            prop_assert_eq!(view.bytes(), &exact[..]);
            prop_assert_eq!(view.header(), &exact[..header.header_len()]);
            prop_assert_eq!(view.options(), &header.options[..]);
            prop_assert_eq!(view.payload(), &exact[header.header_len()..]);
            prop_assert_eq!(view.payload().len(), *payload);
            prop_assert_eq!(view.source().octets(), header.source);
            prop_assert_eq!(view.destination().octets(), header.destination);
            prop_assert_eq!(view.protocol(), header.protocol.0);
            prop_assert_eq!(view.ttl(), header.time_to_live);
            prop_assert_eq!(view.tos(), header.dscp.value() << 2 | header.ecn.value());
            prop_assert_eq!(view.identification(), header.identification);
            prop_assert_eq!(view.dont_fragment(), header.dont_fragment);
            prop_assert_eq!(view.more_fragments(), header.more_fragments);
            prop_assert_eq!(usize::from(view.fragment_offset()), usize::from(header.fragment_offset.value()) * 8);
            prop_assert_eq!(view.is_fragment(), header.is_fragmenting_payload());
            prop_assert_eq!(view.is_first_or_whole(), header.fragment_offset.value() == 0);
            prop_assert!(view.header_checksum_ok());
        }

        #[test]
        fn a_header_that_we_write_is_what_etherparse_reads(
            source in any::<[u8; 4]>(), destination in any::<[u8; 4]>(), protocol in any::<u8>(), ttl in any::<u8>(), tos in any::<u8>(),
            identification in any::<u16>(), dont_fragment in any::<bool>(), more_fragments in any::<bool>(), offset in 0_u16..0x2000,
            payload_len in 0_usize..70_000, room in 0_usize..70_000,
        ) {
            let header = Header {
                source: source.into(), destination: destination.into(), protocol, ttl, tos, identification, dont_fragment, more_fragments,
                fragment_offset: offset * 8, payload_len,
            };
            let mut out = vec![0xaa; room];
            let written = header.write(&mut out).map(|p| p.len());
            if 20 + payload_len > room.min(65_535) {
                prop_assert_eq!(written, None);
                prop_assert!(out.iter().all(|b| *b == 0xaa));
                return Ok(());
            }
            prop_assert_eq!(written, Some(payload_len));
            let read = Ipv4HeaderSlice::from_slice(&out).unwrap().to_header();
            prop_assert_eq!(read.header_checksum, read.calc_header_checksum());
            prop_assert_eq!(usize::from(read.total_len), 20 + payload_len);
            prop_assert_eq!((read.source, read.destination, read.protocol.0), (source, destination, protocol));
            prop_assert_eq!((read.time_to_live, read.dscp.value() << 2 | read.ecn.value()), (ttl, tos));
            prop_assert_eq!((read.identification, read.fragment_offset.value()), (identification, offset));
            prop_assert_eq!((read.dont_fragment, read.more_fragments), (dont_fragment, more_fragments));
        }

        #[test]
        fn a_hop_less_keeps_the_checksum_as_right_or_wrong_as_it_was(made in reference(), wrong in any::<bool>()) {
            let mut bytes = packet(&made);
            if wrong {
                bytes[10] ^= 0x40;
            }
            let hops = made.0.time_to_live;
            prop_assert_eq!(decrement_ttl(&mut bytes), hops > 1);
            let view = Ipv4::parse(&bytes).unwrap();
            prop_assert_eq!(view.ttl(), if hops > 1 { hops - 1 } else { hops });
            prop_assert_eq!(view.header_checksum_ok(), !wrong);
            if !wrong {
                let read = Ipv4HeaderSlice::from_slice(&bytes).unwrap().to_header();
                prop_assert_eq!(read.header_checksum, read.calc_header_checksum());
            }
        }

        #[test]
        fn arbitrary_bytes_are_a_packet_or_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), shape in any::<bool>()) {
            if shape && bytes.len() > 3 {
                bytes[0] = 0x40 | bytes[0] & 0x0f;
                bytes[2] = 0;
            }
            if let Ok(view) = Ipv4::parse(&bytes) {
                prop_assert_eq!(view.header().len() + view.payload().len(), view.bytes().len());
                prop_assert!(view.bytes().len() <= bytes.len() && view.header().len() >= 20);
            }
            decrement_ttl(&mut bytes);
        }
    }
}
