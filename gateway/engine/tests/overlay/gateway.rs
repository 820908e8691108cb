//! The gateway of a slot, seen from its own host and from other members.

use crate::packets::{self, Says, changed, ping, says, udp};
use crate::world::{addr, recipe};
use etherparse::IpNumber;
use overlay_engine::DropReason;
use std::net::Ipv4Addr;

#[test]
fn a_host_pings_its_own_gateway() {
    let mut r = recipe();
    r.world.send(r.a, &ping(addr(57), addr(56), 3, b"hello"));
    let reply = r.world.received(r.a);
    assert_eq!(says(&reply), Says::EchoReply { sequence: 3, data: b"hello".to_vec() });
    assert_eq!((packets::source(&reply), packets::destination(&reply)), (addr(56), addr(57)));
    assert_eq!(r.world.all_drops(r.a), []);
}

#[test]
fn a_node_pings_the_gateway_of_another_through_the_hub() {
    let mut r = recipe();
    r.world.send(r.a, &ping(addr(57), addr(64), 4, b"far"));
    let reply = r.world.received(r.a);
    assert_eq!(says(&reply), Says::EchoReply { sequence: 4, data: b"far".to_vec() });
    assert_eq!(packets::source(&reply), addr(64));
    assert!(r.world.inbox(r.b).is_empty(), "the other host hears nothing of it");
}

#[test]
fn the_largest_ping_of_all_comes_back_in_fragments() {
    let mut r = recipe();
    let data: Vec<u8> = (0..65_507).map(|n| n as u8).collect();
    for gateway in [56, 64] {
        let whole = ping(addr(57), addr(gateway), 1, &data);
        let pieces: Vec<_> = whole[20..].chunks(1400).collect();
        let fragments: Vec<_> = pieces
            .iter()
            .enumerate()
            .map(|(n, piece)| {
                changed(&packets::ip(addr(57), addr(gateway), IpNumber::ICMP, piece), |header| {
                    header.identification = 99;
                    header.more_fragments = n + 1 < pieces.len();
                    header.fragment_offset = (n as u16 * 175).try_into().unwrap();
                })
            })
            .collect();
        r.world.sends(r.a, &fragments);
        let payload = packets::reassembled(&r.world.inbox(r.a));
        let reply = packets::ip(addr(gateway), addr(57), IpNumber::ICMP, &payload);
        assert_eq!(says(&reply), Says::EchoReply { sequence: 1, data: data.clone() });
    }
}

#[test]
fn a_destination_that_no_route_covers_gets_net_unreachable() {
    let mut r = recipe();
    let packet = udp(addr(57), Ipv4Addr::new(203, 0, 113, 1), b"x");
    r.world.send(r.a, &packet);
    let error = r.world.received(r.a);
    assert_eq!(says(&error), Says::Error { kind: 3, code: 0, mtu: 0, quote: packet });
    assert_eq!(packets::source(&error), addr(56));
    assert_eq!(r.world.drops(r.a, DropReason::NoRoute), 1);
}

#[test]
fn a_hub_answers_net_unreachable_for_a_slot_that_nobody_has() {
    let mut r = recipe();
    r.world.send(r.a, &udp(addr(57), addr(201), b"x"));
    assert!(matches!(says(&r.world.received(r.a)), Says::Error { kind: 3, code: 0, .. }));
    assert_eq!(r.world.drops(r.hub, DropReason::NoRoute), 1);
}

#[test]
fn a_packet_too_big_with_df_gets_fragmentation_needed_with_the_right_mtu() {
    let mut r = recipe();
    let big = |len: usize| changed(&udp(addr(57), addr(65), &vec![1; len - 28]), |h| h.dont_fragment = true);
    r.world.send(r.a, &big(1421));
    let Says::Error { kind: 3, code: 4, mtu: 1420, quote } = says(&r.world.received(r.a)) else {
        panic!("no fragmentation needed");
    };
    assert!(big(1421).starts_with(&quote) && quote.len() >= 28);
    assert_eq!(r.world.drops(r.a, DropReason::TooBig), 1);
    r.world.send(r.a, &big(1420));
    assert_eq!(r.world.received(r.b).len(), 1420);
}

