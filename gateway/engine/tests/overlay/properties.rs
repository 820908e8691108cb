//! What holds whatever is sent: no panic, no source that the sender does not own, no answer larger than its question.

use crate::packets;
use crate::world::{
    BEYOND, HUB, Id, PLAIN, World, addr, at, direct, hub, net, node, slot, to_hub, to_node, to_plain,
};
use etherparse::{IpFragOffset, IpNumber, Ipv4HeaderSlice};
use overlay_config::Mode;
use overlay_engine::packet::DatagramBatch;
use overlay_engine::{Output, RoleSettings};
use proptest::collection::vec;
use proptest::prelude::*;
use std::net::Ipv4Addr;

/// Addresses at which something changes: of every role, in and around the slots, and now and then anywhere.
fn address() -> impl Strategy<Value = Ipv4Addr> {
    let anywhere = any::<u32>().prop_map(Ipv4Addr::from);
    let special = prop::sample::select(vec![
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::new(240, 0, 0, 1),
        Ipv4Addr::new(172, 16, 0, 1),
        Ipv4Addr::new(172, 16, 9, 0),
        Ipv4Addr::new(10, 0, 0, 1),
        Ipv4Addr::new(198, 51, 100, HUB),
    ]);
    prop_oneof![
        4 => (48_u8..90).prop_map(addr),
        1 => any::<u8>().prop_map(addr),
        2 => special,
        1 => anywhere,
    ]
}

prop_compose! {
    /// A packet that is right but for what chance broke: its addresses, flags and sizes are those that matter.
    fn packet()(
        (source, destination) in (address(), address()),
        protocol in prop_oneof![Just(1_u8), Just(6), Just(17), any::<u8>()],
        payload in prop_oneof![8 => vec(any::<u8>(), 0..64), 1 => vec(any::<u8>(), 1380..3000)],
        (echo, syn) in any::<(bool, bool)>(),
        (df, more, offset) in (any::<bool>(), prop::bool::weighted(0.1), prop_oneof![6 => Just(0_u16), 1 => 0_u16..0x2000]),
        ttl in prop_oneof![Just(64_u8), 0_u8..3],
        broken in prop_oneof![6 => Just(None), 1 => (0_usize..20, any::<u8>()).prop_map(Some)],
        cut in prop_oneof![9 => Just(usize::MAX), 1 => 0_usize..80],
    ) -> Vec<u8> {
        let made = match protocol {
            1 if echo => packets::ping(source, destination, 1, &payload),
            6 if syn => packets::syn(source, destination),
            17 => packets::udp_ports(source, if echo { 51820 } else { 9 }, destination, 51820, &payload),
            _ => packets::ip(source, destination, IpNumber(protocol), &payload),
        };
        let mut made = packets::changed(&made, |header| {
            header.dont_fragment = df;
            header.more_fragments = more;
            header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
            header.time_to_live = ttl;
        });
        if let Some((at, value)) = broken {
            made[at] ^= value;
        }
        made.truncate(cut);
        made
    }
}

fn input() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![9 => packet(), 1 => vec(any::<u8>(), 0..200)]
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![6 => Just([8, 0]), 2 => Just([8, 6]), 1 => any::<[u8; 2]>()];
    let mac = prop_oneof![Just([0xff; 6]), Just([2, 0, 0, 0, 0, 1]), any::<[u8; 6]>()];
    let arp =
        (any::<[u8; 2]>(), address(), address(), mac.clone()).prop_map(|([a, b], sender, target, mac)| {
            [&[0, 1, 8, 0, 6, 4, 0, a % 2 + 1][..], &mac, &sender.octets(), &[b; 6], &target.octets()]
                .concat()
        });
    (mac.clone(), mac, kind, prop_oneof![3 => input().boxed(), 2 => arp.boxed()])
        .prop_map(|(to, from, kind, payload)| [&to[..], &from, &kind, &payload].concat())
}

fn source_of(packet: &[u8]) -> Ipv4Addr {
    Ipv4HeaderSlice::from_slice(packet).expect("an IPv4 packet").source_addr()
}

