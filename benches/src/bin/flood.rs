//! What a flood of pings to the synthetic gateway costs the traffic beside it: one TCP stream with nothing else, with a flood that
//! the gateway answers, and with the same flood to an offline address of the slot, of which all but a few are dropped, in turn.
//!
//! A flood costs the processor on which the pings are made, whoever answers. What the answers cost is the difference between the
//! last two.

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use overlay_benches::contender::{Contender, Program};
use overlay_benches::exit_code;
use overlay_benches::measure::ping::{ping, wait_for_path};
use overlay_benches::measure::tcp::{Streams, transfer};
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
    pings: u16,
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
    let (mut flooded, mut answered) = (Vec::new(), Vec::new());
    for round in 1..=arguments.rounds.max(1) {
        let quiet = site.stream()?;
        let (beside_dropped, _) = site.stream_beside(offline, arguments.pings)?;
        let (beside_answered, came_back) = site.stream_beside(gateway, arguments.pings)?;
        eprintln!(
            "round {round}: {quiet:.0} Mb/s; {beside_answered:.0} beside {} pings a second to the gateway, of which {:.0} % \
             came back; {beside_dropped:.0} beside as many that are dropped",
            arguments.pings,
            came_back * 100.0
        );
        flooded.push(beside_answered / quiet);
        answered.push(beside_answered / beside_dropped);
    }
    let spread = |values| Spread::of(values).context("no round");
    let (flooded, answered) = (spread(flooded)?, spread(answered)?);
    println!("| one TCP stream beside {} pings a second | ratio (of the rounds) |", arguments.pings);
    println!("| --- | ---: |");
    println!(
        "| to the gateway, of the stream alone | {:.3} ({:.3}–{:.3}) |",
        flooded.median, flooded.least, flooded.most
    );
    println!(
        "| to the gateway, of the stream beside as many that are dropped | {:.3} ({:.3}–{:.3}) |",
        answered.median, answered.least, answered.most
    );
    Ok(())
}

struct Site<'a> {
    topology: &'a Topology,
    daemons: &'a [Daemon],
    folder: &'a Path,
    time: Duration,
}

impl Site<'_> {
    /// One TCP stream; megabits a second.
    fn stream(&self) -> Result<f64> {
        Ok(transfer(self.topology, self.daemons, self.folder, Streams::One, self.time)?.megabits)
    }

    /// The same beside `pings` a second to `to`. Returns also the share of them that came back.
    fn stream_beside(&self, to: Ipv4Addr, pings: u16) -> Result<(f64, f64)> {
        let (pace, second) = (Duration::from_secs(1) / u32::from(pings.max(1)), Duration::from_secs(1));
        let ended = AtomicBool::new(false);
        let namespace = self.topology.namespace(Place::A);
        std::thread::scope(|scope| {
            let flood = scope.spawn(|| -> Result<f64> {
                let (mut sent, mut found) = (0, 0);
                while !ended.load(Relaxed) {
                    // A tenth of a second each, so that it ends with the stream.
                    let trips = ping(namespace, to, (pings / 10).max(1), pace)?;
                    (sent, found) = (sent + trips.sent, found + trips.times.len());
                }
                Ok(found as f64 / sent.max(1) as f64)
            });
            std::thread::sleep(second / 10);
            let megabits = self.stream();
            ended.store(true, Relaxed);
            let share = flood.join().map_err(|_| anyhow!("the pinging thread panicked"))??;
            Ok((megabits?, share))
        })
    }
}
