//! Fragmentation of a packet that is too big for the tunnel (RFC 791 section 3.2; RFC 1812 section 4.2.2.7).

use crate::packet::{
    MAX_PACKET,
    ipv4::{self, Ipv4, MAX_HEADER, set_header_checksum},
};

/// Why a packet was not fragmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FragmentError {
    /// The sender forbids it: answer with [`super::icmp::IcmpError::FragmentationNeeded`].
    #[error("a packet of {len} bytes does not fit into {mtu} and may not be fragmented")]
    DontFragment {
        /// Length of the packet in bytes.
        len: usize,
        /// The largest packet that fits, in bytes.
        mtu: u16,
    },
    /// Not even a header and 8 bytes fit (RFC 791 section 3.2 asks for 68 bytes).
    #[error("an MTU of {mtu} bytes has no room for a fragment")]
    MtuTooSmall {
        /// The largest packet that fits, in bytes.
        mtu: u16,
    },
    /// A fragment that cannot be a part of any datagram: it ends beyond 65,535 bytes, or has others behind it and no multiple of 8
    /// bytes. Nobody could put it together again.
    #[error("a fragment at {offset} with {len} bytes belongs to no datagram")]
    Impossible {
        /// Where it says it belongs, in bytes.
        offset: u16,
        /// Length of its payload in bytes.
        len: usize,
    },
    /// The receiver of the fragments took no more: what it already took is of no use to anybody.
    #[error("no room for more fragments after {emitted}")]
    Refused {
        /// How many it took.
        emitted: usize,
    },
}

/// Cuts `packet` into pieces of at most `mtu` bytes. Each goes to `emit` in order as a header of 20 to 60 bytes and a slice of the
/// packet's payload; `emit` says whether it took it. A packet that fits goes through whole, as it is. How many there were.
///
/// The pieces carry multiples of 8 bytes, all but the last. A packet that is itself a fragment keeps its place: offsets count
/// on from its own, and "more fragments" stays on the last piece. Options whose copied bit is set stand in every piece, the others
/// only in the first (RFC 791 section 3.1).
///
/// # Errors
/// See [`FragmentError`]; only [`FragmentError::Refused`] comes after something was emitted.
pub fn fragment(
    packet: &Ipv4<'_>,
    mtu: u16,
    mut emit: impl FnMut(&[u8], &[u8]) -> bool,
) -> Result<usize, FragmentError> {
    let (header, payload) = (packet.header(), packet.payload());
    let (len, room) = (packet.bytes().len(), usize::from(mtu));
    if len <= room {
        return if emit(header, payload) { Ok(1) } else { Err(FragmentError::Refused { emitted: 0 }) };
    }
    if packet.dont_fragment() {
        return Err(FragmentError::DontFragment { len, mtu });
    }
    let offset = packet.fragment_offset();
    let end = usize::from(offset) + payload.len();
    if end > MAX_PACKET || (packet.more_fragments() && !payload.len().is_multiple_of(8)) {
        return Err(FragmentError::Impossible { offset, len: payload.len() });
    }

    let first = Template::whole(header);
    let later = Template::copied_options(packet);
    if first.piece(room) == 0 {
        return Err(FragmentError::MtuTooSmall { mtu });
    }
    let (mut template, mut rest, mut at, mut emitted) = (first, payload, offset, 0);
    loop {
        let room = if rest.len() + template.len <= room { rest.len() } else { template.piece(room) };
        let (piece, behind) = rest.split_at_checked(room).unwrap_or((rest, &[]));
        let more = !behind.is_empty() || packet.more_fragments();
        if !emit(template.write(piece.len(), at, more), piece) {
            return Err(FragmentError::Refused { emitted });
        }
        emitted += 1;
        if behind.is_empty() {
            return Ok(emitted);
        }
        // At most `end`, which has been checked, so neither line can lose anything.
        at = at.saturating_add(piece.len() as u16);
        (template, rest) = (later, behind);
    }
}

/// The header of a piece, complete but for length, place and checksum.
#[derive(Clone, Copy)]
struct Template {
    bytes: [u8; MAX_HEADER],
    /// How many of them count: a multiple of 4.
    len: usize,
}