/// Whom an address belongs to among `networks`: to those with the longest prefix around it.
fn owners<'a>(networks: &'a [(&'a str, Id)], address: Ipv4Addr) -> impl Iterator<Item = Id> + 'a {
    let nets = networks.iter().map(|(text, id)| (net(text), *id)).filter(move |(n, _)| n.contains(&address));
    let longest = nets.clone().map(|(n, _)| n.prefix_len()).max();
    nets.filter(move |(n, _)| Some(n.prefix_len()) == longest).map(|(_, id)| id)
}

/// A node, 56, and around it plain members that open whatever it seals: one in the place of a hub, one in that of a
/// node, and one with networks that overlap everything.
struct Surrounded {
    world: World,
    node: Id,
    others: Vec<Id>,
}

/// Who may send what to 56, as (network, place in `others`); 9 is nobody.
const OWNED: [(&str, Id); 6] = [
    ("172.16.8.56/29", 9),
    ("172.16.8.0/24", 0),
    (BEYOND, 0),
    ("172.16.8.64/29", 1),
    ("172.16.8.80/29", 2),
    ("172.16.0.0/16", 2),
];

fn surrounded(mode: Mode) -> Surrounded {
    let mut world = World::new();
    let peers =
        vec![to_hub(HUB, &[BEYOND]), direct(56, 64), to_plain(PLAIN, &["172.16.8.80/29", "172.16.0.0/16"])];
    let mut settings = node(56, peers);
    settings.role = RoleSettings::Node { slot: slot(56), mode };
    let node = world.engine(56, settings);
    world.of(node).set_live(Some(vec![addr(57), addr(59)]));
    let others = vec![world.plain(HUB, 56), world.plain(64, 56), world.plain(PLAIN, 56)];
    world.settle();
    assert!(others.iter().all(|&other| world.session(node, other)));
    Surrounded { world, node, others }
}

impl Surrounded {
    /// What the others have received comes from the slot, and is well-formed; `gateway`: its gateway may have spoken.
    fn check_received(&mut self, gateway: bool) -> Result<(), TestCaseError> {
        let slot = slot(56);
        for &other in &self.others.clone() {
            for packet in self.world.inbox(other) {
                let source = source_of(&packet);
                prop_assert!(slot.contains(source) && source != slot.broadcast(), "{source} left the node");
                prop_assert!(
                    gateway || source != slot.gateway(),
                    "a packet from the host speaks as the gateway"
                );
                prop_assert!(packet.len() <= 1420, "{} bytes", packet.len());
            }
        }
        Ok(())
    }
}

/// An answer to the host comes from the gateway or an address of the slot, goes to one of the slot, and is right.
fn check_answer(packet: &[u8]) -> Result<(), TestCaseError> {
    let head = packets::header(packet);
    let (source, destination) = (Ipv4Addr::from(head.source), Ipv4Addr::from(head.destination));
    prop_assert!(slot(56).contains(source) && slot(56).contains(destination), "{source} → {destination}");
    if head.fragment_offset.value() == 0 && !head.more_fragments {
        packets::says(packet);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_the_host_sends_leaves_only_from_its_slot(inputs in vec(input(), 1..60)) {
        let mut s = surrounded(Mode::Tun);
        let before = s.world.sent.len();
        s.world.queue(s.node, &inputs);
        let sent = s.world.intercept();
        prop_assert_eq!(sent.len(), s.world.sent.len() - before);
        // Only what the peers can open counts, and they open all of it.
        let sealed = sent.len();
        s.world.release(sent);
        let opened: usize = s.others.iter().map(|&other| s.world.parties[other].inbox.len()).sum();
        prop_assert_eq!(opened, sealed);
        s.check_received(false)?;
        for packet in s.world.inbox(s.node) {
            check_answer(&packet)?;
        }
    }

    #[test]
    fn whatever_frames_the_host_sends_leave_only_from_its_slot(inputs in vec(frame(), 1..60)) {
        let mut s = surrounded(Mode::Tap);
        s.world.sends(s.node, &inputs);
        s.check_received(false)?;
        for frame in s.world.inbox(s.node) {
            prop_assert!(frame.len() >= 14 && frame[6] & 3 == 2, "from a unicast, local address");
            match &frame[12..14] {
                [8, 0] => check_answer(&frame[14..])?,
                kind => prop_assert!(kind == [8, 6] && frame.len() == 42),
            }
        }
    }

    #[test]
    fn whatever_peers_seal_the_host_hears_only_from_those_who_own_the_source(
        inputs in vec((0_usize..3, packet()), 1..40),
    ) {
        let mut s = surrounded(Mode::Tun);
        for (who, packet) in inputs {
            let other = s.others[who];
            s.world.send(other, &packet);
            for heard in s.world.inbox(s.node) {
                prop_assert_eq!(&heard, &packet[..heard.len()], "what comes out is what went in");
                let (source, destination) = (source_of(&heard), destination_of(&heard));
                // A hub may relay for every member of the overlay.
                let relayed = who == 0 && net("172.16.8.0/24").contains(&source) && !slot(56).contains(source);
                prop_assert!(relayed || owners(&OWNED, source).any(|owner| owner == who), "{source} from {who}");
                prop_assert!([addr(57), addr(59)].contains(&destination), "to {destination}, which is not live");
            }
            s.check_received(true)?;
        }
    }

    #[test]
    fn whatever_members_seal_a_hub_forwards_only_from_those_who_own_the_source(
        inputs in vec((0_usize..3, packet()), 1..40),
    ) {
        let owned = [("172.16.8.56/29", 0), ("172.16.8.64/29", 1), ("172.16.8.80/29", 2), ("172.16.0.0/16", 2)];
        let mut world = World::new();
        let wide = to_plain(PLAIN, &["172.16.8.80/29", "172.16.0.0/16"]);
        let h = world.engine(HUB, hub(vec![to_node(56), to_node(64), wide]));
        let members = [56, 64, PLAIN].map(|number| world.plain(number, HUB));
        world.settle();
        prop_assert!(members.iter().all(|&member| world.session(h, member)));
        for (who, packet) in inputs {
            world.send(members[who], &packet);
            for (to, &member) in members.iter().enumerate() {
                for heard in world.inbox(member) {
                    let (source, destination) = (source_of(&heard), destination_of(&heard));
                    if to == who {
                        prop_assert_eq!(source, addr(0), "the hub's own answer");
                        packets::says(&heard);
                    } else {
                        prop_assert!(owners(&owned, source).any(|owner| owner == who), "{source} from {who}");
                        prop_assert!(owners(&owned, destination).any(|owner| owner == to), "{destination} to {to}");
                    }
                    prop_assert!(heard.len() <= 1420);
                }
            }
        }
    }

    #[test]
    fn what_nobody_sealed_reaches_no_host_and_is_answered_with_no_more_bytes(
        rubbish in vec(datagram(), 1..40),
        changes in vec((any::<prop::sample::Index>(), 1_u8..=255), 1..40),
    ) {
        let mut s = surrounded(Mode::Tun);
        let stranger = "203.0.113.7:7".parse().unwrap();
        // Handshakes and data that were valid once, with a byte changed.
        s.world.queue(s.others[1], &[packets::udp(addr(65), addr(57), b"genuine")]);
        s.world.intercept();
        let node = at(56);
        let genuine: Vec<_> = s.world.sent.iter().filter(|d| d.to == node).map(|d| d.bytes.clone()).collect();
        let changed = changes.into_iter().enumerate().map(|(n, (place, with))| {
            let mut bytes = genuine[n % genuine.len()].clone();
            let place = place.index(bytes.len());
            bytes[place] ^= with;
            bytes
        });
        let endpoints: Vec<_> = s.others.iter().map(|&other| s.world.link(s.node, other).endpoint).collect();
        for bytes in rubbish.into_iter().chain(changed) {
            let mut batch = DatagramBatch::with_capacity(4096, 1);
            batch.push(stranger, &bytes);
            let mut out = Output::for_batch(4096, 1);
            s.world.of(s.node).handle_underlay(s.world.now, &batch, &mut out);
            prop_assert!(out.host.is_empty());
            let answered: usize = out.net.iter().map(|(_, answer)| answer.len()).sum();
            prop_assert!(answered <= bytes.len(), "{answered} bytes for {}", bytes.len());
            prop_assert!(out.net.iter().all(|(to, _)| to == stranger));
        }
        let after: Vec<_> = s.others.iter().map(|&other| s.world.link(s.node, other).endpoint).collect();
        prop_assert_eq!(endpoints, after, "nobody roamed");
        // And nothing of it did any harm.
        s.world.send(s.others[1], &packets::udp(addr(65), addr(57), b"still here"));
        prop_assert_eq!(s.world.inbox(s.node).len(), 1);
    }

    #[test]
    fn an_output_made_for_a_batch_has_room_for_what_comes_of_it(
        sizes in vec(0_usize..1300, 1..100), kind in 0_usize..3,
    ) {
        let inputs: Vec<_> = sizes.iter().map(|&size| match kind {
            0 => packets::udp(addr(57), addr(65), &vec![1; size]),
            1 => packets::udp(addr(57), Ipv4Addr::new(203, 0, 113, 1), &vec![1; size % 9]),
            _ => packets::ping(addr(57), addr(56), 1, &vec![1; size]),
        }).collect();
        use overlay_engine::DropReason;
        use overlay_engine::packet::PacketBatch;
        let s = surrounded(Mode::Tun);
        let bytes = inputs.iter().map(Vec::len).sum();
        let mut batch = PacketBatch::with_capacity(1 << 18, inputs.len());
        for packet in &inputs {
            prop_assert!(batch.push((), packet));
        }
        let mut out = Output::for_batch(bytes, inputs.len());
        s.world.of(s.node).handle_host(s.world.now, &mut batch, &mut out);
        prop_assert_eq!(s.world.drops(s.node, DropReason::NoBuffer), 0);
        prop_assert_eq!(out.net.len() + out.host.len(), inputs.len());
    }
}

/// Bytes in the shape of a WireGuard message, or of none.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let of = |kind: u8, len: std::ops::Range<usize>| {
        (0_u32..3 * 256, vec(any::<u8>(), len)).prop_map(move |(index, mut bytes)| {
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
            bytes[4..8].copy_from_slice(&index.to_le_bytes());
            bytes
        })
    };
    prop_oneof![vec(any::<u8>(), 0..200), of(1, 148..149), of(2, 92..93), of(3, 64..65), of(4, 20..200),]
}

fn destination_of(packet: &[u8]) -> Ipv4Addr {
    Ipv4HeaderSlice::from_slice(packet).expect("an IPv4 packet").destination_addr()
}

#[test]
fn the_model_knows_whom_an_address_belongs_to() {
    let of = |address| owners(&OWNED, address).collect::<Vec<_>>();
    assert_eq!(of(addr(57)), [9]);
    assert_eq!(of(addr(65)), [1]);
    assert_eq!(of(addr(200)), [0]);
    assert_eq!(of(Ipv4Addr::new(172, 16, 99, 1)), [2]);
    assert_eq!(of(Ipv4Addr::new(10, 0, 0, 1)), Vec::<Id>::new());
}
