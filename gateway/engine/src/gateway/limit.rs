//! A token bucket for what the gateway says unasked: ICMP errors and resets (RFC 1812 section 4.3.2.8).

use std::time::{Duration, Instant};

/// Lets through `per_second` answers a second, and `burst` at once after a rest.
///
/// Kept as one point in time, the moment at which the bucket will be full again (the "generic cell rate algorithm" of ITU-T
/// I.371): an answer moves it one interval on, and is refused when that would take it more than `burst` intervals ahead of now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// Time that one answer uses up; `None` when no answer is allowed at all.
    interval: Option<Duration>,
    /// How far ahead of now `full_at` may get.
    depth: Duration,
    full_at: Option<Instant>,
}

impl RateLimit {
    /// A full bucket. With `per_second` or `burst` 0 nothing is ever allowed.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self::of(if burst == 0 { None } else { Duration::from_secs(1).checked_div(per_second) }, burst)
    }

    /// A full bucket of `burst` that gets one more each `interval`.
    #[must_use]
    pub fn every(interval: Duration, burst: u32) -> Self {
        Self::of(Some(interval), burst)
    }

    fn of(interval: Option<Duration>, burst: u32) -> Self {
        let depth = interval.unwrap_or_default().saturating_mul(burst);
        Self { interval, depth, full_at: None }
    }

    /// Whether one more answer may go out at `now`; it is counted when it may. A `now` before an earlier one gains nothing.
    pub fn allow(&mut self, now: Instant) -> bool {
        let Some(interval) = self.interval else { return false };
        let base = self.full_at.map_or(now, |full_at| full_at.max(now));
        let Some(next) = base.checked_add(interval) else { return false };
        if next.saturating_duration_since(now) > self.depth {
            return false;
        }
        self.full_at = Some(next);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn allowed(limit: &mut RateLimit, now: Instant, tries: u32) -> u32 {
        (0..tries).map(|_| u32::from(limit.allow(now))).sum()
    }

    #[test]
    fn a_burst_goes_out_at_once_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut limit = RateLimit::new(10, 5);
        assert_eq!(allowed(&mut limit, start, 100), 5);
        assert_eq!(allowed(&mut limit, start + Duration::from_millis(99), 100), 0);
        assert_eq!(allowed(&mut limit, start + Duration::from_millis(100), 100), 1);
        assert_eq!(allowed(&mut limit, start + Duration::from_millis(350), 100), 2);
    }

    #[test]
    fn a_long_rest_fills_the_bucket_and_no_more() {
        let start = Instant::now();
        let mut limit = RateLimit::new(1000, 5);
        assert_eq!(allowed(&mut limit, start, 100), 5);
        assert_eq!(allowed(&mut limit, start + Duration::from_secs(3600), 100), 5);
    }

    #[test]
    fn a_rate_or_a_burst_of_zero_allows_nothing() {
        let now = Instant::now();
        assert!(!RateLimit::new(0, 5).allow(now));
        assert!(!RateLimit::new(5, 0).allow(now));
    }

    #[test]
    fn time_that_runs_backwards_gains_nothing() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut limit = RateLimit::new(10, 3);
        assert_eq!(allowed(&mut limit, start, 9), 3);
        assert_eq!(allowed(&mut limit, start - Duration::from_secs(5), 9), 0);
        assert_eq!(allowed(&mut limit, start, 9), 0);
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_gets_more_than_burst_and_rate(
            per_second in 1_u32..5000, burst in 1_u32..50, steps in proptest::collection::vec((0_u64..20_000_000, 1_u32..20), 1..60),
        ) {
            let start = Instant::now();
            let (mut now, mut limit, mut passed) = (start, RateLimit::new(per_second, burst), 0);
            for (nanos, tries) in steps {
                now += Duration::from_nanos(nanos);
                passed += allowed(&mut limit, now, tries);
                // One more for the interval, which is rounded down to whole nanoseconds.
                let most = f64::from(burst) + (now - start).as_secs_f64() * f64::from(per_second) + 1.0;
                prop_assert!(f64::from(passed) <= most, "{passed} of at most {most}");
            }
        }
    }
}
