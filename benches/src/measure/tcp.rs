//! TCP through iperf3, and what the tunnel's processes cost meanwhile.

use crate::process::Daemon;
use crate::topology::{Place, Topology};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const PORT: &str = "5201";

/// How much longer than asked for a transfer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is transferred.
#[derive(Clone, Copy, Debug)]
pub enum Streams {
    /// One, from A to B.
    One,
    /// Four, from A to B.
    Four,
    /// One each way.
    BothWays,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Payload received in megabits a second; both ways added up.
    pub megabits: f64,
    /// CPU seconds of the tunnel's processes for each gigabyte (10^9 bytes) received.
    pub cpu_per_gigabyte: f64,
}

/// A transfer under way. Dropped: it ends.
#[derive(Debug)]
pub struct Running {
    server: Child,
    client: Child,
    report: std::path::PathBuf,
    deadline: Instant,
}

/// Starts a transfer of `time` from A to B, with its report in `folder`.
///
/// # Errors
/// When iperf3 is not there or does not start.
pub fn begin(topology: &Topology, folder: &Path, streams: Streams, time: Duration) -> Result<Running> {
    let report = folder.join("iperf3.json");
    let listening = folder.join("iperf3.server");
    let mut server = Command::new("iperf3");
    server.args(["--server", "--one-off", "--forceflush", "--port", PORT]);
    server.stdin(Stdio::null()).stdout(File::create(&listening)?).stderr(Stdio::null());
    let mut server = Ended(Some(topology.spawn(Place::B, server)?));
    let start = Instant::now();
    while !fs::read_to_string(&listening)?.contains("listening") {
        if start.elapsed() > PATIENCE {
            bail!("the iperf3 server does not listen");
        }
        sleep(Duration::from_millis(5));
    }
    let mut client = Command::new("iperf3");
    client.args(["--client", &Place::B.overlay().to_string(), "--port", PORT, "--json"]);
    client.args(["--time", &time.as_secs().max(1).to_string()]);
    match streams {
        Streams::One => {}
        Streams::Four => drop(client.args(["--parallel", "4"])),
        Streams::BothWays => drop(client.arg("--bidir")),
    }
    client.stdin(Stdio::null()).stdout(File::create(&report)?).stderr(Stdio::null());
    let client = topology.spawn(Place::A, client)?;
    let server = server.0.take().context("the server was started")?;
    Ok(Running { server, client, report, deadline: Instant::now() + time + PATIENCE })
}

impl Running {
    /// Waits for the end.
    ///
    /// # Errors
    /// When iperf3 fails, or hangs.
    pub fn finish(mut self) -> Result<Received> {
        while self.client.try_wait()?.is_none() {
            if Instant::now() > self.deadline {
                bail!("iperf3 hangs");
            }
            sleep(Duration::from_millis(5));
        }
        received(&fs::read(&self.report)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in [&mut self.client, &mut self.server] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Ends a child that nobody took over.
struct Ended(Option<Child>);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Transfers for `time` and watches what `daemons` use.
///
/// # Errors
/// As [`begin`] and [`Running::finish`].
pub fn transfer(
    topology: &Topology,
    daemons: &[Daemon],
    folder: &Path,
    streams: Streams,
    time: Duration,
) -> Result<Transfer> {
    let cpu = || daemons.iter().map(Daemon::cpu).sum::<Duration>();
    let before = cpu();
    let received = begin(topology, folder, streams, time)?.finish()?;
    let used = cpu().saturating_sub(before).as_secs_f64();
    Ok(Transfer {
        megabits: received.bits_per_second / 1e6,
        cpu_per_gigabyte: used / (received.bytes / 1e9).max(f64::MIN_POSITIVE),
    })
}

/// What arrived, both ways added up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Received {
    /// Bytes of payload.
    pub bytes: f64,
    /// Payload a second, in bits.
    pub bits_per_second: f64,
}

/// Reads iperf3's report.
fn received(report: &[u8]) -> Result<Received> {
    let report: Value = serde_json::from_slice(report).context("iperf3's report")?;
    if let Some(error) = report.get("error").and_then(Value::as_str) {
        bail!("iperf3: {error}");
    }
    let end = report.get("end").context("iperf3's report has no end")?;
    let number = |of: &str, name| end.get(of).and_then(|sum| sum.get(name)?.as_f64());
    let both = |name| {
        let forth = number("sum_received", name).with_context(|| format!("iperf3's report has no {name}"))?;
        anyhow::Ok(forth + number("sum_received_bidir_reverse", name).unwrap_or(0.0))
    };
    let received = Received { bytes: both("bytes")?, bits_per_second: both("bits_per_second")? };
    if received.bytes <= 0.0 {
        bail!("iperf3: nothing arrived");
    }
    Ok(received)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_are_added_up_and_an_error_is_told() {
        let report = br#"{"end": {"sum_received": {"bytes": 10, "bits_per_second": 80.0},
            "sum_received_bidir_reverse": {"bytes": 5, "bits_per_second": 40.0}}}"#;
        assert_eq!(received(report).unwrap(), Received { bytes: 15.0, bits_per_second: 120.0 });
        let failed = received(br#"{"end": {}, "error": "unable to connect"}"#).unwrap_err();
        assert_eq!(failed.to_string(), "iperf3: unable to connect");
    }
}
