//! A party: one engine, its host, and what can befall them.

use crate::claims::is_floating;
use crate::memory::measured;
use crate::packet::Reassembly;
use crate::scenario::{Plan, Role, address};
use engine::Engine;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Whether a party's process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// There is none.
    Down,
    /// It is stopped (SIGSTOP): its socket fills.
    Frozen,
    Up,
}

/// As many datagrams wait in the socket of a process that does not read (about 200 KB).
pub const SOCKET: usize = 256;

/// What an engine sent and was given in the current second, and the one before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    pub second: u64,
    pub given: u64,
    pub given_before: u64,
    pub sent: u64,
}

/// One party.
pub struct Party {
    pub plan: Plan,
    pub life: Life,
    pub engine: Option<Box<Engine>>,
    /// When its engine wants to be called.
    pub deadline: Option<Duration>,
    /// When it was last called because of its deadline, and how often in that moment.
    pub called: (Duration, u32),
    /// Seconds that its wall clock is off.
    pub clock: i64,
    /// Peers refuse its handshakes until then: its clock was set back.
    pub behind_until: Duration,
    /// It has another address than at first.
    pub moved: bool,
    /// What is on its device. It outlives the process.
    pub live: BTreeSet<Ipv4Addr>,
    /// Datagrams that nobody has read yet.
    pub socket: Vec<(SocketAddr, Vec<u8>)>,
    pub traitor: bool,
    /// A stranger copies what is for it, and is quicker.
    pub raced: bool,
    /// A hub that is to be left.
    pub draining: bool,
    /// Bytes that its engine holds.
    pub memory: i64,
    pub traffic: Traffic,
    /// How often it was started.
    pub starts: u64,
    /// What its host has of packets that came in fragments.
    pub fragments: Reassembly,
}

impl Party {
    pub fn new(plan: Plan) -> Self {
        let live = match plan.role {
            Role::Node(octet) | Role::Liar(_, octet) => [address(octet + 1), address(octet + 2)].into(),
            Role::Hub => BTreeSet::new(),
        };
        Self {
            plan,
            life: Life::Down,
            engine: None,
            deadline: None,
            called: (Duration::ZERO, 0),
            clock: 0,
            behind_until: Duration::ZERO,
            moved: false,
            live,
            socket: Vec::new(),
            traitor: false,
            raced: false,
            draining: false,
            memory: 0,
            traffic: Traffic::default(),
            starts: 0,
            fragments: Reassembly::default(),
        }
    }

    /// Its process starts with empty memory; `now` is the engine's, `seed` all the randomness that it has.
    pub fn start(&mut self, now: Instant, seed: u64) {
        let (engine, held) = measured(|| {
            let engine = Engine::new(self.plan.settings.clone(), self.plan.private, now, seed);
            engine.set_listen_port(crate::scenario::PORT);
            Box::new(engine)
        });
        self.engine = Some(engine);
        self.memory = held;
        self.life = Life::Up;
        self.starts += 1;
        self.tell_live();
    }

    /// Its process is gone, and everything in its memory.
    pub fn stop(&mut self) {
        self.engine = None;
        self.deadline = None;
        self.life = Life::Down;
        self.socket.clear();
        self.draining = false;
        self.memory = 0;
    }

    /// An address comes onto its device, or leaves it.
    pub fn bring(&mut self, ip: Ipv4Addr, on: bool) {
        if on {
            self.live.insert(ip);
        } else {
            self.live.remove(&ip);
        }
        self.tell_live();
    }

    /// The platform tells the engine what is on the device.
    pub fn tell_live(&mut self) {
        if let (Some(engine), true) = (&self.engine, self.plan.role != Role::Hub) {
            let live: Vec<_> = self.live.iter().copied().collect();
            let ((), held) = measured(|| engine.set_live(Some(live)));
            self.memory += held;
        }
    }

    /// The first octet of the slot that is its own, whatever it says.
    pub fn octet(&self) -> Option<u8> {
        match self.plan.role {
            Role::Node(octet) | Role::Liar(octet, _) => Some(octet),
            Role::Hub => None,
        }
    }

    pub fn is_node(&self) -> bool {
        matches!(self.plan.role, Role::Node(_))
    }

    /// Whether it may have an address: one of its slot, or a floating one.
    pub fn may_have(&self, ip: Ipv4Addr) -> bool {
        self.owns(ip) || self.plan.able && is_floating(ip)
    }

    /// What is on its device of its own slot.
    pub fn own_live(&self) -> Vec<Ipv4Addr> {
        self.live.iter().copied().filter(|ip| self.owns(*ip)).collect()
    }

    /// Whether a floating address is its to have, and on its device.
    pub fn holds(&self, floating: Ipv4Addr) -> bool {
        self.plan.able && self.live.contains(&floating)
    }

    /// Whether an address is of its slot.
    pub fn owns(&self, ip: Ipv4Addr) -> bool {
        let [a, b, c, d] = ip.octets();
        self.octet().is_some_and(|octet| [a, b, c] == [172, 16, 8] && d & !7 == octet)
    }
}
