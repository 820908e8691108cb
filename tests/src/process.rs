//! Programs that a test runs: to their end, with what they said, or in the background with a log.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The command line.
    pub what: String,
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Finished {
    /// Its standard output.
    ///
    /// # Panics
    /// When it did not exit with 0.
    #[track_caller]
    pub fn ok(self) -> String {
        self.exits(0).stdout
    }

    /// Itself, when it exited with `code`.
    ///
    /// # Panics
    /// When it exited otherwise; the message has all that it said.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "`{}` should exit with {code}, after {:?}\n--- its stdout:\n{}\n--- its stderr:\n{}",
            self.what,
            self.took,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Its standard output as JSON.
    ///
    /// # Panics
    /// When that is no JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!(
                "`{}` should print JSON ({error}):\n{}\n--- its stderr:\n{}",
                self.what, self.stdout, self.stderr
            ),
        }
    }

    /// Standard output and standard error together.
    #[must_use]
    pub fn both(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs `command` to its end, for at most `limit`.
///
/// # Panics
/// When it cannot be started or has not ended in time.
#[track_caller]
pub fn run(mut command: Command, what: &str, limit: Duration) -> Finished {
    let start = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("`{what}` did not start: {error}"));
    let stdout = read_all(child.stdout.take().unwrap());
    let stderr = read_all(child.stderr.take().unwrap());
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            panic!(
                "`{what}` has not ended within {limit:?}\n--- its stdout:\n{}\n--- its stderr:\n{}",
                stdout.join().unwrap(),
                stderr.join().unwrap()
            );
        }
        thread::sleep(Duration::from_millis(2));
    };
    Finished {
        what: what.to_owned(),
        code: status.code(),
        stdout: stdout.join().unwrap(),
        stderr: stderr.join().unwrap(),
        took: start.elapsed(),
    }
}

fn read_all(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// What a background program has said so far.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    more: Condvar,
    closed: AtomicBool,
}

/// A program in the background: its output goes to a file and can be waited for. Dropping it kills it.
pub struct Process {
    what: String,
    child: Child,
    stdout: Arc<Log>,
    stderr: Arc<Log>,
    started: Instant,
}

impl Process {
    /// Starts `command`; what it says goes to `log`, each line with the seconds since now.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn spawn(mut command: Command, what: &str, log: &Path) -> Self {
        let started = Instant::now();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("`{what}` did not start: {error}"));
        let mut file = File::options().create(true).append(true).open(log).unwrap();
        writeln!(file, "# {what} (process {})", child.id()).unwrap();
        let stdout = follow(child.stdout.take().unwrap(), file.try_clone().unwrap(), "out", started);
        let stderr = follow(child.stderr.take().unwrap(), file, "err", started);
        Self { what: what.to_owned(), child, stdout, stderr, started }
    }

    /// Its process id, in the world's process namespace.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How long ago it was started.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// The lines of its standard error so far.
    #[must_use]
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.lines.lock().unwrap().clone()
    }

    /// The lines of its standard output so far.
    #[must_use]
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.lines.lock().unwrap().clone()
    }

    /// Waits until a line of its standard error satisfies `wanted`.
    ///
    /// # Panics
    /// When there is none within `limit`, or the program ends without it.
    #[track_caller]
    pub fn wait_stderr(&mut self, limit: Duration, wanted: impl Fn(&str) -> bool) {
        let log = Arc::clone(&self.stderr);
        self.wait_line(&log, limit, wanted);
    }

    /// Waits until a line of its standard output satisfies `wanted`.
    ///
    /// # Panics
    /// When there is none within `limit`, or the program ends without it.
    #[track_caller]
    pub fn wait_stdout(&mut self, limit: Duration, wanted: impl Fn(&str) -> bool) {
        let log = Arc::clone(&self.stdout);
        self.wait_line(&log, limit, wanted);
    }

    #[track_caller]
    fn wait_line(&mut self, log: &Log, limit: Duration, wanted: impl Fn(&str) -> bool) {
        let start = Instant::now();
        let mut ended = None;
        loop {
            let lines = log.lines.lock().unwrap();
            let (lines, _) = log.more.wait_timeout(lines, Duration::from_millis(50)).unwrap();
            if lines.iter().any(|line| wanted(line)) {
                return;
            }
            drop(lines);
            // One more look after the end: the last lines arrive with it.
            if let Some(status) = ended {
                panic!(
                    "`{}` ended ({status}) without the line that is waited for:\n{}",
                    self.what,
                    self.said()
                );
            }
            ended = self.child.try_wait().unwrap();
            if start.elapsed() > limit {
                panic!(
                    "`{}` has not said the line that is waited for in {limit:?}:\n{}",
                    self.what,
                    self.said()
                );
            }
        }
    }

    /// All that it has said so far.
    #[must_use]
    pub fn said(&self) -> String {
        format!("--- stdout:\n{}\n--- stderr:\n{}", self.stdout().join("\n"), self.stderr().join("\n"))
    }

    /// Sends it `signal`.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal);
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end and its last line, and returns its exit code; `None` when a signal ended it.
    ///
    /// # Panics
    /// When it still runs after `limit`.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // A grandchild that has inherited the pipes may keep them open: it is not waited for.
                let ended = Instant::now();
                let open = |log: &Log| !log.closed.load(Ordering::Acquire);
                while (open(&self.stdout) || open(&self.stderr)) && ended.elapsed() < Duration::from_secs(2) {
                    thread::sleep(Duration::from_millis(1));
                }
                return status.code();
            }
            assert!(start.elapsed() < limit, "`{}` still runs after {limit:?}:\n{}", self.what, self.said());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            // The test has failed: what still runs is asked for evidence, and goes with the world.
            return;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies lines to the log file and into memory.
fn follow(
    from: impl Read + Send + 'static,
    mut file: File,
    stream: &'static str,
    started: Instant,
) -> Arc<Log> {
    let log = Arc::new(Log::default());
    let shared = Arc::clone(&log);
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut bytes = Vec::new();
        while from.read_until(b'\n', &mut bytes).is_ok_and(|length| length > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
            let _ = writeln!(file, "{:9.3} {stream} {line}", started.elapsed().as_secs_f64());
            shared.lines.lock().unwrap().push(line);
            shared.more.notify_all();
            bytes.clear();
        }
        shared.closed.store(true, Ordering::Release);
        shared.more.notify_all();
    });
    log
}
