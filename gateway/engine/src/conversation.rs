//! The conversation between gateways: what each message from a peer's session leads to.
//!
//! Messages are put aside while their batch is handled, and acted on here with no lock held: what one peer says often
//! concerns another. Two links are never locked at the same time.

use crate::control::{self, Absence, Capabilities, Header, Message, Unreadable};
use crate::counters::DropReason;
use crate::engine::{Engine, in_overlay};
use crate::event::Event;
use crate::label::{self, Holder, Label, Use};
use crate::output::Output;
use crate::packet::{Batch, DatagramBatch};
use crate::peer::mtu::{BASE, SIZE_PROBE};
use crate::peer::node::Told;
use crate::peer::path::{Paths, Step, Way};
use crate::peer::probe::{PLACE_PROBE, Prober};
use crate::peer::talk::Talk;
use crate::peer::tunnel::{Admission, MIN_BUFFER, OVERHEAD, Opened, Tunnel};
use crate::peer::{Kin, LinkGuard, LinkState, Peer, PeerIndex, Sealing};
use crate::settings::RoleSettings;
use crate::table::Table;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// Packets on their way to peers.
pub(crate) type Relay = Batch<PeerIndex, 0>;

impl Engine {
    /// Acts on the control messages that a batch has brought.
    pub(crate) fn converse(&self, now: Instant, table: &Table, out: &mut Output) {
        let Output { inbox, relay, net, .. } = out;
        for ((index, from), packet) in inbox.iter() {
            let Some(peer) = table.peer(index) else { continue };
            match control::read(packet) {
                Ok((header, message)) => {
                    let heard = Heard { now, table, peer, from, header };
                    self.hear(&heard, message, relay, net);
                }
                Err(Unreadable::Unknown) => self.drops.count(DropReason::ControlUnknown),
                Err(Unreadable::Malformed(_)) => self.drops.count(DropReason::ControlMalformed),
            }
        }
    }

    /// Puts a message for a peer among the packets that are on their way.
    pub(crate) fn say(&self, to: PeerIndex, message: &Message<'_>, relay: &mut Relay) {
        let sequence = self.sequence.fetch_add(1, Relaxed).wrapping_add(1);
        let header = Header { epoch: self.epoch, sequence };
        let written = relay.reserve(control::MAX_MESSAGE).and_then(|mut room| {
            let len = control::write(header, message, room.buffer())?;
            room.commit(to, len);
            Some(())
        });
        if written.is_none() {
            self.drops.count(DropReason::NoBuffer);
        }
    }

    /// Says hello, if it is due.
    pub(crate) fn greet(&self, now: Instant, to: PeerIndex, link: &mut LinkState, relay: &mut Relay) {
        let Some(talk) = link.talk.as_mut().filter(|_| link.tunnel.has_session()) else { return };
        if talk.is_due(now) {
            let hello = Message::Hello { capabilities: self.capabilities(), seen: talk.seen() };
            self.say(to, &hello, relay);
        }
    }

    fn capabilities(&self) -> Capabilities {
        let common = Capabilities::PROBES.and(Capabilities::RECORDS).and(Capabilities::LISTENERS);
        match self.table.load().settings.role {
            RoleSettings::Hub => common.and(Capabilities::RELAYS),
            RoleSettings::Node { .. } => common.and(Capabilities::SEALED).and(Capabilities::DIRECT),
        }
    }

