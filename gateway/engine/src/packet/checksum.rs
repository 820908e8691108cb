//! The Internet checksum: RFC 1071 (sum), RFC 1624 (update without a new sum).

use std::net::Ipv4Addr;

/// A sum under way. RFC 1071 section 2: 16-bit words in one's complement arithmetic, whose order does not matter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checksum {
    /// 32-bit words in the machine's byte order (RFC 1071 section 2, parts B and C: byte order independence, and
    /// deferred carries). 2^32 of them fit before it overflows.
    sum: u64,
}

impl Checksum {
    /// The sum of nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { sum: 0 }
    }

    /// Adds `bytes`. A piece of odd length is padded with a zero byte, so it may only be the last one.
    #[must_use]
    pub fn with(mut self, bytes: &[u8]) -> Self {
        // As wide as the machine adds, with the carries kept: an add and an add-with-carry for eight bytes, in two chains. 1.4 to
        // 1.6 times as fast as what the compiler makes of 32-bit words (benches/README.md).
        let (blocks, rest) = bytes.as_chunks::<64>();
        let mut chains = [0_u128; 2];
        for block in blocks {
            let (pairs, _) = block.as_chunks::<16>();
            for pair in pairs {
                let (words, _) = pair.as_chunks::<8>();
                for (chain, word) in chains.iter_mut().zip(words) {
                    *chain = chain.wrapping_add(u128::from(u64::from_ne_bytes(*word)));
                }
            }
        }
        for chain in chains {
            for word in chain.to_ne_bytes().as_chunks::<4>().0 {
                self.sum = self.sum.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
            }
        }
        let (words, rest) = rest.as_chunks::<4>();
        for word in words {
            self.sum = self.sum.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.sum = self.sum.wrapping_add(u64::from(u32::from_ne_bytes(last)));
        self
    }

    /// Copies `from` to the start of `to`, as far as both reach, and adds it, in one pass. As [`Checksum::with`] in every other
    /// respect. It pays where the caller is compiled for wider vectors than every processor has; hence always inlined.
    #[inline(always)]
    #[must_use]
    pub fn with_copy(mut self, from: &[u8], to: &mut [u8]) -> Self {
        let len = from.len().min(to.len());
        let (blocks, rest) = from.get(..len).unwrap_or_default().as_chunks::<128>();
        let (blocks_to, rest_to) = to.get_mut(..len).unwrap_or_default().as_chunks_mut::<128>();
        // Each lane takes less than 2^32 a block: far from full after the longest packet.
        let mut lanes = [0_u64; 32];
        for (block, block_to) in blocks.iter().zip(blocks_to) {
            *block_to = *block;
            for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
                *lane = lane.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
            }
        }
        for lane in lanes {
            // In two halves: the sum counts on words of 32 bits.
            self.sum = self.sum.wrapping_add(lane >> 32).wrapping_add(lane & 0xffff_ffff);
        }
        rest_to.copy_from_slice(rest);
        self.with(rest)
    }

    /// Adds the pseudo header of TCP and UDP: addresses, protocol and length in bytes (RFC 9293 section 3.1, RFC 768).
    #[must_use]
    pub fn with_pseudo_header(
        self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: u8,
        length: u16,
    ) -> Self {
        let [high, low] = length.to_be_bytes();
        self.with(&source.octets()).with(&destination.octets()).with(&[0, protocol, high, low])
    }

    /// The one's complement of the sum: what belongs into the checksum field when the field was zero in the sum, and
    /// zero when a right field was summed with the rest.
    #[must_use]
    pub fn finish(self) -> u16 {
        !u16::from_be(fold(self.sum))
    }
}

/// The checksum of `bytes` (RFC 1071). Zero when they hold their own, right checksum.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    Checksum::new().with(bytes).finish()
}

/// The checksum after one 16-bit word of what it covers went from `old` to `new` (RFC 1624 section 3, equation 3).
///
/// It keeps a right checksum right and a wrong one wrong, with one exception: where everything else that is covered
/// is zero, the result may be 0x0000 where 0xffff belongs. An IPv4 header is never all zero.
#[must_use]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

/// Adds the carries back in until 16 bits remain (end-around carry).
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // At most 0xffff after the loop.
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 section 4.1, word by word, with the carry added at once.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_section_4() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn a_full_packet_of_ones_does_not_overflow() {
        assert_eq!(checksum(&[0xff; 65_535]), naive(&[0xff; 65_535]));
    }

    proptest! {
        #[test]
        fn a_copy_is_the_bytes_and_their_sum(bytes in proptest::collection::vec(any::<u8>(), 0..2000), before in any::<[u8; 6]>()) {
            let mut copy = vec![0; bytes.len()];
            let sum = Checksum::new().with(&before).with_copy(&bytes, &mut copy).finish();
            prop_assert_eq!(sum, Checksum::new().with(&before).with(&bytes).finish());
            prop_assert_eq!(copy, bytes);
        }

        #[test]
        fn it_is_the_naive_sum(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(checksum(&bytes), naive(&bytes));
        }

        #[test]
        fn it_may_be_summed_in_pieces_of_even_length(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0_usize..100) {
            let (a, b) = bytes.split_at((cut * 2).min(bytes.len() & !1));
            prop_assert_eq!(Checksum::new().with(a).with(b).finish(), naive(&bytes));
        }

        #[test]
        fn an_update_is_the_sum_made_anew(
            mut bytes in proptest::collection::vec(any::<[u8; 2]>(), 2..60), at in any::<prop::sample::Index>(), new in any::<[u8; 2]>(),
        ) {
            bytes[0] = [0x45, 0]; // never all zero, as an IPv4 header
            let at = 1 + at.index(bytes.len() - 1);
            let before = naive(bytes.as_flattened());
            let old = std::mem::replace(&mut bytes[at], new);
            let updated = update(before, u16::from_be_bytes(old), u16::from_be_bytes(new));
            prop_assert_eq!(updated, naive(bytes.as_flattened()));
        }

        #[test]
        fn it_agrees_with_etherparse_on_a_pseudo_header(
            source in any::<[u8; 4]>(), destination in any::<[u8; 4]>(), payload in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let udp = etherparse::UdpHeader::with_ipv4_checksum(
                1, 2, &etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::UDP, source, destination).unwrap(), &payload,
            ).unwrap();
            let mut segment = udp.to_bytes().to_vec();
            segment.extend(&payload);
            let ours = Checksum::new()
                .with_pseudo_header(source.into(), destination.into(), 17, segment.len() as u16)
                .with(&segment)
                .finish();
            prop_assert_eq!(ours, 0);
        }
    }
}
