//! The reference model: which packet must arrive, said from the state of the world alone, never from an engine's.

use crate::net::{Joined, Net, PartyId};
use crate::party::{Life, Party};
use crate::scenario::Role;
use std::time::Duration;

/// What becomes of a packet once the world has been as it is for long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It arrives.
    Must,
    /// Nothing is promised.
    May,
}

/// How two parties stand to one another.
fn link(parties: &[Party], net: &Net, now: Duration, a: PartyId, b: PartyId) -> Joined {
    if [a, b].iter().any(|&id| parties[id].life != Life::Up) {
        return Joined::Neither;
    }
    let doubtful = |id: PartyId| parties[id].traitor || parties[id].behind_until > now;
    match net.joined(a, b) {
        // A clock that was set back, or a hub that alters what it carries: it may work, or not.
        Joined::Both if doubtful(a) || doubtful(b) => Joined::OneWay,
        other => other,
    }
}

/// Whether a packet from node `a` arrives at node `b`. `spoke`: when everybody last sent to everybody.
pub fn arrives(
    parties: &[Party],
    net: &Net,
    now: Duration,
    spoke: Duration,
    a: PartyId,
    b: PartyId,
) -> Verdict {
    if [a, b].iter().any(|&id| parties[id].life != Life::Up) {
        return Verdict::May;
    }
    if a == b {
        return Verdict::May;
    }
    if parties[a].plan.direct.contains(&b) {
        let behind = |id: PartyId| net.attachments[id].nat;
        // Who moved is found by what it sends; through a translator that does not know it, it cannot.
        let lost = match (parties[a].moved, parties[b].moved) {
            (false, false) => false,
            (true, true) => true,
            _ => behind(a).is_some() || behind(b).is_some(),
        };
        // Nothing keeps the mapping of an idle direct path.
        let forgotten = behind(b).is_some_and(|nat| now.saturating_sub(spoke) >= net.nats[nat].timeout);
        match link(parties, net, now, a, b) {
            Joined::Both if lost || forgotten => return Verdict::May,
            Joined::Both => return Verdict::Must,
            Joined::OneWay => return Verdict::May,
            // Both have noticed, and go through hubs.
            Joined::Neither => {}
        }
    }
    // The first hub that works for the sender; whether the receiver is there too, the sender does not ask.
    let hubs = (0..parties.len()).filter(|&id| parties[id].plan.role == Role::Hub);
    for hub in hubs {
        match link(parties, net, now, a, hub) {
            Joined::Both if link(parties, net, now, hub, b) == Joined::Both => return Verdict::Must,
            Joined::Both | Joined::OneWay => return Verdict::May,
            Joined::Neither => {}
        }
    }
    Verdict::May
}
