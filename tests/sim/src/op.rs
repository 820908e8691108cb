//! What happens in a story, and when: made from the seed alone, so that leaving one out leaves the others as they are.

use crate::claims::FLOATING;
use crate::nat::Nat;
use crate::net::{PartyId, Weather};
use crate::packet::Kind;
use crate::scenario::{Plan, Role, Story, weather};
use crate::wait;
use fastrand::Rng;
use std::time::Duration;

/// Where a packet is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// An address of this node that is live.
    Live(PartyId),
    /// An address of its slot that is not on its device.
    Offline(PartyId),
    /// Its gateway.
    Gateway(PartyId),
    /// A slot that nobody has.
    Nobody,
    /// An address outside the overlay.
    Outside,
}

/// What a stranger, who has no key, does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prank {
    /// Sends again what it has seen, from elsewhere.
    Replay,
    /// Sends what it has seen with a byte changed.
    Alter,
    /// Sends bytes that begin like a message.
    Invent,
    /// Sends handshakes, good ones, of a key that is no member.
    Knock,
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Start(PartyId),
    Send {
        from: PartyId,
        aim: Aim,
        kind: Kind,
        size: usize,
        count: usize,
    },
    /// The member that lies sends as the one whose slot it claims.
    Lie {
        size: usize,
        count: usize,
    },
    Listen {
        node: PartyId,
        host: u8,
        on: bool,
    },
    /// A floating address comes onto a node's device, or leaves it.
    Float {
        node: PartyId,
        host: u8,
        on: bool,
    },
    /// Each node sends to the floating addresses that have one owner.
    CallFloating,
    /// Two have a floating address: it is this node's, which took it last.
    Taken {
        node: PartyId,
        from: PartyId,
        host: u8,
    },
    /// A hub is drained, or takes its part again.
    Drain(PartyId, bool),
    Cut {
        from: PartyId,
        to: PartyId,
        both: bool,
    },
    /// From now on this one sits behind a link that takes no large datagrams.
    Narrow(PartyId),
    /// Those whose bit is set cannot speak with those whose bit is not.
    Partition(u32),
    Crash(PartyId),
    /// Whoever is down starts again; its wall clock is this many seconds off from now on.
    Restart(PartyId, i64),
    Freeze(PartyId),
    Thaw(PartyId),
    Rebind(usize),
    Roam(PartyId, u64),
    Weather(Weather),
    /// A hub, or what sits in front of it, drops, replays, alters and invents from now on.
    Treason(PartyId, bool),
    /// From now on a stranger copies what is for this one, and is quicker than who sent it.
    Race(PartyId),
    Stranger {
        prank: Prank,
        target: PartyId,
        count: usize,
        seed: u64,
    },
    Reload(PartyId),
    /// Each fault is mended with this chance in 256.
    Mend(u8, u64),
    /// Each node sends to each other node, this often.
    Beats(Option<Duration>),
    /// What is joined must work: sends to everybody, and looks a little later.
    RollCall,
    /// Only this one sends to everybody: nobody else opens a way for it.
    Single(PartyId),
    Look,
    /// From here until the next `Quiet(false)` nobody sends anything, and control traffic is counted.
    Quiet(bool),
    /// From here on the beats' gaps are measured.
    Measure,
    /// None of them may have been longer than this.
    Gaps(Duration),
}

/// The ops of a story, in the order of time.
pub fn story(rng: &mut Rng, story: Story, plans: &[Plan], nats: &[Nat]) -> Vec<(Duration, Op)> {
    let mut ops = Ops { rng, plans, nats, now: Duration::ZERO, list: Vec::new() };
    for (id, plan) in plans.iter().enumerate() {
        ops.list.push((plan.starts, Op::Start(id)));
    }
    ops.list.sort_by_key(|(at, _)| *at);
    ops.now = Duration::from_secs(3);
    match story {
        Story::Chaos => ops.chaos(),
        Story::Fault => ops.fault(),
        Story::Idle => ops.idle(),
    }
    ops.list
}

struct Ops<'a> {
    rng: &'a mut Rng,
    plans: &'a [Plan],
    nats: &'a [Nat],
    now: Duration,
    list: Vec<(Duration, Op)>,
}

