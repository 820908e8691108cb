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
/// - a packet whose source does not name a single host (0/8, loopback, multicast, class E, broadcast);
/// - a packet for 0/8 or loopback, which must not be seen on any network (RFC 1122 section 3.2.1.3), or for its own source.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::sample::{self, GATEWAY, NODE, naive_checksum};
    use proptest::prelude::*;

    fn answer(kind: IcmpError, offending: &[u8]) -> Option<Vec<u8>> {
        let mut out = [0; MAX_ERROR];
        let len = error(kind, &Ipv4::parse(offending).unwrap(), GATEWAY.into(), 77, false, &mut out)?;
        Some(out[..len].to_vec())
    }

    fn refused(offending: &[u8]) -> bool {
        answer(IcmpError::HostUnreachable, offending).is_none()
    }

    fn reply(request: &[u8]) -> Option<Vec<u8>> {
        let mut out = vec![0; 65_535];
        let len = echo_reply(&Ipv4::parse(request).unwrap(), &mut out)?;
        Some(out[..len].to_vec())
    }

    #[test]
    fn each_error_has_its_type_and_code() {
        let offending = sample::udp(NODE, [10, 0, 0, 1], b"x");
        let types = [
            (IcmpError::NetUnreachable, 3, 0),
            (IcmpError::HostUnreachable, 3, 1),
            (IcmpError::ProtocolUnreachable, 3, 2),
            (IcmpError::PortUnreachable, 3, 3),
            (IcmpError::FragmentationNeeded { mtu: 1420 }, 3, 4),
            (IcmpError::AdminProhibited, 3, 13),
            (IcmpError::TimeExceeded, 11, 0),
        ];
        for (kind, number, code) in types {
            let bytes = answer(kind, &offending).unwrap();
            assert_eq!((bytes[20], bytes[21]), (number, code), "{kind:?}");
            let mtu = if number == 3 && code == 4 { 1420 } else { 0 };
            assert_eq!(bytes[24..28], u32::to_be_bytes(mtu), "{kind:?}");
        }
    }

    #[test]
    fn an_error_is_never_answered_and_a_query_is() {
        for kind in 0..=255_u8 {
            let offending = sample::packet(NODE, [10, 0, 0, 1], 1, &[kind, 0, 0, 0, 0, 0, 0, 0], |_| ());
            let is_query = [0, 8, 9, 10, 13, 14, 15, 16, 17, 18, 42, 43].contains(&kind);
            assert_eq!(refused(&offending), !is_query, "type {kind}");
        }
        assert!(refused(&sample::packet(NODE, [10, 0, 0, 1], 1, &[], |_| ())), "no type at all");
        let ours = answer(IcmpError::HostUnreachable, &sample::udp(NODE, [10, 0, 0, 1], b"x")).unwrap();
        assert!(refused(&ours));
    }

    #[test]
    fn only_the_first_fragment_is_answered() {
        let fragment = |more, units| {
            sample::packet(NODE, [10, 0, 0, 1], 17, &[1; 64], |h| {
                h.more_fragments = more;
                h.fragment_offset = etherparse::IpFragOffset::try_new(units).unwrap();
            })
        };
        assert!(!refused(&fragment(true, 0)));
        assert!(refused(&fragment(true, 1)));
        assert!(refused(&fragment(false, 8191)));
    }

    #[test]
    fn what_is_for_everybody_or_from_nobody_is_not_answered() {
        for destination in
            [[255; 4], [224, 0, 0, 1], [239, 255, 255, 250], [0, 0, 0, 0], [127, 0, 0, 1], NODE]
        {
            assert!(refused(&sample::udp(NODE, destination, b"x")), "to {destination:?}");
        }
        for source in [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 5], [240, 0, 0, 1], [255; 4]] {
            assert!(refused(&sample::udp(source, [10, 0, 0, 1], b"x")), "from {source:?}");
            assert_eq!(
                reply(&sample::echo(source, GATEWAY, false, 1, 2, b"x")),
                None,
                "echo from {source:?}"
            );
        }
        let offending = sample::udp(NODE, [172, 16, 8, 63], b"x");
        let view = Ipv4::parse(&offending).unwrap();
        let error = |broadcast| {
            error(IcmpError::HostUnreachable, &view, GATEWAY.into(), 0, broadcast, &mut [0; MAX_ERROR])
        };
        assert!(error(false).is_some() && error(true).is_none());
    }

    #[test]
    fn a_packet_with_a_broken_header_is_not_answered() {
        let mut offending = sample::udp(NODE, [10, 0, 0, 1], b"x");
        offending[8] ^= 1;
        assert!(refused(&offending));
        let mut request = sample::echo(NODE, GATEWAY, false, 1, 2, b"x");
        request[8] ^= 1;
        assert_eq!(reply(&request), None);
    }

    #[test]
    fn only_a_whole_and_right_echo_request_gets_a_reply() {
        let request = sample::echo(NODE, GATEWAY, false, 1, 2, b"data");
        assert!(reply(&request).is_some());
        let mut wrong = request.clone();
        *wrong.last_mut().unwrap() ^= 1;
        assert_eq!(reply(&wrong), None, "checksum");
        assert_eq!(reply(&sample::echo(NODE, GATEWAY, true, 1, 2, b"data")), None, "a reply");
        assert_eq!(
            reply(&sample::packet(NODE, GATEWAY, 1, &request[20..], |h| h.more_fragments = true)),
            None,
            "a fragment"
        );
        assert_eq!(reply(&sample::packet(NODE, GATEWAY, 17, &request[20..], |_| ())), None, "not ICMP");
        assert_eq!(reply(&sample::packet(NODE, GATEWAY, 1, &request[20..27], |_| ())), None, "too short");
        let view = Ipv4::parse(&request).unwrap();
        assert_eq!(echo_reply(&view, &mut vec![0; request.len() - 1]), None, "no room");
    }

    #[test]
    fn a_reply_of_nothing_but_zeros_has_the_checksum_that_receivers_accept() {
        let bytes = reply(&sample::echo(NODE, GATEWAY, false, 0, 0, &[0; 16])).unwrap();
        assert_eq!(bytes[22..24], [0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn an_error_quotes_the_packet_and_fits_576_bytes(
            words in 0_usize..=10, protocol in 2_u8.., payload in 0_usize..2000, tos in any::<u8>(), id in any::<u16>(), room in 400_usize..700,
        ) {
            let data: Vec<u8> = (0..payload).map(|i| i as u8).collect();
            let offending = sample::packet(NODE, [10, 0, 0, 1], protocol, &data, |h| {
                h.options = sample::options(&vec![1; words * 4]);
                h.dscp = etherparse::IpDscp::try_new(tos >> 2).unwrap();
            });
            let mut out = vec![0; room];
            let view = Ipv4::parse(&offending).unwrap();
            let len = error(IcmpError::HostUnreachable, &view, GATEWAY.into(), id, false, &mut out);
            let whole = (28 + offending.len()).min(576);
            if room < whole {
                prop_assert_eq!(len, None);
                return Ok(());
            }
            prop_assert_eq!(len, Some(whole));
            let header = sample::header(&out[..whole]);
            prop_assert_eq!((header.source, header.destination), (GATEWAY, NODE));
            prop_assert_eq!((header.time_to_live, header.protocol.0, header.identification), (64, 1, id));
            prop_assert_eq!((header.dscp.value() << 2, header.is_fragmenting_payload()), (0xc0, false));
            let message = etherparse::Icmpv4Slice::from_slice(&out[20..whole]).unwrap();
            prop_assert_eq!(message.icmp_type(), etherparse::Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Host));
            prop_assert_eq!(message.payload(), &offending[..whole - 28]);
            prop_assert_eq!(naive_checksum(&out[20..whole]), 0);
        }

        #[test]
        fn a_reply_carries_the_requests_data(
            id in any::<u16>(), seq in any::<u16>(), data in proptest::collection::vec(any::<u8>(), 0..3000), ip_id in any::<u16>(), df in any::<bool>(),
            words in 0_usize..=10,
        ) {
            let request = sample::echo(NODE, GATEWAY, false, id, seq, &data);
            let request = sample::packet(NODE, GATEWAY, 1, &request[20..], |h| {
                h.identification = ip_id;
                h.dont_fragment = df;
                h.options = sample::options(&vec![1; words * 4]);
            });
            let bytes = reply(&request).unwrap();
            let header = sample::header(&bytes);
            prop_assert_eq!((header.source, header.destination), (GATEWAY, NODE));
            prop_assert_eq!((header.identification, header.dont_fragment, header.header_len()), (ip_id, df, 20));
            prop_assert_eq!(&bytes[20..], &sample::echo(GATEWAY, NODE, true, id, seq, &data)[20..]);
        }
    }
}
