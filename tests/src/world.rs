//! One test's world: two underlay networks with a router between them, and the machines on them.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use crate::node::Node;
use crate::process::{self, Process};

/// The router's address on the near underlay, 10.99.0.0/24.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 254);

/// One test's world. It is the init process of its own process namespace: when it goes, everything in it goes.
pub struct World {
    dir: PathBuf,
    nodes: Mutex<Vec<Node>>,
    capture: Mutex<Option<Process>>,
}

impl World {
    /// Furnishes the namespaces in which this process was started. Files and logs of its machines go to `dir`.
    pub(crate) fn create(dir: &Path, capture: bool) -> Self {
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).expect("/run");
        let world = Self { dir: dir.to_owned(), nodes: Mutex::default(), capture: Mutex::default() };
        for line in [
            "ip link set lo up",
            "ip link add near type bridge",
            "ip link add far type bridge",
            "ip addr add 10.99.0.254/24 dev near",
            "ip addr add 10.98.0.254/24 dev far",
            "ip addr add fd99::fe/64 dev near nodad",
            "ip addr add fd98::fe/64 dev far nodad",
            "ip link set near up",
            "ip link set far up",
        ] {
            world.ok(line);
        }
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        if capture {
            // The count bounds what a capture costs; the first packets are those that tell.
            let mut tcpdump = Command::new("tcpdump");
            tcpdump.args(["-Z", "root", "-i", "near", "-s", "128", "-c", "20000", "-U", "-w"]);
            tcpdump.arg(dir.join("underlay.pcap"));
            let process = Process::spawn(tcpdump, "tcpdump", &dir.join("tcpdump.log"));
            *world.capture.lock().unwrap() = Some(process);
        }
        world
    }

    /// A new machine on the near underlay, 10.99.0.`host` and fd99::`host` (decimal), with a default route through the router.
    #[track_caller]
    pub fn node(&self, name: &str, host: u8) -> Node {
        self.attach(name, host, "near", 99)
    }

    /// A new machine on the far underlay, 10.98.0.`host`, reached only through the router.
    #[track_caller]
    pub fn far_node(&self, name: &str, host: u8) -> Node {
        self.attach(name, host, "far", 98)
    }

    #[track_caller]
    fn attach(&self, name: &str, host: u8, bridge: &str, net: u8) -> Node {
        let ipv4 = Ipv4Addr::new(10, net, 0, host);
        // fd99::56 for 10.99.0.56: the same digits, for whoever reads a log.
        let digits = |number: u8| u16::from_str_radix(&number.to_string(), 16).unwrap();
        let ipv6 = Ipv6Addr::new(0xfd00 + digits(net), 0, 0, 0, 0, 0, 0, digits(host));
        let node = Node::boot(name, &self.dir.join(name), ipv4, ipv6);
        let port = format!("{bridge}{host}");
        self.ok(&format!("ip link add {port} type veth peer name eth0 netns {}", node.pid()));
        self.ok(&format!("ip link set {port} master {bridge} up"));
        node.ok(&format!("ip addr add {ipv4}/24 dev eth0"));
        node.ok(&format!("ip addr add {ipv6}/64 dev eth0 nodad"));
        node.ok("ip link set eth0 up");
        node.ok(&format!("ip route add default via 10.{net}.0.254 dev eth0 metric 100"));
        node.ok(&format!("ip -6 route add default via fd{net}::fe dev eth0 metric 100"));
        self.nodes.lock().unwrap().push(node.clone());
        node
    }

    /// Where files of the whole world go.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Runs a command line on the router; it must succeed. Returns what it printed.
    #[track_caller]
    pub fn ok(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().expect("a command"));
        command.args(words);
        process::run(command, &format!("router: {line}"), Duration::from_secs(60)).ok()
    }

    /// Writes down what every machine looks like, for whoever has to explain a failure.
    pub(crate) fn keep_evidence(&self) {
        for node in self.nodes.lock().unwrap().iter() {
            let gateway = crate::harness::program();
            let mut text = String::new();
            for line in ["ip addr", "ip route show table all", "ip rule", "ip -s neigh", "ss -tunap"] {
                let shown = node.run(line);
                text.push_str(&format!("# {line}\n{}\n", shown.both()));
            }
            fs::write(node.path("host.txt"), text).unwrap();
            let sockets = "find /run/overlay-gw -name *.sock";
            for socket in node.run(sockets).stdout.lines() {
                let name = Path::new(socket).file_stem().unwrap().to_string_lossy().into_owned();
                let mut status = node.command(&gateway);
                status.args(["status", "--json", "--control", socket]);
                let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    process::run(status, "status", Duration::from_secs(5)).both()
                }));
                let said = said.unwrap_or_else(|_| "no answer".to_owned());
                fs::write(node.path(&format!("{name}.status.json")), said).unwrap();
            }
        }
    }
}
