//! The machine: what it is, and whether somebody else works on it during a measurement.

use crate::process::{Stat, ticks_per_second};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::thread::{available_parallelism, sleep};
use std::time::{Duration, Instant};

/// What a reader must know of the machine to judge a figure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Release of the kernel.
    pub kernel: String,
    /// Name of the processor.
    pub processor: String,
    /// How many processors programs can use.
    pub processors: usize,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: model.map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':'])).to_owned(),
            processors: processors(),
        }
    }
}

fn processors() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// The CPU time of all processes that are not ours, at one moment.
#[derive(Debug)]
pub struct Foreign {
    at: Instant,
    processes: HashMap<u32, Duration>,
}

impl Foreign {
    /// Looks at every process.
    #[must_use]
    pub fn look() -> Self {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let all: HashMap<_, _> = ids.filter_map(|id| Some((id, Stat::of(id)?))).collect();
        Self { at: Instant::now(), processes: foreign(&all, std::process::id()) }
    }

    /// The share of the machine (0 to 1) that other programs have used since.
    #[must_use]
    pub fn share_since(&self) -> f64 {
        let now = Self::look();
        let used: Duration = now
            .processes
            .iter()
            .map(|(id, time)| time.saturating_sub(self.processes.get(id).copied().unwrap_or_default()))
            .sum();
        used.as_secs_f64() / now.at.duration_since(self.at).as_secs_f64() / processors() as f64
    }
}

/// CPU times of the processes that are neither `me` and what I started, nor threads of the kernel.
fn foreign(all: &HashMap<u32, Stat>, me: u32) -> HashMap<u32, Duration> {
    /// The kernel's thread that starts all its others.
    const KTHREADD: u32 = 2;
    let ancestors = |id: u32| {
        let mut seen = HashSet::new();
        let parents = std::iter::successors(Some(id), |id| all.get(id).map(|stat| stat.parent));
        parents.take_while(|id| *id != 0 && seen.insert(*id)).collect::<HashSet<_>>()
    };
    let mine = ancestors(me);
    all.iter()
        .filter(|(id, _)| {
            let above = ancestors(**id);
            !above.contains(&me) && !above.contains(&KTHREADD)
        })
        .map(|(id, stat)| {
            // Those above us may have waited for children of ours.
            let children = if mine.contains(id) { Duration::ZERO } else { stat.children };
            (*id, stat.own + children)
        })
        .collect()
}

/// Waits until the machine is quiet, at most for `patience`. Returns whether it is.
#[must_use]
pub fn wait_until_quiet(patience: Duration) -> bool {
    let start = Instant::now();
    loop {
        let before = busy();
        sleep(Duration::from_millis(500));
        let share = (busy() - before) / 0.5 / processors() as f64;
        if share < 0.05 {
            return true;
        }
        if start.elapsed() > patience {
            return false;
        }
    }
}

/// Seconds in which a processor has done anything (proc_stat(5): all but idle, iowait and stolen).
fn busy() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let numbers = line.split_whitespace().skip(1).map(|number| number.parse::<f64>().unwrap_or(0.0));
    let ticks: f64 = numbers.enumerate().filter(|(n, _)| matches!(n, 0..=2 | 5 | 6)).map(|(_, t)| t).sum();
    ticks / ticks_per_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_and_the_kernels_are_not_foreign() {
        let stat = |parent| Stat { parent, own: Duration::from_secs(1), children: Duration::from_secs(2) };
        // 1 init, 2 kthreadd with 3; 10 a shell, 11 me, 12 my child, 13 its child; 20 a stranger.
        let tree = [(1, 0), (2, 0), (3, 2), (10, 1), (11, 10), (12, 11), (13, 12), (20, 1)];
        let all = tree.into_iter().map(|(id, parent)| (id, stat(parent))).collect();
        let found = foreign(&all, 11);
        let mut ids: Vec<_> = found.keys().copied().collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 10, 20]);
        assert_eq!(found[&20], Duration::from_secs(3));
        assert_eq!(found[&10], Duration::from_secs(1), "what the shell waited for may have been ours");
    }
}
