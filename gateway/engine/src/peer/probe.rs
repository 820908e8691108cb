//! Probes: whether datagrams pass on one leg or path, both ways, and how long they take.
//!
//! A probe goes out at a steady pace. When one stays unanswered for longer than is usual here, the next ones follow at once
//! and close together: three in a row, and the path is down. From the last answer to this verdict pass at most
//! [`PACE`] + 2 × patience + 2 × [`QUICK`], 670 ms where the patience is at its least.

use std::time::{Duration, Instant};

/// Between two probes while all is well. Four a second: 64 nodes cost their hub 256 a second.
pub const PACE: Duration = Duration::from_millis(250);

/// Set in the number of a probe that asks whether a hub is where it was heard from. [`Prober`] counts from 0 and never comes so far.
pub const PLACE_PROBE: u32 = 1 << 30;

/// Between two probes while one is missing.
pub const QUICK: Duration = Duration::from_millis(60);

/// How many in a row are missed when a path is down.
pub const MISSES: u32 = 3;

/// How many in a row are answered when a path that was down is up again.
const ANSWERS: u32 = 3;

/// How long an answer may take before it counts as missing: what is usual here, within these bounds; the last while
/// nothing is known yet.
const PATIENCE_LEAST: Duration = Duration::from_millis(150);
const PATIENCE_MOST: Duration = Duration::from_secs(1);
const PATIENCE_FIRST: Duration = Duration::from_millis(400);

/// Probes that are remembered: those under way, and late ones.
const REMEMBERED: usize = 8;

/// How fast the loss that is shown follows what happens: the last 32 probes or so.
const LOSS_WEIGHT: f32 = 1.0 / 32.0;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Flying {
    number: u32,
    sent: Instant,
    missed: bool,
}

/// What a verdict has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The path carries.
    Up,
    /// It does not any more.
    Down,
}

/// The probes of one leg or path.
#[derive(Clone, Debug, PartialEq)]
pub struct Prober {
    pace: Duration,
    number: u32,
    flying: [Option<Flying>; REMEMBERED],
    next: Instant,
    last_sent: Instant,
    misses: u32,
    answers: u32,
    /// The latest that was answered.
    latest: Option<u32>,
    up: bool,
    /// It was up at some time.
    ever: bool,
    /// Since when it is as it is.
    since: Instant,
    /// When the last probe left that was answered: then the path still carried.
    alive: Option<Instant>,
    rtt: Option<Duration>,
    variance: Duration,
    loss: f32,
}

