//! Echo requests that come in fragments, answered without reassembly.
//!
//! A ping may carry up to 65,507 bytes, and every byte of it comes back unchanged. So each fragment of the request is turned,
//! as it arrives, into the fragment of the reply that belongs at the same place: the addresses change sides, and in the first
//! one the type goes from 8 to 0 and the checksum with it (RFC 1624). What is remembered is which pieces have been reflected,
//! not what was in them:
//!
//! - No memory to exhaust: 32 datagrams, one bit for each 8 bytes of them, in a table that is as large when it is empty.
//!   Whoever fills it makes large pings of others fail for two seconds, and nothing else.
//! - No amplification: one fragment out for one fragment in, never larger; the same piece of a datagram goes back once.
//! - No loop: only what begins with an echo *request* is reflected, and what comes out begins with an echo *reply*. Two
//!   gateways that were made to talk to each other stop after one fragment.
//! - No oracle: the checksum covers the whole message, which is never here in one piece, so it is not verified but kept
//!   exactly as right or wrong as it was. The one who asked verifies it.
//!
//! The price: fragments that overtake the first one are lost, and the ping with them. The sender's next one is as good.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use super::icmp::{echo_header, echo_request, may_be_answered};
use crate::packet::{
    MAX_PACKET,
    checksum::update,
    icmp::{ECHO_REPLY, ECHO_REQUEST},
    ipv4::{self, Ipv4},
};

/// How many datagrams are followed at once.
const ENTRIES: usize = 32;

/// How long the rest of a datagram may take to arrive after its first fragment.
const LIFE: Duration = Duration::from_secs(2);

/// Unit of a fragment's place in bytes (RFC 791 section 3.1).
const UNIT: usize = 8;

/// The most bytes that the payload of a datagram may have, so that the reply, which has no options, is a legal one.
const MAX_PAYLOAD: usize = MAX_PACKET - ipv4::HEADER;

/// 64-bit words with a bit for each unit of a datagram.
const WORDS: usize = MAX_PACKET.div_ceil(UNIT).div_ceil(64);

/// Budget: 32 datagrams of 1 KiB of bits and some 40 bytes about them.
const _: () = assert!(size_of::<Option<Datagram>>() * ENTRIES <= 36 * 1024);

/// Which echo requests in fragments are being answered.
#[derive(Debug)]
pub struct EchoFragments {
    /// Allocated once, so that moving this moves a pointer.
    datagrams: Box<[Option<Datagram>]>,
}

/// What ties the fragments of one ICMP message together (RFC 791 section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    identification: u16,
}

#[derive(Clone, Debug)]
struct Datagram {
    key: Key,
    started: Instant,
    /// One bit for each unit that has been reflected.
    seen: [u64; WORDS],
    /// How many bits of `seen` are set.
    units: usize,
    /// How many units the datagram has, known from its last fragment.
    total: Option<usize>,
}

impl Default for EchoFragments {
    fn default() -> Self {
        Self::new()
    }
}

impl EchoFragments {
    /// Nothing under way.
    #[must_use]
    pub fn new() -> Self {
        Self { datagrams: std::iter::repeat_with(|| None).take(ENTRIES).collect() }
    }

    /// Writes the fragment of the reply that belongs to this fragment of an echo request into `out`. The length in bytes.
    ///
    /// `None` for what is no fragment of an echo request; for a later fragment whose first one did not come before it within two
    /// seconds; for a piece that was already reflected, in whole or in part; for one that ends beyond 65,515 bytes, or
    /// behind the datagram's last fragment; for one that has others behind it and no multiple of 8 bytes (RFC 791 section 3.2).
    pub fn reflect(&mut self, now: Instant, fragment: &Ipv4<'_>, out: &mut [u8]) -> Option<usize> {
        if fragment.protocol() != ipv4::ICMP || !fragment.is_fragment() || !may_be_answered(fragment) {
            return None;
        }
        let payload = fragment.payload();
        let offset = usize::from(fragment.fragment_offset());
        let last = !fragment.more_fragments();
        if payload.is_empty()
            || offset + payload.len() > MAX_PAYLOAD
            || (!last && !payload.len().is_multiple_of(UNIT))
        {
            return None;
        }
        let key = Key {
            source: fragment.source(),
            destination: fragment.destination(),
            identification: fragment.identification(),
        };
        let checksum = if offset == 0 {
            let request = echo_request(fragment)?;
            let word = |kind| u16::from_be_bytes([kind, 0]);
            // 0xffff and 0 are both right where either is, except in a message of nothing but zeros: there only 0xffff is.
            Some(match update(request.checksum(), word(ECHO_REQUEST), word(ECHO_REPLY)) {
                0 => 0xffff,
                other => other,
            })
        } else {
            None
        };

        // Written before it is remembered: a buffer that is too small leaves no trace.
        let header = echo_header(fragment);
        let reply = header.write(out)?;
        reply.copy_from_slice(payload);
        if let (Some(checksum), Some(start)) = (checksum, reply.first_chunk_mut::<4>()) {
            let [high, low] = checksum.to_be_bytes();
            *start = [ECHO_REPLY, 0, high, low];
        }

        let units = offset / UNIT..(offset + payload.len()).div_ceil(UNIT);
        let place = self.place(now, key, offset == 0)?;
        let datagram = place.as_mut()?;
        if !datagram.take(units, last) {
            return None;
        }
        if datagram.total == Some(datagram.units) {
            *place = None;
        }
        Some(header.total_len())
    }