impl Ops<'_> {
    fn push(&mut self, op: Op) {
        self.list.push((self.now, op));
    }

    fn after(&mut self, pause: Duration, op: Op) {
        self.now += pause;
        self.push(op);
    }

    fn those(&self, wanted: impl Fn(&Plan) -> bool) -> Vec<PartyId> {
        (0..self.plans.len()).filter(|&id| wanted(&self.plans[id])).collect()
    }

    fn one(&mut self, wanted: impl Fn(Role) -> bool) -> Option<PartyId> {
        let ids = self.those(|plan| wanted(plan.role));
        (!ids.is_empty()).then(|| ids[self.rng.usize(..ids.len())])
    }

    fn anybody(&mut self) -> PartyId {
        self.rng.usize(..self.plans.len())
    }

    fn node(&mut self) -> PartyId {
        self.one(|role| matches!(role, Role::Node(_))).unwrap_or_default()
    }

    fn hub(&mut self) -> PartyId {
        self.one(|role| role == Role::Hub).unwrap_or_default()
    }

    /// Calm, beats as a cluster's, time enough, and then everything that is joined must work.
    fn roll_call(&mut self) {
        self.push(Op::Weather(Weather::CALM));
        self.push(Op::Beats(Some(Duration::from_secs(1))));
        self.after(wait::SETTLE, Op::Beats(None));
        self.after(Duration::from_millis(100), Op::RollCall);
        self.after(Duration::from_secs(2), Op::Look);
    }

    fn chaos(&mut self) {
        self.push(Op::Beats(Some(Duration::from_secs(1))));
        self.after(wait::START, Op::Beats(None));
        self.after(Duration::from_millis(100), Op::RollCall);
        self.after(Duration::from_secs(2), Op::Look);
        for _ in 0..self.rng.usize(1..=3) {
            let weather = weather(self.rng);
            self.push(Op::Weather(weather));
            // Drawn aside: all else stays as it was before there were narrow links.
            let mut aside = self.rng.clone();
            if aside.u8(0..3) == 0 {
                self.push(Op::Narrow(aside.usize(..self.plans.len())));
            }
            if self.rng.bool() {
                let pace = Duration::from_millis(self.rng.u64(100..2000));
                self.push(Op::Beats(Some(pace)));
            }
            for _ in 0..self.rng.usize(3..25) {
                let longest = if self.rng.u8(0..6) == 0 { 20_000_000 } else { 1_500_000 };
                self.now += Duration::from_micros(self.rng.u64(0..longest));
                let mut aside = self.rng.clone();
                let op = self.any();
                self.push(op);
                if let Some(op) = self.any_aside(&mut aside) {
                    self.push(op);
                }
            }
            let chance = [0, 128, 255, 255][self.rng.usize(..4)];
            let seed = self.rng.u64(..);
            self.push(Op::Mend(chance, seed));
            self.roll_call();
        }
    }

    fn any(&mut self) -> Op {
        match self.rng.u8(0..40) {
            0..12 => self.send(),
            12..15 => {
                let (node, host, on) = (self.node(), self.rng.u8(2..7), self.rng.bool());
                Op::Listen { node, host, on }
            }
            15..19 => {
                let (from, to) = (self.anybody(), self.anybody());
                Op::Cut { from, to, both: self.rng.bool() }
            }
            19 => Op::Partition(self.rng.u32(..)),
            20..23 => Op::Crash(self.anybody()),
            23..26 => {
                let offset = [0, 0, 0, 3600, -30][self.rng.usize(..5)];
                Op::Restart(self.anybody(), offset)
            }
            26 => Op::Freeze(self.anybody()),
            27 => Op::Thaw(self.anybody()),
            28..30 if !self.nats.is_empty() => Op::Rebind(self.rng.usize(..self.nats.len())),
            30..32 => Op::Roam(self.node(), self.rng.u64(..)),
            32 => Op::Treason(self.hub(), self.rng.u8(0..3) > 0),
            33..36 => {
                let prank = [Prank::Replay, Prank::Alter, Prank::Invent, Prank::Knock][self.rng.usize(..4)];
                let longest = if self.rng.u8(0..4) == 0 { 200 } else { 10 };
                let count = self.rng.usize(1..longest);
                Op::Stranger { prank, target: self.anybody(), count, seed: self.rng.u64(..) }
            }
            36 => Op::Reload(self.anybody()),
            37..39 => Op::Lie { size: self.rng.usize(16..800), count: self.rng.usize(1..5) },
            _ => Op::Weather(weather(self.rng)),
        }
    }

    /// What there was not at first, beside what happens anyway.
    fn any_aside(&self, aside: &mut Rng) -> Option<Op> {
        let nodes = self.those(|plan| matches!(plan.role, Role::Node(_)));
        let hubs = self.those(|plan| plan.role == Role::Hub);
        match aside.u8(0..20) {
            0..6 if self.plans.iter().any(|plan| plan.able) => {
                let (node, host) = (aside.choice(nodes)?, aside.choice(FLOATING)?);
                Some(Op::Float { node, host, on: aside.u8(0..3) > 0 })
            }
            6 => Some(Op::Drain(aside.choice(hubs)?, aside.bool())),
            7 => Some(Op::Race(aside.usize(..self.plans.len()))),
            _ => None,
        }
    }

    fn send(&mut self) -> Op {
        let (from, other) = (self.node(), self.node());
        let aim = match self.rng.u8(0..12) {
            0..7 => Aim::Live(other),
            7..9 => Aim::Offline(other),
            9 => Aim::Gateway(other),
            10 => Aim::Nobody,
            _ => Aim::Outside,
        };
        let kind = [Kind::Udp, Kind::Udp, Kind::Syn, Kind::Ping][self.rng.usize(..4)];
        let size = if self.rng.u8(0..4) == 0 { self.rng.usize(16..1380) } else { self.rng.usize(16..200) };
        let count = if self.rng.u8(0..10) == 0 { self.rng.usize(1..60) } else { self.rng.usize(1..4) };
        Op::Send { from, aim, kind, size, count }
    }

    fn fault(&mut self) {
        let beats = Duration::from_millis(50);
        self.push(Op::Beats(Some(Duration::from_secs(1))));
        self.after(wait::START + Duration::from_secs(2), Op::Beats(Some(beats)));
        let phase = Duration::from_micros(self.rng.u64(2_000_000..8_000_000));
        self.after(phase, Op::Measure);
        let (hub, node) = (self.hub(), self.node());
        let op = match self.rng.u8(0..8) {
            7 => Op::Reload(self.anybody()),
            0..2 => Op::Crash(hub),
            2 => Op::Freeze(hub),
            3 => Op::Cut { from: node, to: hub, both: true },
            4 => Op::Cut { from: node, to: hub, both: false },
            5 => Op::Cut { from: hub, to: node, both: false },
            _ if self.nats.is_empty() => Op::Crash(hub),
            _ => Op::Rebind(self.rng.usize(..self.nats.len())),
        };
        // Drawn aside, as above.
        let mut aside = self.rng.clone();
        let op = if aside.u8(0..8) == 0 { Op::Drain(hub, true) } else { op };
        let costs_nothing = matches!(op, Op::Reload(_) | Op::Drain(..));
        let limit = if costs_nothing { wait::UNDISTURBED } else { wait::RECOVERY };
        let first = self.float_first(&mut aside);
        self.push(op);
        self.after(wait::MEASURED, Op::Gaps(limit));
        if let Some(first) = first {
            self.float_on(first, &mut aside);
        }
    }

    fn able(&self) -> Vec<PartyId> {
        self.those(|plan| plan.able)
    }

    /// A floating address is somewhere before the fault,
    fn float_first(&mut self, aside: &mut Rng) -> Option<PartyId> {
        let node = aside.choice(self.able())?;
        self.push(Op::Float { node, host: FLOATING[0], on: true });
        Some(node)
    }

    /// and moves after it from the `first`, as keepalived moves one: for a moment both have it, or nobody.
    fn float_on(&mut self, first: PartyId, aside: &mut Rng) {
        let Some(next) = aside.choice(self.able()).filter(|next| *next != first) else { return };
        let host = FLOATING[0];
        let (leaves, comes) =
            (Op::Float { node: first, host, on: false }, Op::Float { node: next, host, on: true });
        let moment = Duration::from_millis(aside.u64(0..300));
        match aside.u8(0..3) {
            0 => {
                self.push(leaves);
                self.after(moment, comes);
            }
            1 => {
                self.push(comes);
                self.after(moment, leaves);
            }
            _ => {
                self.push(comes);
                self.after(wait::MOVED, Op::Taken { node: next, from: first, host });
                self.push(leaves);
            }
        }
        self.after(wait::MOVED, Op::CallFloating);
        self.after(Duration::from_secs(1), Op::Look);
    }

    fn idle(&mut self) {
        self.push(Op::Beats(Some(Duration::from_secs(1))));
        self.after(wait::START, Op::Beats(None));
        for _ in 0..self.rng.usize(1..=2) {
            self.after(Duration::from_secs(3), Op::Quiet(true));
            let long = Duration::from_secs(self.rng.u64(20..400));
            self.after(long, Op::Quiet(false));
            let one = self.node();
            self.push(Op::Single(one));
            self.after(Duration::from_secs(2), Op::Look);
            self.push(Op::RollCall);
            self.after(Duration::from_secs(2), Op::Look);
        }
    }
}
