//! The hub's side of the conversation: who sits where, and handshakes that are passed on; and how each side of a leg asks whether the
//! other is where it seems to be.

use crate::control::{Absence, Capabilities, Message};
use crate::conversation::{Heard, Relay};
use crate::counters::DropReason;
use crate::engine::Engine;
use crate::event::Event;
use crate::packet::DatagramBatch;
use crate::peer::probe::PLACE_PROBE;
use crate::peer::tunnel::MIN_BUFFER;
use crate::peer::{Kin, LinkState, Peer, PeerIndex};
use crate::settings::RoleSettings;
use crate::table::Table;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// A member of which nothing was heard for this long is not there: its probes come four times a second.
const AWAY_AFTER: Duration = Duration::from_secs(3);

impl Engine {
    /// A hub: asks a member whether it is at `endpoint`.
    pub(crate) fn challenge(
        &self,
        now: Instant,
        member: PeerIndex,
        endpoint: SocketAddr,
        link: &mut LinkState,
        net: &mut DatagramBatch,
    ) {
        let Kin::Member(seat) = &mut link.kin else { return };
        if let Some(nonce) = seat.proof.challenge(now, endpoint, || self.nonce(now, member)) {
            self.say_directly(&mut link.tunnel, endpoint, &Message::Challenge { nonce }, net);
        }
    }

    /// A node: asks a hub, which was heard from `endpoint`, whether it is there.
    pub(crate) fn ask_hub(
        &self,
        now: Instant,
        hub: PeerIndex,
        endpoint: SocketAddr,
        link: &mut LinkState,
        net: &mut DatagramBatch,
    ) {
        let Kin::Hub(leg) = &mut link.kin else { return };
        leg.proof.confirmed = link.endpoint;
        let number = || self.nonce(now, hub) & u64::from(PLACE_PROBE - 1) | u64::from(PLACE_PROBE);
        if let Some(number) = leg.proof.challenge(now, endpoint, number) {
            let probe = Message::Probe { number: number as u32, mtu: leg.mtu.known() };
            self.say_directly(&mut link.tunnel, endpoint, &probe, net);
        }
    }

    /// What nobody can guess who has not seen it: a keyed hash of a count.
    fn nonce(&self, now: Instant, member: PeerIndex) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.secret, self.sequence.fetch_add(1, Relaxed), member, now).hash(&mut hasher);
        hasher.finish()
    }

    pub(crate) fn take_seat(&self, table: &Table, peer: &Peer, endpoint: SocketAddr) {
        if let Some(ordinal) = table.ordinal_of(peer) {
            self.seats.set(peer.index, ordinal, endpoint);
            let public_key = peer.settings.public_key;
            self.events.push(Event::EndpointConfirmed { public_key, endpoint });
        }
    }

    /// The table has changed: only its members have seats.
    pub(crate) fn replace_seats(&self, before: &Table, table: &Table) {
        if table.settings.role != RoleSettings::Hub {
            return;
        }
        // No link is locked while the seats are: who confirms an endpoint meanwhile holds its link and waits for the seats.
        let confirmed = table.peers().filter_map(|peer| match &peer.link.lock().kin {
            Kin::Member(seat) => Some((peer.index, table.ordinal_of(peer)?, seat.proof.confirmed?)),
            _ => None,
        });
        let confirmed: Vec<_> = confirmed.collect();
        let stays = |member| {
            let peer = before.peer(member).filter(|peer| table.holds(peer))?;
            Some((peer.index, table.ordinal_of(peer)?))
        };
        self.seats.replace(stays, &confirmed);
    }

    /// A hub: passes a member's handshake initiation on to another.
    pub(crate) fn pass_on(&self, heard: &Heard<'_>, to: u16, message: &[u8; MIN_BUFFER], relay: &mut Relay) {
        let Heard { now, table, peer, .. } = *heard;
        let Some(ordinal) = table.ordinal_of(peer) else { return };
        // Without a seat it would not get the answer.
        if self.seats.place(ordinal).is_none_or(|(member, _)| member != peer.index) {
            return self.drops.count(DropReason::RelayUnconfirmed);
        }
        if !peer.link.account().lock().handshake(now) {
            return self.drops.count(DropReason::RelayLimited);
        }
        let absence = match self.seats.place(to).and_then(|(index, _)| table.peer(index)) {
            None => Some(self.absence(now, table, to)),
            Some(other) => {
                let link = other.link.lock();
                let here =
                    link.last_received.is_some_and(|at| now.saturating_duration_since(at) < AWAY_AFTER);
                let able = link.talk.as_ref().is_some_and(|talk| talk.can(Capabilities::SEALED));
                let session = link.tunnel.has_session();
                drop(link);
                if here && able && session {
                    self.say(other.index, &Message::Initiated { from: ordinal, message }, relay);
                    None
                } else {
                    Some(Absence::Away)
                }
            }
        };
        if let Some(why) = absence {
            self.drops.count(DropReason::RelayAbsent);
            self.say(peer.index, &Message::Absent { node: to, why }, relay);
        }
    }

    /// Why there is nobody in the seat of this slot.
    fn absence(&self, now: Instant, table: &Table, ordinal: u16) -> Absence {
        let plain = table.by_ordinal(ordinal).is_some_and(|member| {
            let link = member.link.lock();
            let silent = link.talk.as_ref().is_none_or(|talk| talk.is_plain(now));
            link.tunnel.has_session() && silent
        });
        if plain { Absence::Plain } else { Absence::Away }
    }
}
