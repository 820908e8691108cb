//! Every message, written and read; and what is not one.

use super::*;
use crate::control::{Header, MAX_MESSAGE, Unreadable, claims_to_be_one, read, write};
use proptest::prelude::*;

fn address() -> impl Strategy<Value = SocketAddr> {
    let v4 = any::<([u8; 4], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port)));
    // Not one that is an IPv4 address in IPv6 clothes: those are undressed.
    let v6 = any::<([u8; 16], u16)>().prop_map(|(mut ip, port)| {
        ip[0] |= 0x20;
        SocketAddr::from((ip, port))
    });
    prop_oneof![v4, v6]
}

fn whereabouts() -> impl Strategy<Value = Whereabouts> {
    let hub = any::<(u64, bool, bool, u16, u16)>().prop_map(|(hub, up, draining, rtt, mtu)| HubReach {
        hub: HubId(hub),
        up,
        draining,
        rtt: Duration::from_millis(rtt.into()),
        mtu: Some(mtu).filter(|mtu| *mtu != 0),
    });
    let (hubs, addresses) =
        (prop::collection::vec(hub, 0..=MAX_HUBS), prop::collection::vec(address(), 0..=MAX_ADDRESSES));
    (any::<u32>(), hubs, addresses).prop_map(|(revision, hubs, addresses)| {
        let mut whereabouts = Whereabouts::new(revision);
        assert!(hubs.into_iter().all(|hub| whereabouts.add_hub(hub)));
        assert!(addresses.into_iter().all(|address| whereabouts.add_address(address)));
        whereabouts
    })
}

/// A message of every type.
fn messages<'a>(
    (long, short, flag): (u64, u16, bool),
    address: Option<SocketAddr>,
    whereabouts: Whereabouts,
    bytes: &'a [u8],
    initiation: &'a [u8; INITIATION],
    listeners: Listeners<'a>,
) -> [Message<'a>; 15] {
    let number = long as u32;
    let why = if flag { Absence::Plain } else { Absence::Away };
    [
        Message::Hello { capabilities: Capabilities(number), seen: long },
        Message::Challenge { nonce: long },
        Message::Answer { nonce: long },
        Message::Probe { number, mtu: Some(short).filter(|mtu| *mtu != 0) },
        Message::Echo { number, draining: flag, seen_at: address },
        Message::Notice { draining: flag },
        Message::Initiate { to: short, message: initiation },
        Message::Initiated { from: short, message: initiation },
        Message::Absent { node: short, why },
        Message::Inner { message: &bytes[..bytes.len().min(INITIATION)] },
        Message::Whereabouts(whereabouts),
        Message::Noted { revision: number },
        Message::Membership { bytes: &bytes[..bytes.len().min(MAX_MEMBERSHIP)] },
        Message::Listeners(listeners),
        Message::ListenersNoted { revision: number },
    ]
}

const HEADER: Header = Header { epoch: 0x0102_0304_0506_0708, sequence: 9 };

fn written(message: &Message<'_>) -> Vec<u8> {
    let mut out = [0xAA; MAX_MESSAGE];
    let len = write(HEADER, message, &mut out).unwrap();
    out[..len].to_vec()
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        numbers: (u64, u16, bool),
        address in prop::option::of(address()),
        whereabouts in whereabouts(),
        bytes in prop::collection::vec(any::<u8>(), 0..1200),
        seed: u8,
        live in prop::collection::vec(any::<Ipv4Addr>(), 0..=MAX_LIVE),
        claims in prop::collection::vec(any::<(Ipv4Addr, u32)>(), 0..=MAX_CLAIMS),
    ) {
        let initiation = [seed; INITIATION];
        let claims: Vec<_> = claims.into_iter().map(|(address, epoch)| Claim { address, epoch }).collect();
        let mut buffer = Vec::new();
        let listeners = Listeners::new(7, live.iter().copied(), claims.iter().copied(), &mut buffer);
        prop_assert_eq!(listeners.live().collect::<Vec<_>>(), live);
        prop_assert_eq!(listeners.claims().collect::<Vec<_>>(), claims);
        for message in messages(numbers, address, whereabouts, &bytes, &initiation, listeners) {
            let packet = written(&message);
            prop_assert!(claims_to_be_one(&packet));
            prop_assert_eq!(read(&packet), Ok((HEADER, message)));
            // A later version says more in the same message: what is known of it is read.
            let mut longer = packet.clone();
            longer.extend([7; 5]);
            let payload = (longer.len() - 40) as u16;
            longer[4..6].copy_from_slice(&payload.to_be_bytes());
            prop_assert_eq!(read(&longer), Ok((HEADER, message)));
            // Cut anywhere, it is refused.
            for len in 0..packet.len() {
                prop_assert!(matches!(read(&packet[..len]), Err(Unreadable::Malformed(_))));
            }
        }
    }

    #[test]
    fn strange_bytes_are_refused_or_bounded(mut bytes in prop::collection::vec(any::<u8>(), 0..300), kind: u8) {
        let _ = read(&bytes);
        let mut packet = written(&Message::Probe { number: 1, mtu: None });
        packet[41] = kind;
        packet.truncate(56);
        packet.append(&mut bytes);
        let len = (packet.len() - 40) as u16;
        packet[4..6].copy_from_slice(&len.to_be_bytes());
        if let Ok((header, message)) = read(&packet) {
            // What can be read can be written, and says the same.
            let mut out = [0; MAX_MESSAGE];
            let len = write(header, &message, &mut out).unwrap();
            prop_assert_eq!(read(&out[..len]), Ok((header, message)));
        }
    }
}

