//! overlay-gw and the other VPN programs of this machine, measured in turn.

use anyhow::{Context, Result, bail};
use clap::Parser;
use overlay_benches::build;
use overlay_benches::contender::{Contender, Program};
use overlay_benches::exit_code;
use overlay_benches::machine::Machine;
use overlay_benches::results::Run;
use overlay_benches::results::chart::svg;
use overlay_benches::results::table::{Circumstances, markdown};
use overlay_benches::schedule::{Plan, Test, carry_out};
use overlay_benches::topology::leave_the_host;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Measures overlay-gw and the other VPN programs that are installed, in turn, in network namespaces of this machine.
///
/// Writes a table (Markdown), a chart (SVG) and every single value (JSON). `benches/get-rivals` brings the other programs.
#[derive(Debug, Parser)]
#[command(name = "side-by-side")]
struct Arguments {
    /// How often each program's turn comes
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of a transfer
    #[arg(long, default_value_t = 5)]
    secs: u64,
    /// Programs, with commas between them; those that are installed when none is named
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Tests, with commas between them; all when none is named
    #[arg(long, value_delimiter = ',')]
    tests: Vec<Test>,
    /// Real frames: the wires' segmentation offloads off
    #[arg(long)]
    wire: bool,
    /// Where the files go
    #[arg(long, default_value = "benches/results")]
    out: PathBuf,
    /// Beginning of the files' names
    #[arg(long, default_value = "side-by-side")]
    name: String,
    /// Add these rounds to those of the same name that are there, which must be of the same machine and seconds
    #[arg(long)]
    add: bool,
    /// The day that the table names; today when absent
    #[arg(long)]
    date: Option<String>,
    /// One short round that shows that everything works. Its figures mean nothing, and no file is written
    #[arg(long)]
    smoke: bool,
    /// Do not wait for a quiet machine, nor repeat what was disturbed
    #[arg(long)]
    hurry: bool,
    /// The programs that are here, and nothing else
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    exit_code(run(&Arguments::parse()))
}

/// Returns whether everything worked.
fn run(arguments: &Arguments) -> Result<bool> {
    let contenders = contenders(arguments)?;
    if arguments.list {
        for contender in &contenders {
            println!("{}", contender.title());
        }
        return Ok(true);
    }
    let date = match &arguments.date {
        Some(date) => date.clone(),
        None => today()?,
    };
    leave_the_host()?;
    let machine = Machine::here();
    let base = arguments.out.join(format!("{}{}", arguments.name, if arguments.wire { "-wire" } else { "" }));
    let mut plan = plan(arguments);
    let earlier = if arguments.add { earlier(&base, &machine, plan.transfer)? } else { Vec::new() };
    plan.rounds_before = earlier.iter().map(|run| run.round).max().unwrap_or(0);
    let runs = [earlier, carry_out(&plan, &contenders)?].concat();

    let mut command = "cargo run --release -p overlay-benches --bin side-by-side --".to_owned();
    for word in std::env::args().skip(1) {
        if word != "--add" {
            command += &format!(" {word}");
        }
    }
    let rounds = plan.rounds_before + plan.rounds;
    if plan.rounds_before > 0 {
        command = command.replace(&format!("--rounds {}", plan.rounds), &format!("--rounds {rounds}"));
    }
    let circumstances =
        Circumstances { machine, date, rounds, seconds: plan.transfer.as_secs(), wire: plan.wire, command };
    let table = markdown(&runs, &contenders, &circumstances);
    println!("{table}");
    let chart = svg(&runs, &contenders, &circumstances);
    if !arguments.smoke {
        fs::create_dir_all(&arguments.out).with_context(|| arguments.out.display().to_string())?;
        let titles: Vec<_> = contenders.iter().map(Contender::title).collect();
        let json = json!({
            "circumstances": circumstances.line(), "programs": titles, "runs": runs,
            "machine": circumstances.machine, "seconds": circumstances.seconds,
        });
        let json = serde_json::to_string_pretty(&json)?;
        for (ending, text) in [("md", table), ("svg", chart), ("json", json)] {
            let path = base.with_extension(ending);
            fs::write(&path, text).with_context(|| path.display().to_string())?;
            eprintln!("wrote {}", path.display());
        }
    }
    Ok(runs.iter().all(|run| run.errors.is_empty()))
}

/// The rounds that an earlier call has written.
fn earlier(base: &Path, machine: &Machine, transfer: Duration) -> Result<Vec<Run>> {
    #[derive(serde::Deserialize)]
    struct Earlier {
        machine: Machine,
        seconds: u64,
        runs: Vec<Run>,
    }
    let path = base.with_extension("json");
    let text = fs::read(&path).with_context(|| format!("{}: nothing to add to", path.display()))?;
    let earlier: Earlier = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    if earlier.machine != *machine || earlier.seconds != transfer.as_secs() {
        bail!(
            "{}: another machine, or transfers of another length: measure all of it again, without --add",
            path.display()
        );
    }
    Ok(earlier.runs)
}

fn plan(arguments: &Arguments) -> Plan {
    let tests = if arguments.tests.is_empty() { Test::ALL.to_vec() } else { arguments.tests.clone() };
    if arguments.smoke {
        // That another program can be measured is seen in a few of the tests.
        let few = |test: &Test| matches!(test, Test::PingIdle | Test::Tcp1 | Test::Udp64 | Test::Hub);
        return Plan {
            rivals_tests: tests.iter().copied().filter(few).collect(),
            rounds: 1,
            rounds_before: 0,
            transfer: Duration::from_secs(1),
            probe: Duration::from_millis(50),
            search_steps: 0,
            pings: 20,
            wire: arguments.wire,
            tests,
            insists_on_quiet: false,
        };
    }
    Plan {
        rounds: arguments.rounds.max(1),
        rounds_before: 0,
        transfer: Duration::from_secs(arguments.secs.max(1)),
        probe: Duration::from_millis(500),
        search_steps: 5,
        pings: 300,
        wire: arguments.wire,
        rivals_tests: tests.clone(),
        tests,
        insists_on_quiet: !arguments.hurry,
    }
}

/// Those that are named, or all that are here.
fn contenders(arguments: &Arguments) -> Result<Vec<Contender>> {
    let mut wanted = Vec::new();
    for name in &arguments.peers {
        let names = || Program::ALL.map(Program::name).join(", ");
        wanted
            .push(Program::named(name).with_context(|| format!("no program is called {name}: {}", names()))?);
    }
    let anything = wanted.is_empty();
    if anything {
        wanted = Program::ALL.into_iter().filter(|program| program.by_default()).collect();
    }
    let mut found = Vec::new();
    for program in wanted {
        match Contender::find(program)? {
            Some(contender) => found.push(contender),
            None if anything => eprintln!("{} is not installed: left out", program.name()),
            None => {
                let script = build::repository().join("benches/get-rivals");
                bail!("{} is not installed; {} brings it", program.name(), script.display());
            }
        }
    }
    Ok(found)
}

fn today() -> Result<String> {
    let output = Command::new("date").args(["-u", "+%F"]).output().context("date")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
