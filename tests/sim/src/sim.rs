//! The simulation: events in virtual time, each handed to the engine that it concerns, and what follows from it.

use crate::check;
use crate::clock;
use crate::ledger::{Arrival, Ledger, Promise, Sent};
use crate::memory::measured;
use crate::model;
use crate::net::{Flight, Net, PartyId};
use crate::op::{Aim, Op};
use crate::packet::{self, Kind};
use crate::party::{Life, Party, SOCKET};
use crate::pranks::Observer;
use crate::scenario::{Role, Scenario, Story, address};
use crate::trace::{Trace, describe};
use engine::packet::{DatagramBatch, PacketBatch};
use engine::{Engine, Output};
use fastrand::Rng;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// What a simulation came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub story: Story,
    /// What was wrong, and when.
    pub violation: Option<(Duration, String)>,
    pub hash: u64,
    pub events: u64,
    pub virtual_time: Duration,
    /// Packets that arrived.
    pub arrived: u64,
    /// How many packets were promised something.
    pub promised: u64,
    /// The longest time without a beat after a single fault.
    pub gap: Option<Duration>,
    /// The most that an engine held, beyond what is allowed for each of its peers: for choosing the limit.
    pub memory: i64,
}

enum Event {
    /// A datagram has come to the last hop.
    Flies(Flight),
    /// A datagram is in the socket of a party.
    Arrives(PartyId, SocketAddr, Vec<u8>),
    Timer(PartyId),
    Beat,
    Op(usize),
}

struct Due {
    at: Duration,
    order: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    /// The heap gives the greatest first: the earliest, and of equals the one that was put in first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// A whole overlay.
pub struct Sim {
    pub now: Duration,
    pub parties: Vec<Party>,
    pub net: Net,
    pub ledger: Ledger,
    pub trace: Trace,
    pub observer: Observer,
    pub rng: Rng,
    seed: u64,
    story: Story,
    ops: Vec<(Duration, Op)>,
    base: Instant,
    queue: BinaryHeap<Due>,
    order: u64,
    out: Option<Box<Output>>,
    /// What has arrived in one moment: kept, for there are millions of them.
    arrived: DatagramBatch,
    beats: Option<Duration>,
    /// For each pair: when the last beat that arrived was sent, and the longest time between two.
    gaps: Option<HashMap<(PartyId, PartyId), (Duration, Duration)>>,
    gap: Option<Duration>,
    promised: u64,
    quiet: Option<(Duration, Vec<u64>)>,
    /// How many packets hubs had opened when the roll was called, if they had no business to open more.
    pub opened: Option<u64>,
    violation: Option<(Duration, String)>,
    events: u64,
    /// Events in the current virtual second.
    storm: (u64, u64),
    memory: i64,
    done: bool,
}

impl Sim {
    pub fn new(seed: u64, trace: bool, left_out: &[usize]) -> Self {
        clock::reset();
        let Scenario { story, plans, attachments, nats, mut ops } = Scenario::new(seed);
        for (n, op) in ops.iter_mut().enumerate() {
            if left_out.contains(&n) {
                op.1 = Op::Listen { node: usize::MAX, host: 0, on: false };
            }
        }
        let mut sim = Self {
            now: Duration::ZERO,
            parties: plans.into_iter().map(Party::new).collect(),
            net: Net::new(attachments, nats, seed ^ 0xA17),
            ledger: Ledger::default(),
            trace: Trace { on: trace, hash: seed },
            observer: Observer::default(),
            rng: Rng::with_seed(seed ^ 0xB0D),
            seed,
            story,
            ops,
            base: Instant::now(),
            queue: BinaryHeap::new(),
            order: 0,
            out: Some(Box::new(Output::for_batch(1 << 17, 512))),
            arrived: DatagramBatch::with_capacity(1 << 16, 64),
            beats: None,
            gaps: None,
            gap: None,
            promised: 0,
            quiet: None,
            opened: None,
            violation: None,
            events: 0,
            storm: (0, 0),
            memory: 0,
            done: false,
        };
        for n in 0..sim.ops.len() {
            sim.schedule(sim.ops[n].0, Event::Op(n));
        }
        sim
    }

