//! ICMP as the gateway speaks it: error messages about packets that cannot be delivered, and the reply to an echo request.
//!
//! Everything is written straight into the caller's buffer. `None` means that the packet must not be answered, or that the
//! buffer is too small; nothing is to be sent then.

use std::net::Ipv4Addr;

use crate::packet::{
    icmp::{self, ECHO_REPLY, ECHO_REQUEST, Icmp},
    ipv4::{self, Ipv4},
};

/// Longest error message in bytes, IPv4 header included (RFC 1812 section 4.3.2.3).
pub const MAX_ERROR: usize = 576;

/// Type-of-service byte of an error message: precedence 6, internetwork control (RFC 1812 section 4.3.2.5).
const ERROR_TOS: u8 = 0xc0;

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// No route to the destination's network (RFC 1812 section 5.2.7.1, code 0).
    NetUnreachable,
    /// The network is known, the host is not there (code 1).
    HostUnreachable,
    /// The host does not speak the protocol (RFC 1122 section 3.2.2.1, code 2).
    ProtocolUnreachable,
    /// Nobody listens on the port (RFC 1122 section 3.2.2.1, code 3).
    PortUnreachable,
    /// The packet is too big for the next hop and may not be fragmented (code 4; RFC 1191 section 4).
    FragmentationNeeded {
        /// The largest packet that the next hop takes, in bytes.
        mtu: u16,
    },
    /// The packet may travel no further (RFC 1812 section 5.3.1; type 11, code 0).
    TimeExceeded,
    /// The packet is forbidden (RFC 1812 section 5.2.7.1, code 13).
    AdminProhibited,
}

impl IcmpError {
    fn header(self) -> icmp::Header {
        let (kind, code) = match self {
            Self::NetUnreachable => (icmp::UNREACHABLE, 0),
            Self::HostUnreachable => (icmp::UNREACHABLE, 1),
            Self::ProtocolUnreachable => (icmp::UNREACHABLE, 2),
            Self::PortUnreachable => (icmp::UNREACHABLE, 3),
            Self::FragmentationNeeded { .. } => (icmp::UNREACHABLE, 4),
            Self::AdminProhibited => (icmp::UNREACHABLE, 13),
            Self::TimeExceeded => (icmp::TIME_EXCEEDED, 0),
        };
        let rest = match self {
            Self::FragmentationNeeded { mtu } => {
                let [high, low] = mtu.to_be_bytes();
                [0, 0, high, low]
            }
            _ => [0; 4],
        };
        icmp::Header { kind, code, rest }
    }
}

/// Writes an error message about `offending`, from the address `from` to its source, into `out`. The length in bytes, at most
/// [`MAX_ERROR`].
///
/// `identification` is the message's own, and should differ from one to the next (RFC 6864 section 4.3). `is_broadcast` says that the
/// packet was for everybody, or pretends to come from everybody, in a way that its addresses do not show: a directed
/// broadcast of some slot, or a link-layer broadcast.
///
/// The message quotes the packet's header and as much behind it as fits (RFC 792; RFC 1812 section 4.3.2.3). There is none about
/// (RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7):
/// - an ICMP error, nor an ICMP message of an unknown type;
/// - a packet whose header fails its checksum;
/// - a broadcast or multicast;
/// - a fragment other than the first;
/// - a packet whose source does not name a single host.
pub fn error(
    kind: IcmpError,
    offending: &Ipv4<'_>,
    from: Ipv4Addr,
    identification: u16,
    is_broadcast: bool,
    out: &mut [u8],
) -> Option<usize> {
    if is_broadcast || !may_be_answered(offending) || !offending.is_first_or_whole() {
        return None;
    }
    if offending.protocol() == ipv4::ICMP
        && !offending.payload().first().is_some_and(|kind| icmp::is_query(*kind))
    {
        return None;
    }
    let room = MAX_ERROR - ipv4::HEADER - icmp::HEADER;
    let quote = offending.bytes();
    let quote = quote.get(..room).unwrap_or(quote);
    let payload_len = icmp::HEADER + quote.len();
    let header = ipv4::Header {
        tos: ERROR_TOS,
        identification,
        ..ipv4::Header::new(from, offending.source(), ipv4::ICMP, payload_len)
    };
    kind.header().write(quote, header.write(out)?)?;
    Some(header.total_len())
}

/// Writes the reply to an echo request that came in one piece into `out` (RFC 792; RFC 1122 section 3.2.2.6). The length in bytes.
///
/// Data, identifier, sequence, type of service, identification and "do not fragment" are the request's; the TTL is our own.
/// Options are left behind. `None` for what is no echo request, has a wrong checksum, comes in fragments (those are for
/// [`super::echo::EchoFragments`]), or whose addresses do not each name a single host.
pub fn echo_reply(request: &Ipv4<'_>, out: &mut [u8]) -> Option<usize> {
    if request.is_fragment() || !may_be_answered(request) {
        return None;
    }
    let message = echo_request(request)?;
    if !message.checksum_ok() {
        return None;
    }
    let header = echo_header(request);
    let reply = icmp::Header { kind: ECHO_REPLY, code: 0, rest: message.rest() };
    reply.write(message.payload(), header.write(out)?)?;
    Some(header.total_len())
}

/// The echo request that `packet` is, or begins. Its checksum has not been looked at.
pub(super) fn echo_request<'a>(packet: &Ipv4<'a>) -> Option<Icmp<'a>> {
    if packet.protocol() != ipv4::ICMP {
        return None;
    }
    Icmp::parse(packet.payload()).ok().filter(|m| m.kind() == ECHO_REQUEST && m.code() == 0)
}

/// The header of the reply to `request`, or to one fragment of it: the same, the other way round.
pub(super) fn echo_header(request: &Ipv4<'_>) -> ipv4::Header {
    ipv4::Header {
        source: request.destination(),
        destination: request.source(),
        protocol: ipv4::ICMP,
        ttl: ipv4::Header::TTL,
        tos: request.tos(),
        identification: request.identification(),
        dont_fragment: request.dont_fragment(),
        more_fragments: request.more_fragments(),
        fragment_offset: request.fragment_offset(),
        payload_len: request.payload().len(),
    }
}

/// Whether a packet may be answered at all: its header is right, its source names a single host (RFC 1122 section 3.2.1.3; RFC 1812
/// section 5.3.7), so does its destination, and they are two.
pub(super) fn may_be_answered(packet: &Ipv4<'_>) -> bool {
    let (source, destination) = (packet.source(), packet.destination());
    is_host(source)
        && !is_reserved(source)
        && is_host(destination)
        && source != destination
        && packet.header_checksum_ok()
}

/// Whether an address can be a single host's off its own machine: not "this network" (0/8), loopback, multicast or the limited
/// broadcast. A directed broadcast cannot be told by looking.
fn is_host(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && !address.is_loopback() && !address.is_multicast() && !address.is_broadcast()
}

/// Class E, 240/4 (RFC 1112 section 4): nobody's, so no answer would arrive.
fn is_reserved(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first >= 240
}
