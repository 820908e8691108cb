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