impl Template {
    /// The packet's own header.
    fn whole(header: &[u8]) -> Self {
        let mut bytes = [0; MAX_HEADER];
        for (to, from) in bytes.iter_mut().zip(header) {
            *to = *from;
        }
        Self { bytes, len: header.len().min(MAX_HEADER) }
    }

    /// The packet's header with only those options that each fragment carries (RFC 791 section 3.1, "copied flag").
    fn copied_options(packet: &Ipv4<'_>) -> Self {
        let mut this = Self::whole(packet.header());
        let room = this.bytes.get_mut(ipv4::HEADER..).unwrap_or_default();
        room.fill(0);
        let (mut options, mut used) = (packet.options(), 0);
        // Type 0 ends the list, type 1 is padding without a length, all others say their length in the second byte.
        while let Some(&kind) = options.first().filter(|kind| **kind != 0) {
            let len = if kind == 1 { 1 } else { options.get(1).map_or(0, |len| usize::from(*len)) };
            // A list that contradicts itself ends where it does so.
            let Some((option, behind)) = options.split_at_checked(len).filter(|_| kind == 1 || len >= 2)
            else {
                break;
            };
            if kind & 0x80 != 0
                && let Some(to) = room.get_mut(used..used + len)
            {
                to.copy_from_slice(option);
                used += len;
            }
            options = behind;
        }
        this.len = ipv4::HEADER + used.next_multiple_of(4);
        // A header has at most 15 words.
        this.bytes[0] = 0x40 | (this.len / 4) as u8;
        this
    }

    /// How many bytes a piece with this header carries when others follow it: a multiple of 8.
    fn piece(&self, mtu: usize) -> usize {
        mtu.saturating_sub(self.len) & !7
    }

