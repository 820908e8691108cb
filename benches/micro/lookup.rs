//! Where a packet goes and whose datagram this is, with few members and with many: it must cost the same.
//!
//! `spread` asks for all members in random order, so that with 8,000 of them no cache holds them all: the worst traffic there is.
//! `one_flow` asks for one member again and again, as a flow does.

use criterion::Criterion;
use ipnet::Ipv4Net;
use overlay_engine::gateway::Refusal;
use overlay_engine::label::Label;
use overlay_engine::peer::tunnel::Identity;
use overlay_engine::peer::{PeerKind, PeerSettings, Sealing};
use overlay_engine::table::{Destination, Table};
use overlay_engine::{EngineSettings, RoleSettings};
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const MEMBERS: [u32; 3] = [10, 1_000, 8_000];

/// Questions asked in turn.
const QUESTIONS: usize = 4096;

/// The first slot: the overlay is 172.16.0.0/16, which has 8,192.
const FIRST: u32 = 0xAC10_0000;

pub fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup");
    for members in MEMBERS {
        let questions = Questions::new(members);
        let mut next = (0..QUESTIONS).cycle();
        group.bench_function(format!("route/one_flow/{members}"), |b| b.iter(|| questions.route(7)));
        group.bench_function(format!("route/spread/{members}"), |b| {
            b.iter(|| questions.route(next.next().unwrap()));
        });
        group.bench_function(format!("receiver/one_flow/{members}"), |b| b.iter(|| questions.receiver(7)));
        group.bench_function(format!("receiver/spread/{members}"), |b| {
            b.iter(|| questions.receiver(next.next().unwrap()));
        });
    }
}

/// Prints how much more a lookup costs with many members than with few.
pub fn flatness(_: &mut Criterion) {
    // As criterion itself decides between measuring and only trying.
    let measuring =
        std::env::args().any(|word| word == "--bench") && !std::env::args().any(|word| word == "--test");
    let rounds = if measuring { 500 } else { 1 };
    let questions = MEMBERS.map(Questions::new);
    type Ask = fn(&Questions, usize) -> u32;
    let kinds: [(&str, Ask); 2] = [("route", Questions::route), ("receiver", Questions::receiver)];
    for (name, ask) in kinds {
        for (order, all) in [("one flow", false), ("spread", true)] {
            let times = questions.each_ref().map(|questions| nanoseconds(questions, ask, all, rounds));
            let line: Vec<_> =
                MEMBERS.iter().zip(times).map(|(n, t)| format!("{n} members {t:.2} ns")).collect();
            println!("{name}, {order}: {}; 8,000 to 10: {:.2}", line.join(", "), times[2] / times[0]);
        }
    }
}

fn nanoseconds(questions: &Questions, ask: impl Fn(&Questions, usize) -> u32, all: bool, rounds: u32) -> f64 {
    let mut best = Duration::MAX;
    // The least of several: a neighbour on the machine only ever adds.
    for _ in 0..rounds {
        let start = Instant::now();
        for n in 0..QUESTIONS {
            black_box(ask(questions, black_box(if all { n } else { 7 })));
        }
        best = best.min(start.elapsed());
    }
    best.as_secs_f64() * 1e9 / QUESTIONS as f64
}

/// A hub's table, and what it is asked.
struct Questions {
    table: Table,
    addresses: Vec<Ipv4Addr>,
    receivers: Vec<u32>,
}

impl Questions {
    fn new(members: u32) -> Self {
        let identity = Identity::new([1; 32]);
        let settings = EngineSettings {
            role: RoleSettings::Hub,
            overlay: Ipv4Net::new(FIRST.into(), 16).unwrap(),
            slot_prefix: 29,
            mtu: 1420,
            refuse: Refusal::Reset,
            floating: Vec::new(),
            peers: (0..members).map(peer).collect(),
        };
        let table = Table::new(settings, &identity, None, Instant::now(), || 1);
        let mut random = fastrand::Rng::with_seed(1);
        let asked: Vec<_> = (0..QUESTIONS).map(|_| random.u32(..members)).collect();
        let addresses = asked.iter().map(|member| (FIRST + member * 8 + 1).into()).collect();
        // A receiver index has the label above the 8 bits that are boringtun's own.
        let receivers = asked.iter().map(|member| Label::hub(*member).bits() << 8 | 5).collect();
        Self { table, addresses, receivers }
    }

    fn route(&self, question: usize) -> u32 {
        match self.table.destination(black_box(self.addresses[question])) {
            Destination::Peer(peer) => peer.index,
            other => panic!("{other:?}"),
        }
    }

    fn receiver(&self, question: usize) -> u32 {
        self.table.by_receiver(black_box(self.receivers[question])).unwrap().0.index
    }
}

fn peer(number: u32) -> PeerSettings {
    let slot = Ipv4Net::new((FIRST + number * 8).into(), 29).unwrap();
    let mut public_key = [9; 32];
    public_key[..4].copy_from_slice(&number.to_le_bytes());
    PeerSettings {
        name: format!("member-{number}"),
        kind: PeerKind::Node,
        public_key,
        preshared_key: None,
        keepalive: None,
        endpoint: None,
        slot: Some(slot),
        networks: vec![slot],
        initiates: false,
        warm: false,
        sends_keepalives: false,
        speaks_control: false,
        sealing: Sealing::Never,
    }
}
