//! What systemd hears of us (`sd_notify(3)`) and gives back, and what its unit does after the end. systemd itself is a double here: a
//! datagram socket that plays its part, and a `systemctl` that names the job.

use std::fs::{Permissions, read_dir, read_to_string, set_permissions};
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use overlay_tests::case;
use overlay_tests::gateway::{Gateway, client};
use overlay_tests::harness::{Case, program};
use overlay_tests::process;
use overlay_tests::wait::{holds_for, until};
use overlay_tests::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, watchdog_is_fed_at_the_pace_that_was_asked_for),
        case!(functional, watchdog_is_not_fed_while_a_packet_thread_hangs),
        case!(functional, restart_keeps_carrier_and_addresses),
        case!(functional, stop_that_is_meant_clears_and_a_restart_does_not),
    ]
}

/// The double of systemd: hears the messages and keeps the descriptors.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    heard: Vec<String>,
    kept: Vec<OwnedFd>,
}

impl Manager {
    fn new(world: &World) -> Self {
        let path = world.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, path, heard: Vec::new(), kept: Vec::new() }
    }

    /// Takes what has come.
    fn hear(&mut self) {
        let mut bytes = [0; 4096];
        let mut control = nix::cmsg_space!([i32; 4]);
        loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let Ok(message) = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags)
            else {
                return;
            };
            for part in message.cmsgs().unwrap() {
                if let ControlMessageOwned::ScmRights(descriptors) = part {
                    // SAFETY: the kernel has just made them for this process, and nobody else knows them.
                    #[allow(unsafe_code, reason = "descriptors come as numbers")]
                    self.kept.extend(descriptors.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                }
            }
            let length = message.bytes;
            self.heard.extend(String::from_utf8_lossy(&bytes[..length]).lines().map(str::to_owned));
        }
    }

    fn count(&mut self, line: &str) -> usize {
        self.hear();
        self.heard.iter().filter(|heard| *heard == line).count()
    }

    fn told(&self, command: &mut Command) {
        command.env("NOTIFY_SOCKET", &self.path);
    }
}

fn watchdog_is_fed_at_the_pace_that_was_asked_for(world: &World) {
    let node = world.node("cluster-1", 11);
    let mut manager = Manager::new(world);
    let mut gw = Gateway::spawn_with(&node, "up --slot 56", |command| {
        manager.told(command);
        command.env("WATCHDOG_USEC", "300000");
    });
    gw.wait_ready();
    until("ten beats, while it works", || manager.count("WATCHDOG=1") >= 10);
    gw.stop();
    assert_eq!(manager.count("STOPPING=1"), 1);

    manager.heard.clear();
    let mut gw = Gateway::spawn_with(&node, "up --slot 56", |command| manager.told(command));
    gw.wait_ready();
    until("ready is told", || manager.count("READY=1") == 1);
    gw.stop();
    assert_eq!(manager.count("WATCHDOG=1"), 0, "nobody asked for beats");
}

/// A thread of the packet path, held where it is: as one that waits for a lock for ever.
struct Held(Pid);

impl Held {
    fn hold(process: u32) -> Self {
        let tasks = read_dir(format!("/proc/{process}/task")).unwrap().map(|task| task.unwrap().path());
        let packets = |task: &PathBuf| read_to_string(task.join("comm")).unwrap().starts_with("packets-");
        let task = tasks.into_iter().find(packets).expect("a packet thread");
        let thread = Pid::from_raw(task.file_name().unwrap().to_str().unwrap().parse().unwrap());
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        Self(thread)
    }

    fn release(self) {
        ptrace::detach(self.0, None).unwrap();
    }
}

