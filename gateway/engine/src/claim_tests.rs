//! Claims against each other, and what is not for somebody to have.

use super::*;
use crate::gateway::refuse::Refusal;
use crate::settings::RoleSettings;
use overlay_config::{Floating, Mode, Slot};
use proptest::prelude::*;

const NODES: [u8; 4] = [56, 64, 72, 80];

fn addr(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, 8, last)
}

fn slot(first: u8) -> Slot {
    Slot::new(Ipv4Net::new(addr(first), 29).unwrap()).unwrap()
}

/// The first three nodes may have the addresses from .192 on.
fn settings(me: u8) -> EngineSettings {
    EngineSettings {
        role: RoleSettings::Node { slot: slot(me), mode: Mode::Tun },
        overlay: "172.16.8.0/24".parse().unwrap(),
        slot_prefix: 29,
        mtu: 1420,
        refuse: Refusal::Reset,
        floating: vec![Floating {
            cidr: "172.16.8.192/28".parse().unwrap(),
            slots: NODES[..3].iter().map(|n| slot(*n)).collect(),
        }],
        peers: Vec::new(),
    }
}

fn keys() -> [[u8; 32]; 256] {
    std::array::from_fn(|n| [n as u8; 32])
}

fn tellers<'a>(
    keys: &'a [[u8; 32]; 256],
    me: u8,
    lost: &'a [u8],
) -> impl Iterator<Item = Teller<'a>> + Clone {
    NODES.into_iter().filter(move |n| *n != me).map(|n| Teller {
        public_key: &keys[usize::from(n)],
        name: ["a", "b", "c", "d"][usize::from(n / 8 - 7)],
        index: u32::from(n),
        slot: slot(n).net(),
        reachable: !lost.contains(&n),
    })
}

fn tell(to: &mut Shared, me: u8, from: u8, revision: u32, live: &[u8], claims: &[(u8, u32)]) -> News {
    let claims = claims.iter().map(|(last, epoch)| Claim { address: addr(*last), epoch: *epoch });
    let mut buffer = Vec::new();
    let told = Listeners::new(revision, live.iter().map(|last| addr(*last)), claims, &mut buffer);
    to.hear(&settings(me), (&keys()[usize::from(from)], slot(from).net()), 1, &told)
}

fn owner(of: &Shared, me: u8, lost: &[u8]) -> Option<Holder> {
    of.elect(&settings(me), tellers(&keys(), me, lost)).of(addr(200))
}

#[test]
fn the_higher_epoch_has_it_then_the_lower_slot_and_whoever_cannot_be_reached_comes_last() {
    let mut shared = Shared::default();
    assert_eq!(owner(&shared, 72, &[]), None);
    tell(&mut shared, 72, 64, 1, &[], &[(200, 4)]);
    assert_eq!(owner(&shared, 72, &[]), Some(Holder::Peer(64)));
    tell(&mut shared, 72, 56, 1, &[], &[(200, 5)]);
    assert_eq!(owner(&shared, 72, &[]), Some(Holder::Peer(56)), "the higher");
    assert_eq!(owner(&shared, 72, &[56]), Some(Holder::Peer(64)), "unreachable");
    assert_eq!(owner(&shared, 72, &[56, 64]), Some(Holder::Peer(56)), "both: better than nobody");
    tell(&mut shared, 72, 64, 2, &[], &[(200, 5)]);
    assert_eq!(owner(&shared, 72, &[]), Some(Holder::Peer(56)), "a tie, the lower slot");
    assert!(shared.set_device(&settings(72), &[addr(73), addr(200)]));
    assert_eq!(shared.told().claims().collect::<Vec<_>>(), [Claim { address: addr(200), epoch: 6 }]);
    assert_eq!(owner(&shared, 72, &[]), Some(Holder::Own));
    assert!(!shared.set_device(&settings(72), &[addr(73), addr(200)]), "as before");
    shared.set_device(&settings(72), &[addr(73)]);
    assert_eq!(owner(&shared, 72, &[]), Some(Holder::Peer(56)));
}

#[test]
fn who_may_not_have_it_claims_in_vain_and_what_is_older_changes_nothing() {
    let mut shared = Shared::default();
    assert_eq!(tell(&mut shared, 56, 80, 1, &[], &[(200, 9)]), News { changed: true, refused: 1 }, "slot 80");
    assert_eq!(tell(&mut shared, 56, 64, 1, &[], &[(57, 9), (130, 9)]), News { changed: true, refused: 2 });
    assert_eq!(owner(&shared, 56, &[]), None);
    tell(&mut shared, 56, 64, 5, &[], &[(200, 1)]);
    assert_eq!(tell(&mut shared, 56, 64, 4, &[], &[]), News::default(), "overtaken");
    assert_eq!(owner(&shared, 56, &[]), Some(Holder::Peer(64)));
    shared.set_device(&settings(80), &[addr(81), addr(200)]);
    assert_eq!(shared.told().claims().count(), 0, "nor does slot 80 claim it");
}

