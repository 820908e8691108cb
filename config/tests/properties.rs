//! Properties: a configuration survives being written and read; nothing that is read makes the reader panic.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod example;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;

use example::{HUB, Memory, NODE, filled, source};
use ipnet::Ipv4Net;
use overlay_config::membership::{SigningKey, SigningPublicKey};
use overlay_config::{
    Config, Control, Device, Endpoint, Floating, HostFacts, Hub, HubKind, HubRole, Listen, Membership, Mode,
    Node, Overlay, Overrides, Peer, PresharedKey, PrivateKey, Refuse, Relay, Role, Route, Slot, Windows,
    load_hub, load_node,
};
use proptest::prelude::*;

/// Reads both ways, and shows what was said, whatever it is.
fn read_both(bytes: &[u8]) {
    let (flags, files, host) = (Overrides::default(), Memory::examples(), HostFacts::default());
    let source = source(bytes);
    for result in [load_node(Some(&source), &flags, &files, &host), load_hub(&source, &flags, &files, &host)]
    {
        if let Err(diagnostics) = result {
            assert!(!diagnostics.to_string().is_empty());
            assert!(diagnostics.0.iter().all(|diagnostic| diagnostic.line > 0 && diagnostic.column > 0));
        }
    }
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    prop_oneof![
        (any::<[u8; 2]>(), 1..=u16::MAX).prop_map(|([c, d], port)| {
            Endpoint::Address(SocketAddr::from((Ipv4Addr::new(198, 51, c, d), port)))
        }),
        (any::<u16>(), 1..=u16::MAX).prop_map(|(last, port)| {
            Endpoint::Address(SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, last], port)))
        }),
        ("[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z]{2,6})?", 1..=u16::MAX)
            .prop_map(|(host, port)| Endpoint::Name { host, port }),
    ]
}

/// What a member has besides its place in the overlay.
#[derive(Clone, Debug)]
struct Member {
    suffix: String,
    plain: bool,
    seed: [u8; 30],
    endpoint: Option<Endpoint>,
    psk: Option<[u8; 32]>,
    keepalive: Option<u16>,
}

fn member() -> impl Strategy<Value = Member> {
    let psk = proptest::option::of(any::<[u8; 32]>().prop_filter("zero is no key", |key| *key != [0; 32]));
    let name = "[a-zA-Z0-9_.-]{0,20}[a-z]";
    let keepalive = proptest::option::of(1..=u16::MAX);
    (name, any::<bool>(), any::<[u8; 30]>(), proptest::option::of(endpoint()), psk, keepalive).prop_map(
        |(suffix, plain, seed, endpoint, psk, keepalive)| Member {
            suffix,
            plain,
            seed,
            endpoint,
            psk,
            keepalive,
        },
    )
}

fn overlay_words() -> impl Strategy<Value = (Option<SigningPublicKey>, Membership, Relay, Refuse)> {
    let key = any::<[u8; 32]>().prop_map(|seed| SigningKey::from_bytes(seed).public());
    let key = proptest::option::of(key);
    let words = (any::<bool>(), any::<bool>(), 0..3_usize);
    (key, words).prop_map(|(key, (file, sealed, refuse))| {
        let membership = if file || key.is_none() { Membership::File } else { Membership::Signed };
        let refuse = [Refuse::Reset, Refuse::Unreachable, Refuse::Silent][refuse];
        (key, membership, if sealed { Relay::Sealed } else { Relay::Routed }, refuse)
    })
}

fn device() -> impl Strategy<Value = Device> {
    let name = "[A-Z][a-zA-Z0-9_.-]{0,14}";
    (name, any::<bool>(), 576..=65475_u16, proptest::option::of(1..=256_u16), any::<[bool; 5]>()).prop_map(
        |(name, tap, mtu, queues, [private_network, icmp, cluster, smb, rpc])| {
            let windows = Windows { private_network, icmp, cluster, smb, rpc };
            let mode = if tap { Mode::Tap } else { Mode::Tun };
            Device { name, mode, mtu, queues: queues.and_then(NonZeroU16::new), windows }
        },
    )
}

