//! The command line: seeds over all cores, one line for each failure with the command that shows it again.

use crate::op::Op;
use crate::scenario::{Scenario, Story};
use crate::sim::{Outcome, Sim};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const USAGE: &str =
    "usage: overlay-sim run [--seeds N] [--from SEED] [--seconds S] [--jobs N] [--twice] [--first] [--tolerate N]
       overlay-sim replay SEED [--without OP[,OP...]] [--quiet]
  run      seeds FROM, FROM+1, ...: N of them, or as many as S seconds allow; exit status 1 when one fails
  --twice  each seed twice: both runs must be the same
  --first  no more seeds once one has failed
  --tolerate N  so many seeds of the story Chaos may lose a packet that the model promised (README.md, \"Known\"); they are told
  replay   one seed with its trace; --without leaves out some of what happens, by the numbers in the trace";

/// How a failure is replayed; the scripts around this program know better than it how they are called.
fn replay_command(seed: u64) -> String {
    let with = std::env::var("OVERLAY_SIM_REPLAY");
    format!(
        "{} {seed}",
        with.unwrap_or_else(|_| format!("{} replay", std::env::args().next().unwrap_or_default()))
    )
}

pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    match parse(args.collect()) {
        Ok(Command::Run(run)) => run_seeds(&run),
        Ok(Command::Replay { seed, without, quiet }) => replay(seed, &without, quiet),
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

enum Command {
    Run(Run),
    Replay { seed: u64, without: Vec<usize>, quiet: bool },
}

struct Run {
    from: u64,
    seeds: u64,
    time: Option<Duration>,
    jobs: usize,
    twice: bool,
    /// How many seeds of many faults at once may lose a promised packet.
    tolerated: usize,
    /// Stop after so many failures: a hundred say what ten thousand say.
    failures: usize,
}

fn parse(args: Vec<String>) -> Result<Command, String> {
    let mut args = args.into_iter();
    let number = |text: Option<String>, flag: &str| -> Result<u64, String> {
        text.and_then(|text| text.parse().ok()).ok_or(format!("{flag} wants a number"))
    };
    match args.next().as_deref() {
        Some("run") => {
            let jobs = std::thread::available_parallelism().map_or(1, usize::from);
            let mut run =
                Run { from: 0, seeds: 1000, time: None, jobs, twice: false, tolerated: 0, failures: 100 };
            while let Some(flag) = args.next() {
                match flag.as_str() {
                    "--seeds" => run.seeds = number(args.next(), &flag)?,
                    "--from" => run.from = number(args.next(), &flag)?,
                    "--jobs" => run.jobs = number(args.next(), &flag)? as usize,
                    "--seconds" => {
                        run.time = Some(Duration::from_secs(number(args.next(), &flag)?));
                        run.seeds = u64::MAX;
                    }
                    "--twice" => run.twice = true,
                    "--first" => run.failures = 1,
                    "--tolerate" => run.tolerated = number(args.next(), &flag)? as usize,
                    _ => return Err(format!("what is {flag}?")),
                }
            }
            Ok(Command::Run(run))
        }
        Some("replay") => {
            let seed = number(args.next(), "replay")?;
            let (mut without, mut quiet) = (Vec::new(), false);
            while let Some(flag) = args.next() {
                match flag.as_str() {
                    "--quiet" => quiet = true,
                    "--without" => {
                        let list = args.next().unwrap_or_default();
                        for one in list.split(',') {
                            without.push(number(Some(one.into()), &flag)? as usize);
                        }
                    }
                    _ => return Err(format!("what is {flag}?")),
                }
            }
            Ok(Command::Replay { seed, without, quiet })
        }
        _ => Err("run or replay?".into()),
    }
}

fn simulate(seed: u64, trace: bool, without: &[usize]) -> Result<Outcome, String> {
    catch_unwind(AssertUnwindSafe(|| Sim::new(seed, trace, without).run())).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default()
    })
}

/// What is wrong with a seed, if anything is.
fn verdict(seed: u64, twice: bool, totals: &Totals) -> Result<(), String> {
    let outcome = simulate(seed, false, &[]).map_err(|panic| format!("panic: {panic}"))?;
    totals.add(&outcome);
    if let Some((at, what)) = outcome.violation {
        return Err(format!("{:?} at {:.6} s: {what}", outcome.story, at.as_secs_f64()));
    }
    if twice {
        let again = simulate(seed, false, &[]).map_err(|panic| format!("panic: {panic}"))?;
        if again.hash != outcome.hash {
            return Err("runs differently a second time".into());
        }
    }
    Ok(())
}

