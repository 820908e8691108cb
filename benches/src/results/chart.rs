//! The chart: one panel of horizontal bars for each figure, as an SVG that needs no font and no script of its own and is readable
//! on a light page and on a dark one.

use super::{Metric, Run, Spread, spread};
use crate::contender::Contender;
use crate::results::table::Circumstances;

/// The figures that are drawn; the table has all.
const DRAWN: [Metric; 8] = [
    Metric::TcpOne,
    Metric::TcpFour,
    Metric::TcpBothWays,
    Metric::TcpHub,
    Metric::UdpSmall,
    Metric::UdpLarge,
    Metric::LoadedPingWorst,
    Metric::CpuPerGigabyte,
];

// Lengths in pixels.
const COLUMNS: usize = 2;
const PANEL: usize = 460;
const MARGIN: usize = 16;
const NAMES: usize = 130;
const NUMBERS: usize = 70;
const BAR: usize = 16;
const ROW: usize = 22;
const HEAD: usize = 34;
const FOOT: usize = 40;

/// Draws every contender in every panel that has figures.
#[must_use]
pub fn svg(runs: &[Run], contenders: &[Contender], circumstances: &Circumstances) -> String {
    let panels: Vec<_> = DRAWN
        .into_iter()
        .map(|metric| (metric, bars(runs, contenders, metric)))
        .filter(|(_, bars)| !bars.is_empty())
        .collect();
    let rows = panels.iter().map(|(_, bars)| bars.len()).max().unwrap_or(0);
    let height = HEAD + rows * ROW + MARGIN;
    let full = (COLUMNS * PANEL + MARGIN, panels.len().div_ceil(COLUMNS) * height + FOOT);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <title>overlay-gw side by side with other VPN programs</title>\n\
         <style>text {{ fill: #24292f }} .quiet {{ fill: #6e7781 }} .bar {{ fill: #8c959f }} .ours {{ fill: #0969da }} \
         .spread {{ stroke: #57606a; stroke-width: 1.5 }} \
         @media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} .quiet {{ fill: #8d96a0 }} .bar {{ fill: #6e7681 }} \
         .ours {{ fill: #4493f8 }} .spread {{ stroke: #c9d1d9 }} }}</style>\n",
        full.0, full.1
    );
    for (number, (metric, bars)) in panels.iter().enumerate() {
        let at = (MARGIN + number % COLUMNS * PANEL, number / COLUMNS * height);
        panel(&mut text, at, *metric, bars);
    }
    let foot = format!("{}. The lines in the bars: least and most.", circumstances.line());
    text += &format!(
        "<text class=\"quiet\" x=\"{MARGIN}\" y=\"{}\" font-size=\"10\">{}</text>\n</svg>\n",
        full.1 - MARGIN,
        escape(&foot)
    );
    text
}

struct Bar {
    name: String,
    ours: bool,
    spread: Spread,
}

/// The bars of a panel. What the machine does without a tunnel would dwarf the others: it is in the table.
fn bars(runs: &[Run], contenders: &[Contender], metric: Metric) -> Vec<Bar> {
    let tunnels = contenders.iter().filter(|contender| contender.path.is_some());
    let bar = |contender: &Contender| {
        let spread = spread(runs, contender.program.name(), metric)?;
        Some(Bar { name: contender.program.name().to_owned(), ours: contender.program.is_ours(), spread })
    };
    tunnels.filter_map(bar).collect()
}

fn panel(text: &mut String, (x, y): (usize, usize), metric: Metric, bars: &[Bar]) {
    let most = bars.iter().map(|bar| bar.spread.most).fold(f64::MIN_POSITIVE, f64::max);
    let length = |value: f64| value / most * (PANEL - NAMES - NUMBERS - MARGIN) as f64;
    let hint = if metric.less_is_better() { "less is better" } else { "more is better" };
    *text += &format!(
        "<text x=\"{x}\" y=\"{}\" font-weight=\"600\">{}<tspan class=\"quiet\" font-weight=\"400\" dx=\"8\">{hint}</tspan></text>\n",
        y + HEAD - 12,
        escape(metric.title()),
    );
    for (row, bar) in bars.iter().enumerate() {
        let (left, top) = (x + NAMES, y + HEAD + row * ROW);
        let (middle, base) = (top + BAR / 2, top + BAR - 4);
        let class = if bar.ours { "ours" } else { "bar" };
        let [median, least, most] = [bar.spread.median, bar.spread.least, bar.spread.most].map(length);
        *text += &format!(
            "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{left}\" y=\"{top}\" width=\"{median:.1}\" height=\"{BAR}\" rx=\"2\"/>",
            left - 8,
            escape(&bar.name),
        );
        if most - least >= 1.0 {
            let (from, to) = (left as f64 + least, left as f64 + most);
            *text += &format!(
                "<line class=\"spread\" x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>"
            );
        }
        let end = left as f64 + most.max(median) + 6.0;
        *text += &format!("<text x=\"{end:.1}\" y=\"{base}\">{}</text>\n", metric.format(bar.spread.median));
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::Program;
    use crate::machine::Machine;

    #[test]
    fn bars_are_as_long_as_their_share_of_the_longest() {
        let run = |contender, value| {
            let mut run = Run::new(contender, 1);
            run.values.insert(Metric::TcpOne, value);
            run
        };
        let contender = |program| Contender {
            program,
            path: Some("x".into()),
            version: "1".into(),
            counts_allocations: None,
            absent_members: 0,
        };
        let machine = Machine { kernel: "6".into(), processor: "a <b>".into(), processors: 2 };
        let circumstances = Circumstances {
            machine,
            date: "d".into(),
            rounds: 1,
            seconds: 1,
            wire: false,
            command: String::new(),
        };
        let runs = [run("overlay-gw", 2000.0), run("wireguard-go", 1000.0), run("veth", 9000.0)];
        let contenders = [
            contender(Program::OverlayGw),
            contender(Program::WireguardGo),
            Contender { path: None, ..contender(Program::Veth) },
        ];
        let text = svg(&runs, &contenders, &circumstances);
        assert!(text.contains("class=\"ours\" x=\"146\" y=\"34\" width=\"244.0\""), "{text}");
        assert!(text.contains("class=\"bar\" x=\"146\" y=\"56\" width=\"122.0\""), "{text}");
        assert!(!text.contains("veth<"), "{text}");
        assert!(text.contains("a &lt;b&gt;"));
    }
}
