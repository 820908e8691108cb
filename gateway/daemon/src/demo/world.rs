//! The demo's world: four network namespaces without names, three wires, a hub and three nodes as child processes.
//!
//! Nodes have no wire between them: what one says to another goes through the hub. All of it vanishes with the last
//! process in it; the children are killed when this process ends, however it ends.

use super::interrupt::Interrupt;
use super::show::{Broken, Measured, Progress};
use crate::control::{Request, client};
use ipnet::{IpNet, Ipv4Net};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use overlay_config::plan::{Plan, PlanHub, PlanNode};
use overlay_config::{Endpoint, Slot};
use overlay_platform::os::{child, link, netns};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The overlay of the demo: the one of the documentation.
pub const OVERLAY: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 8, 0), 24);

/// Where the hub is reached: an address that it has on every wire.
pub const HUB_ENDPOINT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1)), 51820);

const SLOT_PREFIX: u8 = 29;
const HUB: &str = "hub-a";
const NODES: [(&str, u8); 3] = [("cluster-1", 56), ("cluster-2", 64), ("cluster-3", 72)];

/// How long a member may take to say `ready`, and to end when asked to.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often a log is looked at for `ready`, and a child for its end.
const PACE: Duration = Duration::from_millis(2);

/// Lines of each log that a failure shows.
const LAST_LINES: usize = 8;

/// A hub or node: its namespace, its files, its process. Dropping it kills the process.
#[derive(Debug)]
pub struct Member {
    name: &'static str,
    /// The command that runs it: `hub` or `up`.
    command: &'static str,
    namespace: OwnedFd,
    folder: PathBuf,
    running: Option<Child>,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    member: Member,
    /// Its slot.
    pub slot: Slot,
}

impl std::ops::Deref for Node {
    type Target = Member;

    fn deref(&self) -> &Member {
        &self.member
    }
}

/// All of it. Dropping it ends the children, and then removes the files.
#[derive(Debug)]
pub struct World {
    hub: Member,
    nodes: Vec<Node>,
    folder: TempDir,
    interrupt: Interrupt,
}

impl Member {
    fn new(name: &'static str, command: &'static str, folder: &Path) -> io::Result<Self> {
        let (namespace, folder) = (netns::create()?, folder.join(name));
        link::loopback_up(namespace.as_fd())?;
        Ok(Self { name, command, namespace, folder, running: None })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its network namespace.
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Its control socket.
    pub fn control(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    /// Its process, while it runs.
    pub fn process(&self) -> Option<u32> {
        self.running.as_ref().map(Child::id)
    }

    /// Asks its service over the control socket, as `overlay-gw status` and the others do.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub fn ask(&self, request: Request) -> Result<Value, Broken> {
        client::ask(&self.control(), request)
            .map_err(|failure| Broken::failed(format!("{} was asked: {}", self.name, failure.text)))
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Starts its process; `ready` comes later.
    fn start(&mut self) -> Result<(), Broken> {
        let log = File::create(self.log())?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(self.command)
            .arg("--config")
            .arg(self.folder.join("config.toml"))
            .arg("--state-dir")
            .arg(self.folder.join("state"))
            .arg("--control")
            .arg(self.control())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for the demo, which ends them in order; the service manager knows nothing of them.
            .process_group(0)
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_FDS");
        self.running = Some(child::spawn_in(self.namespace.as_fd(), command)?);
        Ok(())
    }

    fn is_ready(&mut self) -> Result<bool, Broken> {
        if fs::read_to_string(self.log())?.lines().any(|line| line == "ready") {
            return Ok(true);
        }
        match self.ended()? {
            Some(status) => Err(Broken::failed(format!("{} ended before it was ready: {status}", self.name))),
            None => Ok(false),
        }
    }

    fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.running.as_mut().map_or(Ok(None), Child::try_wait)
    }

    fn signal(&self, signal: Signal) {
        if let Some(Ok(pid)) = self.process().map(i32::try_from) {
            // It has ended by itself: as good.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

impl World {
    /// Namespaces and wires, with nothing running in them yet. It is built on the thread that stays to the end: the
    /// children die with it.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn lay(interrupt: Interrupt) -> Result<Self, Broken> {
        let folder = tempfile::Builder::new().prefix("overlay-gw-demo.").tempdir()?;
        let hub = Member::new(HUB, "hub", folder.path())?;
        let mut nodes = Vec::new();
        for (name, first) in NODES {
            let net = Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 8, first), SLOT_PREFIX);
            let slot = Slot::new(net).map_err(io::Error::other)?;
            nodes.push(Node { member: Member::new(name, "up", folder.path())?, slot });
        }
        let world = Self { hub, nodes, folder, interrupt };
        for (node, wire) in world.nodes.iter().zip(1_u8..) {
            world.interrupt.check()?;
            // The node finds every hub address on its wire; the hub finds the node by the /24.
            let at_hub = [net([10, 99, wire, 1], 24), net([10, 99, 0, 1], 32)];
            let at_node = [net([10, 99, wire, 2], 16)];
            let (name, namespace) = (format!("wire{wire}"), world.hub.namespace());
            link::veth(
                link::End { name: &name, namespace, addresses: &at_hub },
                link::End { name: "eth0", namespace: node.namespace(), addresses: &at_node },
            )?;
        }
        Ok(world)
    }

    /// Writes the packs of a plan, and starts the hub and the nodes with them.
    ///
    /// # Errors
    /// When one of them is not ready in time.
    pub fn start<W: Write>(&mut self, progress: &Progress<'_, W>) -> Result<Measured, Broken> {
        let packs = plan()
            .packs(&mut crate::random::fill)
            .map_err(|mistakes| Broken::failed(mistakes.to_string()))?;
        crate::plan::write(self.folder.path(), &packs)?;
        let start = Instant::now();
        for member in self.members_mut() {
            member.start()?;
        }
        let count = self.members().count();
        let mut ready = vec![false; count];
        while ready.contains(&false) {
            self.interrupt.sleep(PACE)?;
            for (is_ready, member) in ready.iter_mut().zip(self.members_mut()) {
                *is_ready = *is_ready || member.is_ready()?;
                if !*is_ready && start.elapsed() > PATIENCE {
                    let name = member.name;
                    return Err(Broken::failed(format!(
                        "{name} was not ready after {} s",
                        PATIENCE.as_secs()
                    )));
                }
            }
            progress.say(&format!("{} of {count}", ready.iter().filter(|ready| **ready).count()));
        }
        let time = start.elapsed();
        Ok(Measured::new(format!("{count} processes, {} ms", time.as_millis()))
            .with("processes", count)
            .with("ready_ms", super::show::milliseconds(time)))
    }

    /// The hub and the nodes.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.hub).chain(self.nodes.iter().map(|node| &node.member))
    }

