//! A contender's process: started, watched, and ended. And what the kernel says of any process.

use crate::topology::{Place, Topology};
use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a contender may take for a step of its start.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long it may take to end when asked to.
const FAREWELL: Duration = Duration::from_secs(3);

const PACE: Duration = Duration::from_millis(10);

/// A running contender. Dropped: it ends.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command` at `place`, with its output in `folder`. Call it on a thread that lives as long as the daemon should.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(topology: &Topology, place: Place, folder: &Path, mut command: Command) -> Result<Self> {
        let log = folder.join(format!("{}.log", place.name()));
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // The service manager that may have started us knows nothing of it.
        command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS");
        Ok(Self { child: topology.spawn(place, command)?, log })
    }

    /// Waits until `done` says so.
    ///
    /// # Errors
    /// When the process ends before that, or time runs out: with its last words.
    pub fn wait_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        while !done(self)? {
            if let Some(status) = self.child.try_wait()? {
                bail!("{what}: the process ended ({status}): {}", self.last_words());
            }
            if start.elapsed() > PATIENCE {
                bail!("{what}: not within {} s: {}", PATIENCE.as_secs(), self.last_words());
            }
            sleep(PACE);
        }
        Ok(())
    }

    /// What it has printed.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines that it has printed.
    #[must_use]
    pub fn last_words(&self) -> String {
        let output = self.output();
        let lines: Vec<_> = output.lines().collect();
        lines.get(lines.len().saturating_sub(6)..).unwrap_or_default().join(" | ")
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The CPU time that it has used, threads that ended included.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        Stat::of(self.id()).map_or(Duration::ZERO, |stat| stat.own)
    }

    /// The most memory that it has held so far, in bytes (VmHWM, proc_pid_status(5)).
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kilobytes.unwrap_or(0) * 1024
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(id) = i32::try_from(self.child.id()) {
            // It may have ended by itself: as good.
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > FAREWELL {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            sleep(PACE);
        }
    }
}

/// What proc_pid_stat(5) tells of a process.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// Its parent.
    pub parent: u32,
    /// CPU time of its own, user and system.
    pub own: Duration,
    /// CPU time of its children that have ended and were waited for.
    pub children: Duration,
}

impl Stat {
    /// What is known of the process `id`; `None` when there is none.
    #[must_use]
    pub fn of(id: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        Self::parse(&text, ticks_per_second())
    }

    fn parse(text: &str, ticks_per_second: f64) -> Option<Self> {
        // The name, in brackets, may hold anything; what follows the last bracket is numbers, the first of them field 3.
        let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let time = |a, b| Some(Duration::from_secs_f64((number(a)? + number(b)?) as f64 / ticks_per_second));
        Some(Self { parent: number(4)? as u32, own: time(14, 15)?, children: time(16, 17)? })
    }
}

/// The unit of CPU times in /proc.
pub(crate) fn ticks_per_second() -> f64 {
    sysconf(SysconfVar::CLK_TCK).ok().flatten().map_or(100.0, |ticks| ticks as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_numbers() {
        let text = "7 (a) b (c)) S 3 7 7 0 -1 0 0 0 0 0 150 50 20 30 20 0 1 0 0 0 0";
        let stat = Stat::parse(text, 100.0).unwrap();
        assert_eq!(
            (stat.parent, stat.own, stat.children),
            (3, Duration::from_secs(2), Duration::from_millis(500))
        );
    }

    #[test]
    fn this_process_is_found() {
        assert!(Stat::of(std::process::id()).is_some());
        assert!(Stat::of(u32::MAX).is_none());
    }
}
