//! The program around the tests: lists, filters and reports them like libtest, and runs each in a world of its own.

use std::fs;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::node;
use crate::world::World;

/// What a test needs of the machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Company {
    /// Runs beside one other.
    Shared,
    /// Counts loss or time: nothing else runs.
    Alone,
    /// Waits most of the time: runs beside whatever else does.
    Background,
}

/// A test: its name, and what it does in its world.
#[derive(Clone, Copy)]
pub struct Case {
    name: &'static str,
    company: Company,
    limit: Duration,
    run: fn(&World),
}

impl Case {
    /// A test of what happens, not of when: it runs beside one other.
    #[must_use]
    pub const fn functional(name: &'static str, run: fn(&World)) -> Self {
        Self { name, company: Company::Shared, limit: Duration::from_secs(180), run }
    }

    /// A test that counts loss or time: it runs alone.
    #[must_use]
    pub const fn timed(name: &'static str, run: fn(&World)) -> Self {
        Self { name, company: Company::Alone, limit: Duration::from_secs(180), run }
    }

    /// A test that mostly waits for minutes to pass: it runs beside all others, and starts first.
    #[must_use]
    pub const fn background(name: &'static str, run: fn(&World)) -> Self {
        Self { name, company: Company::Background, limit: Duration::from_secs(600), run }
    }

    /// How long it may take: in the long version it does more.
    fn limit(&self) -> Duration {
        self.limit * if full() { 5 } else { 1 }
    }

    /// `overlay::nodes_reach_each_other`: without the name of the test program.
    fn title(&self) -> &'static str {
        self.name.split_once("::").map_or(self.name, |(_, rest)| rest)
    }
}

/// `case!(functional, name)`: a [`Case`] of the function of that name, with its module in the title.
#[macro_export]
macro_rules! case {
    ($kind:ident, $run:ident) => {
        $crate::harness::Case::$kind(concat!(module_path!(), "::", stringify!($run)), $run)
    };
}

/// The exit code of a world whose test cannot be run on this machine.
const SKIPPED: i32 = 77;

/// Ends the test, which cannot be run on this machine, and says why not: it is reported as ignored.
pub fn skip(reason: &str) -> ! {
    println!("{reason}");
    std::process::exit(SKIPPED);
}

/// Whether the long version was asked for (`tests/run --full`).
#[must_use]
pub fn full() -> bool {
    std::env::var_os("OVERLAY_TEST_FULL").is_some()
}

/// A number for what is left to chance: `OVERLAY_TEST_SEED`, or from the clock. It is printed, so that a failure can be repeated.
#[must_use]
pub fn seed() -> u64 {
    let given = std::env::var("OVERLAY_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let clock = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into();
    let seed = given.unwrap_or_else(clock);
    println!("OVERLAY_TEST_SEED={seed}");
    seed
}

/// The program under test: `$OVERLAY_GW`, or `overlay-gw` beside this test program's folder.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn program() -> PathBuf {
    let path = std::env::var_os("OVERLAY_GW").map_or_else(|| target_dir().join("overlay-gw"), PathBuf::from);
    assert!(
        path.exists(),
        "{} is missing: build it first (cargo build -p overlay-gw), or set OVERLAY_GW",
        path.display()
    );
    path.canonicalize().unwrap()
}

/// The folder of this build, `target/debug`.
fn target_dir() -> PathBuf {
    let this = std::env::current_exe().expect("the path of this program");
    this.ancestors().nth(2).expect("target/debug/deps/<this>").to_owned()
}

/// Runs the tests, or plays the part that a test program started itself for.
#[must_use]
pub fn main(cases: &[Case]) -> ExitCode {
    match std::env::var("OVERLAY_TEST_ROLE").as_deref() {
        Ok("node") => {
            node::hold();
            ExitCode::SUCCESS
        }
        Ok("world") => play(cases),
        _ => direct(cases),
    }
}