    /// Runs to the end of the story, or to the first violation.
    pub fn run(mut self) -> Outcome {
        while let Some(due) = self.queue.pop() {
            self.now = self.now.max(due.at);
            self.events += 1;
            self.count_storm();
            self.handle(due.event);
            if self.violation.is_some() || self.done {
                break;
            }
        }
        Outcome {
            story: self.story,
            violation: self.violation,
            hash: self.trace.hash,
            events: self.events,
            virtual_time: self.now,
            arrived: self.ledger.arrived,
            promised: self.promised,
            gap: self.gap,
            memory: self.memory,
        }
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        self.order += 1;
        self.queue.push(Due { at, order: self.order, event });
    }

    /// Something that must never be.
    pub fn violated(&mut self, what: String) {
        self.trace.line(self.now, "!", || what.clone());
        let now = self.now;
        self.violation.get_or_insert((now, what));
    }

    fn count_storm(&mut self) {
        let second = self.now.as_secs();
        if self.storm.0 != second {
            self.storm = (second, 0);
        }
        self.storm.1 += 1;
        if self.storm.1 > check::EVENTS_PER_SECOND {
            self.violated(format!("{} events within a second: the overlay talks to itself", self.storm.1));
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Flies(flight) => {
                if let Some((id, latency)) = self.net.deliver(self.now, &flight) {
                    if let Some(copier) = self.copier(id, &flight) {
                        self.schedule(self.now + latency, Event::Arrives(id, copier, flight.bytes.clone()));
                    }
                    self.schedule(self.now + latency, Event::Arrives(id, flight.from, flight.bytes));
                }
            }
            Event::Arrives(id, from, bytes) => self.arrives(id, from, bytes),
            Event::Timer(id) => self.timer(id),
            Event::Beat => self.beat(),
            Event::Op(n) => {
                let op = self.ops[n].1.clone();
                self.trace.line(self.now, "story", || format!("{n}: {op:?}"));
                self.perform(op);
                self.done = n + 1 == self.ops.len();
            }
        }
    }

    /// The engine's idea of now.
    pub fn instant(&self) -> Instant {
        self.base + self.now
    }

    /// Calls a party's engine, and takes care of everything that it gives back.
    fn call(&mut self, id: PartyId, given: u64, call: impl FnOnce(&Engine, Instant, &mut Output)) {
        let Some(mut out) = self.out.take() else { return };
        out.clear();
        let now = self.instant();
        clock::set(self.now, self.parties[id].clock);
        let party = &mut self.parties[id];
        if let Some(engine) = &party.engine {
            let ((), held) = measured(|| call(engine, now, &mut out));
            party.memory += held;
            let asked = engine.poll_timeout(now).saturating_duration_since(self.base);
            if party.deadline.is_none_or(|deadline| asked < deadline) {
                party.deadline = Some(asked);
                self.schedule(asked, Event::Timer(id));
            }
        }
        self.count(id, given, (out.net.len() + out.whole.len()) as u64);
        for (_, packet) in out.host.iter() {
            self.host_receives(id, packet);
        }
        for (to, bytes) in out.net.iter().chain(out.whole.iter()) {
            self.sends(id, to, bytes);
        }
        self.out = Some(out);
    }

    fn count(&mut self, id: PartyId, given: u64, sent: u64) {
        let party = &mut self.parties[id];
        let (traffic, second) = (&mut party.traffic, self.now.as_secs());
        if traffic.second != second {
            let before = if traffic.second + 1 == second { traffic.given } else { 0 };
            *traffic = crate::party::Traffic { second, given_before: before, given: 0, sent: 0 };
        }
        traffic.given += given;
        traffic.sent += sent;
        if let Some((_, counts)) = &mut self.quiet {
            counts[id] += sent;
        }
        let peers = party.plan.settings.peers.len() as u64;
        let memory = party.memory - peers as i64 * crate::wait::MEMORY_PER_PEER;
        self.memory = self.memory.max(memory);
        if let Some(wrong) = check::traffic(traffic, peers).or_else(|| check::memory(memory)) {
            let name = party.plan.name.clone();
            self.violated(format!("{name}: {wrong}"));
        }
    }

