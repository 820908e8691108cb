//! Time: what is due, and when something is due next. Handshakes and keepalives at a steady tick, probes at their own time.

use crate::control::{Capabilities, HubId, Message, Whereabouts};
use crate::engine::Engine;
use crate::event::Event;
use crate::label::LOCALS;
use crate::output::Output;
use crate::peer::mtu::SIZE_PROBE;
use crate::peer::node::Watched;
use crate::peer::path::{Leg, Source, Way};
use crate::peer::probe::{Change, Prober};
use crate::peer::tunnel::{MIN_BUFFER, OVERHEAD, TICK};
use crate::peer::{Kin, LinkGuard, Peer, PeerIndex, PeerKind, Sealing, Standing};
use crate::settings::RoleSettings;
use crate::table::Table;
use crate::whereabouts::whereabouts;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// The handshakes that pass without a cookie are counted anew this often.
const GUARD_PACE: Duration = Duration::from_secs(1);

/// Probes that are due within this time of each other are sent together.
const GRAIN: Duration = Duration::from_millis(5);

/// What is kept from one call to the next. Nothing in it is allocated in steady state.
#[derive(Debug)]
pub struct Schedule {
    /// The last call.
    now: Instant,
    /// When everything is looked after.
    tick: Instant,
    /// When something is due.
    due: Instant,
    guard: Instant,
    legs: Vec<Leg>,
    /// Where hubs see us.
    seen_at: Vec<SocketAddr>,
    /// Nodes with a tunnel, and when they have probes due.
    active: Vec<(PeerIndex, Instant)>,
    whereabouts: Whereabouts,
}

impl Schedule {
    /// Everything is due at once.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            now,
            tick: now,
            due: now,
            guard: now,
            legs: Vec::new(),
            seen_at: Vec::new(),
            active: Vec::new(),
            // Not 0, which everybody has noted: that no hub reaches this node is news as well.
            whereabouts: Whereabouts::new(1),
        }
    }

    /// The time of the last call.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }
}

/// What of a leg the choice of paths depends on.
fn matters(leg: &Leg) -> (PeerIndex, SocketAddr, [bool; 4], u16) {
    (leg.hub, leg.endpoint, [leg.up, leg.relays, leg.plain, leg.draining], leg.mtu)
}

/// Whether a probe of the largest size still fits: one that is due and does not leave would count as lost.
fn has_room(out: &Output, table: &Table) -> bool {
    out.whole.room() >= usize::from(table.settings.mtu) + OVERHEAD
}

/// With fewer labels than this left, those of sessions that nobody needs are taken back. Not before: the other end may think otherwise of
/// what is needed, and a direct path that was found is forgotten with them. Half of all: what is taken back has to rest, and the others have
/// to last that long.
const SCARCE: usize = LOCALS / 2;

/// A member of a hub that was not heard for so long cannot be reached: it probes the hub several times a second.
const SILENT: Duration = Duration::from_millis(1_500);

impl Engine {
    /// What is due at `now`: handshakes, keepalives, expiry, probes, and the moves that follow from them; about
    /// [`Engine::timeout_messages`] messages at most.
    pub fn handle_timeout(&self, now: Instant, out: &mut Output) {
        let mut schedule = self.schedule.lock();
        let table = self.table.load();
        let schedule = &mut *schedule;
        schedule.now = now;
        if now.saturating_duration_since(schedule.guard) >= GUARD_PACE {
            self.guard.load().tick();
            schedule.guard = now;
        }
        let full = self.soon.swap(false, Relaxed) || now >= schedule.tick;
        if full {
            schedule.tick = now + TICK;
        }
        schedule.due = schedule.tick;
        match table.settings.role {
            RoleSettings::Hub if full => {
                self.members_due(now, &table, out);
                self.alarms_due(now);
            }
            RoleSettings::Hub => {}
            RoleSettings::Node { .. } => {
                let moved = self.hubs_due(now, &table, full, schedule, out);
                self.note_whereabouts(schedule);
                self.nodes_due(now, &table, (full, moved), schedule, out);
                if full {
                    self.alarms_due(now);
                }
            }
        }
        schedule.due = schedule.due.max(now + GRAIN);
        self.send_relay(now, &table, out);
    }

