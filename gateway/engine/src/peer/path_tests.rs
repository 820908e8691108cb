//! The choice of a path, under a clock of its own.

use super::*;
use crate::control::HubReach;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn leg(hub: PeerIndex, rtt: u64) -> Leg {
    Leg {
        hub,
        id: HubId(u64::from(hub)),
        endpoint: ([198, 51, 100, hub as u8], 51820).into(),
        up: true,
        relays: true,
        plain: false,
        routed_only: false,
        draining: false,
        rtt: ms(rtt),
        alive: None,
        mtu: 1420,
        measured: false,
    }
}

fn reach(hubs: &[(PeerIndex, bool)], revision: u32) -> Whereabouts {
    let mut told = Whereabouts::new(revision);
    for &(hub, up) in hubs {
        told.add_hub(HubReach { hub: HubId(hub.into()), up, draining: false, rtt: ms(1), mtu: None });
    }
    told
}

/// Decides every 50 ms until something is to be done.
fn until_step(paths: &mut Paths, now: &mut Instant, legs: &[Leg]) -> (Step, Duration) {
    let start = *now;
    while *now - start < Duration::from_secs(200) {
        let step = paths.decide(*now, legs);
        if step != Step::Stay {
            return (step, *now - start);
        }
        *now += ms(50);
    }
    (Step::Stay, *now - start)
}

#[test]
fn the_first_hub_that_carries_is_taken_and_left_at_once_when_either_leg_breaks() {
    let mut now = Instant::now();
    let mut paths = Paths::new(now, None);
    let mut legs = [leg(1, 1), leg(2, 1)];
    assert_eq!(paths.decide(now, &legs), Step::Now(Way::Via(1)));
    paths.take(now, Way::Via(1), None);
    assert_eq!(paths.decide(now, &legs), Step::Stay);
    legs[0].up = false;
    assert_eq!(paths.decide(now, &legs), Step::Now(Way::Via(2)), "our leg");
    legs[0].up = true;
    assert!(paths.tell(now, reach(&[(1, false), (2, true)], 1), |_| true));
    assert_eq!(paths.decide(now, &legs), Step::Now(Way::Via(2)), "the peer's leg");
    assert!(!paths.tell(now, reach(&[(1, true)], 1), |_| true), "no news");
    now += ms(1);
    paths.take(now, Way::Via(2), Some(now - ms(640)));
    assert_eq!((paths.changes(), paths.missed_heartbeats(), paths.outage()), (1, 1, ms(640)));
}

#[test]
fn whoever_names_ever_new_addresses_does_not_have_them_all_tried() {
    let start = Instant::now();
    let mut paths = Paths::new(start, None);
    let third = |n: u32| SocketAddr::from(([203, 0, (n >> 8) as u8, n as u8], 7));
    let mut tried = 0;
    // A minute long, each 100 ms: others, or the same two lists in turn.
    for (lists, begin) in [(u32::MAX, 0), (2, 600)] {
        for n in begin..begin + 600 {
            let now = start + ms(100) * n;
            let mut told = Whereabouts::new(paths.told().map_or(0, |told| told.revision) + 1);
            for k in 0..4 {
                told.add_address(third(n % lists * 4 + k));
            }
            assert!(paths.tell(now, told, |_| true));
            for candidate in paths.candidates_mut().iter_mut().filter(|candidate| candidate.tries == 0) {
                candidate.tries = 3;
                tried += 1;
            }
        }
    }
    assert!((ATTEMPTS..=ATTEMPTS + 24).contains(&tried), "{tried} addresses in two minutes");
}

#[test]
fn a_candidate_that_carries_no_more_makes_room() {
    let mut now = Instant::now();
    let mut paths = Paths::new(now, None);
    let at = |n: u8| SocketAddr::from(([203, 0, 113, n], 7));
    let up = |paths: &mut Paths, now: Instant, n: u8| {
        let candidate =
            paths.candidates_mut().iter_mut().find(|candidate| candidate.address == at(n)).unwrap();
        let (_, number) = candidate.prober.poll(now);
        candidate.prober.answered(now, number.unwrap());
        assert!(candidate.prober.is_up());
    };
    for n in 0..6 {
        paths.heard(now, at(n));
        up(&mut paths, now, n);
        now += ms(10);
    }
    paths.heard(now, at(6));
    assert!(paths.candidates().iter().all(|candidate| candidate.address != at(6)), "all six carry");
    // All go down; that of the first is the longest ago.
    for candidate in paths.candidates_mut() {
        while candidate.prober.is_up() {
            now += ms(50);
            candidate.prober.poll(now);
        }
    }
    for n in [6, 7] {
        paths.heard(now, at(n));
        let there: Vec<_> = paths.candidates().iter().map(|candidate| candidate.address).collect();
        assert!(there.contains(&at(n)) && !there.contains(&at(if n == 6 { 0 } else { 6 })), "{there:?}");
    }
}