    fn sends(&mut self, id: PartyId, to: SocketAddr, bytes: &[u8]) {
        self.trace.note(self.now, (id as u64) << 32 | bytes.len() as u64);
        self.trace.line(self.now, &self.parties[id].plan.name, || format!("-> {to}  {}", describe(bytes)));
        if packet::shows_plaintext(bytes) {
            let name = self.parties[id].plan.name.clone();
            self.violated(format!("{name} sends plaintext to {to}"));
        }
        let times = if self.parties[id].plan.role == Role::Hub { 1 } else { 3 };
        if let Some(wrong) = self.observer.answered(to, bytes, times) {
            self.violated(wrong);
        }
        if self.parties[id].traitor {
            return self.betray(id, to, bytes);
        }
        let flights = self.net.send(self.now, id, to, bytes);
        self.launch(flights);
    }

    pub fn launch(&mut self, flights: Vec<Flight>) {
        for flight in flights {
            self.schedule(flight.arrives, Event::Flies(flight));
        }
    }

    fn arrives(&mut self, id: PartyId, from: SocketAddr, bytes: Vec<u8>) {
        let party = &mut self.parties[id];
        match party.life {
            Life::Down => {}
            Life::Frozen if party.socket.len() < SOCKET => party.socket.push((from, bytes)),
            Life::Frozen => {}
            Life::Up => {
                // What has come in the same moment is one batch, as it is for the daemon.
                let mut batch = std::mem::replace(&mut self.arrived, DatagramBatch::with_capacity(0, 0));
                batch.clear();
                batch.push(from, &bytes);
                let mut count = 1;
                while let Some(Due { at, event: Event::Arrives(other, _, more), .. }) = self.queue.peek()
                    && *other == id
                    && *at <= self.now
                    && batch.places() > 0
                    && batch.room() > more.len()
                    && let Some(Due { event: Event::Arrives(_, from, more), .. }) = self.queue.pop()
                {
                    batch.push(from, &more);
                    count += 1;
                }
                self.underlay(id, &batch, count);
                self.arrived = batch;
            }
        }
    }

    fn underlay(&mut self, id: PartyId, batch: &DatagramBatch, count: u64) {
        if self.trace.on {
            for (from, bytes) in batch.iter() {
                let name = &self.parties[id].plan.name;
                self.trace.line(self.now, name, || format!("<- {from}  {}", describe(bytes)));
            }
        }
        self.call(id, count, |engine, now, out| engine.handle_underlay(now, batch, out));
        let to = self.net.attachments[id].local;
        for (_, bytes) in batch.iter() {
            self.observer.saw(to, bytes, &mut self.rng);
        }
    }

    fn timer(&mut self, id: PartyId) {
        let party = &mut self.parties[id];
        if party.life != Life::Up || party.deadline != Some(self.now) {
            return;
        }
        party.deadline = None;
        party.called =
            if party.called.0 == self.now { (self.now, party.called.1 + 1) } else { (self.now, 1) };
        if party.called.1 > check::CALLS_AT_ONCE {
            let name = party.plan.name.clone();
            return self.violated(format!("{name}: wants to be called for ever in the same moment"));
        }
        self.call(id, 0, |engine, now, out| engine.handle_timeout(now, out));
    }

