//! TAP mode: frames, ARP, and who speaks with which hardware address.

use crate::packets::{Says, hop, ping, says, udp};
use crate::world::{Recipe, addr, at, direct, node, recipe, slot};
use etherparse::{ArpEthIpv4Packet, ArpOperation, ArpPacketSlice, EtherType, Ethernet2Header};
use overlay_config::Mode;
use overlay_engine::gateway::{device_mac, gateway_mac};
use overlay_engine::{DropReason, RoleSettings};
use std::net::Ipv4Addr;

const HOST: [u8; 6] = [2, 0, 0, 0, 0, 0x57];

/// The recipe with one node more: 96, on a TAP.
fn tap() -> (Recipe, usize) {
    let mut r = recipe();
    let mut settings = node(96, vec![direct(96, 64)]);
    settings.role = RoleSettings::Node { slot: slot(96), mode: Mode::Tap };
    let d = r.world.engine(96, settings);
    r.world.of(d).set_live(Some(vec![addr(97), addr(99)]));
    // 64 meets it directly.
    let mut peer = direct(64, 96);
    peer.endpoint = Some(at(96));
    r.world.of(r.b).reconfigure(node(64, vec![peer]), r.world.now);
    r.world.settle();
    assert!(r.world.session(d, r.b));
    (r, d)
}

fn gateway() -> [u8; 6] {
    gateway_mac("172.16.8.0/24".parse().unwrap(), slot(96).net()).0
}

fn device() -> [u8; 6] {
    device_mac("172.16.8.0/24".parse().unwrap(), slot(96).net()).0
}

fn frame(source: [u8; 6], destination: [u8; 6], ether_type: EtherType, payload: &[u8]) -> Vec<u8> {
    [&Ethernet2Header { source, destination, ether_type }.to_bytes()[..], payload].concat()
}

fn arp(operation: ArpOperation, sender: Ipv4Addr, mac: [u8; 6], target: Ipv4Addr) -> Vec<u8> {
    let message = ArpEthIpv4Packet {
        operation,
        sender_mac: mac,
        sender_ipv4: sender.octets(),
        target_mac: [0; 6],
        target_ipv4: target.octets(),
    };
    frame(mac, [0xff; 6], EtherType::ARP, &message.to_bytes())
}

fn asks(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    arp(ArpOperation::REQUEST, sender, HOST, target)
}

fn split(frame: &[u8]) -> (Ethernet2Header, &[u8]) {
    Ethernet2Header::from_slice(frame).unwrap()
}

#[test]
fn the_gateway_and_what_lies_behind_it_answer_arp_with_the_gateways_address() {
    let (mut r, d) = tap();
    for target in [addr(96), addr(65), Ipv4Addr::new(172, 16, 0, 1)] {
        r.world.send(d, &asks(addr(97), target));
        let reply = r.world.received(d);
        let (header, payload) = split(&reply);
        assert_eq!((header.source, header.destination), (gateway(), HOST));
        let said = ArpPacketSlice::from_slice(payload).unwrap().to_packet().try_eth_ipv4().unwrap();
        assert_eq!((said.operation, said.sender_mac), (ArpOperation::REPLY, gateway()));
        assert_eq!((said.sender_ipv4, said.target_ipv4), (target.octets(), addr(97).octets()));
    }
}

#[test]
fn a_probe_for_an_address_of_the_slot_is_not_answered() {
    let (mut r, d) = tap();
    let probes: Vec<_> = (97..=102).map(|last| asks(Ipv4Addr::UNSPECIFIED, addr(last))).collect();
    r.world.sends(d, &probes);
    // Nor is a question, or an announcement, live or not.
    r.world.sends(d, &[asks(addr(97), addr(99)), asks(addr(97), addr(100)), asks(addr(99), addr(99))]);
    assert!(r.world.inbox(d).is_empty());
}

#[test]
fn packets_travel_in_frames_at_this_end_and_bare_at_the_other() {
    let (mut r, d) = tap();
    let packet = udp(addr(97), addr(65), b"out");
    let mut padded = frame(HOST, gateway(), EtherType::IPV4, &packet);
    padded.resize(60, 0xee);
    r.world.send(d, &padded);
    assert_eq!(r.world.received(r.b), hop(&packet), "without Ethernet's padding");
    let packet = udp(addr(65), addr(97), b"in");
    r.world.send(r.b, &packet);
    let arrived = r.world.received(d);
    let (header, payload) = split(&arrived);
    assert_eq!((header.source, header.destination), (gateway(), device()));
    assert_eq!((header.ether_type, payload), (EtherType::IPV4, &hop(&packet)[..]));
}

#[test]
fn an_announcement_moves_an_address_to_another_hardware_address() {
    let (mut r, d) = tap();
    let other = [2, 0, 0, 0, 0, 0x99];
    r.world.send(d, &arp(ArpOperation::REQUEST, addr(99), other, addr(99)));
    assert!(r.world.inbox(d).is_empty());
    r.world.sends(r.b, &[udp(addr(65), addr(99), b"x"), udp(addr(65), addr(97), b"x")]);
    let inbox = r.world.inbox(d);
    assert_eq!(inbox.iter().map(|f| split(f).0.destination).collect::<Vec<_>>(), [other, device()]);
}

#[test]
fn the_gateways_own_answers_come_in_frames_as_well() {
    let (mut r, d) = tap();
    let answers = [(ping(addr(97), addr(96), 1, b"x"), true), (udp(addr(97), addr(201), b"x"), false)];
    for (packet, is_echo) in answers {
        r.world.send(d, &frame(HOST, gateway(), EtherType::IPV4, &packet));
        let answer = r.world.received(d);
        let (header, payload) = split(&answer);
        assert_eq!((header.source, header.destination), (gateway(), device()));
        assert_eq!(matches!(says(payload), Says::EchoReply { .. }), is_echo);
    }
}

#[test]
fn frames_that_carry_no_ipv4_are_counted() {
    let (mut r, d) = tap();
    r.world.sends(
        d,
        &[
            frame(HOST, gateway(), EtherType::IPV6, &[0x60; 40]),
            vec![0; 13],
            frame(HOST, gateway(), EtherType::IPV4, b""),
        ],
    );
    assert!(r.world.inbox(d).is_empty());
    // An empty frame of type IPv4 is a packet of another version than 4.
    assert_eq!(r.world.all_drops(d), [(DropReason::NotIpv4, 2), (DropReason::Malformed, 1)]);
}

#[test]
fn a_frame_for_another_station_is_not_carried() {
    let (mut r, d) = tap();
    let packet = udp(addr(97), addr(65), b"x");
    for destination in [[2, 0, 0, 0, 0, 9], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
        r.world.send(d, &frame(HOST, destination, EtherType::IPV4, &packet));
    }
    assert!(r.world.inbox(r.b).is_empty());
    assert_eq!(r.world.drops(d, DropReason::Multicast), 3);
    r.world.send(d, &frame(HOST, gateway(), EtherType::IPV4, &packet));
    assert_eq!(r.world.inbox(r.b).len(), 1);
}
