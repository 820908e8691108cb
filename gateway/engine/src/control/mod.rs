//! The messages that gateways exchange inside the tunnel: codec and limits.
//!
//! boringtun lets only IP packets through, so a message is an IPv6 packet (RFC 8200) between two reserved link-local
//! addresses, with the protocol number for experiments (RFC 3692). It is authentic because the tunnel is, and is never
//! forwarded: the sender is the peer whose session it came out of.
//!
//! ```text
//! IPv6 header | version 1 | type 1 | 0 2 | sequence 4 | epoch 8 | body
//! ```
//!
//! Numbers are big-endian. The epoch is drawn when the sender starts; the sequence counts its messages to this peer. What
//! stands behind the known part of a body is ignored, and so are unknown types: a later version may add both. A message of
//! a later version of the header is not read at all.

mod body;

pub use body::{
    Absence, Capabilities, Claim, HubId, HubReach, Listeners, MAX_ADDRESSES, MAX_CLAIMS, MAX_HUBS, MAX_LIVE,
    MAX_MEMBERSHIP, Message, Whereabouts,
};

use crate::packet::Malformed;
use std::net::Ipv6Addr;

/// The version of the header that is written and read here.
pub const VERSION: u8 = 1;

/// The reserved prefix: the first 112 bits of fe80::6f76:6c79:6777:0 ("ovlygw"). No host packet with an address in it
/// enters the tunnel.
const PREFIX: [u8; 14] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x6f, 0x76, 0x6c, 0x79, 0x67, 0x77];

/// The sender's and the receiver's last 16 bits.
const SENDER: u16 = 1;
const RECEIVER: u16 = 2;

/// Bytes of an IPv6 header (RFC 8200 section 3).
const IP_HEADER: usize = 40;

/// Bytes of our header.
const HEADER: usize = 16;

/// A protocol number for experiments (RFC 3692 section 2.1).
const PROTOCOL: u8 = 253;

/// The largest message with all its headers, in bytes: sealed and in IPv6 it passes a path of 1,280.
pub const MAX_MESSAGE: usize = 1_180;

const _: () = assert!(MAX_MESSAGE + crate::peer::tunnel::OVERHEAD + 40 + 8 <= 1_280);

/// What is said of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Drawn when the sender started.
    pub epoch: u64,
    /// Of the sender's messages to this peer since then.
    pub sequence: u32,
}

/// Why a packet from the tunnel is not a message that can be acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// No message at all.
    Malformed(Malformed),
    /// A message of a later version, or of a type that is not known here.
    Unknown,
}

impl From<Malformed> for Unreadable {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// Whether an address is one of those that only gateways use.
fn is_reserved(address: &[u8]) -> bool {
    address.starts_with(&PREFIX)
}

/// Whether a packet of the host claims to be a message: an IPv6 packet with one of the reserved addresses.
#[must_use]
pub fn claims_to_be_one(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == 6)
        && (packet.get(8..24).is_some_and(is_reserved) || packet.get(24..40).is_some_and(is_reserved))
}

/// Writes a message and returns its length; `None` when `out` has fewer than [`MAX_MESSAGE`] bytes or the body is beyond
/// its limits.
pub fn write(header: Header, message: &Message<'_>, out: &mut [u8]) -> Option<usize> {
    let out = out.get_mut(..MAX_MESSAGE)?;
    let (ip, rest) = out.split_at_mut(IP_HEADER);
    let (own, body) = rest.split_at_mut(HEADER);
    let (kind, len) = message.write(body)?;
    own.copy_from_slice(&[0; HEADER]);
    let [version, place, _, _, tail @ ..] = own else { return None };
    (*version, *place) = (VERSION, kind);
    let (sequence, epoch) = tail.split_at_mut(4);
    sequence.copy_from_slice(&header.sequence.to_be_bytes());
    epoch.copy_from_slice(&header.epoch.to_be_bytes());
    let payload = u16::try_from(HEADER + len).ok()?;
    let mut address = [0; 16];
    let [front @ .., _, _] = &mut address;
    front.copy_from_slice(&PREFIX);
    let with = |tail: u16| (u128::from_be_bytes(address) | u128::from(tail)).to_be_bytes();
    ip.get_mut(..8)?.copy_from_slice(&[0x60, 0, 0, 0, (payload >> 8) as u8, payload as u8, PROTOCOL, 1]);
    ip.get_mut(8..24)?.copy_from_slice(&with(SENDER));
    ip.get_mut(24..40)?.copy_from_slice(&with(RECEIVER));
    Some(IP_HEADER + HEADER + len)
}

