//! The Markdown table: medians with their spread, and under what circumstances they came about.

use super::{Metric, Run, ratios, spread};
use crate::contender::Contender;
use crate::machine::Machine;

/// What the reader is told besides the figures.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// The machine.
    pub machine: Machine,
    /// The day.
    pub date: String,
    /// How often each contender's turn came.
    pub rounds: u32,
    /// Seconds of a transfer.
    pub seconds: u64,
    /// Whether the wires were without offloads.
    pub wire: bool,
    /// What makes these figures again.
    pub command: String,
}

impl Circumstances {
    /// One line.
    #[must_use]
    pub fn line(&self) -> String {
        format!(
            "{}: {}, {} processors, Linux {}; medians of {} round(s) of {} s, {}",
            self.date,
            self.machine.processor,
            self.machine.processors,
            self.machine.kernel,
            self.rounds,
            self.seconds,
            if self.wire { "real frames (the veth's offloads off)" } else { "the veth's offloads on" },
        )
    }
}

/// The table of all contenders, one a row.
#[must_use]
pub fn markdown(runs: &[Run], contenders: &[Contender], circumstances: &Circumstances) -> String {
    let measured = |metric: &Metric| runs.iter().any(|run| run.values.contains_key(metric));
    let metrics: Vec<_> = Metric::ALL.into_iter().filter(measured).collect();
    let titles: Vec<_> = metrics.iter().map(|metric| metric.title()).collect();
    let mut text = format!("{}.\n\n", circumstances.line());
    text += &format!("| program | {} |\n|---|{}\n", titles.join(" | "), "---:|".repeat(titles.len()));
    for contender in contenders {
        let name = contender.program.name();
        let of_it = runs.iter().filter(|run| run.contender == name);
        let disturbed = of_it.clone().count() > 0 && of_it.clone().all(|run| run.disturbed);
        let cells: Vec<_> = metrics.iter().map(|metric| cell(runs, name, *metric)).collect();
        let title = if contender.program.is_ours() {
            format!("**{}**", contender.title())
        } else {
            contender.title()
        };
        let mark = if disturbed { " (disturbed)" } else { "" };
        text += &format!("| {title}{mark} | {} |\n", cells.join(" | "));
    }
    text += &ratios::markdown(runs);
    text += &format!(
        "\nIn brackets: the least and the most of the rounds. UDP: the best rate delivered at a loss of at most 1 % and a backlog of at most 20 ms, found by a search \
         for each program; ≥: the sender could not offer more. CPU: seconds of the tunnel's processes per gigabyte of one TCP stream. Memory: the most that a \
         process held.\n\nMade with `{}`.\n",
        circumstances.command
    );
    let failures: Vec<_> =
        runs.iter().flat_map(|run| run.errors.iter().map(move |error| (run, error))).collect();
    if !failures.is_empty() {
        text += "\nFailed:\n\n";
        for (run, error) in failures {
            text += &format!("- {}, round {}: {error}\n", run.contender, run.round);
        }
    }
    text
}

fn cell(runs: &[Run], contender: &str, metric: Metric) -> String {
    let Some(spread) = spread(runs, contender, metric) else { return "–".to_owned() };
    let [median, least, most] = [spread.median, spread.least, spread.most].map(|value| metric.format(value));
    let at_least = runs.iter().any(|run| run.contender == contender && run.at_least.contains(&metric));
    let median = if at_least { format!("≥ {median}") } else { median };
    if least == most { median } else { format!("{median} ({least}–{most})") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::Program;

    #[test]
    fn a_row_shows_median_and_spread_and_what_failed_is_said() {
        let run = |round, value| {
            let mut run = Run::new("wireguard-go", round);
            run.values.insert(Metric::TcpOne, value);
            run
        };
        let mut broken = Run::new("wireguard-go", 4);
        broken.errors.push("Tcp1: iperf3 hangs".into());
        let runs = [run(1, 1402.0), run(2, 1300.0), run(3, 1500.0), broken];
        let contender = Contender {
            program: Program::WireguardGo,
            path: None,
            version: "0.1".into(),
            counts_allocations: None,
            absent_members: 0,
        };
        let machine = Machine { kernel: "6".into(), processor: "EPYC".into(), processors: 2 };
        let circumstances = Circumstances {
            machine,
            date: "2026-01-02".into(),
            rounds: 3,
            seconds: 5,
            wire: false,
            command: "side-by-side".into(),
        };
        let text = markdown(&runs, &[contender], &circumstances);
        assert!(
            text.contains("| program | TCP 1 Mb/s |\n|---|---:|\n| wireguard-go 0.1 | 1,402 (1,300–1,500) |"),
            "{text}"
        );
        assert!(text.contains("- wireguard-go, round 4: Tcp1: iperf3 hangs"), "{text}");
    }
}