#[test]
fn a_packet_too_big_without_df_is_fragmented_and_reassembles() {
    let mut r = recipe();
    let data: Vec<u8> = (0..9000).map(|n| (n % 251) as u8).collect();
    let packet = changed(&udp(addr(57), addr(65), &data), |h| h.identification = 7);
    r.world.send(r.a, &packet);
    let fragments = r.world.inbox(r.b);
    assert!(fragments.len() == 7 && fragments.iter().all(|f| f.len() <= 1420));
    assert_eq!(packets::reassembled(&fragments), packet[20..]);
}

#[test]
fn traceroute_shows_the_gateway_and_then_the_hub() {
    let mut r = recipe();
    let probe = |ttl| changed(&udp(addr(57), addr(65), b"probe"), |h| h.time_to_live = ttl);
    let mut hops = Vec::new();
    for ttl in 1..=3 {
        r.world.send(r.a, &probe(ttl));
        for answer in r.world.inbox(r.a) {
            assert!(matches!(says(&answer), Says::Error { kind: 11, code: 0, .. }));
            hops.push(packets::source(&answer));
        }
    }
    assert_eq!(hops, [addr(56), addr(0)], "own gateway, hub");
    assert_eq!(r.world.received(r.b), probe(1), "one hop is left at the end");
    assert_eq!(r.world.drops(r.a, DropReason::TtlExpired), 1);
    assert_eq!(r.world.drops(r.hub, DropReason::TtlExpired), 1);
}

#[test]
fn a_packet_loses_one_hop_at_each_engine_and_nothing_else_changes() {
    let mut r = recipe();
    let packet = udp(addr(57), addr(65), b"counted");
    r.world.send(r.a, &packet);
    assert_eq!(r.world.received(r.b), packets::hop(&packets::hop(&packet)));
}

#[test]
fn broadcast_and_multicast_are_dropped_in_silence() {
    let mut r = recipe();
    let groups = [
        Ipv4Addr::new(224, 0, 0, 251),
        Ipv4Addr::new(239, 1, 2, 3),
        Ipv4Addr::BROADCAST,
        addr(63),
        addr(255),
    ];
    r.world.sends(r.a, &groups.map(|group| udp(addr(57), group, b"all")));
    assert!(r.world.inbox(r.a).is_empty());
    assert_eq!(r.world.drops(r.a, DropReason::Multicast), groups.len() as u64);
    // From another member: a gateway that must not have been asked to say anything.
    r.world.send(r.a, &udp(addr(57), addr(71), b"their broadcast"));
    assert!(r.world.inbox(r.b).is_empty() && r.world.inbox(r.a).is_empty());
    assert_eq!(r.world.drops(r.b, DropReason::Multicast), 1);
}

#[test]
fn no_error_answers_an_error_a_later_fragment_or_a_broken_header() {
    let mut r = recipe();
    let nowhere = Ipv4Addr::new(203, 0, 113, 1);
    let error = packets::ip(addr(57), nowhere, IpNumber::ICMP, &[3, 1, 0, 0, 0, 0, 0, 0]);
    let later = changed(&udp(addr(57), nowhere, b"x"), |h| h.fragment_offset = 4.try_into().unwrap());
    let mut broken = udp(addr(57), nowhere, b"x");
    broken[10] ^= 1;
    r.world.sends(r.a, &[error, later, broken]);
    assert!(r.world.inbox(r.a).is_empty());
    assert_eq!(r.world.drops(r.a, DropReason::NoRoute), 3);
}

#[test]
fn errors_are_rate_limited_and_carried_packets_are_not() {
    let mut r = recipe();
    let nowhere = udp(addr(57), Ipv4Addr::new(203, 0, 113, 1), b"x");
    for _ in 0..4 {
        r.world.sends(r.a, &vec![nowhere.clone(); 100]);
    }
    assert_eq!(r.world.inbox(r.a).len(), 200, "the burst");
    assert_eq!(r.world.drops(r.a, DropReason::RateLimited), 200);
    assert_eq!(r.world.drops(r.a, DropReason::NoRoute), 400);
    r.world.sends(r.a, &vec![udp(addr(57), addr(65), b"x"); 250]);
    assert_eq!(r.world.inbox(r.b).len(), 250);
}
