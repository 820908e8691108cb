//! The path MTU: the largest packet that passes a leg or a direct path whole, found by probing (RFC 8899: datagram packetization
//! layer path MTU discovery). ICMP is not needed, and not believed.
//!
//! At first the device's own MTU is taken to pass, and that is asked at once: on most paths one probe is all. When it stays
//! unanswered while small probes are answered, the size falls to [`BASE`] and rises again as larger probes come through. The size
//! in use is confirmed every few seconds, and what did not pass is tried again from time to time.
//!
//! Only probes are sent with "don't fragment". Packets are cut to the size that was found, and should the path shrink, IPv4 routers
//! fragment their datagrams until that is noticed.

use std::time::{Duration, Instant};

/// The size that is not asked for: sealed (32), in UDP (8) and IPv6 (40), it passes a link of 1,280, the least that IPv6 has (RFC
/// 8200 section 5).
pub const BASE: u16 = 1_200;

/// Set in the number of a probe whose size is what it asks.
pub const SIZE_PROBE: u32 = 1 << 31;

/// What passes an Ethernet link of 1,500, sealed and in UDP over IPv6: the first guess below larger sizes.
const ETHERNET: u16 = 1_420;

/// How many probes of one size stay unanswered before it counts as too large (RFC 8899 section 5.1.2, MAX_PROBES).
const PROBES: u32 = 3;

/// As above for a size that has passed before: to give it up costs throughput, so loss must not look like it.
const PROBES_OF_CONFIRMED: u32 = 5;

/// How many probes that count as lost are remembered.
const REMEMBERED: usize = 4;

/// The search ends when what passes and what does not are this close.
const GRAIN: u16 = 4;

/// Between two confirmations of the size in use.
const CONFIRM: Duration = Duration::from_secs(5);

/// A size that did not pass is tried again, first after this long: it may have been loss; then after twice as long each time, up to
/// the last (RFC 8899 section 5.1.1, PMTU_RAISE_TIMER).
const RAISE_FIRST: Duration = Duration::from_secs(15);
const RAISE: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Flying {
    number: u32,
    size: u16,
    sent: Instant,
}

/// The search for the largest packet that passes one leg or path.
#[derive(Clone, Debug, PartialEq)]
pub struct PathMtu {
    /// No larger one is wanted: the device's MTU. 0 before the first [`PathMtu::poll`].
    most: u16,
    /// Taken to pass.
    size: u16,
    /// It was seen to pass.
    confirmed: bool,
    /// While searching: the smallest that is known not to pass.
    beyond: Option<u16>,
    flying: Option<Flying>,
    /// The last ones that counted as lost: an answer may only be late.
    overdue: [Option<Flying>; REMEMBERED],
    number: u32,
    misses: u32,
    next: Instant,
    raise: Option<Instant>,
    pause: Duration,
}