    fn hear(&self, heard: &Heard<'_>, message: Message<'_>, relay: &mut Relay, net: &mut DatagramBatch) {
        let Heard { now, table, peer, from, header } = *heard;
        let mut link = peer.link.lock();
        let state = &mut *link;
        let Some(talk) = &mut state.talk else { return self.drops.count(DropReason::ControlUnexpected) };
        if let Message::Hello { capabilities, seen } = message {
            return self.hear_hello(heard, capabilities, seen, state, (relay, net));
        }
        if !talk.is_of_known(header) {
            talk.remind(now);
            self.greet(now, peer.index, state, relay);
            return self.drops.count(DropReason::ControlUnexpected);
        }
        match (&mut state.kin, message) {
            (Kin::Hub(_) | Kin::Member(_), Message::Membership { bytes }) => {
                if !self.events.push_membership(peer.settings.public_key, bytes) {
                    self.drops.count(DropReason::MembershipLimited);
                }
            }
            (Kin::Member(seat), Message::Probe { number, mtu }) => {
                if number & SIZE_PROBE == 0 {
                    seat.mtu = mtu.map(|mtu| mtu.max(BASE));
                }
                let draining = self.draining.load(Relaxed);
                // All peers will try it there: only a place that it has confirmed.
                let seen_at = seat.proof.confirmed;
                self.say(peer.index, &Message::Echo { number, draining, seen_at }, relay);
            }
            (Kin::Member(seat), Message::Answer { nonce }) => {
                if let Some(endpoint) = seat.proof.answer(nonce) {
                    state.endpoint = Some(endpoint);
                    self.take_seat(table, peer, endpoint);
                }
            }
            (Kin::Member(_), Message::Initiate { to, message }) => {
                drop(link);
                self.pass_on(heard, to, message, relay);
            }
            (Kin::Hub(_), Message::Challenge { nonce }) => {
                self.say(peer.index, &Message::Answer { nonce }, relay);
            }
            (Kin::Hub(leg), Message::Echo { number, draining, seen_at }) => {
                let news = if number & SIZE_PROBE != 0 {
                    leg.mtu.answered(now, number & !SIZE_PROBE)
                } else if number & PLACE_PROBE != 0 {
                    let moved = leg.proof.answer(number.into());
                    state.endpoint = moved.or(state.endpoint);
                    moved.is_some()
                } else {
                    leg.prober.answered(now, number).is_some()
                };
                if state.endpoint == Some(from) {
                    leg.answers_from(from);
                }
                if news {
                    self.soon.store(true, Relaxed);
                }
                // Nothing: it has just begun, and does not know yet.
                let seen_at = seen_at.filter(|at| !in_overlay(table, *at));
                if seen_at.is_some() && leg.is_seen_at(now, seen_at) {
                    leg.mtu.restart(now);
                }
                if talk.is_latest(header) {
                    leg.draining = draining;
                }
            }
            (Kin::Hub(leg), Message::Notice { draining }) => {
                if talk.is_latest(header) {
                    leg.draining = draining;
                }
            }
            (Kin::Hub(_), Message::Initiated { from: ordinal, message }) => {
                drop(link);
                self.relayed_initiation(heard, ordinal, message, net);
            }
            (Kin::Hub(_), Message::Absent { node, why }) => {
                drop(link);
                self.hear_absent(heard, node, why);
            }
            (Kin::Node(_), Message::Probe { number, .. }) => {
                self.say(peer.index, &Message::Echo { number, draining: false, seen_at: None }, relay);
            }
            (Kin::Node(node), Message::Echo { number, .. }) => {
                if let Some(quiet) = &mut node.quiet {
                    quiet.answered(now, number);
                }
            }
            (Kin::Node(_), Message::Inner { message }) => {
                self.hear_inner(heard, message, &mut link, relay);
            }
            (Kin::Node(node), Message::Whereabouts(told)) => {
                let revision = told.revision;
                let news = node.paths.tell(now, told, |address| usable(table, address));
                self.say(peer.index, &Message::Noted { revision }, relay);
                if news {
                    self.steer(now, peer, &mut link, relay, net);
                }
            }
            (Kin::Node(node), Message::Noted { revision }) => node.noted(revision),
            (Kin::Node(_) | Kin::Member(_), Message::Listeners(told)) => {
                self.hear_listeners(heard, &told);
                self.say(peer.index, &Message::ListenersNoted { revision: told.revision }, relay);
            }
            (Kin::Node(node), Message::ListenersNoted { revision }) => node.noted_listeners(revision),
            (Kin::Hub(leg), Message::ListenersNoted { revision }) => leg.told_listeners.note(revision),
            _ => self.drops.count(DropReason::ControlUnexpected),
        }
    }

    fn hear_hello(
        &self,
        heard: &Heard<'_>,
        capabilities: Capabilities,
        seen: u64,
        link: &mut LinkState,
        (relay, net): (&mut Relay, &mut DatagramBatch),
    ) {
        let Heard { now, peer, from, header, .. } = *heard;
        let Some(talk) = &mut link.talk else { return };
        let greeted = talk.greet(header, capabilities, seen, self.epoch);
        if greeted.answer {
            talk.begin(now);
        }
        if greeted.answer || greeted.anew {
            // It does not know us, whatever was told before.
            match &mut link.kin {
                Kin::Node(node) => node.forget_told(),
                Kin::Hub(leg) => leg.told_listeners = Told::default(),
                Kin::Member(_) | Kin::Plain => {}
            }
        }
        if greeted.anew {
            match &mut link.kin {
                Kin::Hub(leg) => (leg.prober, leg.draining) = (Prober::new(now), false),
                Kin::Node(node) => node.meet(now, capabilities.have(Capabilities::DIRECT)),
                Kin::Member(_) | Kin::Plain => {}
            }
            self.soon.store(true, Relaxed);
            self.events.push(Event::Greeted { public_key: peer.settings.public_key });
        }
        self.greet(now, peer.index, link, relay);
        self.challenge(now, peer.index, from, link, net);
    }

