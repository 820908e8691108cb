//! A node's leg to a hub: whether it carries, what passes it, and where the hub is.

use crate::peer::mtu::PathMtu;
use crate::peer::node::Told;
use crate::peer::probe::Prober;
use crate::peer::proof::Proof;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A node's leg to a hub.
#[derive(Clone, Debug)]
pub struct HubLeg {
    /// Its probes.
    pub prober: Prober,
    /// The hub is to be left.
    pub draining: bool,
    /// Where the hub sees us, and since when.
    pub seen_at: Option<SocketAddr>,
    seen_since: Option<Instant>,
    /// It was said that the leg carries.
    pub shown_up: bool,
    /// What passes, and to which endpoint of the hub that was measured.
    pub mtu: PathMtu,
    pub(crate) measured_to: Option<SocketAddr>,
    /// What of our listeners it was told.
    pub told_listeners: Told,
    /// What its endpoints have shown.
    pub proof: Proof,
    /// The endpoint that somebody has written down, or resolved.
    pub(crate) written: Option<SocketAddr>,
    /// The last endpoint from which what was sent to it was answered.
    answered: Option<SocketAddr>,
    /// When it was last looked for, since the leg is dead.
    turned: Option<Instant>,
}

/// Between two places where a hub says that it sees us.
const SEEN_PACE: Duration = Duration::from_secs(1);

/// How many bytes may be sent to an endpoint where the hub may be, for each that came from it: a keepalive, which may be all that an
/// idle hub sends, is enough to ask it (as RFC 9000, section 8.1).
const UNKNOWN_HUB: usize = 3;

/// How long a dead leg is tried at one endpoint before it is tried at the other.
const TURN: Duration = Duration::from_secs(2);

impl HubLeg {
    /// The leg to a hub that somebody has written down to be at `written`.
    #[must_use]
    pub fn new(now: Instant, written: Option<SocketAddr>) -> Self {
        Self {
            prober: Prober::new(now),
            draining: false,
            seen_at: None,
            seen_since: None,
            shown_up: false,
            mtu: PathMtu::new(now),
            measured_to: None,
            told_listeners: Told::default(),
            proof: Proof::new(UNKNOWN_HUB),
            written,
            answered: None,
            turned: None,
        }
    }

    /// The hub has answered from there what was sent there.
    pub fn answers_from(&mut self, from: SocketAddr) {
        self.answered = Some(from);
    }

    /// The hub sees us there; whether that is by another network than before. All peers are told, so another place counts once a second
    /// at most, whatever the hub says.
    pub fn is_seen_at(&mut self, now: Instant, at: Option<SocketAddr>) -> bool {
        let soon = self.seen_since.is_some_and(|since| now.saturating_duration_since(since) < SEEN_PACE);
        if at == self.seen_at || soon {
            return false;
        }
        let before = self.seen_at;
        (self.seen_at, self.seen_since) = (at, Some(now));
        before.is_some_and(|before| at.map(|at| at.ip()) != Some(before.ip()))
    }

    /// A dead leg is tried at the endpoint that is written down, and in turn at the one that answered last: a hub that is elsewhere
    /// now may never send anything by which that would be seen.
    pub fn turn(&mut self, now: Instant, dead: bool, endpoint: &mut Option<SocketAddr>) {
        if !dead {
            self.turned = None;
            return;
        }
        if self.turned.is_some_and(|turned| now.saturating_duration_since(turned) < TURN) {
            return;
        }
        self.turned = Some(now);
        let other = if *endpoint == self.written { self.answered } else { self.written };
        *endpoint = other.or(*endpoint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_that_sees_us_everywhere_is_believed_once_a_second() {
        let at = |n, port| Some(SocketAddr::from(([203, 0, 113, n], port)));
        let now = Instant::now();
        let mut leg = HubLeg::new(now, None);
        assert!(!leg.is_seen_at(now, at(1, 1)), "the first");
        assert_eq!(leg.seen_at, at(1, 1));
        for n in 0..9 {
            assert!(!leg.is_seen_at(now + SEEN_PACE / 10 * n, at(2, 1)));
            assert_eq!(leg.seen_at, at(1, 1));
        }
        assert!(!leg.is_seen_at(now + SEEN_PACE, at(1, 2)), "another port of the same network");
        assert_eq!(leg.seen_at, at(1, 2));
        assert!(leg.is_seen_at(now + SEEN_PACE * 2, at(2, 2)));
        assert!(leg.is_seen_at(now + SEEN_PACE * 3, None));
    }

    #[test]
    fn a_dead_leg_is_tried_where_the_hub_is_written_down_and_in_turn_where_it_answered() {
        let at = |n| SocketAddr::from(([203, 0, 113, n], 51820));
        let (mut now, written, moved, stranger) = (Instant::now(), at(1), at(2), at(3));
        let mut leg = HubLeg::new(now, Some(written));
        let mut tried = |leg: &mut HubLeg, endpoint: &mut Option<SocketAddr>, dead| {
            now += TURN;
            leg.turn(now, dead, endpoint);
            let tried = *endpoint;
            leg.turn(now + TURN / 2, dead, endpoint);
            assert_eq!(*endpoint, tried, "not before its time");
            tried.unwrap()
        };
        // Heard by way of a stranger, who never answers.
        let mut endpoint = Some(stranger);
        assert_eq!(tried(&mut leg, &mut endpoint, false), stranger, "nothing says that it is not there");
        assert_eq!([true; 3].map(|dead| tried(&mut leg, &mut endpoint, dead)), [written; 3]);
        // It has moved, and answered there.
        endpoint = Some(moved);
        leg.answers_from(moved);
        assert_eq!(tried(&mut leg, &mut endpoint, false), moved);
        assert_eq!([true; 3].map(|dead| tried(&mut leg, &mut endpoint, dead)), [written, moved, written]);
    }
}
