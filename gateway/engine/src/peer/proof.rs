//! Where a peer is, as far as it has shown: the source of a datagram can be anybody's, for whoever sits between can send it
//! again from elsewhere before it arrives. What this side believes follows from what was sent to an address, and came back.

use crate::label;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Between two challenges for one endpoint that is not confirmed.
pub(crate) const CHALLENGE_PACE: Duration = Duration::from_millis(400);

/// Between two challenges when the endpoint changes.
pub(crate) const CHALLENGE_LEAST: Duration = Duration::from_millis(50);

/// The datagram that carries a challenge, in bytes. Before it is covered by what came from an endpoint, that is not asked.
pub(crate) const CHALLENGE_BYTES: usize = 96;

/// What the endpoints of one peer have shown.
///
/// An endpoint that has not shown that it reads what is sent to it gets no packets, and of what gateways say to each other no
/// more than a multiple of the bytes that have come from it.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    /// It has echoed a nonce.
    pub confirmed: Option<SocketAddr>,
    /// It was written down, or has completed a handshake that was answered to it: it reads what is sent there.
    proven: Option<SocketAddr>,
    /// Where the last handshake response went, and the receiver index by which what follows it is known.
    answered: Option<(u32, SocketAddr)>,
    /// What may be sent to an endpoint of which nothing is known: by the bytes that have come from it, less what was sent.
    credit: Option<(SocketAddr, usize)>,
    /// How many bytes may be sent for each that came.
    times: usize,
    /// The last ones: that there is one for another endpoint does not make the others void.
    challenges: [Option<Challenge>; 4],
}

#[derive(Clone, Copy, Debug)]
struct Challenge {
    nonce: u64,
    to: SocketAddr,
    at: Instant,
}

impl Proof {
    /// Nothing is known yet. `times`: how many bytes may be sent to an unknown endpoint for each that came from it; RFC 9000,
    /// section 8.1, allows three.
    #[must_use]
    pub fn new(times: usize) -> Self {
        Self { confirmed: None, proven: None, answered: None, credit: None, times, challenges: [None; 4] }
    }

    /// Whether an endpoint is known to read what is sent to it.
    #[must_use]
    pub fn knows(&self, endpoint: SocketAddr) -> bool {
        self.confirmed == Some(endpoint) || self.proven == Some(endpoint)
    }

    /// Somebody has written this endpoint down.
    pub fn configure(&mut self, endpoint: SocketAddr) {
        self.proven = Some(endpoint);
    }

    /// A handshake response was sent to an endpoint.
    pub fn responded(&mut self, to: SocketAddr, response: &[u8]) {
        self.answered = sender(response).map(|index| (index, to));
    }

    /// A message came that was sealed in a session: where the peer was when that began, if it is the first one that shows that
    /// our response was read. It was sent there, wherever this message comes from.
    pub fn completed(&mut self, datagram: &[u8]) -> Option<SocketAddr> {
        // Asked for each packet: rarely is one expected.
        self.answered?;
        let receiver = label::receiver(datagram).filter(|_| datagram.first() == Some(&4))?;
        let (_, at) = self.answered.take_if(|(index, _)| *index == receiver)?;
        self.proven = Some(at);
        Some(at)
    }

    /// Something authentic came: so much may be sent back. Only the last endpoint has credit.
    pub fn received(&mut self, from: SocketAddr, bytes: usize) {
        if !self.knows(from) {
            let before = self.credit.filter(|(at, _)| *at == from).map_or(0, |(_, left)| left);
            self.credit = Some((from, before.saturating_add(bytes.saturating_mul(self.times))));
        }
    }

    /// Whether so many bytes may be sent to an endpoint; then they count as sent.
    pub fn spend(&mut self, to: SocketAddr, bytes: usize) -> bool {
        if self.knows(to) {
            return true;
        }
        match &mut self.credit {
            Some((at, left)) if *at == to && *left >= bytes => {
                *left -= bytes;
                true
            }
            _ => false,
        }
    }

    /// Whether `endpoint` is to be asked for a nonce now; `nonce` is asked for one, and the challenge counts as sent.
    pub fn challenge(&mut self, now: Instant, endpoint: SocketAddr, nonce: impl Fn() -> u64) -> Option<u64> {
        if self.confirmed == Some(endpoint) {
            return None;
        }
        let soon = self.challenges.iter().flatten().any(|Challenge { to, at, .. }| {
            let pace = if *to == endpoint { CHALLENGE_PACE } else { CHALLENGE_LEAST };
            now.saturating_duration_since(*at) < pace
        });
        if soon || !self.spend(endpoint, CHALLENGE_BYTES) {
            return None;
        }
        let nonce = nonce();
        self.challenges.rotate_right(1);
        let [latest, ..] = &mut self.challenges;
        *latest = Some(Challenge { nonce, to: endpoint, at: now });
        Some(nonce)
    }