    /// A host sends packets.
    fn host_sends(&mut self, id: PartyId, packets: &[Vec<u8>]) {
        if self.parties[id].life != Life::Up {
            return;
        }
        let bytes: usize = packets.iter().map(|p| p.len() + 32).sum();
        let mut batch = PacketBatch::with_capacity(bytes + 64, packets.len() + 1);
        for packet in packets {
            batch.push((), packet);
            if self.trace.on {
                let name = &self.parties[id].plan.name;
                self.trace.line(self.now, name, || format!("host sends {:?}", packet::read(packet)));
            }
        }
        let mut batch = Some(batch);
        self.call(id, packets.len() as u64, |engine, now, out| {
            if let Some(batch) = &mut batch {
                engine.handle_host(now, batch, out);
            }
        });
    }

    fn host_receives(&mut self, id: PartyId, bytes: &[u8]) {
        let Some(whole) = self.parties[id].fragments.take(bytes) else { return };
        let seen = packet::read(&whole);
        self.trace.note(self.now, (id as u64) << 40 | bytes.len() as u64);
        self.trace.line(self.now, &self.parties[id].plan.name, || format!("host receives {seen:?}"));
        match self.ledger.received(self.now, id, &self.parties, &seen) {
            Ok(Some(Arrival { from, beat: Some(to), sent_at })) if to == id => {
                if let Some(gaps) = &mut self.gaps
                    && let Some((last, longest)) = gaps.get_mut(&(from, to))
                {
                    *longest = (*longest).max(sent_at.saturating_sub(*last));
                    *last = (*last).max(sent_at);
                }
            }
            Ok(_) => {}
            Err(wrong) => {
                let name = self.parties[id].plan.name.clone();
                self.violated(format!("{name}: {wrong}"));
            }
        }
    }

    /// Sends a probe from a party's host. `lying`: from an address of the slot that it claims.
    pub fn probe(
        &mut self,
        from: PartyId,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        (kind, size, count): (Kind, usize, usize),
        promise: Promise,
        beat: Option<PartyId>,
    ) {
        if self.parties[from].life != Life::Up {
            return;
        }
        let mut packets = Vec::with_capacity(count);
        for _ in 0..count {
            let id = self.ledger.next_id();
            self.promised += u64::from(promise != Promise::None);
            packets.push(packet::probe(kind, id, source, destination, size));
            let sent = Sent {
                from,
                source,
                destination,
                kind,
                at: self.now,
                promise,
                beat,
                arrived: None,
                refused: false,
                answered: false,
            };
            self.ledger.record(id, sent);
        }
        self.host_sends(from, &packets);
    }

    pub fn nodes(&self) -> Vec<PartyId> {
        (0..self.parties.len()).filter(|&id| self.parties[id].is_node()).collect()
    }

    pub fn world(&self) -> model::World<'_> {
        model::World { parties: &self.parties, net: &self.net, now: self.now }
    }

    pub fn home(&self, id: PartyId) -> Ipv4Addr {
        address(self.parties[id].octet().unwrap_or_default() + 1)
    }

    fn beat(&mut self) {
        let Some(pace) = self.beats else { return };
        for from in self.nodes() {
            for to in self.nodes() {
                if from != to {
                    let (source, destination) = (self.home(from), self.home(to));
                    self.probe(from, source, destination, (Kind::Udp, 24, 1), Promise::None, Some(to));
                }
            }
        }
        self.schedule(self.now + pace, Event::Beat);
    }