impl PathMtu {
    /// Nothing is known yet: the first probe is due as soon as the path carries.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            most: 0,
            size: u16::MAX,
            confirmed: false,
            beyond: None,
            flying: None,
            overdue: [None; REMEMBERED],
            number: 0,
            misses: 0,
            next: now,
            raise: None,
            pause: RAISE_FIRST,
        }
    }

    /// The path is another one now: nothing is known again, and no answer of the old one is taken for one of the new.
    pub fn restart(&mut self, now: Instant) {
        *self = Self { number: self.number, ..Self::new(now) };
    }

    /// The number of the last probe.
    #[must_use]
    pub fn sent(&self) -> u32 {
        self.number
    }

    /// The largest packet in bytes that is taken to pass. Before anything is known that is no limit.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The size, if it was seen to pass, or is what is left since a larger one was seen not to.
    #[must_use]
    pub fn known(&self) -> Option<u16> {
        (self.confirmed || self.size < self.most).then_some(self.size)
    }

    /// When [`PathMtu::poll`] has something to do, while the path carries.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.next
    }

    /// The probe that is due: its number, and the size in bytes of the packet that it must be.
    ///
    /// `most`: the device's MTU. `alive`: when the last small probe was sent that was answered; none while the path does not
    /// carry. `patience`: how long the answer to a small one may take.
    pub fn poll(
        &mut self,
        now: Instant,
        most: u16,
        alive: Option<Instant>,
        patience: Duration,
    ) -> Option<(u32, u16)> {
        if self.most != most {
            self.restart(now);
            (self.most, self.size) = (most, most);
        }
        let Some(alive) = alive else {
            // Nothing passes: that says nothing of sizes. When it carries again, it may be another path.
            (self.flying, self.overdue, self.misses, self.next) = (None, [None; REMEMBERED], 0, now);
            // What a search has found not to pass may then pass.
            self.beyond = self.beyond.map(|_| most.saturating_add(1));
            return None;
        };
        if now < self.next {
            return None;
        }
        // A large one takes longer on a slow link, and behind the traffic that it shares it with.
        let patience = patience * 2;
        if let Some(flying) = self.flying {
            if now.saturating_duration_since(flying.sent) < patience || alive < flying.sent {
                // Unless a small one has passed since then, the path may be what is wrong.
                self.next = now.max(flying.sent + patience) + Duration::from_millis(50);
                return None;
            }
            self.missed(now, flying.size);
        }
        if now < self.next {
            return None;
        }
        if self.raise.is_some_and(|at| now >= at) {
            (self.raise, self.beyond) = (None, Some(self.most.saturating_add(1)));
            self.pause = (self.pause * 2).min(RAISE);
        }
        let size = self.beyond.map_or(self.size, |beyond| self.guess(beyond));
        self.number = self.number.wrapping_add(1);
        self.flying = Some(Flying { number: self.number, size, sent: now });
        self.next = now + patience;
        Some((self.number, size))
    }

    /// A probe was answered; whether that has changed the size.
    pub fn answered(&mut self, now: Instant, number: u32) -> bool {
        let asked = |flying: &mut Flying| flying.number == number;
        let late = || self.overdue.iter_mut().find_map(|place| place.take_if(asked));
        let Some(flying) = self.flying.take_if(asked).or_else(late) else { return false };
        let before = (self.size, self.confirmed);
        (self.misses, self.confirmed) = (0, true);
        self.size = self.size.max(flying.size);
        if self.beyond.is_some_and(|beyond| beyond <= self.size) {
            self.beyond = Some(self.most.saturating_add(1));
        }
        if self.flying.is_none() {
            self.next = now;
            self.narrowed(now);
        }
        (self.size, self.confirmed) != before
    }

    /// The next size to try, between what passes and what does not.
    fn guess(&self, beyond: u16) -> u16 {
        if beyond > self.most {
            return self.most;
        }
        if self.size + GRAIN < ETHERNET && ETHERNET + GRAIN < beyond {
            return ETHERNET;
        }
        self.size + (beyond - self.size) / 2
    }

    fn missed(&mut self, now: Instant, size: u16) {
        if let Some(place) = self.overdue.get_mut(self.number as usize % REMEMBERED) {
            *place = self.flying.take();
        }
        self.misses += 1;
        self.next = now;
        let in_use = self.beyond.is_none();
        let enough = if in_use && self.confirmed { PROBES_OF_CONFIRMED } else { PROBES };
        if self.misses < enough {
            return;
        }
        self.misses = 0;
        if in_use {
            // Not even the size in use passes. BASE is not asked for: there is nothing smaller to fall back on.
            self.size = BASE.min(self.most);
            (self.confirmed, self.raise, self.pause) = (false, None, RAISE_FIRST);
        }
        self.beyond = Some(size);
        self.narrowed(now);
    }

    /// Ends the search when it is narrow enough.
    fn narrowed(&mut self, now: Instant) {
        let done = match self.beyond {
            None => true,
            Some(beyond) => self.size >= self.most || beyond.saturating_sub(self.size) <= GRAIN,
        };
        if done {
            self.beyond = None;
            self.next = now + CONFIRM;
            self.raise = (self.size < self.most).then(|| self.raise.unwrap_or(now + self.pause));
        }
    }
}

#[cfg(test)]
#[path = "mtu_tests.rs"]
mod tests;