    /// A session has begun, or a datagram came from somewhere new.
    pub(crate) fn after_datagram(
        &self,
        now: Instant,
        peer: &Peer,
        link: &mut LinkGuard<'_>,
        from: SocketAddr,
        datagram: &[u8],
        out: &mut Output,
    ) {
        if link.tunnel.take_renewed() {
            let (answered, endpoint) = (datagram.first() == Some(&2), link.endpoint);
            let way = match &mut link.kin {
                Kin::Hub(leg) => {
                    if answered && endpoint == Some(from) {
                        leg.answers_from(from);
                    }
                    None
                }
                Kin::Node(node) => node.began_by(from, answered, |at| Paths::way_from(at, &self.legs.read())),
                Kin::Member(_) | Kin::Plain => None,
            };
            self.session_begun(now, peer, link, way, answered, &mut out.relay);
        }
        let state = &mut **link;
        let asks = |talk: &Option<Talk>| talk.as_ref().is_some_and(|talk| talk.can(Capabilities::PROBES));
        match &mut state.kin {
            Kin::Member(seat) if seat.proof.confirmed != Some(from) && asks(&state.talk) => {
                self.challenge(now, peer.index, from, state, &mut out.net);
            }
            Kin::Hub(_) if state.endpoint != Some(from) && asks(&state.talk) => {
                self.ask_hub(now, peer.index, from, state, &mut out.net);
            }
            Kin::Node(node) => {
                if node.take_fresh() {
                    self.soon.store(true, Relaxed);
                }
            }
            Kin::Hub(_) | Kin::Member(_) | Kin::Plain => {}
        }
    }

    /// `way`: the one by which the peer read what completed the handshake, if that is known; `answered`: our initiation.
    fn session_begun(
        &self,
        now: Instant,
        peer: &Peer,
        link: &mut LinkGuard<'_>,
        way: Option<Way>,
        answered: bool,
        relay: &mut Relay,
    ) {
        let state = &mut **link;
        if let Some(talk) = &mut state.talk {
            talk.begin(now);
        }
        if let Kin::Node(node) = &mut state.kin {
            node.sealed = true;
            self.soon.store(true, Relaxed);
        }
        if let (Kin::Node(node), Some(way)) = (&mut state.kin, way) {
            let legs = self.legs.read();
            let planned = answered && node.paths.shaken(now, way);
            // A handshake that was carried to its end has shown that its way carries, both ways. Of any other nothing is known
            // as long as the peer has not said where it can be reached: it might never hear that we ask.
            let unknown = node.paths.told().is_none() && node.paths.current() != Some(way);
            let emergency = !planned && (unknown || !node.paths.carries(now, &legs));
            if emergency {
                let alive = node.paths.alive(&legs);
                node.paths.take(now, way, alive);
            }
            if planned || emergency {
                node.mtu = node.paths.mtu(&legs);
                state.endpoint = Paths::address(way, &legs).or(state.endpoint);
                drop(legs);
                self.tell_path(peer, way, emergency);
            }
        }
        self.greet(now, peer.index, link, relay);
    }

    fn tell_path(&self, peer: &Peer, way: Way, emergency: bool) {
        let via = match way {
            Way::Direct(_) => None,
            Way::Via(hub) => self.table.load().peer(hub).map(|hub| hub.settings.name.clone()),
        };
        self.events.push(Event::PathChanged { peer: peer.settings.name.clone(), via, emergency });
    }

