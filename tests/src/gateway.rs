//! overlay-gw itself, running in a node: its flags, `ready`, its exit codes and `status --json`, and nothing else of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::program;
use crate::node::Node;
use crate::process::{self, Finished, Process};
use crate::wait::{PATIENCE, until_in};

/// An `overlay-gw up` or `overlay-gw hub` that runs in a node.
pub struct Gateway {
    node: Node,
    program: PathBuf,
    process: Process,
    instance: Option<String>,
}

/// How a foreground command ended.
pub struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// All of its standard error.
    pub stderr: String,
}

impl Gateway {
    /// Starts the program with these arguments (words between blanks); does not wait for it.
    #[track_caller]
    pub fn spawn(node: &Node, arguments: &str) -> Self {
        Self::spawn_with(node, arguments, |_| {})
    }

    /// As [`Gateway::spawn`], after `prepare` has had its way with the command (environment, file descriptors).
    #[track_caller]
    pub fn spawn_with(node: &Node, arguments: &str, prepare: impl FnOnce(&mut Command)) -> Self {
        Self::spawn_command(program(), node, arguments, prepare)
    }

    /// As [`Gateway::spawn`], of another overlay-gw than the one under test; client commands are its own as well.
    #[track_caller]
    pub fn spawn_program(program: PathBuf, node: &Node, arguments: &str) -> Self {
        Self::spawn_command(program, node, arguments, |_| {})
    }

    #[track_caller]
    fn spawn_command(
        program: PathBuf,
        node: &Node,
        arguments: &str,
        prepare: impl FnOnce(&mut Command),
    ) -> Self {
        let mut command = node.command(&program);
        command.args(arguments.split_whitespace());
        command.arg("-v");
        prepare(&mut command);
        let process = node.spawn_command("overlay-gw", command, &format!("overlay-gw {arguments}"));
        Self { node: node.clone(), program, process, instance: None }
    }

    /// Starts the program with these arguments and waits for `ready`.
    #[track_caller]
    pub fn start(node: &Node, arguments: &str) -> Self {
        let mut gateway = Self::spawn(node, arguments);
        gateway.wait_ready();
        gateway
    }

    /// Starts `overlay-gw up` with that config file and waits for `ready`.
    #[track_caller]
    pub fn up(node: &Node, config: &Path) -> Self {
        Self::start(node, &format!("up --config {}", config.display()))
    }

    /// Starts `overlay-gw hub` with that config file and waits for `ready`.
    #[track_caller]
    pub fn hub(node: &Node, config: &Path) -> Self {
        Self::start(node, &format!("hub --config {}", config.display()))
    }