/// Lists or runs the tests, each in a process of its own.
fn direct(cases: &[Case]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    if !arguments.list {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("these tests make network namespaces and devices: run them as root");
            return ExitCode::FAILURE;
        }
        let _ = program();
    }
    // What a test measures is said by its standard output.
    let show = arguments.nocapture || full();
    let background = cases.iter().filter(|case| case.company == Company::Background).count();
    arguments.test_threads.get_or_insert(2 + background);
    let door = Arc::new(Door::default());
    let mut cases: Vec<Case> = cases.to_vec();
    // Background first, since they take longest; those that run alone last, so that nobody waits for a neighbour twice.
    cases.sort_by_key(|case| match case.company {
        Company::Background => 0,
        Company::Shared => 1,
        Company::Alone => 2,
    });
    let trial = |case: Case| {
        let door = Arc::clone(&door);
        Trial::ignorable_test(case.title(), move || door.pass(case.company, || start(case, show)))
    };
    libtest_mimic::run(&arguments, cases.into_iter().map(trial).collect()).exit_code()
}

/// Lets two shared tests run at once, or one that runs alone.
#[derive(Default)]
struct Door {
    inside: Mutex<usize>,
    left: Condvar,
}

impl Door {
    /// Runs `f` in the company it asked for.
    fn pass<T>(&self, company: Company, f: impl FnOnce() -> T) -> T {
        let weight = match company {
            Company::Background => 0,
            Company::Shared => 1,
            Company::Alone => 2,
        };
        let mut inside = self.inside.lock().unwrap();
        while *inside + weight > 2 {
            inside = self.left.wait(inside).unwrap();
        }
        *inside += weight;
        drop(inside);
        let value = f();
        *self.inside.lock().unwrap() -= weight;
        self.left.notify_all();
        value
    }
}

/// Starts the world of a test and waits for its end; `show`: prints what it said though it passes.
fn start(case: Case, show: bool) -> Result<Completion, Failed> {
    let dir = target_dir()
        .parent()
        .unwrap_or(Path::new("target"))
        .join("test-logs")
        .join(case.title().replace("::", "-"));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    let started = Instant::now();
    let mut command = Command::new("unshare");
    command.args([
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--propagation",
        "private",
        "--",
    ]);
    command.arg(std::env::current_exe()?);
    command
        .env("OVERLAY_TEST_ROLE", "world")
        .env("OVERLAY_TEST_CASE", case.name)
        .env("OVERLAY_TEST_DIR", &dir);
    command.env("OVERLAY_GW", program()).env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let die_with_parent = || Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?);
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe.
    #[allow(unsafe_code, reason = "the world ends with this program, however this program ends")]
    unsafe {
        command.pre_exec(die_with_parent);
    }
    let mut child = command.spawn()?;
    let stdout = collect(child.stdout.take().unwrap());
    let stderr = collect(child.stderr.take().unwrap());
    // The world ends itself in time, with its evidence; this is for one that cannot.
    let limit = case.limit() + Duration::from_secs(30);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if started.elapsed() > limit {
            let _ = child.kill();
        }
        thread::sleep(Duration::from_millis(5));
    };
    let stdout = stdout.join().unwrap();
    let said = format!("{stdout}{}", stderr.join().unwrap());
    if status.success() {
        if show {
            print!("{stdout}");
        }
        let _ = fs::remove_dir_all(&dir);
        return Ok(Completion::Completed);
    }
    if status.code() == Some(SKIPPED) {
        let _ = fs::remove_dir_all(&dir);
        return Ok(Completion::ignored_with(said.lines().last().unwrap_or_default()));
    }
    let _ = fs::write(dir.join("test.log"), &said);
    let how =
        status.signal().map_or_else(|| status.to_string(), |signal| format!("killed by signal {signal}"));
    Err(format!("{said}\n{how}, after {:?}; logs are in {}", started.elapsed(), dir.display()).into())
}

fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The world's process: makes the world, runs the test in it, keeps the evidence of a failure.
fn play(cases: &[Case]) -> ExitCode {
    let name = std::env::var("OVERLAY_TEST_CASE").expect("OVERLAY_TEST_CASE");
    let dir = PathBuf::from(std::env::var_os("OVERLAY_TEST_DIR").expect("OVERLAY_TEST_DIR"));
    let case = *cases.iter().find(|case| case.name == name).expect("a test of that name");
    let world = Arc::new(World::create(&dir, case.company == Company::Shared));
    let watched = Arc::clone(&world);
    thread::spawn(move || {
        thread::sleep(case.limit());
        eprintln!("the test has not ended within {:?}", case.limit());
        watched.keep_evidence();
        std::process::exit(2);
    });
    let done = catch_unwind(AssertUnwindSafe(|| (case.run)(&world)));
    if done.is_err() {
        world.keep_evidence();
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
