//! What many members cost a hub: one TCP stream through hubs that know a few, a thousand and eight thousand of them, in turn, and
//! the memory of each.
//!
//! All but two members are absent, and so their tunnels are without a session; their routes, keys and timers are there. What is
//! looked for is a cost per packet that grows with the number of members: ratios within one run.

use anyhow::{Context, Result};
use clap::Parser;
use overlay_benches::contender::{Contender, Program};
use overlay_benches::exit_code;
use overlay_benches::measure::ping::wait_for_path;
use overlay_benches::measure::tcp::{self, Streams};
use overlay_benches::results::Spread;
use overlay_benches::topology::{Place, Shape, Topology, leave_the_host};
use std::process::ExitCode;
use std::time::Duration;

/// Measures a hub with few and with many members.
#[derive(Debug, Parser)]
#[command(name = "members")]
struct Arguments {
    /// Members of the hub beside the two between which the stream runs, with commas between the numbers
    #[arg(long, value_delimiter = ',', default_values_t = [0_usize, 1_000, 8_000])]
    members: Vec<usize>,
    /// How often each number's turn comes
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of a transfer
    #[arg(long, default_value_t = 4)]
    secs: u64,
}

/// What one run showed.
#[derive(Clone, Copy, Debug)]
struct Shown {
    megabits: f64,
    cpu_per_gigabyte: f64,
    megabytes: f64,
}

fn main() -> ExitCode {
    exit_code(run(&Arguments::parse()).map(|()| true))
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut contender = Contender::find(Program::OverlayGw)?.context("overlay-gw")?;
    leave_the_host()?;
    let mut shown = vec![Vec::new(); arguments.members.len()];
    for round in 1..=arguments.rounds {
        for (members, shown) in arguments.members.iter().zip(&mut shown) {
            contender.absent_members = *members;
            let one = measure(&contender, Duration::from_secs(arguments.secs))?;
            eprintln!("round {round}: {members} more members: {:.0} Mb/s", one.megabits);
            shown.push(one);
        }
    }
    println!(
        "| members beside two | TCP 1 through hub Mb/s | of the first | hub's CPU s/GB | hub's memory MB |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: |");
    let mut first = None;
    for (members, shown) in arguments.members.iter().zip(&shown) {
        let of = |value: fn(&Shown) -> f64| {
            Spread::of(shown.iter().map(value).collect()).map_or(f64::NAN, |spread| spread.median)
        };
        let megabits = of(|one| one.megabits);
        let base = *first.get_or_insert(megabits);
        let (cpu, memory) = (of(|one| one.cpu_per_gigabyte), of(|one| one.megabytes));
        println!("| {members} | {megabits:.0} | {:.2} | {cpu:.2} | {memory:.1} |", megabits / base);
    }
    Ok(())
}

fn measure(contender: &Contender, time: Duration) -> Result<Shown> {
    let folder = tempfile::Builder::new().prefix("members.").tempdir_in("/run")?;
    let topology = Topology::lay(Shape::Hub, false)?;
    let daemons = contender.start(&topology, folder.path())?;
    wait_for_path(topology.namespace(Place::A), Place::B.overlay(), Duration::from_secs(30))?;
    let place = topology.places().iter().position(|place| *place == Place::Hub).context("a hub")?;
    let hub = daemons.get(place).context("a hub")?;
    let before = hub.cpu();
    let received = tcp::begin(&topology, folder.path(), Streams::One, time)?.finish()?;
    let used = hub.cpu().saturating_sub(before);
    Ok(Shown {
        megabits: received.bits_per_second / 1e6,
        cpu_per_gigabyte: used.as_secs_f64() / (received.bytes / 1e9),
        megabytes: hub.peak_memory() as f64 / 1e6,
    })
}