    /// The header of a piece of `len` bytes at place `at`.
    fn write(&mut self, len: usize, at: u16, more: bool) -> &[u8] {
        // No longer than the MTU.
        let total = (self.len + len) as u16;
        let word = (at >> 3) | if more { 0x2000 } else { 0 };
        [self.bytes[2], self.bytes[3]] = total.to_be_bytes();
        [self.bytes[6], self.bytes[7]] = word.to_be_bytes();
        let header = self.bytes.get_mut(..self.len).unwrap_or_default();
        set_header_checksum(header);
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::sample::{self, GATEWAY, NODE, reassemble};
    use etherparse::IpFragOffset;
    use proptest::prelude::*;

    fn cut(packet: &[u8], mtu: u16) -> Result<Vec<Vec<u8>>, FragmentError> {
        let mut pieces = Vec::new();
        let count = fragment(&Ipv4::parse(packet).unwrap(), mtu, |header, payload| {
            pieces.push([header, payload].concat());
            true
        })?;
        assert_eq!(count, pieces.len());
        Ok(pieces)
    }

    /// The options that each fragment carries, without padding, read in a way of our own.
    fn copied(options: &[u8]) -> Vec<u8> {
        let (mut at, mut kept) = (0, Vec::new());
        while at < options.len() && options[at] != 0 {
            let len = if options[at] == 1 { 1 } else { usize::from(*options.get(at + 1).unwrap_or(&0)) };
            if len == 0 || (options[at] != 1 && len < 2) || at + len > options.len() {
                break;
            }
            if options[at] >= 0x80 {
                kept.extend(&options[at..at + len]);
            }
            at += len;
        }
        kept
    }

    #[test]
    fn a_packet_that_fits_goes_through_as_it_is() {
        let packet = sample::packet(NODE, GATEWAY, 17, &[7; 80], |h| h.dont_fragment = true);
        assert_eq!(cut(&packet, 100), Ok(vec![packet.clone()]));
        assert_eq!(cut(&packet, 99), Err(FragmentError::DontFragment { len: 100, mtu: 99 }));
    }

    #[test]
    fn an_mtu_without_room_is_an_error_and_the_least_one_works() {
        let packet = sample::packet(NODE, GATEWAY, 17, &[7; 80], |_| ());
        assert_eq!(cut(&packet, 27), Err(FragmentError::MtuTooSmall { mtu: 27 }));
        assert_eq!(cut(&packet, 28).map(|p| p.len()), Ok(10));
        assert_eq!(cut(&packet, 0), Err(FragmentError::MtuTooSmall { mtu: 0 }));
    }

    #[test]
    fn a_fragment_that_belongs_to_no_datagram_is_an_error() {
        let at = |units, more, len| {
            sample::packet(NODE, GATEWAY, 17, &vec![7; len], |h| {
                h.fragment_offset = IpFragOffset::try_new(units).unwrap();
                h.more_fragments = more;
            })
        };
        assert_eq!(cut(&at(8191, false, 80), 68), Err(FragmentError::Impossible { offset: 65_528, len: 80 }));
        assert_eq!(cut(&at(0, true, 81), 68), Err(FragmentError::Impossible { offset: 0, len: 81 }));
        assert_eq!(cut(&at(0, false, 81), 68).map(|p| p.len()), Ok(2));
    }

    #[test]
    fn a_receiver_that_takes_no_more_ends_it() {
        let packet = sample::packet(NODE, GATEWAY, 17, &[7; 80], |_| ());
        let mut room = 3;
        let result = fragment(&Ipv4::parse(&packet).unwrap(), 28, |_, _| {
            room -= 1;
            room >= 0
        });
        assert_eq!(result, Err(FragmentError::Refused { emitted: 3 }));
    }

    #[test]
    fn options_are_copied_as_their_flag_says() {
        // Record route (7, not copied), padding, router alert (148, copied), end.
        let options = [7, 7, 4, 0, 0, 0, 0, 1, 148, 4, 0, 0, 0, 0, 0, 0];
        let packet = sample::packet(NODE, GATEWAY, 17, &[7; 80], |h| h.options = sample::options(&options));
        let pieces = cut(&packet, 68).unwrap();
        assert_eq!(sample::header(&pieces[0]).options[..], options);
        for later in &pieces[1..] {
            assert_eq!(sample::header(later).options[..], [148, 4, 0, 0]);
        }
    }

    proptest! {
        #[test]
        fn the_pieces_make_the_packet_again(
            len in 0_usize..5000, big in any::<bool>(), mtu in 68_u16..3000, id in any::<u16>(), tos in 0_u8..64, units in 0_u16..4000,
            part in any::<bool>(), more in any::<bool>(), options in proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), 2_u8..9, Just(148), any::<u8>()], 0..=40),
        ) {
            let options = &options[..options.len() & !3];
            let mut len = if big { 60_000 + len } else { len };
            let (units, more) = if part { (units, more) } else { (0, false) };
            if more {
                len &= !7;
            }
            let start = usize::from(units) * 8;
            len = len.min(65_535 - 60 - start);
            if more {
                len &= !7;
            }
            let data: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
            let packet = sample::packet(NODE, GATEWAY, 99, &data, |h| {
                h.options = sample::options(options);
                h.identification = id;
                h.dscp = etherparse::IpDscp::try_new(tos).unwrap();
                h.fragment_offset = IpFragOffset::try_new(units).unwrap();
                h.more_fragments = more;
            });
            let whole = sample::header(&packet);
            let pieces = cut(&packet, mtu).unwrap();
            prop_assert_eq!(pieces.len() > 1, packet.len() > mtu.into());
            for (i, piece) in pieces.iter().enumerate() {
                prop_assert!(piece.len() <= mtu.into());
                let header = sample::header(piece);
                prop_assert_eq!((header.source, header.destination, header.protocol.0), (NODE, GATEWAY, 99));
                prop_assert_eq!((header.identification, header.time_to_live, header.dscp), (id, whole.time_to_live, whole.dscp));
                if i == 0 {
                    prop_assert_eq!(&header.options[..], options);
                } else {
                    let mut kept = copied(options);
                    kept.resize(kept.len().next_multiple_of(4), 0);
                    prop_assert_eq!(&header.options[..], &kept[..]);
                }
            }
            prop_assert_eq!(reassemble(&pieces, start), (data, more));
        }
    }
}
