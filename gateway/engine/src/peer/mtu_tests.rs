use super::*;
use proptest::prelude::*;

const PATIENCE: Duration = Duration::from_millis(150);

/// A path that lets packets of up to `passes` bytes through, 10 ms there and back, and what was sent over it.
struct Path {
    now: Instant,
    passes: u16,
    carries: bool,
    sent: Vec<(Duration, u16)>,
    start: Instant,
    /// Of all probes every so many is lost, whatever its size.
    loses: usize,
}

impl Path {
    fn new(passes: u16) -> Self {
        let start = Instant::now();
        Self { now: start, passes, carries: true, sent: Vec::new(), start, loses: usize::MAX }
    }

    /// Time passes. Small probes are answered all the time, if the path carries at all.
    fn run(&mut self, mtu: &mut PathMtu, most: u16, time: Duration) {
        let (end, step) = (self.now + time, Duration::from_millis(10));
        while self.now < end {
            let alive = self.carries.then_some(self.now - step);
            if let Some((number, size)) = mtu.poll(self.now, most, alive, PATIENCE) {
                self.sent.push((self.now - self.start, size));
                let lost = self.sent.len().is_multiple_of(self.loses);
                if self.carries && size <= self.passes && !lost {
                    mtu.answered(self.now + step, number);
                }
            }
            self.now += step;
        }
    }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn a_path_that_takes_everything_costs_one_probe_and_its_confirmations() {
    let (mut path, mut mtu) = (Path::new(1420), PathMtu::new(Instant::now()));
    assert_eq!(mtu.known(), None);
    path.run(&mut mtu, 1420, seconds(61));
    assert_eq!((mtu.size(), mtu.known()), (1420, Some(1420)));
    assert!(path.sent.iter().all(|(_, size)| *size == 1420));
    assert!((12..=13).contains(&path.sent.len()), "{} in a minute", path.sent.len());
}

#[test]
fn a_small_path_is_noticed_within_a_second_and_measured_within_ten() {
    // 1,280 less 20 (IPv4), 8 (UDP) and 32.
    let (mut path, mut mtu) = (Path::new(1220), PathMtu::new(Instant::now()));
    path.run(&mut mtu, 1420, seconds(1));
    assert_eq!((mtu.size(), mtu.known()), (BASE, Some(BASE)));
    path.run(&mut mtu, 1420, seconds(9));
    assert!((1217..=1220).contains(&mtu.size()), "{}", mtu.size());
    assert_eq!(mtu.known(), Some(mtu.size()));
    // What is larger is tried again ever more rarely: three probes of the device's size, and the steps down from there.
    path.run(&mut mtu, 1420, seconds(3600));
    path.sent.clear();
    path.run(&mut mtu, 1420, seconds(3600));
    let large = path.sent.iter().filter(|(_, size)| *size > mtu.size()).count();
    assert!((6 * 3..=6 * 30).contains(&large), "{large} in an hour");
    assert!((1217..=1220).contains(&mtu.size()), "{}", mtu.size());
}

#[test]
fn a_jumbo_device_on_an_ordinary_path_finds_the_ordinary_size_soon() {
    let (mut path, mut mtu) = (Path::new(1440), PathMtu::new(Instant::now()));
    path.run(&mut mtu, 8900, seconds(2));
    assert!(mtu.size() >= 1420, "{}: after the first guess", mtu.size());
    path.run(&mut mtu, 8900, seconds(20));
    assert!((1437..=1440).contains(&mtu.size()), "{}", mtu.size());
}

#[test]
fn a_path_that_shrinks_is_noticed_and_one_that_grows_as_well() {
    let (mut path, mut mtu) = (Path::new(1420), PathMtu::new(Instant::now()));
    path.run(&mut mtu, 1420, seconds(20));
    path.passes = 1300;
    path.run(&mut mtu, 1420, seconds(8));
    assert!(mtu.size() <= 1300, "{}: after 8 s", mtu.size());
    path.run(&mut mtu, 1420, seconds(10));
    assert!((1297..=1300).contains(&mtu.size()), "{}", mtu.size());
    path.passes = 1420;
    path.run(&mut mtu, 1420, seconds(20));
    assert_eq!(mtu.known(), Some(1420), "soon, when it was small for a moment only");
    path.passes = 1300;
    path.run(&mut mtu, 1420, seconds(3600));
    path.passes = 1420;
    path.run(&mut mtu, 1420, RAISE + seconds(10));
    assert_eq!(mtu.known(), Some(1420));
}

#[test]
fn a_path_that_carries_nothing_says_nothing_of_sizes() {
    let (mut path, mut mtu) = (Path::new(1420), PathMtu::new(Instant::now()));
    path.run(&mut mtu, 1420, seconds(7));
    path.carries = false;
    path.run(&mut mtu, 1420, seconds(60));
    assert_eq!(mtu.known(), Some(1420));
    let sent = path.sent.len();
    path.carries = true;
    path.run(&mut mtu, 1420, seconds(1));
    assert_eq!(path.sent.len(), sent + 1, "it may be another path now");
}

#[test]
fn an_outage_in_mid_search_begins_the_search_anew() {
    let (mut path, mut mtu) = (Path::new(1220), PathMtu::new(Instant::now()));
    path.run(&mut mtu, 1420, seconds(1));
    assert!(mtu.beyond.is_some(), "it searches");
    path.carries = false;
    path.run(&mut mtu, 1420, seconds(5));
    (path.carries, path.passes) = (true, 1420);
    path.sent.clear();
    path.run(&mut mtu, 1420, seconds(1));
    let first = path.sent[0].1;
    assert_eq!((first, mtu.known()), (1420, Some(1420)), "the other path takes all, and is asked that first");
}

#[test]
fn an_answer_from_before_an_outage_says_nothing_of_the_path_after_it() {
    let (mut mtu, start) = (PathMtu::new(Instant::now()), Instant::now());
    let at = |n: u32| start + PATIENCE * 3 * n;
    let (old, _) = mtu.poll(start, 1420, Some(start), PATIENCE).unwrap();
    assert!(mtu.poll(at(1), 1420, Some(at(1)), PATIENCE).is_some(), "the first one counts as lost");
    assert_eq!(mtu.poll(at(2), 1420, None, PATIENCE), None);
    assert!(!mtu.answered(at(3), old));
    assert_eq!(mtu.known(), None);
}

#[test]
fn an_answer_of_the_path_before_says_nothing_of_the_one_that_took_its_place() {
    let (mut mtu, now) = (PathMtu::new(Instant::now()), Instant::now());
    let (old, _) = mtu.poll(now, 1420, Some(now), PATIENCE).unwrap();
    mtu.restart(now);
    let (new, size) = mtu.poll(now, 1420, Some(now), PATIENCE).unwrap();
    assert!(!mtu.answered(now, old));
    assert_eq!(mtu.known(), None);
    assert!(mtu.answered(now, new));
    assert_eq!(mtu.known(), Some(size));
}

#[test]
fn a_probe_counts_as_lost_only_when_a_small_one_has_passed_since() {
    let (mut mtu, start) = (PathMtu::new(Instant::now()), Instant::now());
    let at = |ms| start + Duration::from_millis(ms);
    assert!(mtu.poll(at(0), 1420, Some(at(0)), PATIENCE).is_some());
    // The last small one that was answered had left before.
    for ms in (10..5_000).step_by(10) {
        assert_eq!(mtu.poll(at(ms), 1420, Some(start - PATIENCE), PATIENCE), None, "{ms} ms");
    }
    assert_eq!(mtu.size(), 1420);
}

#[test]
fn answers_that_are_late_count_as_answers() {
    let (mut mtu, start) = (PathMtu::new(Instant::now()), Instant::now());
    let (mut now, mut flying) = (start, std::collections::VecDeque::new());
    // Small ones are quick, large ones take 900 ms, three times as long as anybody waits for them.
    while now - start < seconds(60) {
        if let Some((number, size)) = mtu.poll(now, 1420, Some(now), PATIENCE) {
            flying.push_back((now + Duration::from_millis(900), number, size));
        }
        while let Some((_, number, size)) = flying.pop_front_if(|(at, ..)| *at <= now) {
            if size <= 1300 {
                mtu.answered(now, number);
            }
        }
        now += Duration::from_millis(10);
    }
    assert!((1297..=1300).contains(&mtu.size()), "{}", mtu.size());
}

#[test]
fn loss_does_not_look_like_a_small_path() {
    let (mut path, mut mtu) = (Path::new(1420), PathMtu::new(Instant::now()));
    path.run(&mut mtu, 1420, seconds(1));
    path.loses = 2;
    path.run(&mut mtu, 1420, seconds(3600));
    assert_eq!(mtu.known(), Some(1420));
}

#[test]
fn another_mtu_of_the_device_begins_anew() {
    let (mut path, mut mtu) = (Path::new(1300), PathMtu::new(Instant::now()));
    path.run(&mut mtu, 1420, seconds(20));
    path.run(&mut mtu, 1280, seconds(1));
    assert_eq!(mtu.known(), Some(1280));
    // A device below BASE is asked for no more than that.
    path.run(&mut mtu, 1000, seconds(1));
    assert_eq!(mtu.known(), Some(1000));
}

proptest! {
    #[test]
    fn whatever_passes_is_found_and_nothing_larger_used(passes in BASE..9_000, most in 576_u16..9_000) {
        let (mut path, mut mtu) = (Path::new(passes), PathMtu::new(Instant::now()));
        path.run(&mut mtu, most, seconds(40));
        let wanted = passes.min(most);
        prop_assert!(mtu.size() <= wanted && mtu.size() + GRAIN > wanted, "{} of {wanted}", mtu.size());
        prop_assert!(path.sent.len() < 100);
        prop_assert!(path.sent.iter().all(|(_, size)| *size <= most));
    }

    #[test]
    fn answers_that_nobody_asked_for_change_nothing(numbers in proptest::collection::vec(any::<u32>(), 0..20)) {
        let (mut mtu, now) = (PathMtu::new(Instant::now()), Instant::now());
        let (asked, _) = mtu.poll(now, 1420, Some(now), PATIENCE).unwrap();
        for number in numbers.into_iter().filter(|number| *number != asked) {
            prop_assert!(!mtu.answered(now, number));
        }
        prop_assert_eq!(mtu.known(), None);
    }
}