#[test]
fn an_address_in_two_places_or_in_a_wrong_one_is_found_and_told_once_when_it_lasts() {
    let (mut shared, mut now) = (Shared::default(), Instant::now());
    shared.set_device(&settings(56), &[addr(57), addr(200)]);
    tell(&mut shared, 56, 64, 1, &[65, 59, 84], &[(200, 3)]);
    tell(&mut shared, 56, 72, 1, &[73, 68, 120], &[]);
    let find =
        |shared: &mut Shared, lost: &[u8]| shared.find_conflicts(&settings(56), tellers(&keys(), 56, lost));
    find(&mut shared, &[]);
    assert_eq!(shared.next_alarm(now), None, "it may be moving");
    now += ALARM_AFTER;
    let conflict = |last, here, peers: &[&str], belongs| Conflict {
        address: addr(last),
        here,
        peers: peers.iter().map(|name| (*name).to_owned()).collect(),
        belongs,
    };
    let all = [
        conflict(59, false, &["b"], Belongs::Here),
        conflict(68, false, &["c"], Belongs::To("b".into())),
        conflict(84, false, &["b"], Belongs::To("d".into())),
        conflict(200, true, &["b"], Belongs::Floating),
    ];
    let told: Vec<_> = std::iter::from_fn(|| shared.next_alarm(now)).collect();
    assert_eq!(told, all);
    find(&mut shared, &[]);
    assert_eq!(shared.next_alarm(now + ALARM_AFTER), None, "once");
    assert_eq!(shared.lasting().count(), 4);
    find(&mut shared, &[64]);
    assert_eq!(shared.lasting().count(), 1, "what is told of a node that is not there counts for nothing");
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut shared = Shared::default();
    let mut wide = settings(56);
    wide.overlay = "172.16.0.0/12".parse().unwrap();
    wide.floating[0].cidr = "172.16.0.0/13".parse().unwrap();
    for n in 0..5000_u32 {
        shared.set_device(&wide, &[Ipv4Addr::from(0xAC10_0000 + n)]);
    }
    assert!(shared.highest.len() <= MOST_REMEMBERED + 1);
}

proptest! {
    #[test]
    fn all_who_know_the_same_agree_on_the_owner(claims in prop::collection::vec((0_usize..3, 1_u32..4), 0..6)) {
        // Each node's claim, as the last of its tellings has it.
        let mut last = [None; 3];
        for (node, epoch) in &claims {
            last[*node] = Some(*epoch);
        }
        let mut elected = Vec::new();
        for me in NODES {
            let mut shared = Shared::default();
            for (n, epoch) in last.iter().enumerate() {
                if let (Some(epoch), true) = (epoch, NODES[n] != me) {
                    tell(&mut shared, me, NODES[n], 1, &[], &[(200, *epoch)]);
                }
            }
            if let Some(Some(epoch)) = NODES.iter().position(|n| *n == me).and_then(|n| last.get(n)) {
                shared.claims = vec![Claim { address: addr(200), epoch: *epoch }];
            }
            elected.push(owner(&shared, me, &[]).map(|holder| match holder {
                Holder::Own => u32::from(me),
                Holder::Peer(index) => index,
            }));
        }
        prop_assert!(elected.iter().all(|one| *one == elected[0]), "{:?}", elected);
        let best = (0..3).filter_map(|n| Some((last[n]?, std::cmp::Reverse(NODES[n])))).max();
        prop_assert_eq!(elected[0], best.map(|(_, node)| u32::from(node.0)));
    }
}

#[test]
fn whoever_claims_the_highest_epoch_that_there_is_has_the_address_only_until_the_next_one_takes_it() {
    let mut shared = Shared::default();
    tell(&mut shared, 72, 64, 1, &[], &[(200, 7)]);
    tell(&mut shared, 72, 56, 1, &[], &[(200, 7 + i32::MAX as u32)]);
    assert_eq!(owner(&shared, 72, &[]), Some(Holder::Peer(56)), "as late as one can be");
    shared.set_device(&settings(72), &[addr(73), addr(200)]);
    assert_eq!(owner(&shared, 72, &[]), Some(Holder::Own));
    for epoch in [u32::MAX, 0, u32::MAX / 2] {
        let mut shared = Shared::default();
        tell(&mut shared, 72, 56, 1, &[], &[(200, epoch)]);
        shared.set_device(&settings(72), &[addr(73), addr(200)]);
        assert_eq!(owner(&shared, 72, &[]), Some(Holder::Own), "{epoch}");
        // And from this one.
        let next = shared.told().claims().next().unwrap().epoch;
        tell(&mut shared, 72, 64, 1, &[], &[(200, next.wrapping_add(1))]);
        assert_eq!(owner(&shared, 72, &[]), Some(Holder::Peer(64)), "{epoch}");
    }
}

proptest! {
    #[test]
    fn all_see_the_same_owner_whatever_is_claimed(epochs in prop::array::uniform3(any::<u32>()), far in any::<bool>()) {
        // Each may be later than the next.
        let epochs = if far { [0, 1 << 30, 3 << 30].map(|n: u32| n.wrapping_add(epochs[0])) } else { epochs };
        let seen = |me: u8| {
            let mut shared = Shared::default();
            for n in (0..3).rev() {
                if NODES[n] == me {
                    shared.claims = vec![Claim { address: addr(200), epoch: epochs[n] }];
                } else {
                    tell(&mut shared, me, NODES[n], 1, &[], &[(200, epochs[n])]);
                }
            }
            match owner(&shared, me, &[]) {
                Some(Holder::Own) => u32::from(me),
                Some(Holder::Peer(index)) => index,
                None => 0,
            }
        };
        prop_assert_eq!([seen(64), seen(72)], [seen(56); 2]);
    }
}