/// As [`write`], with as many zeros behind the message as make a packet of `size` bytes: it shows whether one of that size passes.
/// `None` when `out` has fewer than `size` bytes, or than [`MAX_MESSAGE`].
pub fn write_padded(header: Header, message: &Message<'_>, size: usize, out: &mut [u8]) -> Option<usize> {
    let len = write(header, message, out)?;
    out.get_mut(len..size.max(len))?.fill(0);
    set_payload(out, size.max(len))?;
    Some(size.max(len))
}

/// A probe without what stands behind it to make it long; any other packet as it is.
pub fn without_padding(packet: &mut [u8]) -> &[u8] {
    const PROBE: usize = IP_HEADER + HEADER + body::PROBE_BYTES;
    let padded = packet.len() > PROBE
        && read(packet).is_ok_and(|(_, message)| matches!(message, Message::Probe { .. }));
    if !padded {
        return packet;
    }
    set_payload(packet, PROBE);
    packet.get(..PROBE).unwrap_or_default()
}

/// Writes the length of an IPv6 packet of `size` bytes into its header.
fn set_payload(packet: &mut [u8], size: usize) -> Option<()> {
    let payload = u16::try_from(size.checked_sub(IP_HEADER)?).ok()?;
    packet.get_mut(4..6)?.copy_from_slice(&payload.to_be_bytes());
    Some(())
}

/// Reads a packet that came out of a tunnel.
///
/// # Errors
/// When it is no message, or none that this version understands.
pub fn read(packet: &[u8]) -> Result<(Header, Message<'_>), Unreadable> {
    let truncated = |needed| Malformed::Truncated { what: "control message", needed, found: packet.len() };
    let (ip, rest) = packet.split_at_checked(IP_HEADER).ok_or(truncated(IP_HEADER))?;
    let wrong = |what, found: u8, expected: u8| {
        Unreadable::Malformed(Malformed::Value { what, found: found.into(), expected: expected.into() })
    };
    let [first, _, _, _, high, low, protocol, _, addresses @ ..] = ip else {
        return Err(truncated(IP_HEADER).into());
    };
    if first >> 4 != 6 {
        return Err(wrong("control message: IP version", first >> 4, 6));
    }
    if *protocol != PROTOCOL {
        return Err(wrong("control message: protocol", *protocol, PROTOCOL));
    }
    let (from, to) = addresses.split_at(16);
    if !is_reserved(from) || !is_reserved(to) {
        return Err(wrong("control message: address", 0, 1));
    }
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    let payload = rest.get(..len).ok_or(truncated(IP_HEADER + len))?;
    let (own, body) = payload.split_at_checked(HEADER).ok_or(truncated(IP_HEADER + HEADER))?;
    let [version, kind, _, _, s0, s1, s2, s3, epoch @ ..] = own else { return Err(Unreadable::Unknown) };
    if *version != VERSION {
        return Err(Unreadable::Unknown);
    }
    let sequence = u32::from_be_bytes([*s0, *s1, *s2, *s3]);
    let epoch = epoch.first_chunk().map_or(0, |epoch| u64::from_be_bytes(*epoch));
    let message = Message::read(*kind, body)?.ok_or(Unreadable::Unknown)?;
    Ok((Header { epoch, sequence }, message))
}

/// The address that a message comes from, for people.
#[must_use]
pub fn sender_address() -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0x6f76, 0x6c79, 0x6777, SENDER)
}
