//! A machine of the world: an anonymous network namespace, and a mount namespace with its own `/run`, `/var/lib` and `/etc/hosts`.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::process::{self, Finished, Process};

/// How long a command in a node may take, unless its test says otherwise.
const COMMAND: Duration = Duration::from_secs(60);

/// A machine of the world. Cheap to clone: all clones are the same machine.
#[derive(Clone)]
pub struct Node(Arc<Machine>);

struct Machine {
    name: String,
    dir: PathBuf,
    ipv4: Ipv4Addr,
    ipv6: Ipv6Addr,
    net: OwnedFd,
    mnt: OwnedFd,
    /// Keeps the namespaces alive, until its standard input closes.
    holder: Child,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

impl Node {
    /// Makes the machine: its namespaces, and `dir`, where its files and logs are. Its underlay interface is the world's business.
    pub(crate) fn boot(name: &str, dir: &Path, ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> Self {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("hosts"), "127.0.0.1 localhost\n").unwrap();
        fs::write(dir.join("resolv.conf"), "").unwrap();
        let mut holder = Command::new("/proc/self/exe")
            .env("OVERLAY_TEST_ROLE", "node")
            .env("OVERLAY_TEST_DIR", dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test program starts itself");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "booted\n", "node {name} did not boot");
        let open =
            |kind: &str| OwnedFd::from(fs::File::open(format!("/proc/{}/ns/{kind}", holder.id())).unwrap());
        let (net, mnt) = (open("net"), open("mnt"));
        Self(Arc::new(Machine { name: name.to_owned(), dir: dir.to_owned(), ipv4, ipv6, net, mnt, holder }))
    }

    /// What the test calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its underlay address.
    #[must_use]
    pub fn ipv4(&self) -> Ipv4Addr {
        self.0.ipv4
    }

    /// Its other underlay address.
    #[must_use]
    pub fn ipv6(&self) -> Ipv6Addr {
        self.0.ipv6
    }

    /// The process that holds its namespaces; `ip link ... netns <pid>` takes it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.holder.id()
    }

    /// The path of one of its files.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.dir.join(name)
    }

    /// Writes one of its files, readable by its owner only, in place: what is bind-mounted from it changes as well.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Writes its `/etc/hosts`.
    pub fn hosts(&self, text: &str) {
        fs::write(self.path("hosts"), text).unwrap();
    }

    /// Writes its `/etc/resolv.conf`.
    pub fn resolv_conf(&self, text: &str) {
        fs::write(self.path("resolv.conf"), text).unwrap();
    }