/// A valid configuration: the members' addresses are laid out one after another from a random slot on.
fn config() -> impl Strategy<Value = Config> {
    let size =
        (0..=13_u8, 24..=30_u8).prop_map(|(cut, prefix)| (prefix - cut.max(prefix - 24).min(13), prefix));
    let members = proptest::collection::vec(member(), 1..8);
    let group = proptest::option::of("[a-z][a-z0-9 \"\\\\é-]{0,20}");
    (any::<bool>(), size, any::<u32>(), members, overlay_words(), device(), group, any::<u16>(), 0..5_usize)
        .prop_map(|(is_hub, (cidr, prefix), at, members, words, device, group, port, dns)| {
            let cidr = Ipv4Net::new(Ipv4Addr::new(10, 64, 0, 0), cidr).unwrap().trunc();
            let slots: Vec<Slot> = cidr.subnets(prefix).unwrap().map(|net| Slot::new(net).unwrap()).collect();
            let slot =
                |index: usize| slots.get((at as usize % slots.len() + index) % slots.len()).copied().unwrap();
            // One slot each, and one for the floating range.
            let room = slots.len().saturating_sub(1).max(1);
            let key = |index: usize, seed: [u8; 30]| {
                let mut bytes = [0; 32];
                bytes[1..31].copy_from_slice(&seed);
                bytes[1] = index as u8 + 1;
                PrivateKey::from_bytes(bytes)
            };
            let name = |index: usize, member: &Member| format!("{index}{}", member.suffix);
            let beyond = |index: usize| Ipv4Net::new(Ipv4Addr::new(172, 20, index as u8, 0), 24).unwrap();
            let (mut hubs, mut peers) = (Vec::new(), Vec::new());
            for (index, member) in members.iter().enumerate().skip(1).take(room.saturating_sub(1)) {
                let preshared_key = member.psk.map(PresharedKey::from_bytes);
                let public_key = key(index, member.seed).public();
                let name = name(index, member);
                let persistent_keepalive = member.keepalive;
                match (&member.endpoint, index % 3) {
                    (Some(endpoint), 0) => hubs.push(Hub {
                        name,
                        public_key,
                        endpoint: endpoint.clone(),
                        kind: if member.plain { HubKind::Wireguard } else { HubKind::OverlayGw },
                        preshared_key,
                        persistent_keepalive,
                        allowed_ips: if member.plain { vec![beyond(index)] } else { Vec::new() },
                    }),
                    (endpoint, _) => peers.push(Peer {
                        name,
                        public_key,
                        slot: (!member.plain).then(|| slot(index)),
                        allowed_ips: if member.plain {
                            vec![slot(index).net(), beyond(index)]
                        } else {
                            Vec::new()
                        },
                        endpoint: endpoint.clone(),
                        preshared_key,
                        persistent_keepalive,
                    }),
                }
            }
            let own = members.first().unwrap();
            let (own_name, private_key) = (name(0, own), Some(key(0, own.seed)));
            let listen = Listen { address: None, port: if is_hub { port.max(1) } else { port } };
            let vias = hubs.iter().map(|hub| &hub.name).chain(peers.iter().map(|peer| &peer.name));
            let routes =
                vias.enumerate().map(|(index, via)| Route { cidr: beyond(100 + index), via: via.clone() });
            let floating = (slots.len() > 1 && members.len() <= room)
                .then(|| Floating { cidr: slot(slots.len() - 1).net(), slots: vec![slot(0)] });
            let (signing_key, membership, relay, refuse) = words;
            let overlay = Overlay {
                cidr,
                slot_prefix: prefix,
                dns: (0..dns).map(|index| Ipv4Addr::new(172, 20, 100, index as u8)).collect(),
                routes: routes.collect(),
                signing_key,
                membership,
                relay,
                refuse,
                floating: floating.into_iter().collect(),
            };
            let role = if is_hub {
                Role::Hub(HubRole { name: own_name, private_key, listen })
            } else {
                Role::Node(Node { name: own_name, slot: slot(0), private_key, listen })
            };
            let device = if is_hub { Device::default() } else { device };
            Config { role, overlay, device, control: Control { group }, hubs, peers, warnings: Vec::new() }
        })
}