    fn perform(&mut self, op: Op) {
        match op {
            Op::Start(id) => self.start(id, 0),
            Op::Send { from, aim, kind, size, count } => self.send(from, aim, (kind, size, count)),
            Op::Lie { size, count } => self.lie((Kind::Udp, size, count)),
            Op::Listen { node, host, on } => {
                let Some(party) = self.parties.get_mut(node) else { return };
                let Some(octet) = party.octet() else { return };
                party.bring(address(octet + host), on);
            }
            Op::Float { node, host, on } => {
                self.parties[node].bring(address(host), on);
                // Whoever may not have it is not believed to be it either.
                let first = self.nodes().into_iter().find(|to| *to != node);
                if let Some(to) = first.filter(|_| on) {
                    let what = (Kind::Udp, 40, 1);
                    self.probe(node, address(host), self.home(to), what, Promise::None, None);
                }
            }
            Op::CallFloating => self.calls_floating(false),
            Op::Taken { node, from, host } => self.is_taken(node, from, address(host)),
            Op::Drain(id, on) => {
                let party = &mut self.parties[id];
                if let Some(engine) = &party.engine {
                    engine.set_draining(on);
                    party.draining = on;
                }
            }
            Op::Cut { from, to, both } => {
                if from == to {
                    return;
                }
                self.net.cuts.insert((from, to));
                if both {
                    self.net.cuts.insert((to, from));
                }
            }
            Op::Partition(side) => {
                let is_left = |id: PartyId| side >> id & 1 == 1;
                for a in 0..self.parties.len() {
                    for b in (0..self.parties.len()).filter(|&b| is_left(a) != is_left(b)) {
                        self.net.cuts.insert((a, b));
                    }
                }
            }
            Op::Narrow(id) => _ = self.net.narrow.insert(id),
            Op::Crash(id) => self.parties[id].stop(),
            Op::Restart(id, offset) if self.parties[id].life == Life::Down => self.start(id, offset),
            Op::Restart(..) => {}
            Op::Freeze(id) => {
                if self.parties[id].life == Life::Up {
                    self.parties[id].life = Life::Frozen;
                }
            }
            Op::Thaw(id) => self.thaw(id),
            Op::Rebind(nat) => self.net.nats[nat].rebind(),
            Op::Roam(id, seed) => {
                let mut rng = Rng::with_seed(seed);
                let local = crate::scenario::elsewhere(&mut rng, id, self.net.attachments[id].local);
                self.net.moved(id, local);
                self.parties[id].moved = true;
            }
            Op::Weather(weather) => self.net.weather = weather,
            Op::Treason(id, on) => self.parties[id].traitor = on,
            Op::Race(id) => self.parties[id].raced = true,
            Op::Stranger { prank, target, count, seed } => self.prank(prank, target, count, seed),
            Op::Reload(id) => {
                let settings = self.parties[id].plan.settings.clone();
                self.call(id, 0, |engine, now, _| engine.reconfigure(settings, now));
            }
            Op::Mend(chance, seed) => self.mend(chance, &mut Rng::with_seed(seed)),
            Op::Beats(pace) => {
                let idle = self.beats.is_none();
                self.beats = pace;
                if idle && pace.is_some() {
                    self.schedule(self.now, Event::Beat);
                }
            }
            Op::RollCall => self.roll_call(),
            Op::Look => {
                if let Some(broken) = self.ledger.broken() {
                    self.violated(broken);
                }
                let opened = self.opened_by_hubs();
                if let Some(before) = self.opened.take().filter(|before| opened > *before) {
                    self.violated(format!(
                        "hubs opened {} packets of nodes that know one another",
                        opened - before
                    ));
                }
            }
            Op::Quiet(true) => self.quiet = Some((self.now, vec![0; self.parties.len()])),
            Op::Quiet(false) => self.end_quiet(),
            Op::Measure => self.measure(),
            Op::Single(from) => self.calls_all(from),
            Op::Gaps(limit) => self.look_at_gaps(limit),
        }
    }

    fn start(&mut self, id: PartyId, offset: i64) {
        let behind = self.parties[id].clock - offset;
        let starts = self.parties[id].starts;
        let seed = self.seed ^ (id as u64) << 32 ^ starts;
        clock::set(self.now, offset);
        let now = self.instant();
        let party = &mut self.parties[id];
        party.clock = offset;
        if behind > 0 && starts > 0 {
            party.behind_until = party.behind_until.max(self.now + Duration::from_secs(behind as u64));
        }
        party.start(now, seed);
        // As the daemon does: the first call comes when the engine asks for it.
        self.call(id, 0, |_, _, _| {});
    }