    /// Where the datagram of this key is followed. A new one takes a free place, one that is too old, or the oldest.
    fn place(&mut self, now: Instant, key: Key, first: bool) -> Option<&mut Option<Datagram>> {
        let live = |d: &Datagram| now.saturating_duration_since(d.started) < LIFE;
        let known = self.datagrams.iter().position(|d| d.as_ref().is_some_and(|d| d.key == key && live(d)));
        if let Some(known) = known {
            return self.datagrams.get_mut(known);
        }
        if !first {
            return None;
        }
        // `None` is before every time, and whatever is too old is older than whatever is not.
        let place = self.datagrams.iter_mut().min_by_key(|d| d.as_ref().map(|d| d.started))?;
        *place = Some(Datagram { key, started: now, seen: [0; WORDS], units: 0, total: None });
        Some(place)
    }
}

impl Datagram {
    /// Marks `units` as reflected; `false`, and nothing marked, when one of them was, or cannot be part of this datagram.
    fn take(&mut self, units: std::ops::Range<usize>, last: bool) -> bool {
        let known_end = self.total.unwrap_or(usize::MAX);
        if units.end > known_end || (last && (self.total.is_some() || self.any_from(units.end))) {
            return false;
        }
        let taken =
            |seen: &[u64; WORDS], unit: usize| seen.get(unit / 64).is_none_or(|w| w >> (unit % 64) & 1 == 1);
        if units.clone().any(|unit| taken(&self.seen, unit)) {
            return false;
        }
        for unit in units.clone() {
            if let Some(word) = self.seen.get_mut(unit / 64) {
                *word |= 1 << (unit % 64);
            }
        }
        self.units += units.len();
        if last {
            self.total = Some(units.end);
        }
        true
    }