fn watchdog_is_not_fed_while_a_packet_thread_hangs(world: &World) {
    let node = world.node("cluster-1", 11);
    let mut manager = Manager::new(world);
    let mut gw = Gateway::spawn_with(&node, "up --slot 56", |command| {
        manager.told(command);
        command.env("WATCHDOG_USEC", "300000");
    });
    gw.wait_ready();
    until("it is fed", || manager.count("WATCHDOG=1") >= 3);
    let warned = |gw: &Gateway| gw.status().0["warnings"].to_string().contains("packet-thread-hangs");
    assert!(!warned(&gw));
    let held = Held::hold(gw.process().id());
    // Heard all the time: whoever tells a manager that does not listen waits for it.
    until("it is said", || {
        manager.hear();
        let said = gw.process().stderr();
        said.iter().any(|line| line.contains("the thread packets-") && line.contains("has not gone round"))
    });
    // One may have been under way.
    let fed = manager.count("WATCHDOG=1") + 1;
    holds_for(Duration::from_secs(1), "it is not fed", || manager.count("WATCHDOG=1") <= fed);
    assert!(warned(&gw), "the event loop still answers");
    held.release();
    until("it is fed again", || manager.count("WATCHDOG=1") > fed + 3);
    assert!(!warned(&gw));
    node.reaches("172.16.8.56");
    gw.stop();
}

fn restart_keeps_carrier_and_addresses(world: &World) {
    let node = world.node("cluster-1", 11);
    let mut manager = Manager::new(world);
    let mut gw = Gateway::spawn_with(&node, "up --slot 56 --persist", |command| manager.told(command));
    gw.wait_ready();
    until("the descriptor is given", || manager.count("FDSTORE=1") == 1);
    assert_eq!(manager.count("FDNAME=overlay-gw-carrier"), 1);
    assert_eq!(manager.kept.len(), 1);
    let link = node.json("ip -j link show dev Overlay")[0]["ifindex"].clone();
    let addresses = node.addresses("Overlay");
    gw.kill();
    assert!(node.has_carrier("Overlay"), "the kept descriptor holds it");
    assert_eq!(node.addresses("Overlay"), addresses);

    // As systemd names to the next run what it has: one is enough.
    let mut gw = Gateway::spawn_with(&node, "up --slot 56 --persist", |command| {
        manager.told(command);
        command.env("LISTEN_FDNAMES", "overlay-gw-carrier");
    });
    gw.wait_ready();
    until("ready is told again", || manager.count("READY=1") == 2);
    node.reaches("172.16.8.56");
    assert_eq!(node.json("ip -j link show dev Overlay")[0]["ifindex"], link, "the device is the same");
    gw.stop();
    assert_eq!(manager.count("FDSTORE=1"), 1, "what is kept already is not given again");
    assert!(node.has_carrier("Overlay"));
    manager.kept.clear();
    until("with the descriptor goes the carrier", || !node.has_carrier("Overlay"));
    client(&node, "down").exits(0);
}

fn stop_that_is_meant_clears_and_a_restart_does_not(world: &World) {
    let node = world.node("cluster-1", 11);
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/linux/after-stop");
    // Where the package puts the program; here it is in the folder of this build.
    let script = read_to_string(unit).unwrap();
    assert!(script.contains("/usr/bin/overlay-gw"));
    let script = script.replace("/usr/bin/overlay-gw", program().to_str().unwrap());
    let script = node.write("after-stop", &script);
    let after = |kind: &str| {
        let double = format!(
            "#!/bin/sh\ncase $1 in show) echo {} ;; list-jobs) echo '42 overlay-gw.service {kind} running' ;; esac\n",
            if kind.is_empty() { "" } else { "42" }
        );
        let double = node.write("systemctl", &double);
        set_permissions(&double, Permissions::from_mode(0o700)).unwrap();
        let mut command = node.command("sh");
        command.arg(&script).env("PATH", format!("{}:/usr/bin:/bin", double.parent().unwrap().display()));
        process::run(command, "after-stop", Duration::from_secs(30)).exits(0);
    };
    Gateway::start(&node, "up --slot 56 --persist").stop();
    for kind in ["restart", "start", ""] {
        after(kind);
        assert_eq!(node.addresses("Overlay").len(), 2, "job {kind:?}");
    }
    after("stop");
    assert!(!node.has_link("Overlay"));
}