    /// Chooses the path to another node, and does what that needs.
    pub(crate) fn steer(
        &self,
        now: Instant,
        peer: &Peer,
        link: &mut LinkGuard<'_>,
        relay: &mut Relay,
        net: &mut DatagramBatch,
    ) {
        let state = &mut **link;
        let Kin::Node(node) = &mut state.kin else { return };
        let legs = self.legs.read();
        let step = node.paths.decide(now, &legs);
        // What is heard counts at once: a connection that begins now keeps what its SYN was cut to.
        node.mtu = match step {
            Step::Now(way) => node.paths.mtu_of(way, &legs),
            Step::Stay | Step::Prepare(_) => node.paths.mtu(&legs),
        };
        match step {
            Step::Stay => {
                // The hub itself may have moved.
                if let Some(way @ Way::Via(_)) = node.paths.current() {
                    state.endpoint = Paths::address(way, &legs).or(state.endpoint);
                }
            }
            Step::Now(way) => {
                if let Some(endpoint) = Paths::address(way, &legs) {
                    let first = node.paths.current().is_none();
                    let alive = node.paths.alive(&legs);
                    node.paths.take(now, way, alive);
                    state.endpoint = Some(endpoint);
                    drop(legs);
                    if !first {
                        self.tell_path(peer, way, true);
                    }
                }
            }
            // Without a session there is nothing to move. Its handshake goes by every way that there is, which an attempt by one
            // of them would only put off.
            Step::Prepare(_) if !state.tunnel.has_session() || state.tunnel.is_suspect() => {}
            Step::Prepare(way) => {
                drop(legs);
                let mut buffer = [0; MIN_BUFFER];
                if let Some(len) = state.tunnel.initiate(now, &mut buffer) {
                    self.send_initiation(peer, way, buffer.get(..len).unwrap_or_default(), relay, net);
                }
            }
        }
    }

    /// Sends a handshake initiation to another node by this way.
    pub(crate) fn send_initiation(
        &self,
        peer: &Peer,
        way: Way,
        initiation: &[u8],
        relay: &mut Relay,
        net: &mut DatagramBatch,
    ) {
        match way {
            Way::Direct(address) => {
                if !net.push(address, initiation) {
                    self.drops.count(DropReason::NoBuffer);
                }
            }
            Way::Via(hub) => {
                let ordinal = self.table.load().ordinal_of(peer);
                if let (Some(to), Ok(message)) = (ordinal, initiation.try_into()) {
                    self.say(hub, &Message::Initiate { to, message }, relay);
                }
            }
        }
    }

    /// A node: an initiation of another node, which a hub has passed on. What answers it goes back by the same way: its label
    /// says to whom.
    fn relayed_initiation(
        &self,
        heard: &Heard<'_>,
        ordinal: u16,
        message: &[u8; MIN_BUFFER],
        net: &mut DatagramBatch,
    ) {
        let Heard { now, table, peer: hub, from, .. } = *heard;
        // Not where the message came from: anybody may have sent it again.
        let back = hub.link.lock().endpoint.unwrap_or(from);
        // Under load the cookie is for the sender's own address, not for the hub's.
        let source = IpAddr::V4(slot_address(table, ordinal));
        let mut reply = [0; MIN_BUFFER];
        let key = match self.guard.load().admit(&self.identity, source, message, &mut reply) {
            Admission::Initiation(key) => key,
            Admission::Cookie(len) => {
                net.push(back, reply.get(..len).unwrap_or_default());
                return self.drops.count(DropReason::UnderLoad);
            }
            Admission::UnderLoad => return self.drops.count(DropReason::UnderLoad),
            Admission::Session(_) | Admission::Invalid => {
                return self.drops.count(DropReason::NotWireguard);
            }
        };
        let Some(peer) = table.by_key(&key) else { return self.drops.count(DropReason::UnknownPeer) };
        if peer.settings.sealing == Sealing::Never || table.ordinal_of(peer) != Some(ordinal) {
            return self.drops.count(DropReason::UnknownPeer);
        }
        let mut link = peer.link.lock();
        self.attach(now, table, peer, &mut link);
        match link.tunnel.open(now, source, message, &mut reply) {
            Opened::Reply(len) => {
                link.last_received = Some(now);
                net.push(back, reply.get(..len).unwrap_or_default());
                let state = &mut *link;
                if let Kin::Node(node) = &mut state.kin {
                    let legs = self.legs.read();
                    if !node.paths.carries(now, &legs) {
                        let alive = node.paths.alive(&legs);
                        node.paths.take(now, Way::Via(hub.index), alive);
                        node.mtu = node.paths.mtu(&legs);
                        state.endpoint = Some(back);
                    }
                }
            }
            _ => self.drops.count(DropReason::Unauthentic),
        }
    }

    /// For whom a cookie would be: a response that a hub has forwarded is its sender's, as an initiation is. A node has one
    /// cookie for each peer, whatever it sends.
    pub(crate) fn source(&self, table: &Table, from: SocketAddr, datagram: &[u8]) -> IpAddr {
        if datagram.first() == Some(&2)
            && let Some(Holder::Node { local, .. }) = label::receiver(datagram).map(|r| Label::of(r).holder())
            && self.legs.read().iter().any(|leg| leg.endpoint == from)
            && let Some((index, Use::Carries)) = table.labels.holder(local)
            && let Some(ordinal) = table.peer(index).and_then(|peer| table.ordinal_of(peer))
        {
            return IpAddr::V4(slot_address(table, ordinal));
        }
        from.ip()
    }