    /// A command that will run in this machine.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C");
        command.env(
            "PATH",
            format!("{}:/usr/sbin:/sbin:/usr/bin:/bin", std::env::var("PATH").unwrap_or_default()),
        );
        command.env_remove("OVERLAY_TEST_ROLE");
        let (net, mnt) = (self.0.net.as_raw_fd(), self.0.mnt.as_raw_fd());
        let enter = move || {
            // SAFETY: both descriptors belong to the Machine, and the child of a fork has copies of them.
            #[allow(unsafe_code, reason = "a descriptor that is open across the fork")]
            let (net, mnt) = unsafe { (BorrowedFd::borrow_raw(net), BorrowedFd::borrow_raw(mnt)) };
            setns(net, CloneFlags::CLONE_NEWNET)?;
            setns(mnt, CloneFlags::CLONE_NEWNS)?;
            Ok(())
        };
        // SAFETY: between fork and exec only setns(2) is called, which is async-signal-safe.
        #[allow(
            unsafe_code,
            reason = "a child process enters the namespaces of its machine before it is executed"
        )]
        unsafe {
            command.pre_exec(enter);
        }
        command
    }

    /// Runs a command line (words between blanks, no quoting) to its end.
    #[track_caller]
    pub fn run(&self, line: &str) -> Finished {
        self.run_in(COMMAND, line)
    }

    /// As [`Node::run`], for a command that may take up to `limit`.
    #[track_caller]
    pub fn run_in(&self, limit: Duration, line: &str) -> Finished {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().expect("a command"));
        command.args(words);
        process::run(command, &format!("{}: {line}", self.name()), limit)
    }

    /// Runs a command line that must succeed; returns what it printed.
    #[track_caller]
    pub fn ok(&self, line: &str) -> String {
        self.run(line).ok()
    }

    /// Runs a command line whose standard output is JSON.
    #[track_caller]
    pub fn json(&self, line: &str) -> serde_json::Value {
        self.run(line).exits(0).json()
    }

    /// Starts a command line in the background; its log is `<log>.log` among the machine's files.
    #[track_caller]
    pub fn spawn(&self, log: &str, line: &str) -> Process {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().expect("a command"));
        command.args(words);
        self.spawn_command(log, command, line)
    }

    /// Starts a command made by [`Node::command`] in the background.
    #[track_caller]
    pub fn spawn_command(&self, log: &str, command: Command, what: &str) -> Process {
        Process::spawn(command, &format!("{}: {what}", self.name()), &self.path(&format!("{log}.log")))
    }

    /// Calls `f` on a thread in this machine's network namespace. A socket opened there stays there, whoever uses it.
    #[track_caller]
    pub fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let net = self.0.net.as_fd();
        let done = thread::scope(|scope| {
            let enter = move || {
                setns(net, CloneFlags::CLONE_NEWNET).expect("setns");
                f()
            };
            scope.spawn(enter).join()
        });
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Whether one echo request to `target` is answered within a second.
    #[must_use]
    pub fn pings(&self, target: impl std::fmt::Display) -> bool {
        self.run(&format!("ping -n -c 1 -W 1 {target}")).code == Some(0)
    }

    /// Waits until an echo request to `target` is answered.
    ///
    /// # Panics
    /// When none is, in [`PATIENCE`](crate::wait::PATIENCE).
    #[track_caller]
    pub fn reaches(&self, target: impl std::fmt::Display) {
        crate::wait::until(&format!("{} pings {target}", self.name()), || self.pings(&target));
    }

    /// The current value of a sysctl of this machine's network, by its path under `/proc/sys`.
    #[must_use]
    pub fn sysctl(&self, path: &str) -> Option<String> {
        let path = format!("/proc/sys/{path}");
        self.inside(|| fs::read_to_string(path).ok().map(|text| text.trim().to_owned()))
    }

    /// The addresses of a device, as `172.16.8.57/29`; empty when there is no such device.
    #[must_use]
    pub fn addresses(&self, device: &str) -> Vec<String> {
        let shown = self.run(&format!("ip -j -4 addr show dev {device}"));
        let Ok(serde_json::Value::Array(links)) = serde_json::from_str(&shown.stdout) else {
            return Vec::new();
        };
        let addresses = links.iter().flat_map(|link| link["addr_info"].as_array().into_iter().flatten());
        addresses
            .map(|address| format!("{}/{}", address["local"].as_str().unwrap_or("?"), address["prefixlen"]))
            .collect()
    }

    /// Moves to another underlay address of the near network, as a machine does that changes its access point: for a moment it has
    /// none, and no route either.
    #[track_caller]
    pub fn roam(&self, host: u8) {
        self.ok(&format!("ip addr del {}/24 dev eth0", self.near_address()));
        self.ok(&format!("ip addr add 10.99.0.{host}/24 dev eth0"));
        self.ok("ip route add default via 10.99.0.254 dev eth0 metric 100");
    }

    #[track_caller]
    fn near_address(&self) -> String {
        let shown = self.addresses("eth0");
        let address = shown.first().expect("an underlay address");
        address.split('/').next().unwrap_or_default().to_owned()
    }

    /// Whether it has an interface of that name.
    #[must_use]
    pub fn has_link(&self, device: &str) -> bool {
        self.run(&format!("ip link show dev {device}")).code == Some(0)
    }

    /// Whether the interface has a carrier (someone holds the TUN device open).
    #[must_use]
    pub fn has_carrier(&self, device: &str) -> bool {
        let links = self.json(&format!("ip -j link show dev {device}"));
        let flags = links[0]["flags"].as_array().cloned().unwrap_or_default();
        flags.iter().any(|flag| flag == "LOWER_UP") && !flags.iter().any(|flag| flag == "NO-CARRIER")
    }
}

/// What the process does that holds a machine's namespaces: makes them, says so, and waits for its standard input to close.
pub(crate) fn hold() {
    let dir = PathBuf::from(std::env::var_os("OVERLAY_TEST_DIR").expect("OVERLAY_TEST_DIR"));
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("unshare: are you root?");
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).expect("/sys of the namespace");
    for place in ["/run", "/var/lib", "/etc/overlay-gw"] {
        if Path::new(place).exists() {
            mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).expect(place);
        }
    }
    for name in ["hosts", "resolv.conf"] {
        let own = dir.join(name);
        let place = Path::new("/etc").join(name);
        // resolv.conf is often a link into /run, which is empty by now.
        let target = fs::read_link(&place).map_or(place.clone(), |link| Path::new("/etc").join(link));
        if !target.exists() {
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::write(&target, "").unwrap();
        }
        mount(Some(&own), &target, none, MsFlags::MS_BIND, none).expect("bind mount");
    }
    // Without duplicate address detection an interface is what it will be as soon as it is there.
    for which in ["all", "default"] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{which}/accept_dad"), "0");
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{which}/accept_ra"), "0");
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{which}/router_solicitations"), "0");
    }
    let up =
        Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip, of the package iproute2");
    assert!(up.success());
    println!("booted");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
