//! What the project promises of its speed: ratios against the others, each taken within one round.

use super::{Metric, Run, Spread};
use crate::contender::Program;

/// One promise.
struct Goal {
    measure: &'static str,
    metric: Metric,
    ours: Program,
    against: Against,
    /// At least this, or at most where less is better.
    must: f64,
    aim: f64,
}

#[derive(Clone, Copy)]
enum Against {
    One(Program),
    /// Whichever tunnel with cryptography that is not ours was best in the round.
    BestRival,
    /// A number of its own.
    Nobody,
}

use Against::{BestRival, Nobody, One};
use Program::{Openvpn, OverlayGw, OverlayGwSealed, PlainGso, WireguardGo};

const fn goal(
    measure: &'static str,
    metric: Metric,
    ours: Program,
    against: Against,
    must: f64,
    aim: f64,
) -> Goal {
    Goal { measure, metric, ours, against, must, aim }
}

const GOALS: [Goal; 14] = [
    goal("TCP, one stream", Metric::TcpOne, OverlayGw, One(WireguardGo), 1.9, 2.2),
    goal("TCP, one stream", Metric::TcpOne, OverlayGw, One(Openvpn), 8.0, 10.0),
    goal("TCP, one stream", Metric::TcpOne, OverlayGw, One(PlainGso), 0.55, 0.63),
    goal("TCP, four streams", Metric::TcpFour, OverlayGw, One(WireguardGo), 1.8, 2.1),
    goal("TCP, both ways at once", Metric::TcpBothWays, OverlayGw, One(WireguardGo), 1.8, 2.1),
    goal("CPU seconds per GB", Metric::CpuPerGigabyte, OverlayGw, One(WireguardGo), 0.45, 0.38),
    goal("UDP, 64 bytes", Metric::UdpSmall, OverlayGw, BestRival, 1.3, 2.0),
    goal("UDP, 1,372 bytes", Metric::UdpLarge, OverlayGw, BestRival, 1.3, 2.0),
    goal("round trip idle, median", Metric::PingMedian, OverlayGw, One(PlainGso), 1.1, 1.0),
    goal("round trip under load, p99", Metric::LoadedPingWorst, OverlayGw, One(WireguardGo), 0.6, 0.3),
    goal("through a hub, routed", Metric::TcpHub, OverlayGw, One(WireguardGo), 2.0, 2.4),
    goal("through a hub, sealed", Metric::TcpHub, OverlayGwSealed, One(WireguardGo), 2.5, 2.5),
    goal("hub's CPU per GB, sealed", Metric::HubCpuPerGigabyte, OverlayGwSealed, One(OverlayGw), 0.2, 0.2),
    goal("memory under full load, MB", Metric::Memory, OverlayGw, Nobody, 32.0, 16.0),
];

/// The table of ratios, for as many promises as there are figures; empty without any.
#[must_use]
pub fn markdown(runs: &[Run]) -> String {
    let rows: String = GOALS.iter().filter_map(|goal| row(runs, goal)).collect();
    if rows.is_empty() {
        return rows;
    }
    let head = "| measure | against | ratio (of the rounds) | must | aim | |\n|---|---|---:|---:|---:|---|\n";
    format!(
        "\noverlay-gw against the others, ratios within each round, their median and range:\n\n{head}{rows}"
    )
}

fn row(runs: &[Run], goal: &Goal) -> Option<String> {
    let less = goal.metric.less_is_better();
    let ratios = runs.iter().filter(|run| run.contender == goal.ours.name()).filter_map(|run| {
        let ours = *run.values.get(&goal.metric)?;
        let same_round = runs.iter().filter(|other| other.round == run.round);
        let base = match goal.against {
            Nobody => 1.0,
            One(program) => *same_round
                .clone()
                .find(|other| other.contender == program.name())?
                .values
                .get(&goal.metric)?,
            BestRival => same_round
                .filter(|other| Program::named(&other.contender).is_some_and(Program::is_rival))
                .filter_map(|other| other.values.get(&goal.metric).copied())
                .max_by(f64::total_cmp)?,
        };
        Some(ours / base)
    });
    let spread = Spread::of(ratios.collect())?;
    let holds = |bound: f64| if less { spread.median <= bound } else { spread.median >= bound };
    let verdict = match (holds(goal.aim), holds(goal.must)) {
        (true, _) => "aim reached".to_owned(),
        (false, true) => "holds".to_owned(),
        (false, false) => {
            format!("**missed by {:.0} %**", (spread.median / goal.must - 1.0).abs() * 100.0)
        }
    };
    let against = match goal.against {
        One(program) => program.name(),
        BestRival => "best rival",
        Nobody => "–",
    };
    let sign = if less { "≤" } else { "≥" };
    Some(format!(
        "| {} | {against} | {:.2} ({:.2}–{:.2}) | {sign} {} | {sign} {} | {verdict} |\n",
        goal.measure, spread.median, spread.least, spread.most, goal.must, goal.aim
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(program: Program, round: u32, metric: Metric, value: f64) -> Run {
        let mut run = Run::new(program.name(), round);
        run.values.insert(metric, value);
        run
    }

    #[test]
    fn ratios_are_taken_within_a_round_and_judged_by_their_median() {
        let tcp = |program, round, value| run(program, round, Metric::TcpOne, value);
        // The machine became half as fast in the second round: the ratio did not change.
        let runs = [
            tcp(OverlayGw, 1, 400.0),
            tcp(WireguardGo, 1, 200.0),
            tcp(OverlayGw, 2, 200.0),
            tcp(WireguardGo, 2, 100.0),
            tcp(Openvpn, 2, 50.0),
        ];
        let text = markdown(&runs);
        let wireguard = "| TCP, one stream | wireguard-go | 2.00 (2.00–2.00) | ≥ 1.9 | ≥ 2.2 | holds |";
        let openvpn = "| TCP, one stream | openvpn | 4.00 (4.00–4.00) | ≥ 8 | ≥ 10 | **missed by 50 %** |";
        assert!(text.contains(wireguard) && text.contains(openvpn), "{text}");
    }

    #[test]
    fn neither_the_wire_nor_the_ceiling_is_a_rival() {
        let udp = |program, value| run(program, 1, Metric::UdpSmall, value);
        let runs = [
            udp(OverlayGw, 300.0),
            udp(PlainGso, 900.0),
            udp(Program::Veth, 900.0),
            udp(WireguardGo, 50.0),
            udp(Program::Gotatun, 100.0),
        ];
        assert!(markdown(&runs).contains("best rival | 3.00"), "{}", markdown(&runs));
    }

    #[test]
    fn of_cpu_less_is_better() {
        let cpu = |program, value| run(program, 1, Metric::CpuPerGigabyte, value);
        let text = markdown(&[cpu(OverlayGw, 0.3), cpu(WireguardGo, 1.0)]);
        assert!(text.contains("| 0.30 (0.30–0.30) | ≤ 0.45 | ≤ 0.38 | aim reached |"), "{text}");
    }
}