    fn hear_absent(&self, heard: &Heard<'_>, ordinal: u16, why: Absence) {
        let Heard { now, table, peer: hub, .. } = *heard;
        let Some(peer) = table.by_ordinal(ordinal) else { return };
        if let Kin::Node(node) = &mut peer.link.lock().kin {
            match why {
                Absence::Away => node.paths.note_absent(now, hub.index),
                Absence::Plain => node.note_plain(now, hub.index),
            }
        }
    }

    /// Seals a message in a session of its own, or for another endpoint than the one in use, and sends it to `to`.
    pub(crate) fn say_directly(
        &self,
        tunnel: &mut Tunnel,
        to: SocketAddr,
        message: &Message<'_>,
        net: &mut DatagramBatch,
    ) {
        let sequence = self.sequence.fetch_add(1, Relaxed).wrapping_add(1);
        let mut packet = [0; control::MAX_MESSAGE];
        let len = control::write(Header { epoch: self.epoch, sequence }, message, &mut packet);
        let packet = packet.get(..len.unwrap_or_default()).unwrap_or_default();
        let Some(mut room) = net.reserve(MIN_BUFFER.max(packet.len() + OVERHEAD)) else {
            return self.drops.count(DropReason::NoBuffer);
        };
        if let Some(len) = tunnel.seal(packet, room.buffer()) {
            room.commit(to, len);
        }
    }

    /// Seals a message, made to be a packet of `size` bytes, among those that leave whole or not at all.
    pub(crate) fn say_whole(
        &self,
        tunnel: &mut Tunnel,
        to: SocketAddr,
        message: &Message<'_>,
        size: u16,
        out: &mut Output,
    ) {
        let sequence = self.sequence.fetch_add(1, Relaxed).wrapping_add(1);
        let header = Header { epoch: self.epoch, sequence };
        let len = control::write_padded(header, message, size.into(), &mut out.scratch);
        let packet = out.scratch.get(..len.unwrap_or_default()).unwrap_or_default();
        let Some(mut room) = out.whole.reserve(MIN_BUFFER.max(packet.len() + OVERHEAD)) else {
            return self.drops.count(DropReason::NoBuffer);
        };
        if let Some(len) = tunnel.seal(packet, room.buffer()) {
            room.commit(to, len);
        }
    }

    /// Gives a node's tunnel its label, if it has none yet.
    pub(crate) fn attach(&self, now: Instant, table: &Table, peer: &Peer, link: &mut LinkGuard<'_>) {
        if link.tunnel.is_attached() {
            return;
        }
        if let Some(local) = table.labels.give(now, peer.index, Use::Carries) {
            let label = Label::node(table.own_ordinal().unwrap_or_default(), local);
            link.tunnel.attach(&self.identity, &peer.settings.tunnel(label));
            link.began(now);
        }
    }

    /// Takes back the labels of a peer that is no member any more, or with which nobody speaks.
    pub(crate) fn give_back_labels(&self, now: Instant, table: &Table, link: &mut LinkGuard<'_>) {
        let carries = link.tunnel.label().map(Label::of);
        link.tunnel.detach();
        if let Kin::Node(node) = &mut link.kin {
            node.quiet = None;
            node.paths.rest(now);
            if let Some((_, local)) = node.tries.take() {
                table.labels.take_back(now, local);
            }
        }
        if let Some(Holder::Node { local, .. }) = carries.map(Label::holder) {
            table.labels.take_back(now, local);
        }
    }
}

/// A message from a peer.
#[derive(Clone, Copy)]
pub(crate) struct Heard<'a> {
    /// When.
    pub now: Instant,
    /// The peers at that time.
    pub table: &'a Table,
    /// Who sent it.
    pub peer: &'a Peer,
    /// From where.
    pub from: SocketAddr,
    /// Its header.
    pub header: Header,
}

/// The address of the node whose slot has this ordinal.
fn slot_address(table: &Table, ordinal: u16) -> Ipv4Addr {
    let first = u32::from(table.settings.overlay.network());
    let shift = 32 - u32::from(table.settings.slot_prefix.min(32));
    Ipv4Addr::from(first.wrapping_add(u32::from(ordinal).checked_shl(shift).unwrap_or_default() + 1))
}

/// Whether an address that a peer has told may be tried: a host somewhere, and not within the overlay.
fn usable(table: &Table, address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let special = match ip {
        IpAddr::V4(ip) => ip.is_broadcast() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let nowhere = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || special;
    !nowhere && address.port() != 0 && !in_overlay(table, address)
}