impl Prober {
    /// Nothing is known yet; the first probe is due at once.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            pace: PACE,
            number: 0,
            flying: [None; REMEMBERED],
            next: now,
            last_sent: now,
            misses: 0,
            answers: 0,
            latest: None,
            up: false,
            ever: false,
            since: now,
            alive: None,
            rtt: None,
            variance: Duration::ZERO,
            loss: 0.0,
        }
    }

    /// Held for up, until three probes are missed.
    #[must_use]
    pub fn trusting(now: Instant) -> Self {
        Self { up: true, ever: true, ..Self::new(now) }
    }

    /// Changes the pace while all is well.
    pub fn set_pace(&mut self, pace: Duration) {
        self.pace = pace;
    }

    /// Whether the path carries.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Whether it ever did.
    #[must_use]
    pub fn was_ever_up(&self) -> bool {
        self.ever
    }

    /// Whether as many probes in a row are missed as make a path down, be it that this one was never up.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        !self.up && self.misses >= MISSES
    }

    /// Since when it is as it is.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// When it was last known to carry.
    #[must_use]
    pub fn alive(&self) -> Option<Instant> {
        self.alive
    }

    /// The smoothed round trip (RFC 6298 section 2).
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// The share of probes that is lost, 0 to 1.
    #[must_use]
    pub fn loss(&self) -> f32 {
        self.loss
    }

    /// How many probes were sent.
    #[must_use]
    pub fn sent(&self) -> u32 {
        self.number
    }

    /// When the last probe was sent; before the first, when this was made.
    #[must_use]
    pub fn last_sent(&self) -> Instant {
        self.last_sent
    }

    /// How long an answer may take.
    #[must_use]
    pub fn patience(&self) -> Duration {
        match self.rtt {
            Some(rtt) => (rtt + self.variance * 4).clamp(PATIENCE_LEAST, PATIENCE_MOST),
            None => PATIENCE_FIRST,
        }
    }

    /// When [`Prober::poll`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let patience = self.patience();
        let waiting = self.waiting().map(|probe| probe.sent + patience).min();
        waiting.map_or(self.next, |at| at.min(self.next))
    }

    /// What is due at `now`: the verdict when it changes, and the number of a probe to be sent.
    pub fn poll(&mut self, now: Instant) -> (Option<Change>, Option<u32>) {
        let change = self.expire(now);
        if now < self.next {
            return (change, None);
        }
        let hurried = self.up && self.misses > 0;
        // Three under way are enough to come to a verdict.
        if hurried && self.waiting().count() >= MISSES as usize {
            self.next = now + QUICK;
            return (change, None);
        }
        self.number = self.number.wrapping_add(1);
        if let Some(place) = self.flying.get_mut(self.number as usize % REMEMBERED) {
            *place = Some(Flying { number: self.number, sent: now, missed: false });
        }
        self.last_sent = now;
        self.next = now + if hurried { QUICK } else { self.pace };
        (change, Some(self.number))
    }

    /// As [`Prober::poll`], but no probe is sent.
    pub fn poll_only(&mut self, now: Instant) -> Option<Change> {
        self.expire(now)
    }

    /// An answer has come.
    pub fn answered(&mut self, now: Instant, number: u32) -> Option<Change> {
        let place = self.flying.get_mut(number as usize % REMEMBERED)?;
        let probe = place.take_if(|probe| probe.number == number)?;
        self.measure(now.saturating_duration_since(probe.sent));
        if !probe.missed {
            self.loss -= self.loss * LOSS_WEIGHT;
        }
        self.latest = Some(self.latest.map_or(number, |latest| latest.max(number)));
        self.alive = Some(self.alive.map_or(probe.sent, |alive| alive.max(probe.sent)));
        if self.misses > 0 && self.up {
            self.next = self.next.max(probe.sent + self.pace);
        }
        self.misses = 0;
        self.answers = self.answers.saturating_add(1);
        if self.up || (self.ever && self.answers < ANSWERS) {
            return None;
        }
        (self.up, self.ever, self.since) = (true, true, now);
        Some(Change::Up)
    }

    fn waiting(&self) -> impl Iterator<Item = &Flying> {
        self.flying.iter().flatten().filter(|probe| !probe.missed)
    }

    fn expire(&mut self, now: Instant) -> Option<Change> {
        let patience = self.patience();
        for probe in self.flying.iter_mut().flatten().filter(|probe| !probe.missed) {
            if now.saturating_duration_since(probe.sent) < patience {
                continue;
            }
            probe.missed = true;
            self.loss += (1.0 - self.loss) * LOSS_WEIGHT;
            // One that a later one has overtaken is lost, but the path carries.
            if self.latest.is_none_or(|latest| probe.number > latest) {
                self.misses += 1;
                self.answers = 0;
            }
        }
        if !self.up || self.misses == 0 {
            return None;
        }
        if self.misses >= MISSES {
            (self.up, self.since) = (false, now);
            return Some(Change::Down);
        }
        // The first one missing: no more time is to be lost.
        if self.misses == 1 && self.next > now + QUICK {
            self.next = now;
        }
        None
    }

    fn measure(&mut self, rtt: Duration) {
        match self.rtt {
            None => (self.rtt, self.variance) = (Some(rtt), rtt / 2),
            Some(smoothed) => {
                self.variance = (self.variance * 3 + rtt.abs_diff(smoothed)) / 4;
                self.rtt = Some((smoothed * 7 + rtt) / 8);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STEP: Duration = Duration::from_millis(1);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// A path with this delay there and back, on which a probe that leaves at `t` is answered when `carries(t)`.
    struct Path {
        prober: Prober,
        now: Instant,
        start: Instant,
        back: Vec<(Instant, u32)>,
        sent: Vec<u64>,
    }

    impl Path {
        fn new() -> Self {
            let now = Instant::now();
            Self { prober: Prober::new(now), now, start: now, back: Vec::new(), sent: Vec::new() }
        }

        /// Runs for `time`; what changed, and when (ms since the start).
        fn run(
            &mut self,
            time: Duration,
            rtt: Duration,
            carries: impl Fn(u64) -> bool,
        ) -> Vec<(Change, u64)> {
            let end = self.now + time;
            let mut changes = Vec::new();
            while self.now < end {
                let t = (self.now - self.start).as_millis() as u64;
                let now = self.now;
                let due: Vec<_> = self.back.extract_if(.., |(at, _)| *at <= now).collect();
                for (_, number) in due {
                    changes.extend(self.prober.answered(now, number).map(|change| (change, t)));
                }
                if self.prober.deadline() <= now {
                    let (change, probe) = self.prober.poll(now);
                    changes.extend(change.map(|change| (change, t)));
                    if let Some(number) = probe {
                        self.sent.push(t);
                        if carries(t) {
                            self.back.push((now + rtt, number));
                        }
                    }
                }
                self.now += STEP;
            }
            changes
        }
    }

    #[test]
    fn a_path_that_carries_is_up_at_the_first_answer_and_costs_four_probes_a_second() {
        let mut path = Path::new();
        assert_eq!(path.run(ms(10_000), ms(20), |_| true), [(Change::Up, 20)]);
        assert!((40..=41).contains(&path.sent.len()), "{}", path.sent.len());
        assert_eq!(path.prober.rtt().map(|rtt| rtt.as_millis()), Some(20));
        assert!(path.prober.loss() < 0.001);
    }

    #[test]
    fn a_path_that_breaks_at_any_moment_is_down_within_670_ms() {
        for rtt in [0, 1, 40, 100] {
            for at in 5_000..5_260 {
                let mut path = Path::new();
                let changes = path.run(ms(7_000), ms(rtt), |t| t < at);
                let [(Change::Up, _), (Change::Down, down)] = changes[..] else { panic!("{changes:?}") };
                assert!(down - at <= 672, "broke at {at}, down at {down}, round trip {rtt}");
            }
        }
    }

    #[test]
    fn two_lost_in_a_row_are_no_break_and_show_as_loss() {
        let mut path = Path::new();
        // Of each ten probes two in a row are lost.
        let sent = std::cell::Cell::new(0);
        let changes = path.run(ms(20_000), ms(10), |_| {
            sent.set(sent.get() + 1);
            sent.get() % 10 > 1 || sent.get() < 10
        });
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert!(path.prober.loss() > 0.1);
        assert_eq!(path.run(ms(30_000), ms(10), |_| true), []);
        assert!(path.prober.loss() < 0.03);
    }

    #[test]
    fn a_path_that_was_down_is_up_after_three_answers() {
        let mut path = Path::new();
        path.run(ms(5_000), ms(10), |t| t < 2_000);
        assert!(!path.prober.is_up());
        let changes = path.run(ms(5_000), ms(10), |_| true);
        let [(Change::Up, at)] = changes[..] else { panic!("{changes:?}") };
        assert!((5_500..6_100).contains(&at), "{at}");
    }

    #[test]
    fn a_round_trip_that_grows_is_no_break() {
        let mut path = Path::new();
        path.run(ms(3_000), ms(10), |_| true);
        // A queue fills up: 10 ms become 130.
        assert_eq!(path.run(ms(5_000), ms(130), |_| true), []);
        // Even far beyond the patience, late answers count.
        let changes = path.run(ms(10_000), ms(280), |_| true);
        assert!(path.prober.is_up(), "{changes:?}");
    }

    proptest! {
        #[test]
        fn whatever_answers_come_there_is_no_flood(answers in prop::collection::vec((0_u32..200, 0_u64..400), 0..200)) {
            let start = Instant::now();
            let mut prober = Prober::new(start);
            let (mut now, mut sent) = (start, 0);
            for (number, wait) in answers {
                prober.answered(now, number);
                now += ms(wait);
                sent += u32::from(prober.poll(now).1.is_some());
            }
            let most = (now - start).as_millis() / QUICK.as_millis() + 2;
            prop_assert!(u128::from(sent) <= most);
        }
    }

    #[test]
    fn probes_that_nobody_ever_answered_are_not_the_same_as_none() {
        let (mut prober, start) = (Prober::new(Instant::now()), Instant::now());
        assert!(!prober.is_unanswered(), "nothing is known");
        for tick in 0..15 {
            prober.poll(start + Duration::from_millis(100) * tick);
        }
        assert!(prober.is_unanswered() && !prober.is_up());
        let (_, number) = prober.poll(start + Duration::from_secs(9));
        prober.answered(start + Duration::from_secs(9), number.unwrap());
        assert!(prober.is_up() && !prober.is_unanswered());
    }
}
