//! TCP (RFC 9293): a checked view of a segment, and a header to write.

use std::net::Ipv4Addr;

use super::{Malformed, checksum::Checksum, ipv4};

/// Length in bytes of a header without options.
pub const HEADER: usize = 20;

/// The control bits of a segment (RFC 9293 section 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// The acknowledgment field is significant.
    pub const ACK: Self = Self(0x10);

    /// Whether every bit of `other` is set here.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A TCP segment whose data offset has been checked.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a> {
    bytes: &'a [u8],
    fixed: &'a [u8; HEADER],
}

impl<'a> Tcp<'a> {
    /// Checks `bytes`, the payload of an unfragmented IPv4 packet.
    ///
    /// # Errors
    /// Fewer bytes than a header or than the data offset says, or a data offset within the header.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let truncated = |needed| Malformed::Truncated { what: "TCP segment", needed, found: bytes.len() };
        let fixed = bytes.first_chunk::<HEADER>().ok_or(truncated(HEADER))?;
        let view = Self { bytes, fixed };
        let offset = view.data_offset();
        if offset < HEADER {
            return Err(Malformed::Length { what: "TCP header", found: offset, least: HEADER });
        }
        if offset > bytes.len() {
            return Err(truncated(offset));
        }
        Ok(view)
    }

    /// The port it comes from.
    #[must_use]
    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.fixed[0], self.fixed[1]])
    }

    /// The port it is for.
    #[must_use]
    pub fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.fixed[2], self.fixed[3]])
    }

    /// The sequence number of its first byte.
    #[must_use]
    pub fn sequence(&self) -> u32 {
        u32::from_be_bytes([self.fixed[4], self.fixed[5], self.fixed[6], self.fixed[7]])
    }

    /// The sequence number that its sender expects next; means something only with [`Flags::ACK`].
    #[must_use]
    pub fn acknowledgment(&self) -> u32 {
        u32::from_be_bytes([self.fixed[8], self.fixed[9], self.fixed[10], self.fixed[11]])
    }

    /// Where the data begins, in bytes: 20 to 60.
    #[must_use]
    pub fn data_offset(&self) -> usize {
        usize::from(self.fixed[12] >> 4) * 4
    }

    /// The control bits.
    #[must_use]
    pub fn flags(&self) -> Flags {
        Flags(self.fixed[13])
    }

    /// The data.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.data_offset()..).unwrap_or_default()
    }

    /// How many sequence numbers it takes: its data, and one each for SYN and FIN (RFC 9293 section 3.4, SEG.LEN).
    #[must_use]
    pub fn sequence_len(&self) -> u32 {
        let flags = self.flags();
        // At most 65,495 bytes of data, so neither the conversion nor the sum can lose anything.
        self.payload().len() as u32
            + u32::from(flags.contains(Flags::SYN))
            + u32::from(flags.contains(Flags::FIN))
    }

    /// Whether the checksum is right (RFC 9293 section 3.1).
    #[must_use]
    pub fn checksum_ok(&self, source: Ipv4Addr, destination: Ipv4Addr) -> bool {
        let Ok(len) = u16::try_from(self.bytes.len()) else { return false };
        let sum = Checksum::new().with_pseudo_header(source, destination, ipv4::TCP, len);
        sum.with(self.bytes).finish() == 0
    }
}

/// What a header without options says. Window and urgent pointer are zero: the only segment that is made here is a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The port it comes from.
    pub source_port: u16,
    /// The port it is for.
    pub destination_port: u16,
    /// The sequence number.
    pub sequence: u32,
    /// The acknowledgment number.
    pub acknowledgment: u32,
    /// The control bits.
    pub flags: Flags,
}