    fn members_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        std::iter::once(&mut self.hub).chain(self.nodes.iter_mut().map(|node| &mut node.member))
    }

    /// The hub.
    pub fn hub(&self) -> &Member {
        &self.hub
    }

    /// The nodes, in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Whether the demo was asked to end.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// The members that have ended since this was asked last.
    pub fn newly_ended(&mut self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for member in self.members_mut() {
            if matches!(member.ended(), Ok(Some(_))) {
                member.running = None;
                names.push(member.name);
            }
        }
        names
    }

    /// The last lines of every log.
    pub fn last_lines(&self) -> String {
        let mut text = String::new();
        for member in self.members() {
            let log = fs::read_to_string(member.log()).unwrap_or_default();
            text.push_str(&format!("\nthe last lines of {}:\n{}", member.name, last(&log, LAST_LINES)));
        }
        text
    }

    /// Ends every member as an operator would, and removes the files.
    ///
    /// # Errors
    /// When one does not end by itself, or not well.
    pub fn take_down(mut self) -> Result<Measured, Broken> {
        let count = self.members().filter(|member| member.running.is_some()).count();
        let start = Instant::now();
        let mut bad = Vec::new();
        for member in self.members_mut() {
            member.signal(Signal::SIGTERM);
        }
        for member in self.members_mut() {
            let name = member.name;
            let Some(child) = member.running.as_mut() else { continue };
            let status = loop {
                match child.try_wait()? {
                    Some(status) => break Some(status),
                    None if start.elapsed() > PATIENCE => break None,
                    None => std::thread::sleep(PACE),
                }
            };
            match status {
                Some(status) if status.success() => member.running = None,
                Some(status) => bad.push(format!("{name} ended with {status}")),
                None => {
                    bad.push(format!("{name} did not end within {} s and was killed", PATIENCE.as_secs()))
                }
            }
        }
        if !bad.is_empty() {
            return Err(Broken::Failed(bad.join("; ")));
        }
        self.folder.close()?;
        let time = start.elapsed();
        Ok(Measured::new(format!("{count} processes, {} ms", time.as_millis()))
            .with("down_ms", super::show::milliseconds(time)))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(child) = &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn net([a, b, c, d]: [u8; 4], prefix: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix)
}

fn plan() -> Plan {
    let node =
        |(name, slot): (&str, u8)| PlanNode { name: name.to_owned(), slot: slot.to_string(), endpoint: None };
    Plan {
        overlay: OVERLAY,
        slot_prefix: SLOT_PREFIX,
        nodes: NODES.map(node).into(),
        hubs: vec![PlanHub { name: HUB.to_owned(), endpoint: Endpoint::Address(HUB_ENDPOINT) }],
        routes: Vec::new(),
        dns: Vec::new(),
        members: Vec::new(),
    }
}

/// The last `count` lines, indented.
fn last(log: &str, count: usize) -> String {
    let lines: Vec<_> = log.lines().collect();
    let shown = lines.get(lines.len().saturating_sub(count)..).unwrap_or_default();
    shown.iter().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_end_of_a_log_and_not_all_of_it() {
        assert_eq!(last("a\nb\nc\n", 2), "  b\n  c\n");
        assert_eq!(last("a\n", 2), "  a\n");
        assert_eq!(last("", 2), "");
    }

    #[test]
    fn the_plan_of_the_demo_has_no_mistake() {
        assert!(plan().check().is_ok_and(|warnings| warnings.is_empty()));
    }
}