#[test]
fn a_later_version_and_an_unknown_type_are_told_from_nonsense() {
    let mut packet = written(&Message::Probe { number: 1, mtu: None });
    packet[40] = 2;
    assert_eq!(read(&packet), Err(Unreadable::Unknown));
    packet[40] = 1;
    packet[41] = 200;
    assert_eq!(read(&packet), Err(Unreadable::Unknown));
    packet[6] = 17;
    assert!(matches!(read(&packet), Err(Unreadable::Malformed(_))), "UDP");
}

#[test]
fn a_sender_that_is_not_reserved_is_no_gateway() {
    let good = written(&Message::Probe { number: 1, mtu: None });
    for at in [8, 23 - 2, 24, 39 - 2] {
        let mut packet = good.clone();
        packet[at] ^= 1;
        assert!(matches!(read(&packet), Err(Unreadable::Malformed(_))));
        assert!(claims_to_be_one(&packet), "one of the two addresses is enough to be kept out");
    }
}

#[test]
fn a_list_that_is_too_long_is_refused() {
    let mut packet = written(&Message::Whereabouts(Whereabouts::new(1)));
    packet.extend([0; 500]);
    let len = (packet.len() - 40) as u16;
    packet[4..6].copy_from_slice(&len.to_be_bytes());
    packet[60] = MAX_HUBS as u8 + 1;
    assert!(matches!(read(&packet), Err(Unreadable::Malformed(_))));
    packet[60..62].copy_from_slice(&[0, MAX_ADDRESSES as u8 + 1]);
    assert!(matches!(read(&packet), Err(Unreadable::Malformed(_))));
    let mut buffer = Vec::new();
    let listeners = Listeners::new(1, std::iter::empty(), std::iter::empty(), &mut buffer);
    let mut many = written(&Message::Listeners(listeners));
    many.extend([0; 1050]);
    let len = (many.len() - 40) as u16;
    many[4..6].copy_from_slice(&len.to_be_bytes());
    for (counts, good) in [
        ([MAX_LIVE as u8, MAX_CLAIMS as u8], true),
        ([MAX_LIVE as u8 + 1, 0], false),
        ([0, MAX_CLAIMS as u8 + 1], false),
    ] {
        many[60..62].copy_from_slice(&counts);
        assert_eq!(read(&many).is_ok(), good, "{counts:?}");
    }
    let long = [0; MAX_MEMBERSHIP + 1];
    assert_eq!(write(HEADER, &Message::Membership { bytes: &long }, &mut [0; MAX_MESSAGE]), None);
    assert_eq!(write(HEADER, &Message::Inner { message: &long[..149] }, &mut [0; MAX_MESSAGE]), None);
}

#[test]
fn a_padded_probe_is_as_long_as_asked_and_reads_the_same_with_and_without_its_padding() {
    let message = Message::Probe { number: 7, mtu: Some(1420) };
    for size in [1_180, 1_420, 8_900] {
        let mut out = vec![0xAA; 9_000];
        assert_eq!(crate::control::write_padded(HEADER, &message, size, &mut out), Some(size));
        out.truncate(size);
        assert_eq!(read(&out), Ok((HEADER, message)));
        assert!(claims_to_be_one(&out));
        let short = crate::control::without_padding(&mut out);
        assert_eq!(short.len(), written(&message).len());
        assert_eq!(read(short), Ok((HEADER, message)));
    }
    // No room, or less than the message needs.
    assert_eq!(crate::control::write_padded(HEADER, &message, 1_420, &mut [0; 1_419]), None);
    let mut out = vec![0; 2_000];
    assert_eq!(crate::control::write_padded(HEADER, &message, 10, &mut out), Some(written(&message).len()));
    // What is no probe keeps its length.
    let mut other = written(&Message::Membership { bytes: &[1; 500] });
    let before = other.clone();
    assert_eq!(crate::control::without_padding(&mut other), before);
}

#[test]
fn what_an_older_version_says_of_a_leg_is_read_without_its_mtu() {
    let mut told = Whereabouts::new(1);
    let hub = HubReach { hub: HubId(1), up: true, draining: false, rtt: Duration::ZERO, mtu: Some(1300) };
    assert!(told.add_hub(hub));
    let mut packet = written(&Message::Whereabouts(told));
    packet.truncate(packet.len() - 2);
    let len = (packet.len() - 40) as u16;
    packet[4..6].copy_from_slice(&len.to_be_bytes());
    let Ok((_, Message::Whereabouts(read))) = read(&packet) else { panic!("not read") };
    assert_eq!(read.hubs().collect::<Vec<_>>(), [&HubReach { mtu: None, ..hub }]);
    assert!(!read.says_the_same(&told), "another MTU is news");
}