    /// When [`Engine::handle_timeout`] is to be called next. boringtun has no next deadline, so that is every 100 ms at the
    /// latest; probes have their own.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Instant {
        let schedule = self.schedule.lock();
        // What has come up since then waits a moment as well: what it leads to may come up again.
        let due = if self.soon.load(Relaxed) { schedule.now + GRAIN } else { schedule.due };
        due.max(now)
    }

    /// How many messages of 160 bytes one [`Engine::handle_timeout`] can give back: the size that its [`Output`] needs.
    #[must_use]
    pub fn timeout_messages(&self) -> usize {
        64 + 5 * self.table.load().peers().count()
    }

    /// A hub's members.
    fn members_due(&self, now: Instant, table: &Table, out: &mut Output) {
        let notice = self.notice.swap(false, Relaxed);
        let draining = self.draining.load(Relaxed);
        let mut changed = self.unelected.swap(false, Relaxed);
        for peer in table.peers() {
            let mut link = peer.link.lock();
            link.tick(now, &mut out.net, &self.drops);
            self.greet(now, peer.index, &mut link, &mut out.relay);
            let state = &mut *link;
            // What it has told of floating addresses counts for less when it is not heard any more.
            let session = state.tunnel.has_session();
            let heard = state.last_received.is_some_and(|at| now.saturating_duration_since(at) < SILENT);
            changed |= peer.link.set_reachable(heard && session);
            let speaks = state.talk.as_ref().is_some_and(|talk| talk.hello().is_some());
            if !speaks || !session {
                continue;
            }
            if let Some(endpoint) = state.endpoint {
                self.challenge(now, peer.index, endpoint, state, &mut out.net);
            }
            let called = match (&mut state.kin, state.last_received) {
                (Kin::Member(seat), Some(heard)) => seat.is_to_be_called(now, heard),
                _ => false,
            };
            if notice || called {
                self.say(peer.index, &Message::Notice { draining }, &mut out.relay);
            }
        }
        if changed && !table.settings.floating.is_empty() {
            self.reach_changed();
        }
    }

    /// A node's legs to its hubs.
    ///
    /// Returns whether something has changed that paths depend on.
    fn hubs_due(
        &self,
        now: Instant,
        table: &Table,
        full: bool,
        schedule: &mut Schedule,
        out: &mut Output,
    ) -> bool {
        schedule.legs.clear();
        schedule.seen_at.clear();
        for hub in table.hubs() {
            let mut link = hub.link.lock();
            if full {
                self.attach(now, table, hub, &mut link);
                link.tick(now, &mut out.net, &self.drops);
                self.greet(now, hub.index, &mut link, &mut out.relay);
            }
            let leg = self.leg_due(now, table, hub, &mut link, schedule, out);
            schedule.legs.extend(leg);
        }
        let known = self.legs.read();
        let (same, as_good) =
            (*known == schedule.legs, known.iter().map(matters).eq(schedule.legs.iter().map(matters)));
        drop(known);
        if !same {
            self.legs.write().clone_from(&schedule.legs);
        }
        !as_good
    }

    #[allow(clippy::too_many_arguments, reason = "a step of hubs_due, with what that has at hand")]
    fn leg_due(
        &self,
        now: Instant,
        table: &Table,
        hub: &Peer,
        link: &mut LinkGuard<'_>,
        schedule: &mut Schedule,
        out: &mut Output,
    ) -> Option<Leg> {
        let state = &mut **link;
        let session = state.tunnel.has_session();
        let mut found = Leg {
            hub: hub.index,
            id: HubId::of(&hub.settings.public_key),
            endpoint: state.endpoint?,
            up: session,
            relays: false,
            plain: session,
            routed_only: !hub.settings.speaks_control,
            draining: false,
            rtt: Duration::ZERO,
            alive: state.last_received,
            mtu: u16::MAX,
            measured: false,
        };
        let (Kin::Hub(leg), Some(talk)) = (&mut state.kin, &state.talk) else { return Some(found) };
        found.plain = session && talk.is_plain(now);
        let probed = session && talk.can(Capabilities::PROBES);
        if probed {
            let (change, probe) = leg.prober.poll(now);
            if let Some(number) = probe {
                self.say(hub.index, &Message::Probe { number, mtu: leg.mtu.known() }, &mut out.relay);
            }
            if leg.measured_to != state.endpoint {
                leg.mtu.restart(now);
                leg.measured_to = state.endpoint;
            }
            if talk.can(Capabilities::LISTENERS) && leg.told_listeners.is_due(now, self.told.load(Relaxed)) {
                self.tell_listeners(hub.index, &mut out.relay);
            }
            if has_room(out, table) {
                let alive = leg.prober.alive().filter(|_| leg.prober.is_up());
                let due = leg.mtu.poll(now, table.settings.mtu, alive, leg.prober.patience());
                if let Some((number, size)) = due {
                    let probe = Message::Probe { number: number | SIZE_PROBE, mtu: None };
                    self.say_whole(&mut state.tunnel, found.endpoint, &probe, size, out);
                }
            }
            if leg.prober.is_up() {
                schedule.due = schedule.due.min(leg.mtu.deadline());
            }
            if change == Some(Change::Down) {
                // It may have restarted: then only a handshake helps.
                state.tunnel.suspect();
            }
            schedule.due = schedule.due.min(leg.prober.deadline());
            found.relays = talk.can(Capabilities::RELAYS);
            found.rtt = leg.prober.rtt().unwrap_or_default();
            found.alive = leg.prober.alive();
            (found.mtu, found.measured) = (leg.mtu.size(), leg.mtu.known().is_some());
        } else if leg.prober.sent() > 0 {
            leg.prober = Prober::new(now);
            leg.mtu.restart(now);
        }
        found.up = if probed { leg.prober.is_up() } else { found.plain };
        found.draining = leg.draining && session;
        schedule.seen_at.extend(leg.seen_at.filter(|_| session));
        // Without probes there is no telling: the session is all there is to go by. A new session may begin on a leg that
        // carries one way only: its probes stay unanswered from the first on.
        let down = !leg.prober.is_up() && (leg.prober.was_ever_up() || leg.prober.is_unanswered());
        leg.turn(now, !session || (probed && down), &mut state.endpoint);
        found.endpoint = state.endpoint.unwrap_or(found.endpoint);
        hub.link.set_standing(match (session, probed && down) {
            (true, false) if found.draining => Standing::Leaving,
            (true, false) => Standing::Up,
            _ => Standing::Down,
        });
        if leg.shown_up != found.up {
            leg.shown_up = found.up;
            let name = hub.settings.name.clone();
            self.events.push(Event::HubChanged { hub: name, up: found.up });
        }
        Some(found)
    }

    /// What this node tells of itself, and whether that has changed.
    fn note_whereabouts(&self, schedule: &mut Schedule) {
        let revision = schedule.whereabouts.revision;
        let local = self.local.lock();
        let addresses = schedule.seen_at.iter().chain(local.iter()).copied();
        let found = whereabouts(revision + 1, &schedule.legs, addresses);
        if !found.says_the_same(&schedule.whereabouts) {
            schedule.whereabouts = found;
        }
    }

    /// A node's other peers: all of them at a tick or when a leg has `moved`, else those that have probes due.
    fn nodes_due(
        &self,
        now: Instant,
        table: &Table,
        (full, moved): (bool, bool),
        schedule: &mut Schedule,
        out: &mut Output,
    ) {
        if full {
            schedule.active.clear();
            let scarce = table.labels.left() < SCARCE;
            for peer in table.peers().filter(|peer| peer.settings.kind != PeerKind::Hub) {
                let mut link = peer.link.lock();
                // Asked at each tick: it also notes when there were packets.
                if link.tunnel.is_attached() && link.is_idle(now, &peer.settings) && scarce {
                    self.give_back_labels(now, table, &mut link);
                }
                if !link.tunnel.is_attached() && link.tunnel.is_wanted() {
                    self.attach(now, table, peer, &mut link);
                }
                if !link.tunnel.is_attached() {
                    link.count_stale(&self.drops);
                    if peer.link.set_reachable(false) {
                        self.reach_changed();
                    }
                } else if matches!(link.kin, Kin::Node(_)) {
                    schedule.active.push((peer.index, now));
                } else {
                    link.tick(now, &mut out.net, &self.drops);
                }
            }
        }
        let mut active = std::mem::take(&mut schedule.active);
        for (index, due) in &mut active {
            if !moved && *due > now {
                schedule.due = schedule.due.min(*due);
                continue;
            }
            let Some(peer) = table.peer(*index) else { continue };
            let mut link = peer.link.lock();
            if full {
                self.tunnel_due(now, peer, &mut link, &schedule.legs, out);
                self.greet(now, peer.index, &mut link, &mut out.relay);
            }
            self.steer(now, peer, &mut link, &mut out.relay, &mut out.net);
            self.node_due(now, table, peer, &mut link, full, schedule, out);
            *due = match &link.kin {
                Kin::Node(node) => node.deadline().unwrap_or(schedule.tick),
                _ => schedule.tick,
            };
            schedule.due = schedule.due.min(*due);
        }
        schedule.active = active;
    }

    /// The handshakes and keepalives of an end-to-end session.
    fn tunnel_due(
        &self,
        now: Instant,
        peer: &Peer,
        link: &mut LinkGuard<'_>,
        legs: &[Leg],
        out: &mut Output,
    ) {
        let state = &mut **link;
        let Kin::Node(node) = &mut state.kin else { return };
        let usable = |way: &Way| match way {
            Way::Via(hub) => legs.iter().any(|leg| leg.hub == *hub && leg.up && leg.relays),
            Way::Direct(_) => true,
        };
        let hubs = legs.iter().map(|leg| Way::Via(leg.hub)).filter(usable);
        let written = node.paths.candidates().iter().filter(|candidate| {
            candidate.source == Source::Configured
                || candidate.prober.is_up()
                || node.paths.current() == Some(Way::Direct(candidate.address))
        });
        let direct = written.map(|candidate| Way::Direct(candidate.address));
        let reachable = direct.clone().chain(hubs.clone()).next().is_some();
        let mut buffer = [0; MIN_BUFFER];
        let due = state.tunnel.tick(now, reachable, &mut buffer);
        let message = due.and_then(|len| buffer.get(..len)).unwrap_or_default();
        match message.first() {
            None => {}
            Some(1) => {
                let settled = state.tunnel.has_session() && !state.tunnel.is_suspect();
                let current = node.paths.current().filter(|_| settled);
                match current {
                    Some(way) => self.send_initiation(peer, way, message, &mut out.relay, &mut out.net),
                    // By every way that there is: the first answer shows which one carries.
                    None => {
                        for way in direct.chain(hubs) {
                            self.send_initiation(peer, way, message, &mut out.relay, &mut out.net);
                        }
                    }
                }
            }
            Some(_) => {
                if let Some(endpoint) = state.endpoint {
                    out.net.push(endpoint, message);
                }
            }
        }
        link.count_stale(&self.drops);
    }

    /// What is due with another node beside its tunnel.
    #[allow(clippy::too_many_arguments, reason = "a step of nodes_due, with what that has at hand")]
    fn node_due(
        &self,
        now: Instant,
        table: &Table,
        peer: &Peer,
        link: &mut LinkGuard<'_>,
        full: bool,
        schedule: &Schedule,
        out: &mut Output,
    ) {
        let session = link.tunnel.has_session();
        let can = |link: &LinkGuard<'_>, what| link.talk.as_ref().is_some_and(|talk| talk.can(what));
        let probes = session && can(link, Capabilities::PROBES);
        let direct = session && can(link, Capabilities::DIRECT);
        if probes {
            self.watch_peer(now, peer, link, out);
        }
        let revision = schedule.whereabouts.revision;
        if let Kin::Node(node) = &mut link.kin
            && probes
            && node.tells(now, revision)
        {
            self.say(peer.index, &Message::Whereabouts(schedule.whereabouts), &mut out.relay);
        }
        let tells = session && can(link, Capabilities::LISTENERS);
        if let Kin::Node(node) = &mut link.kin
            && tells
            && node.tells_listeners(now, self.told.load(Relaxed))
        {
            self.tell_listeners(peer.index, &mut out.relay);
        }
        if direct {
            self.tries_due(now, table, peer, link, full, out);
        }
        let Kin::Node(node) = &mut link.kin else { return };
        node.mtu = node.paths.mtu(&schedule.legs);
        let carries = session && node.paths.carries(now, &schedule.legs);
        if peer.link.set_reachable(carries) {
            self.reach_changed();
        }
        let routed = schedule.legs.iter().find(|leg| {
            let routes =
                leg.routed_only || !node.sealed && !session && (leg.plain || node.is_plain_via(now, leg.hub));
            routes && leg.up
        });
        let routed = routed.filter(|_| !carries && peer.settings.sealing == Sealing::Preferred);
        peer.link.set_routed_via(routed.map(|leg| leg.hub));
    }

    /// A peer that we send to and that says nothing.
    fn watch_peer(&self, now: Instant, peer: &Peer, link: &mut LinkGuard<'_>, out: &mut Output) {
        let sent = peer.link.sent_packets();
        let state = &mut **link;
        let Kin::Node(node) = &mut state.kin else { return };
        match node.watch(now, sent, state.last_received) {
            Watched::Well => {}
            Watched::Ask(number) => {
                self.say(peer.index, &Message::Probe { number, mtu: None }, &mut out.relay);
            }
            Watched::Gone => {
                if let Some(Way::Via(hub)) = node.paths.current() {
                    node.paths.note_absent(now, hub);
                }
                state.tunnel.suspect();
                self.soon.store(true, Relaxed);
            }
        }
    }

    /// The session that tries direct paths, and its probes.
    fn tries_due(
        &self,
        now: Instant,
        table: &Table,
        peer: &Peer,
        link: &mut LinkGuard<'_>,
        full: bool,
        out: &mut Output,
    ) {
        let Kin::Node(node) = &mut link.kin else { return };
        if node.paths.candidates().is_empty() {
            return;
        }
        if full {
            self.attach_tries(now, table, peer, link);
        }
        let Kin::Node(node) = &mut link.kin else { return };
        let Some((mut tries, local)) = node.tries.take() else { return };
        if full {
            let mut buffer = [0; MIN_BUFFER];
            if let Some(len) = tries.tick(now, true, &mut buffer) {
                let message = buffer.get(..len).unwrap_or_default();
                self.say(peer.index, &Message::Inner { message }, &mut out.relay);
            }
        }
        if tries.has_session() {
            for place in 0..node.paths.candidates().len() {
                if let Some((number, to)) = node.try_candidate(now, place) {
                    self.say_directly(&mut tries, to, &Message::Probe { number, mtu: None }, &mut out.net);
                }
                if has_room(out, table)
                    && let Some((number, size, to)) = node.size_candidate(now, place, table.settings.mtu)
                {
                    self.say_whole(&mut tries, to, &Message::Probe { number, mtu: None }, size, out);
                }
            }
        } else {
            node.try_in_vain(now);
        }
        node.tries = Some((tries, local));
    }
}
