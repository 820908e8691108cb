//! Whether the threads of the packet path go round. One that hangs (in a call of the system, in a loop, for a lock) carries nothing more and
//! fails at nothing; only who watches it from outside can tell.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A thread with nothing to do goes round this often.
pub const LAP: Duration = Duration::from_secs(1);

/// How often somebody looks.
pub const GLANCE: Duration = Duration::from_secs(1);

/// A thread that has not gone round for this long hangs: a round is a few milliseconds of work, and the rest is waiting for a turn.
const HUNG: Duration = Duration::from_secs(8);

/// Who has not looked for this long was stopped itself, and the threads with it: the machine slept, or a debugger had them.
const STOPPED: Duration = Duration::from_secs(3);

/// A thread's own count of its rounds.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// The thread has gone round.
    pub fn beat(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// The threads that are watched.
#[derive(Clone, Debug, Default)]
pub struct Pulses(Arc<Mutex<Watch>>);

#[derive(Debug, Default)]
struct Watch {
    threads: Vec<Watched>,
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Watched {
    name: &'static str,
    pulse: Pulse,
    seen: u64,
    since: Option<Instant>,
}

impl Pulses {
    /// A thread of this name begins.
    #[must_use]
    pub fn join(&self, name: &'static str) -> Pulse {
        let pulse = Pulse::default();
        self.0.lock().threads.push(Watched { name, pulse: pulse.clone(), seen: 0, since: None });
        pulse
    }

    /// The threads are to end: nobody waits for them any more.
    pub fn forget(&self) {
        self.0.lock().threads.clear();
    }

    /// The thread that hangs, and for how long it has.
    #[must_use]
    pub fn hung(&self, now: Instant) -> Option<(&'static str, Duration)> {
        let mut watch = self.0.lock();
        let stopped = watch.looked.is_none_or(|at| now.saturating_duration_since(at) > STOPPED);
        watch.looked = Some(now);
        let silent = watch.threads.iter_mut().map(|thread| {
            let laps = thread.pulse.0.load(Relaxed);
            if stopped || laps != thread.seen {
                (thread.seen, thread.since) = (laps, Some(now));
            }
            (thread.name, now.saturating_duration_since(*thread.since.get_or_insert(now)))
        });
        silent.max_by_key(|(_, silent)| *silent).filter(|(_, silent)| *silent >= HUNG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks each [`GLANCE`] for so many seconds, `beats` before each; the last answer.
    fn watch(
        pulses: &Pulses,
        now: &mut Instant,
        seconds: u32,
        mut beats: impl FnMut(),
    ) -> Option<(&'static str, Duration)> {
        let mut last = None;
        for _ in 0..seconds {
            beats();
            last = pulses.hung(*now);
            *now += GLANCE;
        }
        last
    }

    #[test]
    fn the_thread_that_hangs_is_named_and_no_longer_when_it_goes_on() {
        let (pulses, mut now) = (Pulses::default(), Instant::now());
        let (host, net) = (pulses.join("packets-host"), pulses.join("packets-net"));
        let both = || [&host, &net].map(Pulse::beat);
        assert_eq!(watch(&pulses, &mut now, 60, || _ = both()), None);
        assert_eq!(watch(&pulses, &mut now, 7, || host.beat()), None, "a busy machine");
        assert_eq!(
            watch(&pulses, &mut now, 4, || host.beat()),
            Some(("packets-net", Duration::from_secs(11)))
        );
        assert_eq!(watch(&pulses, &mut now, 1, || _ = both()), None);
    }

    #[test]
    fn a_thread_that_never_begins_hangs_and_one_that_is_not_waited_for_does_not() {
        let (pulses, mut now) = (Pulses::default(), Instant::now());
        let _never = pulses.join("packets-both");
        assert!(watch(&pulses, &mut now, 12, || {}).is_some());
        pulses.forget();
        assert_eq!(watch(&pulses, &mut now, 12, || {}), None);
    }

    #[test]
    fn a_machine_that_slept_is_no_thread_that_hangs() {
        let (pulses, mut now) = (Pulses::default(), Instant::now());
        let both = pulses.join("packets-both");
        assert_eq!(watch(&pulses, &mut now, 5, || both.beat()), None);
        now += Duration::from_secs(3600);
        assert_eq!(pulses.hung(now), None);
        // It had no turn yet.
        assert_eq!(watch(&pulses, &mut now, 7, || {}), None);
        assert!(watch(&pulses, &mut now, 5, || {}).is_some());
    }
}