    /// A nonce has come back: the endpoint that is thereby confirmed. Who answers has read what was sent there, wherever the answer comes
    /// from (RFC 9000, section 8.2.3).
    pub fn answer(&mut self, nonce: u64) -> Option<SocketAddr> {
        let asked = self.challenges.iter().flatten().find(|asked| asked.nonce == nonce)?.to;
        (self.confirmed, self.challenges) = (Some(asked), [None; 4]);
        Some(asked)
    }
}

/// The sender's index of a handshake response (WireGuard paper, section 5.4.3): what is sealed for it names that as receiver.
fn sender(response: &[u8]) -> Option<u32> {
    match response {
        [2, 0, 0, 0, a, b, c, d, ..] => Some(u32::from_le_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u16) -> SocketAddr {
        ([198, 51, 100, 1], n).into()
    }

    fn response(index: u8) -> [u8; 92] {
        let mut message = [0; 92];
        message[..5].copy_from_slice(&[2, 0, 0, 0, index]);
        message
    }

    fn sealed(index: u8) -> [u8; 32] {
        let mut message = [0; 32];
        message[..5].copy_from_slice(&[4, 0, 0, 0, index]);
        message
    }

    #[test]
    fn an_endpoint_is_confirmed_only_by_the_nonce_that_was_sent_there() {
        let (mut proof, now) = (Proof::new(1), Instant::now());
        assert_eq!(proof.challenge(now, at(1), || 6), None, "nothing has come from there");
        proof.received(at(1), CHALLENGE_BYTES);
        assert_eq!(proof.challenge(now, at(1), || 7), Some(7));
        assert_eq!(proof.challenge(now, at(1), || 8), None, "asked just now");
        assert_eq!(proof.answer(8), None);
        assert_eq!([proof.answer(7), proof.answer(7)], [Some(at(1)), None], "once");
        assert_eq!(proof.challenge(now, at(1), || 9), None, "known");
        // Elsewhere now: the old one stands until the new one has answered.
        let later = now + CHALLENGE_LEAST;
        proof.received(at(2), CHALLENGE_BYTES);
        assert_eq!(proof.challenge(later, at(2), || 10), Some(10));
        assert_eq!(proof.confirmed, Some(at(1)));
        let again = later + CHALLENGE_PACE;
        assert_eq!(proof.challenge(again, at(2), || 11), None, "nothing more has come");
        proof.received(at(2), CHALLENGE_BYTES);
        assert_eq!(proof.challenge(again, at(2), || 11), Some(11), "again, when nobody answers");
        // A question to somebody else in between is none to this one.
        proof.received(at(3), CHALLENGE_BYTES);
        assert_eq!(proof.challenge(again + CHALLENGE_LEAST, at(3), || 12), Some(12));
        assert_eq!(proof.answer(11), Some(at(2)));
        assert_eq!((proof.confirmed, proof.answer(12)), (Some(at(2)), None));
    }

    #[test]
    fn an_endpoint_of_which_nothing_is_known_gets_no_more_than_came_from_it() {
        let (mut proof, now) = (Proof::new(1), Instant::now());
        assert!(!proof.spend(at(1), 1));
        proof.received(at(1), 60);
        proof.received(at(1), 40);
        assert!(!proof.spend(at(1), 101) && proof.spend(at(1), 90) && !proof.spend(at(1), 11));
        assert_eq!(proof.challenge(now, at(1), || 7), None, "10 bytes are left");
        proof.received(at(2), 10);
        assert!(!proof.spend(at(1), 1) && !proof.spend(at(2), 11), "credit of one endpoint is not another's");
        // What completes a handshake shows that its response was read where that went, wherever it comes from itself.
        proof.responded(at(3), &response(5));
        assert_eq!(proof.completed(&sealed(4)), None, "of another handshake");
        assert_eq!(proof.completed(&sealed(5)), Some(at(3)));
        assert_eq!(proof.completed(&sealed(5)), None, "once");
        assert!(proof.knows(at(3)) && proof.spend(at(3), 1_000_000));
        assert_eq!(proof.challenge(now, at(3), || 8), Some(8), "to be forwarded it is asked nevertheless");
        assert!(proof.confirmed.is_none());
        proof.configure(at(4));
        assert!(proof.knows(at(4)) && !proof.knows(at(3)));
    }

    #[test]
    fn three_times_as_much_may_go_where_that_is_said() {
        let (mut proof, now) = (Proof::new(3), Instant::now());
        proof.received(at(1), 31);
        assert_eq!(proof.challenge(now, at(1), || 7), None);
        proof.received(at(1), 1);
        assert_eq!(proof.challenge(now, at(1), || 7), Some(7), "a keepalive is enough");
        assert!(!proof.spend(at(1), 1));
    }
}