#[test]
fn an_outage_that_ends_on_the_same_way_is_counted_as_well() {
    let start = Instant::now();
    let mut paths = Paths::new(start, None);
    let up = Leg { alive: Some(start), ..leg(1, 1) };
    let down = Leg { up: false, ..up };
    paths.take(start, Way::Via(1), None);
    assert_eq!(paths.decide(start, &[up]), Step::Stay);
    for at in [600, 2000, 4900] {
        assert_eq!(paths.decide(start + ms(at), &[down]), Step::Stay, "there is no other");
        assert_eq!(paths.missed_heartbeats(), 0, "not while it lasts");
    }
    let back = Leg { alive: Some(start + ms(5200)), ..up };
    for at in [5200, 5300] {
        assert_eq!(paths.decide(start + ms(at), &[back]), Step::Stay);
        assert_eq!((paths.changes(), paths.missed_heartbeats(), paths.outage()), (0, 5, ms(5200)));
    }
    // The peer was down itself: nobody missed anything.
    assert_eq!(paths.decide(start + ms(6000), &[down]), Step::Stay);
    paths.forget(start + ms(90_000), true);
    assert_eq!(paths.decide(start + ms(90_000), &[back]), Step::Stay);
    assert_eq!(paths.missed_heartbeats(), 5);
}

#[test]
fn a_return_waits_for_a_stable_spell_a_handshake_and_a_minute() {
    let mut now = Instant::now();
    let mut paths = Paths::new(now, None);
    let legs = [leg(1, 1), leg(2, 40)];
    paths.take(now, Way::Via(2), None);
    let (step, waited) = until_step(&mut paths, &mut now, &legs);
    assert_eq!((step, waited), (Step::Prepare(Way::Via(1)), SPELL));
    assert_eq!(paths.current(), Some(Way::Via(2)), "not before the handshake");
    assert!(!paths.shaken(now, Way::Via(2)), "another handshake does not count");
    assert!(paths.shaken(now, Way::Via(1)));
    assert_eq!(paths.current(), Some(Way::Via(1)));
    // It breaks, and is well again: the way back takes its minute.
    let broken = [Leg { up: false, ..legs[0] }, legs[1]];
    assert_eq!(paths.decide(now, &broken), Step::Now(Way::Via(2)));
    paths.take(now, Way::Via(2), None);
    let (step, waited) = until_step(&mut paths, &mut now, &legs);
    assert_eq!((step, waited), (Step::Prepare(Way::Via(1)), RETURN_PACE));
}

#[test]
fn a_path_that_flaps_is_not_returned_to() {
    let mut now = Instant::now();
    let mut paths = Paths::new(now, None);
    let legs = [leg(1, 1), leg(2, 40)];
    paths.take(now, Way::Via(2), None);
    for n in 0..400 {
        // Well for eight seconds, then not for one.
        let up = n % 18 < 16;
        let legs = [Leg { up, ..legs[0] }, legs[1]];
        assert_eq!(paths.decide(now, &legs), Step::Stay);
        now += ms(500);
    }
}

#[test]
fn a_hub_that_is_to_be_left_is_left_after_a_handshake_and_without_delay() {
    let mut now = Instant::now();
    let mut paths = Paths::new(now, None);
    let legs = [Leg { draining: true, ..leg(1, 1) }, leg(2, 40)];
    paths.take(now, Way::Via(1), None);
    assert_eq!(paths.decide(now, &legs), Step::Prepare(Way::Via(2)));
    assert_eq!(paths.decide(now, &legs), Step::Stay, "under way");
    now += MOVE_RETRY;
    assert_eq!(paths.decide(now, &legs), Step::Prepare(Way::Via(2)), "again, if nobody answers");
    assert!(paths.shaken(now, Way::Via(2)));
    // Both are to be left: nowhere to go.
    let both = legs.map(|leg| Leg { draining: true, ..leg });
    assert_eq!(paths.decide(now, &both), Step::Stay);
}

