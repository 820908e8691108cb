//! Who is measured when: every contender once, then the next round, so that a machine that becomes slower or faster in between
//! does so for all of them. A run in which somebody else used the processor is done again.

use crate::contender::{Contender, Program};
use crate::machine::{Foreign, wait_until_quiet};
use crate::measure::ping::{RoundTrips, ping, wait_for_path};
use crate::measure::tcp::{self, Streams, transfer};
use crate::measure::udp::{self, Search};
use crate::process::Daemon;
use crate::results::{Metric, Run};
use crate::topology::{Place, Shape, Topology};
use anyhow::{Result, anyhow, ensure};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// Share of the machine that other programs may use in a run that counts.
pub const TOLERATED_SHARE: f64 = 0.03;

/// How often a disturbed run is done before it is taken as it is, and marked.
const ATTEMPTS: u32 = 3;

/// How long a run waits for a quiet machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a contender may take until it carries packets.
const PATH_PATIENCE: Duration = Duration::from_secs(15);

/// The pace of pings.
const PING_PACE: Duration = Duration::from_millis(10);

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Test {
    /// Round trips with nothing else under way.
    PingIdle,
    /// One TCP stream.
    Tcp1,
    /// Four TCP streams.
    Tcp4,
    /// One TCP stream each way.
    Bidir,
    /// Round trips while one TCP stream fills the tunnel.
    PingLoad,
    /// The best rate of UDP datagrams of 64 bytes.
    Udp64,
    /// The same with 1,372 bytes.
    Udp1372,
    /// One TCP stream through a hub.
    Hub,
}

impl Test {
    /// All, in the order in which they are done.
    pub const ALL: [Self; 8] = [
        Self::PingIdle,
        Self::Tcp1,
        Self::Tcp4,
        Self::Bidir,
        Self::PingLoad,
        Self::Udp64,
        Self::Udp1372,
        Self::Hub,
    ];
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How often each contender's turn comes.
    pub rounds: u32,
    /// Rounds that were done earlier, to which these are added.
    pub rounds_before: u32,
    /// How long a transfer takes.
    pub transfer: Duration,
    /// How long a rate of UDP is tried.
    pub probe: Duration,
    /// Halvings in the search for the best rate.
    pub search_steps: u32,
    /// Pings in a series.
    pub pings: u16,
    /// Wires without offloads.
    pub wire: bool,
    /// What is measured.
    pub tests: Vec<Test>,
    /// What is measured of the programs that are not ours.
    pub rivals_tests: Vec<Test>,
    /// Wait for a quiet machine, and repeat what was disturbed.
    pub insists_on_quiet: bool,
}

impl Plan {
    fn tests(&self, program: Program) -> &[Test] {
        if program.is_ours() { &self.tests } else { &self.rivals_tests }
    }
}

/// Does all of it, and tells about it on standard error.
///
/// # Errors
/// When no folder can be made; what fails within a run is kept in its [`Run::errors`].
pub fn carry_out(plan: &Plan, contenders: &[Contender]) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    let start = Instant::now();
    let all = plan.rounds as usize * contenders.len();
    for round in (1..=plan.rounds).map(|round| plan.rounds_before + round) {
        for contender in contenders {
            let left = left(start.elapsed(), runs.len(), all);
            eprint!(
                "round {round}/{}, {left}: {}",
                plan.rounds_before + plan.rounds,
                contender.program.name()
            );
            let mut run = once(plan, contender, round)?;
            let mut attempt = 1;
            while plan.insists_on_quiet && run.foreign_share > TOLERATED_SHARE && attempt < ATTEMPTS {
                let share = run.foreign_share * 100.0;
                eprint!("\n  others used {share:.0} % of the machine: again");
                let again = once(plan, contender, round)?;
                // When none of them was quiet, the quietest counts.
                if again.foreign_share < run.foreign_share {
                    run = again;
                }
                attempt += 1;
            }
            run.disturbed = run.foreign_share > TOLERATED_SHARE;
            eprintln!("{}", if run.disturbed { ", disturbed by other programs" } else { "" });
            for error in &run.errors {
                eprintln!("  FAILED {error}");
            }
            runs.push(run);
        }
    }
    Ok(runs)
}

fn left(elapsed: Duration, done: usize, all: usize) -> String {
    if done == 0 {
        return format!("{all} runs");
    }
    let seconds = elapsed.as_secs_f64() / done as f64 * (all - done) as f64;
    format!("{:.0} min {:02.0} s left", (seconds / 60.0).floor(), seconds % 60.0)
}

/// One contender, once through all tests.
fn once(plan: &Plan, contender: &Contender, round: u32) -> Result<Run> {
    if plan.insists_on_quiet {
        let _ = wait_until_quiet(PATIENCE);
    }
    let before = Foreign::look();
    let mut run = Run::new(contender.program.name(), round);
    let wants = |shape| {
        plan.tests(contender.program).iter().any(|test| (*test == Test::Hub) == (shape == Shape::Hub))
    };
    for shape in [Shape::Pair, Shape::Hub] {
        // Without acquaintance and in a pair, this is the same program twice.
        let same = contender.program == Program::OverlayGwSealed && shape == Shape::Pair;
        if wants(shape)
            && !same
            && let Err(error) = in_shape(plan, contender, shape, &mut run)
        {
            run.errors.push(format!("{}: {error:#}", if shape == Shape::Hub { "hub" } else { "pair" }));
        }
    }
    run.foreign_share = before.share_since();
    Ok(run)
}

