//! The session that tries direct paths: its handshake, which travels inside the one that carries, and its probes.

use crate::control::{self, Message, Unreadable};
use crate::conversation::{Heard, Relay};
use crate::counters::DropReason;
use crate::engine::Engine;
use crate::label::{Label, Use};
use crate::output::Output;
use crate::peer::path::Way;
use crate::peer::tunnel::{MIN_BUFFER, Opened, Tunnel};
use crate::peer::{Kin, LinkGuard, Peer};
use crate::table::Table;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

impl Engine {
    /// A handshake message of the session that tries direct paths.
    pub(crate) fn hear_inner(
        &self,
        heard: &Heard<'_>,
        message: &[u8],
        link: &mut LinkGuard<'_>,
        relay: &mut Relay,
    ) {
        let Heard { now, table, peer, from, .. } = *heard;
        self.attach_tries(now, table, peer, link);
        let Kin::Node(node) = &mut link.kin else { return };
        let Some((tries, _)) = &mut node.tries else { return self.drops.count(DropReason::NoSession) };
        let mut buffer = [0; MIN_BUFFER];
        match tries.open(now, from.ip(), message, &mut buffer) {
            Opened::Reply(len) => {
                let message = buffer.get(..len).unwrap_or_default();
                self.say(peer.index, &Message::Inner { message }, relay);
            }
            Opened::Nothing | Opened::Packet(_) => {}
            Opened::Rejected => self.drops.count(DropReason::Unauthentic),
        }
        if tries.take_renewed() {
            self.soon.store(true, Relaxed);
        }
    }

    /// A datagram of the session that tries direct paths: a probe, or an answer to one of ours.
    pub(crate) fn direct_probe(
        &self,
        now: Instant,
        link: &mut LinkGuard<'_>,
        from: SocketAddr,
        datagram: &[u8],
        out: &mut Output,
    ) {
        let state = &mut **link;
        let (Kin::Node(node), Some(talk)) = (&mut state.kin, &state.talk) else { return };
        let Some((tries, _)) = &mut node.tries else { return self.drops.count(DropReason::NoSession) };
        let Some(buffer) = out.scratch.get_mut(..MIN_BUFFER.max(datagram.len())) else { return };
        let packet = match tries.open(now, from.ip(), datagram, buffer) {
            Opened::Packet(len) => buffer.get(..len).unwrap_or_default(),
            Opened::Nothing | Opened::Reply(_) => return,
            Opened::Rejected => return self.drops.count(DropReason::Unauthentic),
        };
        let read = control::read(packet);
        if node.paths.heard(now, from) {
            self.soon.store(true, Relaxed);
        }
        match read {
            Ok((header, _)) if !talk.is_of_known(header) => self.drops.count(DropReason::ControlUnexpected),
            Ok((_, Message::Probe { number, .. })) => {
                let echo = Message::Echo { number, draining: false, seen_at: Some(from) };
                self.say_directly(tries, from, &echo, &mut out.net);
                // Somebody in between may only have been quicker with a copy: the path in use does not depend on that.
                if let Some(Way::Direct(address)) = node.paths.current()
                    && address != from
                {
                    self.say_directly(tries, address, &echo, &mut out.net);
                }
            }
            Ok((_, Message::Echo { number, .. })) => {
                if node.tried(now, number) {
                    self.soon.store(true, Relaxed);
                }
            }
            Ok(_) => self.drops.count(DropReason::ControlUnexpected),
            Err(Unreadable::Unknown) => self.drops.count(DropReason::ControlUnknown),
            Err(Unreadable::Malformed(_)) => self.drops.count(DropReason::ControlMalformed),
        }
    }

    /// Makes the session that tries direct paths, if there is none yet.
    pub(crate) fn attach_tries(&self, now: Instant, table: &Table, peer: &Peer, link: &mut LinkGuard<'_>) {
        let Kin::Node(node) = &mut link.kin else { return };
        if node.tries.is_some() {
            return;
        }
        if let Some(local) = table.labels.give(now, peer.index, Use::Tries) {
            let label = Label::node(table.own_ordinal().unwrap_or_default(), local);
            let mut settings = peer.settings.tunnel(label);
            (settings.warm, settings.keepalive) = (true, None);
            let seed = u64::from(label.bits());
            node.tries = Some((Box::new(Tunnel::new(&self.identity, &settings, now, seed)), local));
        }
    }
}
