//! What the packet path allocates: two nodes with a TCP stream between them, every allocation counted from outside.
//!
//! The program is measured as it is: a library that counts stands in front of the C library's allocator (LD_PRELOAD). In steady
//! state, between two moments of a running stream, the threads that carry packets must not allocate at all.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use overlay_benches::build;
use overlay_benches::contender::{Contender, Program};
use overlay_benches::exit_code;
use overlay_benches::measure::ping::wait_for_path;
use overlay_benches::measure::tcp::{self, Streams};
use overlay_benches::process::Daemon;
use overlay_benches::topology::{Place, Shape, Topology, leave_the_host};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

/// Pairs of numbers in the file that the library fills.
const THREADS: usize = 128;

/// From the first packet on: queues have their size, caches are warm.
const WARM_UP: Duration = Duration::from_secs(1);

/// Counts what overlay-gw allocates while a TCP stream runs; fails when a thread that carries packets allocates.
#[derive(Debug, Parser)]
#[command(name = "allocations")]
struct Arguments {
    /// Seconds for which allocations are counted
    #[arg(long, default_value_t = 5)]
    secs: u64,
    /// Through a hub
    #[arg(long)]
    hub: bool,
}

fn main() -> ExitCode {
    exit_code(run(&Arguments::parse()))
}

/// Returns whether no packet thread has allocated.
fn run(arguments: &Arguments) -> Result<bool> {
    let library = build::example("count-allocations", "libcount_allocations.so")?;
    let mut contender = Contender::find(Program::OverlayGw)?.context("overlay-gw")?;
    leave_the_host()?;
    let folder = tempfile::Builder::new().prefix("allocations.").tempdir_in("/run")?;
    contender.counts_allocations = Some((library, folder.path().to_owned()));
    let shape = if arguments.hub { Shape::Hub } else { Shape::Pair };
    let topology = Topology::lay(shape, false)?;
    let daemons = contender.start(&topology, folder.path())?;
    wait_for_path(topology.namespace(Place::A), Place::B.overlay(), Duration::from_secs(15))?;

    let time = Duration::from_secs(arguments.secs);
    let stream = tcp::begin(&topology, folder.path(), Streams::One, time + WARM_UP + Duration::from_secs(1))?;
    sleep(WARM_UP);
    let before = counts(&topology, folder.path())?;
    sleep(time);
    let after = counts(&topology, folder.path())?;
    let received = stream.finish()?;

    let mut total = 0;
    for ((place, daemon), (before, after)) in
        topology.places().iter().zip(&daemons).zip(before.iter().zip(&after))
    {
        let mut carriers = 0;
        for (thread, count) in after {
            let name = thread_name(daemon, *thread);
            let during = count - before.get(thread).unwrap_or(&0);
            println!(
                "{:4} {name:16} {count:8} in all, {during:6} in {} s of steady state",
                place.name(),
                arguments.secs
            );
            if name.starts_with("packets-") {
                total += during;
                carriers += 1;
            }
        }
        ensure!(carriers > 0, "{} has no thread that carries packets", place.name());
    }
    let packets = received.bytes / 1368.0;
    println!("packet threads: {total} allocations; the whole stream was about {packets:.0} packets");
    Ok(total == 0)
}

/// The allocations of each thread of each place.
fn counts(topology: &Topology, folder: &Path) -> Result<Vec<BTreeMap<u64, u64>>> {
    topology
        .places()
        .iter()
        .map(|place| {
            let bytes = fs::read(folder.join(format!("{}.allocations", place.name())))?;
            ensure!(bytes.len() == THREADS * 16, "the table of allocations has {} bytes", bytes.len());
            let mut numbers =
                bytes.chunks_exact(8).map(|b| u64::from_ne_bytes(b.try_into().unwrap_or_default()));
            let mut counts = BTreeMap::new();
            while let (Some(thread), Some(count)) = (numbers.next(), numbers.next()) {
                if thread != 0 {
                    counts.insert(thread, count);
                }
            }
            // Rust's runtime allocates before main: none at all means that nobody counts.
            ensure!(!counts.is_empty(), "nothing was counted at {}", place.name());
            Ok(counts)
        })
        .collect()
}

fn thread_name(daemon: &Daemon, thread: u64) -> String {
    let path = format!("/proc/{}/task/{thread}/comm", daemon.id());
    fs::read_to_string(path).map_or_else(|_| "(ended)".to_owned(), |name| name.trim().to_owned())
}