fn in_shape(plan: &Plan, contender: &Contender, shape: Shape, run: &mut Run) -> Result<()> {
    // In the /run of our own: gone with us, however we end.
    let folder = tempfile::Builder::new().prefix("side-by-side.").tempdir_in("/run")?;
    let topology = Topology::lay(shape, plan.wire)?;
    let daemons = contender.start(&topology, folder.path())?;
    let site = Site {
        plan,
        topology: &topology,
        daemons: &daemons,
        folder: folder.path(),
        payload: contender.program.large_payload(),
    };
    wait_for_path(topology.namespace(Place::A), Place::B.overlay(), PATH_PATIENCE)
        .map_err(|error| anyhow!("{error:#}: {}", site.last_words()))?;
    for test in Test::ALL.into_iter().filter(|test| plan.tests(contender.program).contains(test)) {
        if (test == Test::Hub) != (shape == Shape::Hub) {
            continue;
        }
        match site.measure(test, &mut run.at_least) {
            Ok(values) => {
                for (metric, value) in values {
                    eprint!(", {} {}", metric.title(), metric.format(value));
                    run.values.insert(metric, value);
                }
            }
            // Recorded, not hidden; the next test may well work.
            Err(error) => run.errors.push(format!("{test:?}: {error:#}: {}", site.last_words())),
        }
    }
    // The hub is what matters there; it was started first.
    let watched = if shape == Shape::Hub { daemons.get(..1).unwrap_or_default() } else { &daemons };
    if let Some(peak) = watched.iter().map(Daemon::peak_memory).max() {
        let metric = if shape == Shape::Hub { Metric::HubMemory } else { Metric::Memory };
        run.values.insert(metric, peak as f64 / 1e6);
    }
    Ok(())
}

/// A contender that runs.
struct Site<'a> {
    plan: &'a Plan,
    topology: &'a Topology,
    daemons: &'a [Daemon],
    folder: &'a Path,
    payload: usize,
}

impl Site<'_> {
    fn measure(&self, test: Test, at_least: &mut BTreeSet<Metric>) -> Result<Vec<(Metric, f64)>> {
        Ok(match test {
            Test::PingIdle => {
                let trips = self.ping()?;
                times(&trips, Metric::PingMedian, Metric::PingWorst)?
            }
            Test::PingLoad => {
                let time = PING_PACE * u32::from(self.plan.pings) + Duration::from_millis(1500);
                let time = Duration::from_secs(time.as_secs() + 1);
                let load = tcp::begin(self.topology, self.folder, Streams::One, time)?;
                std::thread::sleep(Duration::from_millis(500));
                let trips = self.ping()?;
                load.finish()?;
                times(&trips, Metric::LoadedPingMedian, Metric::LoadedPingWorst)?
            }
            Test::Tcp1 => {
                let transfer = self.transfer(Streams::One)?;
                let mut values = vec![(Metric::TcpOne, transfer.megabits)];
                // Without a process there is nothing to pay.
                if !self.daemons.is_empty() {
                    values.push((Metric::CpuPerGigabyte, transfer.cpu_per_gigabyte));
                }
                values
            }
            Test::Tcp4 => vec![(Metric::TcpFour, self.transfer(Streams::Four)?.megabits)],
            Test::Bidir => vec![(Metric::TcpBothWays, self.transfer(Streams::BothWays)?.megabits)],
            Test::Hub => {
                // The hub was started first; without a process there is nothing to pay.
                let hub = self.daemons.get(..1).unwrap_or_default();
                let transfer = transfer(self.topology, hub, self.folder, Streams::One, self.plan.transfer)?;
                let cpu = hub.first().map(|_| (Metric::HubCpuPerGigabyte, transfer.cpu_per_gigabyte));
                [(Metric::TcpHub, transfer.megabits)].into_iter().chain(cpu).collect()
            }
            Test::Udp64 => {
                let found = self.rate(64)?;
                at_least.extend(found.sender_is_the_limit.then_some(Metric::UdpSmall));
                vec![(Metric::UdpSmall, found.rate / 1e3)]
            }
            Test::Udp1372 => {
                let found = self.rate(self.payload)?;
                at_least.extend(found.sender_is_the_limit.then_some(Metric::UdpLarge));
                vec![(Metric::UdpLarge, found.rate * self.payload as f64 * 8.0 / 1e6)]
            }
        })
    }

    fn transfer(&self, streams: Streams) -> Result<tcp::Transfer> {
        transfer(self.topology, self.daemons, self.folder, streams, self.plan.transfer)
    }

    fn ping(&self) -> Result<RoundTrips> {
        let trips = ping(self.topology.namespace(Place::A), Place::B.overlay(), self.plan.pings, PING_PACE)?;
        ensure!(!trips.times.is_empty(), "no ping of {} came back", trips.sent);
        Ok(trips)
    }

    fn rate(&self, payload: usize) -> Result<udp::Found> {
        let (from, to) = (self.topology.namespace(Place::A), self.topology.namespace(Place::B));
        let search = Search { payload, time: self.plan.probe, steps: self.plan.search_steps };
        udp::search(search, |search, rate| udp::probe(from, to, Place::B.overlay(), search, rate))
    }

    fn last_words(&self) -> String {
        self.daemons
            .iter()
            .map(Daemon::last_words)
            .filter(|words| !words.is_empty())
            .collect::<Vec<_>>()
            .join(" || ")
    }
}

fn times(trips: &RoundTrips, median: Metric, worst: Metric) -> Result<Vec<(Metric, f64)>> {
    let milliseconds = |share| trips.quantile(share).map(|time| time.as_secs_f64() * 1e3);
    let values = [(median, milliseconds(0.5)), (worst, milliseconds(0.99))];
    Ok(values.into_iter().filter_map(|(metric, value)| Some((metric, value?))).collect())
}