    /// Whether a unit at or behind `start` has been reflected.
    fn any_from(&self, start: usize) -> bool {
        let mut words = self.seen.iter().skip(start / 64);
        words.next().is_some_and(|w| w >> (start % 64) != 0) || words.any(|w| *w != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::{
        fragment::fragment,
        sample::{self, GATEWAY, NODE, naive_checksum, reassemble},
    };
    use proptest::prelude::*;

    fn cut(packet: &[u8], mtu: u16) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        fragment(&Ipv4::parse(packet).unwrap(), mtu, |header, payload| {
            pieces.push([header, payload].concat());
            true
        })
        .unwrap();
        pieces
    }

    fn reflect(table: &mut EchoFragments, now: Instant, piece: &[u8]) -> Option<Vec<u8>> {
        let mut out = vec![0; 65_535];
        let len = table.reflect(now, &Ipv4::parse(piece).unwrap(), &mut out)?;
        assert_eq!(
            sample::header(&out[..len]).header_len() + Ipv4::parse(piece).unwrap().payload().len(),
            len
        );
        Some(out[..len].to_vec())
    }

    /// A ping with this IP identification in pieces of 100 bytes.
    fn ping(id: u16, len: usize) -> Vec<Vec<u8>> {
        let request = sample::echo(NODE, GATEWAY, false, 1, 2, &vec![0x5a; len]);
        cut(&sample::packet(NODE, GATEWAY, 1, &request[20..], |h| h.identification = id), 100)
    }

    fn piece(units: u16, more: bool, payload: &[u8]) -> Vec<u8> {
        sample::packet(NODE, GATEWAY, 1, payload, |h| {
            h.identification = 9;
            h.more_fragments = more;
            h.fragment_offset = etherparse::IpFragOffset::try_new(units).unwrap();
        })
    }

    const REQUEST: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn the_largest_ping_comes_back() {
        let (mut table, now) = (EchoFragments::new(), Instant::now());
        let data: Vec<u8> = (0..65_507_usize).map(|i| (i * 31 + i / 256) as u8).collect();
        let request = sample::echo(NODE, GATEWAY, false, 1, 2, &data);
        let reply: Vec<_> =
            cut(&request, 1420).iter().map(|p| reflect(&mut table, now, p).unwrap()).collect();
        assert_eq!(
            reassemble(&reply, 0),
            (sample::echo(GATEWAY, NODE, true, 1, 2, &data)[20..].to_vec(), false)
        );
        assert!(table.datagrams.iter().all(Option::is_none), "nothing is remembered of a finished datagram");
    }

    #[test]
    fn a_later_fragment_comes_back_only_within_two_seconds_of_its_first() {
        let (mut table, start) = (EchoFragments::new(), Instant::now());
        let pieces = ping(9, 400);
        assert_eq!(reflect(&mut table, start, &pieces[1]), None, "before the first");
        assert!(reflect(&mut table, start, &pieces[0]).is_some());
        assert!(reflect(&mut table, start + Duration::from_millis(1999), &pieces[1]).is_some());
        assert_eq!(reflect(&mut table, start + Duration::from_secs(2), &pieces[2]), None);
        assert!(reflect(&mut table, start + Duration::from_secs(2), &pieces[0]).is_some(), "a new datagram");
    }

    #[test]
    fn a_piece_comes_back_once() {
        let (mut table, now) = (EchoFragments::new(), Instant::now());
        assert!(reflect(&mut table, now, &piece(0, true, &REQUEST)).is_some());
        assert_eq!(reflect(&mut table, now, &piece(0, true, &REQUEST)), None, "the first again");
        assert!(reflect(&mut table, now, &piece(2, true, &[1; 16])).is_some());
        assert_eq!(reflect(&mut table, now, &piece(2, true, &[1; 16])), None, "the same again");
        assert_eq!(reflect(&mut table, now, &piece(1, true, &[1; 16])), None, "overlaps in front");
        assert_eq!(reflect(&mut table, now, &piece(3, true, &[1; 16])), None, "overlaps behind");
        assert_eq!(reflect(&mut table, now, &piece(3, false, &[1; 9])), None, "an end that overlaps");
        assert_eq!(reflect(&mut table, now, &piece(1, false, &[1; 8])), None, "an end before what is there");
        assert!(reflect(&mut table, now, &piece(5, false, &[1; 9])).is_some());
        assert_eq!(reflect(&mut table, now, &piece(7, true, &[1; 8])), None, "behind the end");
        assert_eq!(reflect(&mut table, now, &piece(8, false, &[1; 8])), None, "a second end");
        assert!(reflect(&mut table, now, &piece(1, true, &[1; 8])).is_some());
        assert!(reflect(&mut table, now, &piece(4, true, &[1; 8])).is_some());
        assert!(table.datagrams.iter().all(Option::is_none));
    }

    #[test]
    fn what_can_be_no_part_of_a_ping_does_not_come_back() {
        let (mut table, now) = (EchoFragments::new(), Instant::now());
        assert_eq!(reflect(&mut table, now, &piece(0, false, &REQUEST)), None, "not a fragment");
        assert_eq!(reflect(&mut table, now, &piece(0, true, &[0; 8])), None, "a reply");
        assert_eq!(reflect(&mut table, now, &piece(0, true, &[8, 1, 0, 0, 0, 0, 0, 0])), None, "a code");
        let mut other = piece(0, true, &REQUEST);
        other[9] = 17;
        sample_checksum(&mut other);
        assert_eq!(reflect(&mut table, now, &other), None, "UDP");
        assert!(reflect(&mut table, now, &piece(0, true, &REQUEST)).is_some());
        assert_eq!(reflect(&mut table, now, &piece(1, true, &[1; 9])), None, "no multiple of 8");
        assert_eq!(reflect(&mut table, now, &piece(1, true, &[])), None, "empty");
        assert_eq!(reflect(&mut table, now, &piece(8189, false, &[1; 4])), None, "ends at 65,516");
        assert!(reflect(&mut table, now, &piece(8189, false, &[1; 3])).is_some(), "ends at 65,515");
    }

    fn sample_checksum(packet: &mut [u8]) {
        packet[10..12].fill(0);
        let check = naive_checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&check.to_be_bytes());
    }

