//! The conversation with a peer that speaks control messages: the hello of each side, and what may be said after it.

use crate::control::{Capabilities, Header};
use std::time::{Duration, Instant};

/// Between two hellos that nobody answers: doubles from the first to the last.
const AGAIN: Duration = Duration::from_millis(250);
const AGAIN_AT_MOST: Duration = Duration::from_secs(30);

/// A peer that has not answered hello for this long speaks no control messages: plain WireGuard, or a version before them.
const PLAIN_AFTER: Duration = Duration::from_secs(1);

/// What a peer has said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Drawn when it started.
    pub epoch: u64,
    /// What it can do.
    pub capabilities: Capabilities,
}

/// What a hello has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeted {
    /// It is the first one, or the peer has restarted.
    pub anew: bool,
    /// The peer does not know us yet: answer.
    pub answer: bool,
}

/// The conversation with one peer.
#[derive(Clone, Debug, Default)]
pub struct Talk {
    hello: Option<Hello>,
    /// The peer has our hello.
    known: bool,
    /// When to say hello next, and how often it was in vain.
    due: Option<Instant>,
    tries: u32,
    /// Since when the peer owes us a hello.
    owed: Option<Instant>,
    /// The highest sequence of what is only valid when it is the latest.
    latest: u32,
}

impl Talk {
    /// The peer's hello.
    #[must_use]
    pub fn hello(&self) -> Option<Hello> {
        self.hello
    }

    /// Whether the peer can do this, as far as it has said.
    #[must_use]
    pub fn can(&self, capabilities: Capabilities) -> bool {
        self.hello.is_some_and(|hello| hello.capabilities.have(capabilities))
    }

    /// A session has begun: hello is due.
    pub fn begin(&mut self, now: Instant) {
        (self.due, self.tries) = (Some(now), 0);
        self.owed.get_or_insert(now);
    }

    /// Whether hello is due now; then it counts as said.
    pub fn is_due(&mut self, now: Instant) -> bool {
        if self.due.is_none_or(|due| now < due) {
            return false;
        }
        self.tries += 1;
        let pause = AGAIN.saturating_mul(1 << (self.tries - 1).min(16)).min(AGAIN_AT_MOST);
        // Once in each session, and then only for who does not know us or is not known.
        self.due = (!self.known || self.hello.is_none()).then(|| now + pause);
        true
    }

    /// The epoch that our hello says we know; 0 for none.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.hello.map_or(0, |hello| hello.epoch)
    }

    /// The peer's hello has come. `ours`: our own epoch.
    pub fn greet(&mut self, header: Header, capabilities: Capabilities, seen: u64, ours: u64) -> Greeted {
        let anew = self.hello.is_none_or(|hello| hello.epoch != header.epoch);
        if anew {
            self.latest = 0;
        }
        self.hello = Some(Hello { epoch: header.epoch, capabilities });
        (self.known, self.owed) = (seen == ours, None);
        if self.known {
            self.due = None;
        }
        Greeted { anew, answer: !self.known }
    }

    /// Whether a message is of the peer that has said hello, and has not restarted since.
    #[must_use]
    pub fn is_of_known(&self, header: Header) -> bool {
        self.hello.is_some_and(|hello| hello.epoch == header.epoch)
    }

    /// A message of an unknown speaker: it owes us a hello, and ours tells it so, now and then.
    pub fn remind(&mut self, now: Instant) {
        if self.due.is_none() {
            self.begin(now);
        }
    }

    /// Whether a message is later than all others of its kind.
    pub fn is_latest(&mut self, header: Header) -> bool {
        let latest = header.sequence > self.latest;
        self.latest = self.latest.max(header.sequence);
        latest
    }

    /// Whether a peer is where its last datagram came from, as in plain WireGuard: it has had the time for a hello and has said none, or
    /// it cannot be asked. Not known until then.
    #[must_use]
    pub fn roams(&self, now: Instant) -> Option<bool> {
        match self.hello {
            Some(hello) => Some(!hello.capabilities.have(Capabilities::PROBES)),
            None => self.is_plain(now).then_some(true),
        }
    }

    /// Whether the peer has had the time for a hello, and has said none.
    #[must_use]
    pub fn is_plain(&self, now: Instant) -> bool {
        self.hello.is_none()
            && self.owed.is_some_and(|since| now.saturating_duration_since(since) >= PLAIN_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(epoch: u64, sequence: u32) -> Header {
        Header { epoch, sequence }
    }

    #[test]
    fn hello_is_said_once_a_session_and_again_until_both_know_each_other() {
        let (mut talk, mut now) = (Talk::default(), Instant::now());
        assert!(!talk.is_due(now), "no session");
        talk.begin(now);
        assert!(talk.is_due(now) && !talk.is_due(now));
        let mut said = 1;
        for _ in 0..600 {
            now += Duration::from_millis(100);
            said += u32::from(talk.is_due(now));
        }
        assert!((8..=10).contains(&said), "{said} in a minute");
        let greeted = talk.greet(header(7, 1), Capabilities::RELAYS, 0, 5);
        assert_eq!(greeted, Greeted { anew: true, answer: true });
        let greeted = talk.greet(header(7, 2), Capabilities::RELAYS, 5, 5);
        assert_eq!(greeted, Greeted { anew: false, answer: false });
        assert!(!talk.is_due(now + Duration::from_secs(1000)));
        talk.begin(now);
        assert!(talk.is_due(now) && !talk.is_due(now + Duration::from_secs(1000)));
    }

    #[test]
    fn a_restart_is_noticed_and_what_was_said_before_counts_no_more() {
        let mut talk = Talk::default();
        talk.greet(header(7, 1), Capabilities::SEALED, 5, 5);
        assert!(talk.is_latest(header(7, 9)) && !talk.is_latest(header(7, 8)));
        assert!(talk.is_of_known(header(7, 1)) && !talk.is_of_known(header(8, 1)));
        assert!(talk.greet(header(8, 1), Capabilities::default(), 5, 5).anew);
        assert!(talk.is_latest(header(8, 2)));
        assert!(!talk.can(Capabilities::SEALED));
    }

    #[test]
    fn who_does_not_answer_is_plain_after_a_second() {
        let (mut talk, now) = (Talk::default(), Instant::now());
        assert!(!talk.is_plain(now + Duration::from_secs(9)), "never asked");
        talk.begin(now);
        assert!(!talk.is_plain(now) && talk.is_plain(now + PLAIN_AFTER));
        talk.greet(header(1, 1), Capabilities::default(), 0, 5);
        assert!(!talk.is_plain(now + PLAIN_AFTER));
    }
}