#[test]
fn a_hub_of_the_same_distance_is_no_reason_to_move() {
    let mut now = Instant::now();
    let mut paths = Paths::new(now, None);
    paths.take(now, Way::Via(2), None);
    assert_eq!(until_step(&mut paths, &mut now, &[leg(1, 10), leg(2, 12)]).0, Step::Stay);
}

#[test]
fn a_direct_path_is_found_taken_and_left_when_it_dies() {
    let mut now = Instant::now();
    let direct: SocketAddr = ([203, 0, 113, 1], 1).into();
    let mut paths = Paths::new(now, None);
    paths.forget(now, true);
    let legs = [leg(1, 5)];
    paths.take(now, Way::Via(1), None);
    let mut told = reach(&[(1, true)], 1);
    told.add_address(direct);
    paths.tell(now, told, |_| true);
    assert_eq!(paths.decide(now, &legs), Step::Stay, "nobody has answered there");
    let candidate = &mut paths.candidates_mut()[0];
    let (_, number) = candidate.prober.poll(now);
    candidate.prober.answered(now + ms(8), number.unwrap());
    let (step, waited) = until_step(&mut paths, &mut now, &legs);
    assert_eq!((step, waited), (Step::Prepare(Way::Direct(direct)), FIRST_SPELL));
    assert!(paths.shaken(now, Way::Direct(direct)));
    for _ in 0..40 {
        paths.candidates_mut()[0].prober.poll(now);
        now += ms(50);
    }
    assert_eq!(paths.decide(now, &legs), Step::Now(Way::Via(1)));
}

#[test]
fn candidates_are_few_and_a_configured_one_stays() {
    let now = Instant::now();
    let address = |n: u16| SocketAddr::from(([203, 0, 113, 1], n));
    let mut paths = Paths::new(now, Some(address(1)));
    for n in 2..50 {
        paths.heard(now, address(n));
    }
    assert_eq!(paths.candidates().len(), MAX_CANDIDATES);
    assert_eq!(paths.candidates()[0].address, address(1));
    let mut told = Whereabouts::new(1);
    told.add_address(address(60));
    paths.tell(now, told, |_| true);
    assert_eq!(paths.candidates().len(), MAX_CANDIDATES);
    paths.configure(now, None);
    assert!(paths.candidates().iter().all(|candidate| candidate.source != Source::Configured));
}

#[test]
fn a_probes_number_leads_back_to_its_candidate_and_count_whoever_was_there_before() {
    let now = Instant::now();
    let mut paths = Paths::new(now, None);
    for n in 1..200 {
        paths.heard(now, SocketAddr::from(([203, 0, 113, 1], n)));
        for counted in [0, 1, 1 << 16, COUNT - 1, COUNT, COUNT + 1, u32::MAX - 9] {
            for candidate in paths.candidates() {
                let number = candidate.named(counted);
                assert!(number < 1 << 31);
                let named = paths.candidates().iter().filter(|other| other.is_named(number));
                assert_eq!(named.map(|other| other.address).collect::<Vec<_>>(), [candidate.address]);
                for later in 0..9 {
                    assert_eq!(candidate.counted(number, counted.wrapping_add(later)), counted);
                }
            }
        }
    }
}

#[test]
fn a_hub_that_says_the_node_is_away_is_passed_over_for_a_moment() {
    let now = Instant::now();
    let mut paths = Paths::new(now, None);
    let legs = [leg(1, 1), leg(2, 40)];
    paths.note_absent(now, 1);
    assert_eq!(paths.decide(now, &legs), Step::Now(Way::Via(2)));
    assert_eq!(paths.decide(now + ABSENT_FOR, &legs), Step::Now(Way::Via(1)));
}

#[test]
fn a_way_through_a_hub_takes_what_both_legs_take_and_no_peer_makes_it_tiny() {
    let now = Instant::now();
    let mut paths = Paths::new(now, None);
    let legs = [Leg { mtu: 1_400, ..leg(1, 1) }];
    let mut revision = 0;
    let mut told = |mtu| {
        revision += 1;
        let mut told = Whereabouts::new(revision);
        told.add_hub(HubReach { hub: HubId(1), up: true, draining: false, rtt: ms(1), mtu });
        assert!(paths.tell(now, told, |_| true));
        paths.mtu_of(Way::Via(1), &legs)
    };
    assert_eq!(told(None), 1_400);
    assert_eq!(told(Some(1_420)), 1_400);
    assert_eq!(told(Some(1_300)), 1_300);
    assert_eq!(told(Some(1)), BASE);
}
