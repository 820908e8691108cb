//! The maximum segment size that TCP's SYN offers (RFC 9293 section 3.7.1), cut to what a path takes.
//!
//! A connection that begins on a small path need not learn its MTU by ICMP first, which many firewalls drop (RFC 2923).

use super::checksum;
use super::ipv4::{self, Ipv4};
use super::tcp::{Flags, Tcp};

/// Bytes of both headers, without options (RFC 6691: options are the sender's to subtract).
const HEADERS: u16 = 40;

/// The options of RFC 9293 section 3.1 that matter here.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;

/// Where the checksum stands in a TCP header.
const CHECKSUM: usize = 16;

/// Lowers the MSS option of a SYN so that full segments fit packets of `mtu` bytes; whether there was anything to lower. Anything
/// but a whole SYN with the option stays as it is.
pub fn clamp(packet: &mut [u8], mtu: u16) -> bool {
    let Some((place, offered)) = find(packet) else { return false };
    let most = mtu.saturating_sub(HEADERS);
    if offered <= most {
        return false;
    }
    let tcp = packet.first().map_or(0, |first| usize::from(first & 15) * 4);
    // The sum is over 16-bit words of the segment: an option at an odd place stands in two of them, each byte on the other side.
    let word = |value: u16| if (place - tcp).is_multiple_of(2) { value } else { value.swap_bytes() };
    let Some(sum) = packet.get(tcp + CHECKSUM..).and_then(|rest| rest.first_chunk()) else { return false };
    let sum = checksum::update(u16::from_be_bytes(*sum), word(offered), word(most));
    for (at, value) in [(place, most), (tcp + CHECKSUM, sum)] {
        if let Some(bytes) = packet.get_mut(at..at + 2) {
            bytes.copy_from_slice(&value.to_be_bytes());
        }
    }
    true
}

/// Where in the packet a SYN's MSS stands, and what it says.
fn find(packet: &[u8]) -> Option<(usize, u16)> {
    // For all but the first two packets of a connection that is all there is to do.
    if packet.get(9) != Some(&ipv4::TCP) {
        return None;
    }
    let ip = Ipv4::parse(packet).ok().filter(|ip| !ip.is_fragment())?;
    let segment = ip.payload();
    let tcp = Tcp::parse(segment).ok().filter(|tcp| tcp.flags().contains(Flags::SYN))?;
    let header = ip.header().len();
    let (mut at, end) = (super::tcp::HEADER, tcp.data_offset());
    while at < end {
        let options = segment.get(at..end)?;
        match *options {
            [END, ..] => return None,
            [NO_OPERATION, ..] => at += 1,
            [MSS, 4, high, low, ..] => return Some((header + at + 2, u16::from_be_bytes([high, low]))),
            [_, len, ..] if len >= 2 => at += usize::from(len),
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IpFragOffset, IpNumber, Ipv4Header, TcpHeader, TcpOptionElement, TcpSlice};
    use proptest::prelude::*;

    /// A SYN as etherparse writes it; `shift` no-operations stand before its MSS.
    fn syn(mss: u16, shift: usize, syn: bool, data: &[u8]) -> Vec<u8> {
        let mut tcp = TcpHeader::new(1, 2, 3, 4);
        tcp.syn = syn;
        let mut options = vec![TcpOptionElement::Noop; shift];
        options.push(TcpOptionElement::MaximumSegmentSize(mss));
        options.push(TcpOptionElement::WindowScale(7));
        tcp.set_options(&options).unwrap();
        let len = (tcp.header_len() + data.len()) as u16;
        let ip = Ipv4Header::new(len, 64, IpNumber::TCP, [172, 16, 8, 57], [172, 16, 8, 65]).unwrap();
        tcp.checksum = tcp.calc_checksum_ipv4(&ip, data).unwrap();
        [ip.to_bytes().to_vec(), tcp.to_bytes().to_vec(), data.to_vec()].concat()
    }

    fn mss_of(packet: &[u8]) -> Option<u16> {
        TcpSlice::from_slice(&packet[20..]).unwrap().options_iterator().flatten().find_map(|option| {
            match option {
                TcpOptionElement::MaximumSegmentSize(mss) => Some(mss),
                _ => None,
            }
        })
    }

    proptest! {
        #[test]
        fn a_syn_offers_at_most_what_fits_and_its_checksum_stays_right(
            mss in any::<u16>(), shift in 0_usize..5, mtu in 576_u16.., data in proptest::collection::vec(any::<u8>(), 0..9),
        ) {
            let mut packet = syn(mss, shift, true, &data);
            let before = packet.clone();
            let lowered = clamp(&mut packet, mtu);
            prop_assert_eq!(lowered, mss > mtu - 40);
            prop_assert_eq!(mss_of(&packet), Some(mss.min(mtu - 40)));
            let tcp = TcpSlice::from_slice(&packet[20..]).unwrap();
            let again = tcp.calc_checksum_ipv4([172, 16, 8, 57], [172, 16, 8, 65]).unwrap();
            prop_assert_eq!(tcp.checksum(), again);
            if !lowered {
                prop_assert_eq!(packet, before);
            }
        }

        #[test]
        fn arbitrary_bytes_keep_their_length_and_lose_four_bytes_at_most(
            bytes in proptest::collection::vec(any::<u8>(), 0..100), mtu in any::<u16>(), front in any::<bool>(),
        ) {
            let mut packet = bytes;
            // As it came, or as what might well be a SYN.
            if front && packet.len() > 40 {
                let len = packet.len() as u8;
                packet[..10].copy_from_slice(&[0x45, 0, 0, len, 0, 0, 0x40, 0, 64, 6]);
                packet[32] |= 0x80;
                packet[33] |= 2;
            }
            let before = packet.clone();
            let lowered = clamp(&mut packet, mtu);
            let changed = packet.iter().zip(&before).filter(|(a, b)| a != b).count();
            let most = 4 * usize::from(lowered);
            prop_assert!(changed <= most);
        }
    }

    #[test]
    fn what_is_no_whole_syn_stays_as_it_is() {
        let data = [7; 10];
        let mut ordinary = syn(1460, 0, false, &data);
        assert!(!clamp(&mut ordinary, 1200));
        for (more, offset) in [(true, 0), (false, 1)] {
            let mut packet = syn(1460, 0, true, &data);
            let mut ip = Ipv4Header::from_slice(&packet).unwrap().0;
            (ip.more_fragments, ip.fragment_offset) = (more, IpFragOffset::try_new(offset).unwrap());
            ip.header_checksum = ip.calc_header_checksum();
            packet[..20].copy_from_slice(&ip.to_bytes());
            assert!(!clamp(&mut packet, 1200), "a fragment");
        }
    }
}