#[derive(Default)]
struct Totals {
    seeds: AtomicU64,
    stories: [AtomicU64; 3],
    events: AtomicU64,
    arrived: AtomicU64,
    promised: AtomicU64,
    virtual_ms: AtomicU64,
    gaps: Mutex<Vec<Duration>>,
    memory: Mutex<i64>,
}

impl Totals {
    fn add(&self, outcome: &Outcome) {
        self.seeds.fetch_add(1, Relaxed);
        self.stories[outcome.story as usize].fetch_add(1, Relaxed);
        self.events.fetch_add(outcome.events, Relaxed);
        self.arrived.fetch_add(outcome.arrived, Relaxed);
        self.promised.fetch_add(outcome.promised, Relaxed);
        self.virtual_ms.fetch_add(outcome.virtual_time.as_millis() as u64, Relaxed);
        self.gaps.lock().unwrap().extend(outcome.gap);
        let mut memory = self.memory.lock().unwrap();
        *memory = (*memory).max(outcome.memory);
    }
}

fn run_seeds(run: &Run) -> ExitCode {
    // A panic is a finding like any other: it is reported with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let (next, began, totals) = (AtomicU64::new(run.from), Instant::now(), Totals::default());
    let end = run.from.saturating_add(run.seeds);
    let failures: Mutex<Vec<(u64, String)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..run.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    let late = run.time.is_some_and(|time| began.elapsed() >= time);
                    if seed >= end || late || failures.lock().unwrap().len() >= run.failures {
                        break;
                    }
                    if let Err(why) = verdict(seed, run.twice, &totals) {
                        println!("seed {seed}: {why}\n  replay: {}", replay_command(seed));
                        failures.lock().unwrap().push((seed, why));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    let [chaos, fault, idle] = [0, 1, 2].map(|n| totals.stories[n].load(Relaxed));
    println!(
        "{} seeds ({chaos} chaos, {fault} fault, {idle} idle) from {} in {:.1} s: {:.0} virtual hours, {} events, \
         {} packets arrived, {} promises; {} seeds failed",
        totals.seeds.load(Relaxed),
        run.from,
        began.elapsed().as_secs_f64(),
        totals.virtual_ms.load(Relaxed) as f64 / 3.6e6,
        totals.events.load(Relaxed),
        totals.arrived.load(Relaxed),
        totals.promised.load(Relaxed),
        failures.len()
    );
    let mut gaps = totals.gaps.into_inner().unwrap();
    gaps.sort();
    if let (Some(median), Some(longest)) = (gaps.get(gaps.len() / 2), gaps.last()) {
        println!("after one fault nothing arrived for {median:.3?} (median), {longest:.3?} (longest)");
    }
    println!("an engine held at most {} bytes besides its peers'", totals.memory.into_inner().unwrap());
    let known =
        failures.iter().filter(|(_, why)| why.starts_with("Chaos") && why.contains("was promised")).count();
    if failures.len() == known && known <= run.tolerated { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn replay(seed: u64, without: &[usize], quiet: bool) -> ExitCode {
    if !quiet {
        let Scenario { story, plans, attachments, nats, ops } = Scenario::new(seed);
        println!("seed {seed}: {story:?}");
        for (plan, at) in plans.iter().zip(&attachments) {
            let nat = at.nat.map_or(String::new(), |n| {
                format!(", behind {:?} NAT {} ({:?})", nats[n].kind, nats[n].public, nats[n].timeout)
            });
            let direct: Vec<_> = plan.direct.iter().map(|&id| plans[id].name.as_str()).collect();
            println!(
                "  {:<9} {:?} at {}{nat}, {:.1?} away; direct: {direct:?}",
                plan.name, plan.role, at.local, at.latency
            );
        }
        let beats = ops.iter().filter(|(_, op)| matches!(op, Op::Beats(_))).count();
        println!("  {} ops, {beats} of them beats", ops.len());
    }
    match simulate(seed, !quiet, without) {
        Ok(Outcome { violation: None, story, hash, .. }) => {
            println!("{story:?}: nothing wrong; hash {hash:016x}");
            ExitCode::SUCCESS
        }
        Ok(Outcome { violation: Some((at, what)), story, .. }) => {
            println!("{story:?} at {:.6} s: {what}", at.as_secs_f64());
            ExitCode::FAILURE
        }
        Err(panic) => {
            println!("panic: {panic}");
            ExitCode::FAILURE
        }
    }
}

/// In the order of [`Totals`].
const _: () = assert!(Story::Chaos as usize == 0 && Story::Fault as usize == 1 && Story::Idle as usize == 2);
