//! What was measured: runs, their medians and spread, and the files that show them.

pub mod chart;
pub mod ratios;
pub mod table;

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A figure of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// One TCP stream, Mb/s.
    TcpOne,
    /// Four TCP streams, Mb/s.
    TcpFour,
    /// One each way, Mb/s added up.
    TcpBothWays,
    /// One TCP stream through a hub, Mb/s.
    TcpHub,
    /// Best rate of 64-byte datagrams at a tolerated loss, thousands a second.
    UdpSmall,
    /// Best payload rate of large datagrams at a tolerated loss, Mb/s.
    UdpLarge,
    /// Round trip, median, ms.
    PingMedian,
    /// Round trip, 99th percentile, ms.
    PingWorst,
    /// The same while a TCP stream fills the tunnel.
    LoadedPingMedian,
    /// The same while a TCP stream fills the tunnel.
    LoadedPingWorst,
    /// CPU seconds of the tunnel's processes per gigabyte of one TCP stream.
    CpuPerGigabyte,
    /// CPU seconds of the hub's process per gigabyte of one TCP stream through it.
    HubCpuPerGigabyte,
    /// Most memory of a node, MB.
    Memory,
    /// Most memory of the hub, MB.
    HubMemory,
}

impl Metric {
    /// All, in the order of the table.
    pub const ALL: [Self; 14] = [
        Self::TcpOne,
        Self::TcpFour,
        Self::TcpBothWays,
        Self::TcpHub,
        Self::UdpSmall,
        Self::UdpLarge,
        Self::PingMedian,
        Self::PingWorst,
        Self::LoadedPingMedian,
        Self::LoadedPingWorst,
        Self::CpuPerGigabyte,
        Self::HubCpuPerGigabyte,
        Self::Memory,
        Self::HubMemory,
    ];

    /// What it is called, with its unit.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::TcpOne => "TCP 1 Mb/s",
            Self::TcpFour => "TCP 4 Mb/s",
            Self::TcpBothWays => "both ways Mb/s",
            Self::TcpHub => "through hub Mb/s",
            Self::UdpSmall => "UDP 64 B kpps",
            Self::UdpLarge => "UDP large Mb/s",
            Self::PingMedian => "ping ms",
            Self::PingWorst => "ping p99 ms",
            Self::LoadedPingMedian => "loaded ping ms",
            Self::LoadedPingWorst => "loaded p99 ms",
            Self::CpuPerGigabyte => "CPU s/GB",
            Self::HubCpuPerGigabyte => "hub CPU s/GB",
            Self::Memory => "memory MB",
            Self::HubMemory => "hub memory MB",
        }
    }

    /// Whether less of it is better.
    #[must_use]
    pub fn less_is_better(self) -> bool {
        self >= Self::PingMedian
    }

    /// A value as it is shown: three digits that say something.
    #[must_use]
    pub fn format(self, value: f64) -> String {
        match value {
            ..1.0 if value > 0.0 => format!("{value:.3}"),
            ..10.0 => format!("{value:.2}"),
            ..100.0 => format!("{value:.1}"),
            _ => thousands(value.round() as u64),
        }
    }
}

/// A number with commas between the thousands.
fn thousands(number: u64) -> String {
    match number {
        ..1000 => number.to_string(),
        _ => format!("{},{:03}", thousands(number / 1000), number % 1000),
    }
}

/// One contender's turn.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Its name.
    pub contender: String,
    /// Which round.
    pub round: u32,
    /// What was measured.
    pub values: BTreeMap<Metric, f64>,
    /// What may well be more: the measuring program could not offer more.
    pub at_least: BTreeSet<Metric>,
    /// What failed, in words.
    pub errors: Vec<String>,
    /// Share of the machine (0 to 1) that other programs used meanwhile.
    pub foreign_share: f64,
    /// Whether that was more than a run may bear.
    pub disturbed: bool,
}

impl Run {
    /// A turn of which nothing is known yet.
    #[must_use]
    pub fn new(contender: &str, round: u32) -> Self {
        let (values, at_least, errors) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        Self {
            contender: contender.to_owned(),
            round,
            values,
            at_least,
            errors,
            foreign_share: 0.0,
            disturbed: false,
        }
    }
}

/// Several values of one figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The one in the middle; of an even number, the mean of the two.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    /// The spread of `values`; `None` when there are none.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let lower = if values.len() % 2 == 1 { upper } else { *values.get(middle.checked_sub(1)?)? };
        Some(Self { median: f64::midpoint(lower, upper), least: *values.first()?, most: *values.last()? })
    }
}

/// The spread of one figure of one contender. Disturbed runs count only where there is no other.
#[must_use]
pub fn spread(runs: &[Run], contender: &str, metric: Metric) -> Option<Spread> {
    let values = |disturbed: bool| {
        let of_it = runs.iter().filter(|run| run.contender == contender && run.disturbed == disturbed);
        Spread::of(of_it.filter_map(|run| run.values.get(&metric).copied()).collect())
    };
    values(false).or_else(|| values(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disturbed_runs_count_only_where_there_is_no_other() {
        let run = |value, disturbed| {
            let mut run = Run::new("x", 1);
            run.values.insert(Metric::TcpOne, value);
            run.disturbed = disturbed;
            run
        };
        let runs = [run(1.0, true), run(5.0, false), run(7.0, false), run(9.0, false)];
        let expected = Spread { median: 7.0, least: 5.0, most: 9.0 };
        assert_eq!(spread(&runs, "x", Metric::TcpOne), Some(expected));
        assert_eq!(spread(&runs[..1], "x", Metric::TcpOne).unwrap().median, 1.0);
        assert_eq!(spread(&runs, "x", Metric::TcpFour), None);
        assert_eq!(spread(&runs, "y", Metric::TcpOne), None);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(Spread::of(vec![4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn values_show_three_digits_that_say_something() {
        let shown = [0.0, 0.3, 1.5, 29.94, 100.0, 11_123.4].map(|value| Metric::TcpOne.format(value));
        assert_eq!(shown, ["0.00", "0.300", "1.50", "29.9", "100", "11,123"]);
    }
}