    fn thaw(&mut self, id: PartyId) {
        if self.parties[id].life != Life::Frozen {
            return;
        }
        self.parties[id].life = Life::Up;
        let waiting = std::mem::take(&mut self.parties[id].socket);
        for chunk in waiting.chunks(64) {
            let mut batch = DatagramBatch::with_capacity(1 << 18, 64);
            for (from, bytes) in chunk {
                batch.push(*from, bytes);
            }
            self.underlay(id, &batch, chunk.len() as u64);
        }
        self.parties[id].deadline = Some(self.now);
        self.schedule(self.now, Event::Timer(id));
    }

    fn mend(&mut self, chance: u8, rng: &mut Rng) {
        for id in 0..self.parties.len() {
            let mended = rng.u8(..) < chance;
            match self.parties[id].life {
                Life::Down if mended => self.start(id, self.parties[id].clock),
                Life::Frozen if mended => self.thaw(id),
                _ => {}
            }
            if rng.u8(..) < chance {
                (self.parties[id].traitor, self.parties[id].raced) = (false, false);
            }
        }
        self.net.cuts.retain(|_| rng.u8(..) >= chance);
        self.net.narrow.retain(|_| rng.u8(..) >= chance);
    }

    fn send(&mut self, from: PartyId, aim: Aim, what: (Kind, usize, usize)) {
        let source = self.home(from);
        let destination = match aim {
            Aim::Live(to) => {
                let live = self.parties[to].own_live();
                if live.is_empty() { self.home(to) } else { live[self.rng.usize(..live.len())] }
            }
            Aim::Offline(to) => address(self.parties[to].octet().unwrap_or_default() + 6),
            Aim::Gateway(to) => address(self.parties[to].octet().unwrap_or_default()),
            Aim::Nobody => address(0),
            Aim::Outside => Ipv4Addr::new(9, 9, 9, 9),
        };
        self.probe(from, source, destination, what, Promise::None, None);
    }

    /// The liar sends as another, to everybody.
    fn lie(&mut self, what: (Kind, usize, usize)) {
        for from in 0..self.parties.len() {
            let Role::Liar(_, claimed) = self.parties[from].plan.role else { continue };
            for to in self.nodes() {
                let destination = self.home(to);
                self.probe(from, address(claimed + 1), destination, what, Promise::None, None);
            }
        }
    }

    /// All pairs of nodes, each way.
    pub fn pairs(&self) -> Vec<(PartyId, PartyId)> {
        let nodes = self.nodes();
        let pairs = nodes.iter().flat_map(|&a| nodes.iter().map(move |&b| (a, b)));
        pairs.filter(|(a, b)| a != b).collect()
    }

    fn end_quiet(&mut self) {
        let Some((since, counts)) = self.quiet.take() else { return };
        let seconds = (self.now - since).as_secs_f64();
        for (id, count) in counts.into_iter().enumerate() {
            let peers = self.parties[id].plan.settings.peers.len();
            let rate = count as f64 / seconds / peers.max(1) as f64;
            if rate > crate::wait::QUIET_RATE {
                let name = self.parties[id].plan.name.clone();
                self.violated(format!(
                    "{name}: {rate:.2} datagrams a second for each peer, with nothing to send"
                ));
            }
        }
    }

    fn measure(&mut self) {
        let now = self.now;
        self.gaps = Some(self.pairs().into_iter().map(|pair| (pair, (now, Duration::ZERO))).collect());
    }

    fn look_at_gaps(&mut self, limit: Duration) {
        let Some(gaps) = self.gaps.take() else { return };
        let mut pairs: Vec<_> = gaps.into_iter().collect();
        pairs.sort();
        for ((from, to), (last, longest)) in pairs {
            if self.world().arrives(from, to) != model::Verdict::Must {
                continue;
            }
            let gap = longest.max(self.now - last);
            self.gap = self.gap.max(Some(gap));
            if gap > limit {
                let names = [from, to].map(|id| self.parties[id].plan.name.clone());
                let [from, to] = names;
                self.violated(format!("from {from} to {to} nothing arrived for {gap:.3?} after one fault"));
            }
        }
    }
}