    #[test]
    fn two_gateways_do_not_keep_each_other_busy() {
        let (mut one, mut other, now) = (EchoFragments::new(), EchoFragments::new(), Instant::now());
        // A request that pretends to come from the other gateway.
        let gateway = [172, 16, 8, 64];
        let request = sample::echo(gateway, GATEWAY, false, 1, 2, &[7; 300]);
        for piece in cut(&request, 100) {
            let reply = reflect(&mut one, now, &piece).unwrap();
            assert_eq!(reflect(&mut other, now, &reply), None);
        }
    }

    #[test]
    fn a_full_table_forgets_the_oldest() {
        let (mut table, start) = (EchoFragments::new(), Instant::now());
        let at = |id: u16| start + Duration::from_millis(id.into());
        for id in 0..=32 {
            assert!(reflect(&mut table, at(id), &ping(id, 400)[0]).is_some());
        }
        assert_eq!(reflect(&mut table, at(40), &ping(0, 400)[1]), None);
        for id in 1..=32 {
            assert!(reflect(&mut table, at(40), &ping(id, 400)[1]).is_some(), "{id}");
        }
    }

    #[test]
    fn a_buffer_that_is_too_small_leaves_no_trace() {
        let (mut table, now) = (EchoFragments::new(), Instant::now());
        let first = piece(0, true, &REQUEST);
        assert_eq!(table.reflect(now, &Ipv4::parse(&first).unwrap(), &mut [0; 27]), None);
        assert!(reflect(&mut table, now, &first).is_some());
    }

    #[test]
    fn a_ping_of_nothing_but_zeros_has_the_checksum_that_receivers_accept() {
        let (mut table, now) = (EchoFragments::new(), Instant::now());
        let request = sample::echo(NODE, GATEWAY, false, 0, 0, &[0; 300]);
        let reply: Vec<_> = cut(&request, 100).iter().map(|p| reflect(&mut table, now, p).unwrap()).collect();
        assert_eq!(naive_checksum(&reassemble(&reply, 0).0), 0);
    }

    proptest! {
        #[test]
        fn the_reply_is_put_together_from_the_reflections(
            len in 41_usize..9000, id in any::<u16>(), seq in any::<u16>(), ip_id in any::<u16>(), mtu in 68_u16..1500, wrong in any::<bool>(),
            order in any::<u64>(), words in 0_usize..=10,
        ) {
            let data: Vec<u8> = (0..len).map(|i| (i * 13 + i / 256) as u8).collect();
            let mut request = sample::echo(NODE, GATEWAY, false, id, seq, &data)[20..].to_vec();
            request[2] ^= u8::from(wrong);
            let request = sample::packet(NODE, GATEWAY, 1, &request, |h| {
                h.identification = ip_id;
                h.options = sample::options(&vec![0x94; words * 4]);
            });
            let mut pieces = cut(&request, mtu);
            prop_assume!(pieces.len() > 1);
            // The first one first, the others in any order.
            pieces[1..].sort_by_key(|p| Ipv4::parse(p).unwrap().fragment_offset() as u64 ^ (order % 8192));
            let (mut table, now) = (EchoFragments::new(), Instant::now());
            let mut reply = Vec::new();
            for piece in &pieces {
                let answer = reflect(&mut table, now, piece);
                prop_assert!(answer.is_some());
                let answer = answer.unwrap();
                prop_assert!(answer.len() <= piece.len());
                let header = sample::header(&answer);
                prop_assert_eq!((header.source, header.destination, header.identification), (GATEWAY, NODE, ip_id));
                reply.push(answer);
            }
            let (message, more) = reassemble(&reply, 0);
            prop_assert!(!more);
            prop_assert_eq!(naive_checksum(&message) == 0, !wrong);
            let read = etherparse::Icmpv4Slice::from_slice(&message).unwrap();
            prop_assert_eq!(read.icmp_type(), etherparse::Icmpv4Type::EchoReply(etherparse::IcmpEchoHeader { id, seq }));
            prop_assert_eq!(read.payload(), &data[..]);
            prop_assert!(table.datagrams.iter().all(Option::is_none));
        }
    }
}