    /// Waits until `ready` stands alone on a line of standard error.
    ///
    /// # Panics
    /// When it does not, or the program ends.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        self.process.wait_stderr(PATIENCE, |line| line == "ready");
    }

    /// The node in which it runs.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The running process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Whether the program that a client command speaks to still runs: `status` finds its socket.
    #[must_use]
    #[track_caller]
    pub fn process_runs(&self) -> bool {
        self.client("status --json").code != Some(3)
    }

    /// Names the instance that client commands speak to, where a node has several.
    pub fn instance(&mut self, name: &str) {
        self.instance = Some(name.to_owned());
    }

    /// Runs a client command against this service.
    #[track_caller]
    pub fn client(&self, arguments: &str) -> Finished {
        let socket = |name: &String| format!(" --control /run/overlay-gw/{name}.sock");
        let control = self.instance.as_ref().map(socket).unwrap_or_default();
        client_of(&self.program, &self.node, &format!("{arguments}{control}"))
    }

    /// What `status --json` says now.
    ///
    /// # Panics
    /// When it exits with anything but 0 (ok), 1 (degraded) or 2 (down), or prints no JSON.
    #[track_caller]
    pub fn status(&self) -> Status {
        let shown = self.client("status --json");
        assert!(
            matches!(shown.code, Some(0..=2)),
            "status should exit with 0, 1 or 2, not {:?}:\n{}",
            shown.code,
            shown.both()
        );
        Status(shown.json())
    }

    /// Waits until there is a session with that peer.
    ///
    /// # Panics
    /// When there is none in time.
    #[track_caller]
    pub fn wait_session(&self, peer: &str) {
        self.wait_session_in(PATIENCE, peer);
    }

    /// Waits for at most `limit` until there is a session with that peer.
    ///
    /// # Panics
    /// When there is none in time.
    #[track_caller]
    pub fn wait_session_in(&self, limit: Duration, peer: &str) {
        until_in(limit, &format!("{} has a session with {peer}", self.node.name()), || {
            self.status().session(peer)
        });
    }

    /// The value of a drop counter.
    #[track_caller]
    pub fn drops(&self, reason: &str) -> u64 {
        self.status().drops(reason)
    }

    /// Ends it as Ctrl-C does; it must exit with 0.
    #[track_caller]
    pub fn stop(self) -> Ended {
        let ended = self.end_by(Signal::SIGINT);
        assert_eq!(ended.code, Some(0), "after Ctrl-C:\n{}", ended.stderr);
        ended
    }

    /// Sends `signal` and waits for the end.
    #[track_caller]
    pub fn end_by(mut self, signal: Signal) -> Ended {
        self.process.signal(signal);
        self.wait_end()
    }

    /// Ends it as `kill -9` does.
    #[track_caller]
    pub fn kill(self) {
        let _ = self.end_by(Signal::SIGKILL);
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait_end(&mut self) -> Ended {
        let code = self.process.wait(PATIENCE);
        Ended { code, stderr: self.process.stderr().join("\n") }
    }
}

/// Runs a client command of overlay-gw (words between blanks) in a node.
#[track_caller]
pub fn client(node: &Node, arguments: &str) -> Finished {
    client_of(&program(), node, arguments)
}

#[track_caller]
fn client_of(program: &Path, node: &Node, arguments: &str) -> Finished {
    let mut command = node.command(program);
    command.args(arguments.split_whitespace());
    process::run(command, &format!("{}: overlay-gw {arguments}", node.name()), Duration::from_secs(30))
}

/// `status --json`, with the questions that tests ask it.
#[derive(Clone, Debug)]
pub struct Status(pub Value);

impl Status {
    /// `ok`, `degraded` or `down`.
    #[must_use]
    pub fn state(&self) -> &str {
        self.0["state"].as_str().unwrap_or("missing")
    }

    /// The entry of a peer, by its name.
    #[must_use]
    pub fn peer(&self, name: &str) -> Option<&Value> {
        self.0["peers"].as_array()?.iter().find(|peer| peer["name"] == name)
    }

    /// Whether there is a session with that peer.
    #[must_use]
    pub fn session(&self, name: &str) -> bool {
        self.peer(name).is_some_and(|peer| peer["session"] == true)
    }

    /// The endpoint of that peer, as `198.51.100.7:51820`.
    #[must_use]
    pub fn endpoint(&self, name: &str) -> Option<String> {
        self.peer(name)?["endpoint"].as_str().map(str::to_owned)
    }

    /// Seconds since the last handshake with that peer.
    #[must_use]
    pub fn handshake_age(&self, name: &str) -> Option<f64> {
        self.peer(name)?["handshake_age_s"].as_f64()
    }

    /// The value of a drop counter; 0 when it is not listed.
    #[must_use]
    pub fn drops(&self, reason: &str) -> u64 {
        self.0["drops"][reason].as_u64().unwrap_or(0)
    }

    /// The sum of all drop counters.
    #[must_use]
    pub fn all_drops(&self) -> u64 {
        self.0["drops"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum()
    }

    /// The origin of a listener (`command`, `host`), or `None` when that address is none.
    #[must_use]
    pub fn listener(&self, address: &str) -> Option<&str> {
        let listeners = self.0["listeners"].as_array()?;
        listeners.iter().find(|listener| listener["address"] == address)?["origin"].as_str()
    }
}
