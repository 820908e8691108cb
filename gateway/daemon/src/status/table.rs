//! The status as tables, for eyes.

use super::{Listener, PeerLine, State, Status};
use std::fmt::Write as _;

/// The table for eyes.
#[must_use]
pub fn render(status: &Status) -> String {
    let mut text = String::new();
    let state = match status.state {
        State::Ok => "ok",
        State::Degraded => "DEGRADED",
        State::Down => "DOWN",
    };
    let _ = writeln!(text, "{} {}  {state}, up {}", status.role, status.name, duration(status.uptime_s));
    if let (Some(slot), Some(address), Some(gateway)) = (&status.slot, status.address, status.gateway) {
        let _ = writeln!(text, "  slot     {slot}, address {address}, gateway {gateway}");
    }
    let _ = writeln!(text, "  overlay  {}, UDP port {}", status.overlay, status.listen_port);
    if let Some(device) = &status.device {
        let adopted = if device.adopted { ", adopted" } else { "" };
        let _ = writeln!(text, "  device   {} ({}), MTU {}{adopted}", device.name, device.mode, device.mtu);
        if let Some(driver) = &device.driver {
            let _ = writeln!(text, "  driver   {driver}");
        }
    }
    let _ = writeln!(text, "  key      {}", status.public_key);
    if status.role == "node" {
        let _ = writeln!(text, "\n{}", render_listeners(&status.listeners).trim_end());
    }
    if !status.floating.is_empty() {
        let header = ["FLOATING".to_owned(), "ON".to_owned()];
        let rows = status.floating.iter().map(|line| [line.address.to_string(), line.owner.clone()]);
        let _ = writeln!(text, "\n{}", table(std::iter::once(header).chain(rows)).trim_end());
    }
    let _ = writeln!(text, "\n{}", render_peers(&status.peers).trim_end());
    let alternatives = render_paths(&status.peers);
    if !alternatives.is_empty() {
        let _ = writeln!(text, "\n{}", alternatives.trim_end());
    }
    let drops: Vec<_> =
        status.drops.iter().filter(|(_, n)| **n > 0).map(|(why, n)| format!("{why} {n}")).collect();
    if !drops.is_empty() {
        let _ = writeln!(text, "\nDropped: {}", drops.join(", "));
    }
    for warning in &status.warnings {
        let _ = writeln!(text, "\nwarning [{}]: {}\n  fix: {}", warning.code, warning.text, warning.fix);
    }
    text
}

/// The peers as a table.
#[must_use]
pub fn render_peers(peers: &[PeerLine]) -> String {
    if peers.is_empty() {
        return "No hubs and no peers: this node is alone.\n".to_owned();
    }
    let header = [
        "PEER",
        "KIND",
        "OWNS",
        "ENDPOINT",
        "PATH",
        "RTT",
        "LOSS",
        "MISSED",
        "HANDSHAKE",
        "RECEIVED",
        "SENT",
    ]
    .map(str::to_owned);
    let rows = peers.iter().map(|peer| {
        let owns: Vec<_> = peer.slot.iter().chain(&peer.networks).cloned().collect();
        [
            peer.name.clone(),
            peer.kind.clone(),
            if owns.is_empty() { "-".to_owned() } else { owns.join(",") },
            peer.endpoint.clone().unwrap_or_else(|| "-".to_owned()),
            peer.path.clone(),
            peer.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms")),
            peer.loss.map_or_else(|| "-".to_owned(), |loss| format!("{:.1} %", loss * 100.0)),
            if peer.kind == "node" { peer.missed_heartbeats.to_string() } else { "-".to_owned() },
            peer.handshake_age_s.map_or_else(|| "-".to_owned(), |age| format!("{} ago", duration(age))),
            bytes(peer.rx_bytes),
            bytes(peer.tx_bytes),
        ]
    });
    table(std::iter::once(header).chain(rows))
}

/// The ways to each node that has several, as a table; empty when there is none.
fn render_paths(peers: &[PeerLine]) -> String {
    let header = ["TO", "BY", "RTT", "LOSS", "MTU", "STATE"].map(str::to_owned);
    let several = peers.iter().filter(|peer| peer.paths.len() > 1);
    let rows = several.flat_map(|peer| {
        peer.paths.iter().map(|path| {
            let state = match (path.used, path.up, path.draining) {
                (true, true, _) => "in use",
                (true, false, _) => "in use, DOWN",
                (false, true, true) => "to be left",
                (false, true, false) => "up",
                (false, false, _) => "down",
            };
            [
                peer.name.clone(),
                path.endpoint.clone().unwrap_or_else(|| path.via.clone()),
                path.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms")),
                format!("{:.1} %", path.loss * 100.0),
                path.mtu.map_or_else(|| "-".to_owned(), |mtu| mtu.to_string()),
                state.to_owned(),
            ]
        })
    });
    let mut rows = rows.peekable();
    if rows.peek().is_none() { String::new() } else { table(std::iter::once(header).chain(rows)) }
}

/// The listeners as a table.
#[must_use]
pub fn render_listeners(listeners: &[Listener]) -> String {
    if listeners.is_empty() {
        return "No listeners are live.\n".to_owned();
    }
    let header = ["LISTENER".to_owned(), "ADDED BY".to_owned()];
    let rows = listeners.iter().map(|listener| {
        let by = if listener.origin == "command" { "overlay-gw listener add" } else { "the host (cluster)" };
        [listener.address.to_string(), by.to_owned()]
    });
    table(std::iter::once(header).chain(rows))
}

fn table<const N: usize>(rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<_> = rows.collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

fn duration(seconds: f64) -> String {
    let s = seconds as u64;
    match (s / 86_400, s / 3_600 % 24, s / 60 % 60, s % 60) {
        (0, 0, 0, _) => format!("{seconds:.0} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = UNITS[0];
    for next in UNITS.iter().skip(1) {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::FloatingLine;
    use crate::status::tests::sample;
    use std::net::Ipv4Addr;

    #[test]
    fn the_table_shows_what_an_operator_looks_for() {
        let expected = "\
node cluster-1  DEGRADED, up 1 h 2 min
  slot     172.16.8.56/29, address 172.16.8.57, gateway 172.16.8.56
  overlay  172.16.8.0/24, UDP port 51820
  device   Overlay (tun), MTU 1420, adopted
  key      K=

LISTENER     ADDED BY
172.16.8.59  overlay-gw listener add
172.16.8.60  the host (cluster)

PEER       KIND  OWNS           ENDPOINT            PATH       RTT      LOSS   MISSED  HANDSHAKE  RECEIVED  SENT
hub-a      hub   172.16.0.0/24  198.51.100.1:51820  direct     -        -      -       41 s ago   1.2 MB    456 B
cluster-2  node  -              198.51.100.1:51820  via hub-a  31.0 ms  0.4 %  1       41 s ago   5 B       6 B

TO         BY                  RTT      LOSS   MTU   STATE
cluster-2  198.51.100.7:51820  -        0.0 %  -     down
cluster-2  hub-a               31.0 ms  0.4 %  1420  in use

Dropped: foreign_source 2

warning [no_resolved]: DNS is not set
  fix: start systemd-resolved
";
        assert_eq!(render(&sample()), expected);
        let mut status = sample();
        let address = Ipv4Addr::new(172, 16, 8, 200);
        status.floating = vec![FloatingLine { address, owner: "cluster-2".into(), here: false, epoch: 3 }];
        let expected = expected.replace("\nPEER ", "\nFLOATING      ON\n172.16.8.200  cluster-2\n\nPEER ");
        assert_eq!(render(&status), expected);
    }
}