impl Header {
    /// Writes a segment without data, its checksum included, at the start of `out`. The length in bytes, 20; `None`, and nothing
    /// written, when `out` is too small.
    pub fn write(&self, source: Ipv4Addr, destination: Ipv4Addr, out: &mut [u8]) -> Option<usize> {
        let header = out.first_chunk_mut::<HEADER>()?;
        *header = [0; HEADER];
        [header[0], header[1]] = self.source_port.to_be_bytes();
        [header[2], header[3]] = self.destination_port.to_be_bytes();
        [header[4], header[5], header[6], header[7]] = self.sequence.to_be_bytes();
        [header[8], header[9], header[10], header[11]] = self.acknowledgment.to_be_bytes();
        header[12] = 5 << 4;
        header[13] = self.flags.0;
        let sum = Checksum::new().with_pseudo_header(source, destination, ipv4::TCP, HEADER as u16);
        [header[16], header[17]] = sum.with(header).finish().to_be_bytes();
        Some(HEADER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IpNumber, Ipv4Header, TcpHeader, TcpSlice};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_view_says_what_etherparse_wrote(
            source in any::<[u8; 4]>(), destination in any::<[u8; 4]>(), ports in any::<(u16, u16)>(), seq in any::<u32>(), ack in any::<u32>(),
            (fin, syn, rst, acked) in any::<(bool, bool, bool, bool)>(), words in 0_usize..=10, data in proptest::collection::vec(any::<u8>(), 0..300),
            flip in any::<u8>(),
        ) {
            let mut tcp = TcpHeader::new(ports.0, ports.1, seq, 1000);
            (tcp.fin, tcp.syn, tcp.rst, tcp.ack, tcp.acknowledgment_number) = (fin, syn, rst, acked, ack);
            tcp.set_options_raw(&vec![1; words * 4]).unwrap();
            let ip = Ipv4Header::new(0, 64, IpNumber::TCP, source, destination).unwrap();
            tcp.checksum = tcp.calc_checksum_ipv4(&ip, &data).unwrap();
            let mut bytes = tcp.to_bytes().to_vec();
            bytes.extend(&data);
            let view = Tcp::parse(&bytes).unwrap();
            prop_assert_eq!((view.source_port(), view.destination_port()), ports);
            prop_assert_eq!((view.sequence(), view.acknowledgment(), view.data_offset()), (seq, ack, 20 + words * 4));
            for (flag, set) in [(Flags::FIN, fin), (Flags::SYN, syn), (Flags::RST, rst), (Flags::ACK, acked)] {
                prop_assert_eq!(view.flags().contains(flag), set);
            }
            prop_assert_eq!(view.payload(), &data[..]);
            prop_assert_eq!(view.sequence_len() as usize, data.len() + usize::from(fin) + usize::from(syn));
            prop_assert!(view.checksum_ok(source.into(), destination.into()));
            bytes[5] ^= flip;
            prop_assert_eq!(Tcp::parse(&bytes).unwrap().checksum_ok(source.into(), destination.into()), flip == 0);
        }

        #[test]
        fn a_header_that_we_write_is_what_etherparse_reads(
            source in any::<[u8; 4]>(), destination in any::<[u8; 4]>(), source_port in any::<u16>(), destination_port in any::<u16>(),
            sequence in any::<u32>(), acknowledgment in any::<u32>(), flags in any::<u8>(), room in 0_usize..40,
        ) {
            let header = Header { source_port, destination_port, sequence, acknowledgment, flags: Flags(flags) };
            let mut out = vec![0xaa; room];
            let written = header.write(source.into(), destination.into(), &mut out);
            prop_assert_eq!(written, (room >= 20).then_some(20));
            if written.is_some() {
                let read = TcpSlice::from_slice(&out[..20]).unwrap();
                prop_assert_eq!((read.source_port(), read.destination_port()), (source_port, destination_port));
                prop_assert_eq!((read.sequence_number(), read.acknowledgment_number()), (sequence, acknowledgment));
                prop_assert_eq!((read.fin(), read.syn(), read.rst(), read.ack()),
                    (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0, flags & 16 != 0));
                prop_assert_eq!(read.checksum(), read.calc_checksum_ipv4(source, destination).unwrap());
            }
        }

        #[test]
        fn arbitrary_bytes_are_a_segment_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(view) = Tcp::parse(&bytes) {
                prop_assert_eq!(view.data_offset() + view.payload().len(), bytes.len());
                let _ = view.sequence_len();
                let _ = view.checksum_ok(Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST);
            }
        }
    }
}
