//! What a flood of pings to the synthetic gateway costs the traffic beside it: one TCP stream with nothing else, with a flood that
//! the gateway answers, and with the same flood to an offline address of the slot, of which all but a few are dropped, in turn.
//!
//! A flood costs the processor on which the pings are made, whoever answers. What the answers cost is the difference between the
//! last two; so nobody reads them, or it would be the reader's cost as well. Without a stream, the gateway's own CPU time for a ping
//! can be told exactly.

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use overlay_benches::contender::{Contender, Program};
use overlay_benches::exit_code;
use overlay_benches::measure::ping::{flood, replies, wait_for_path};
use overlay_benches::measure::tcp::{Streams, Transfer, transfer};
use overlay_benches::process::Daemon;
use overlay_benches::results::Spread;
use overlay_benches::topology::{Place, Shape, Topology, leave_the_host};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// Measures what answering a flood of pings costs the traffic beside it.
#[derive(Debug, Parser)]
#[command(name = "flood")]
struct Arguments {
    /// How often each turn comes
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds of a transfer
    #[arg(long, default_value_t = 3)]
    secs: u64,
    /// Pings a second
    #[arg(long, default_value_t = 10_000)]
    pings: u32,
}

fn main() -> ExitCode {
    exit_code(run(&Arguments::parse()).map(|()| true))
}

fn run(arguments: &Arguments) -> Result<()> {
    let contender = Contender::find(Program::OverlayGw)?.context("overlay-gw")?;
    leave_the_host()?;
    let folder = tempfile::Builder::new().prefix("flood.").tempdir_in("/run")?;
    let topology = Topology::lay(Shape::Pair, false)?;
    let daemons = contender.start(&topology, folder.path())?;
    wait_for_path(topology.namespace(Place::A), Place::B.overlay(), Duration::from_secs(15))?;
    let site = Site {
        topology: &topology,
        daemons: &daemons,
        folder: folder.path(),
        time: Duration::from_secs(arguments.secs.max(1)),
    };
    // .56 is the gateway, and .60 is on no device.
    let gateway = Place::A.slot().addr();
    let offline = (u32::from(gateway) + 4).into();
    let mut found = Found::default();
    for round in 1..=arguments.rounds.max(1) {
        let quiet = site.stream()?;
        let (dropped, _) = site.stream_beside(offline, arguments.pings)?;
        let (answered, share) = site.stream_beside(gateway, arguments.pings)?;
        let (dropping, answering) =
            (site.alone(offline, arguments.pings)?, site.alone(gateway, arguments.pings)?);
        eprintln!(
            "round {round}: {:.0} Mb/s; {:.0} beside {} pings a second to the gateway, of which {:.0} % were answered; {:.0} beside \
             as many that are dropped. Without a stream: {:.2} us of the gateway's CPU a ping, {:.2} us dropped",
            quiet.megabits,
            answered.megabits,
            arguments.pings,
            share * 100.0,
            dropped.megabits,
            answering * 1e6,
            dropping * 1e6,
        );
        found.of_quiet.push(answered.megabits / quiet.megabits);
        found.of_dropped.push(answered.megabits / dropped.megabits);
        found.cpu.push(answered.cpu_per_gigabyte / dropped.cpu_per_gigabyte);
        found.dropping.push(dropping * 1e6);
        found.answering.push(answering * 1e6);
    }
    found.print(arguments.pings)
}

/// What the rounds have found.
#[derive(Default)]
struct Found {
    of_quiet: Vec<f64>,
    of_dropped: Vec<f64>,
    cpu: Vec<f64>,
    dropping: Vec<f64>,
    answering: Vec<f64>,
}

impl Found {
    fn print(self, pings: u32) -> Result<()> {
        println!("| one TCP stream beside {pings} pings a second to the gateway | of the rounds |");
        println!("| --- | ---: |");
        for (what, values) in [
            ("throughput, of the stream alone", self.of_quiet),
            ("throughput, of the stream beside as many that are dropped", self.of_dropped),
            ("CPU of the tunnel per GB, of the same beside as many that are dropped", self.cpu),
            ("without a stream: CPU of the gateway for a dropped ping, us", self.dropping),
            ("without a stream: CPU of the gateway for an answered ping, us", self.answering),
        ] {
            let Spread { median, least, most } = Spread::of(values).context("no round")?;
            println!("| {what} | {median:.3} ({least:.3}–{most:.3}) |");
        }
        Ok(())
    }
}

struct Site<'a> {
    topology: &'a Topology,
    daemons: &'a [Daemon],
    folder: &'a Path,
    time: Duration,
}

impl Site<'_> {
    /// One TCP stream.
    fn stream(&self) -> Result<Transfer> {
        transfer(self.topology, self.daemons, self.folder, Streams::One, self.time)
    }

    /// The same beside `pings` a second to `to`. Returns also the share of them that was answered.
    fn stream_beside(&self, to: Ipv4Addr, pings: u32) -> Result<(Transfer, f64)> {
        let before = replies(self.topology.namespace(Place::A))?;
        let (transfer, sent) = self.beside(to, pings, || self.stream())?;
        let answered = replies(self.topology.namespace(Place::A))? - before;
        Ok((transfer, answered as f64 / sent.max(1) as f64))
    }

    /// CPU seconds of the gateway for each of `pings` a second to `to`, with nothing else to do.
    fn alone(&self, to: Ipv4Addr, pings: u32) -> Result<f64> {
        let cpu = || self.daemons.first().map_or(Duration::ZERO, Daemon::cpu);
        let before = cpu();
        let ((), sent) = self.beside(to, pings, || {
            std::thread::sleep(self.time);
            Ok(())
        })?;
        Ok(cpu().saturating_sub(before).as_secs_f64() / sent.max(1) as f64)
    }

    /// Does `work` beside `pings` a second to `to`. Returns also how many were sent.
    fn beside<T>(&self, to: Ipv4Addr, pings: u32, work: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
        let ended = AtomicBool::new(false);
        let namespace = self.topology.namespace(Place::A);
        std::thread::scope(|scope| {
            let flood = scope.spawn(|| flood(namespace, to, pings, &ended));
            let done = work();
            ended.store(true, Relaxed);
            let sent = flood.join().map_err(|_| anyhow!("the pinging thread panicked"))??;
            Ok((done?, sent))
        })
    }
}