/// Text that looks like a configuration: words of the contract in any order, types and nesting.
fn toml_like() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        proptest::sample::select(vec![
            "version",
            "node",
            "hub",
            "overlay",
            "device",
            "control",
            "hubs",
            "peers",
            "name",
            "slot",
            "cidr",
            "via",
            "private_key_file",
            "listen_port",
            "slot_prefix",
            "dns",
            "routes",
            "signing_key",
            "membership",
            "relay",
            "refuse",
            "floating",
            "slots",
            "mode",
            "mtu",
            "queues",
            "group",
            "public_key",
            "endpoint",
            "kind",
            "preshared_key_file",
            "persistent_keepalive",
            "allowed_ips",
            "overlay.routes",
            "node.slot",
        ])
        .prop_map(str::to_owned),
        "[a-z_]{1,12}",
    ];
    let leaf = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        (0..300_i64).prop_map(|number| number.to_string()),
        any::<f64>()
            .prop_filter("TOML", |number| number.is_finite())
            .prop_map(|number| format!("{number:.3}")),
        any::<bool>().prop_map(|truth| truth.to_string()),
        Just("1979-05-27T07:32:00Z".to_owned()),
        proptest::sample::select(vec![
            "172.16.8.0/24",
            "172.16.8.56",
            "10.0.0.0/8",
            "0.0.0.0/0",
            "255.255.255.255/32",
            "128.0.0.0/1",
            "tun",
            "cluster-1.key",
            "binary.key",
            "198.51.100.1:51820",
            "[::1]:1",
            "hub-a",
            "signed",
            "wireguard",
            "é\u{202e}",
        ])
        .prop_map(|text| format!("\"{text}\"")),
        ".{0,40}".prop_map(|text: String| toml_edit::Value::from(text).to_string()),
    ];
    let inline = key.clone();
    let value = leaf.prop_recursive(3, 24, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|all| format!("[{}]", all.join(", "))),
            proptest::collection::btree_map(inline.clone(), inner, 0..4).prop_map(|all| {
                let all: Vec<_> = all.into_iter().map(|(key, value)| format!("{key} = {value}")).collect();
                format!("{{ {} }}", all.join(", "))
            }),
        ]
    });
    let line = prop_oneof![
        6 => (key.clone(), value).prop_map(|(key, value)| format!("{key} = {value}")),
        1 => key.clone().prop_map(|key| format!("[{key}]")),
        1 => key.prop_map(|key| format!("[[{key}]]")),
    ];
    proptest::collection::vec(line, 0..24).prop_map(|lines| format!("version = 1\n{}\n", lines.join("\n")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_configuration_that_is_written_reads_back_as_itself(config in config()) {
        let files = config.key_files().into_iter().map(|file| (file.path, (file.contents.as_bytes().to_vec(), true)));
        let files = Memory(files.collect());
        let (source, flags, host) = (source(config.to_toml()), Overrides::default(), HostFacts::default());
        let read = match config.role {
            Role::Node(_) => load_node(Some(&source), &flags, &files, &host),
            Role::Hub(_) => load_hub(&source, &flags, &files, &host),
        };
        match read {
            Ok(read) => prop_assert_eq!(Config { warnings: Vec::new(), ..read }, config),
            Err(errors) => prop_assert!(false, "{}\n{}", errors, config.to_toml()),
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        read_both(&bytes);
    }

    #[test]
    fn a_valid_file_with_any_bytes_in_it_never_panics(
        at in any::<prop::sample::Index>(),
        length in 0..20_usize,
        bytes in prop_oneof![".{0,12}".prop_map(String::into_bytes), proptest::collection::vec(any::<u8>(), 0..8)],
        hub in any::<bool>(),
    ) {
        let mut text = filled(if hub { HUB } else { NODE }).into_bytes();
        let at = at.index(text.len());
        let end = (at + length).min(text.len());
        text.splice(at..end, bytes);
        read_both(&text);
    }

    #[test]
    fn arbitrary_toml_never_panics(text in toml_like()) {
        read_both(text.as_bytes());
    }
}
