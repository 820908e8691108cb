//! Where a measurement happens: two nodes in network namespaces, joined by one wire, or by two with a hub in the middle.
//!
//! ```text
//! Pair   A ══ B           Hub   A ══ hub ══ B
//! ```

use anyhow::{Context, Result, bail};
use ipnet::{IpNet, Ipv4Net};
use nix::mount::{MsFlags, mount};
use overlay_platform::os::link::{self, End};
use overlay_platform::os::{child, netns};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};

/// The overlay of every measurement.
pub const OVERLAY: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 8, 0), 24);

/// Length of a slot's prefix.
pub const SLOT_PREFIX: u8 = 29;

/// How the nodes are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One wire between the nodes.
    Pair,
    /// No wire between the nodes, one from each to the hub.
    Hub,
}

/// A party of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The node that sends.
    A,
    /// The node that receives.
    B,
    /// What stands between them.
    Hub,
}

impl Place {
    /// Its name, also in file names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::Hub => "hub",
        }
    }

    /// Its tunnel device. One mount namespace holds the control sockets of all, so the names differ.
    #[must_use]
    pub fn device(self) -> &'static str {
        match self {
            Self::A => "benchA",
            Self::B => "benchB",
            Self::Hub => "benchH",
        }
    }

    /// Its address in the overlay.
    #[must_use]
    pub fn overlay(self) -> Ipv4Addr {
        Ipv4Addr::new(172, 16, 8, self.slot_number() + 1)
    }

    /// The last octet of its slot's first address. Programs without slots give the hub an address as well.
    #[must_use]
    pub fn slot_number(self) -> u8 {
        match self {
            Self::A => 56,
            Self::B => 64,
            Self::Hub => 0,
        }
    }

    /// Its slot.
    #[must_use]
    pub fn slot(self) -> Ipv4Net {
        Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 8, self.slot_number()), SLOT_PREFIX)
    }
}

/// A party as another one sees it.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Who it is.
    pub place: Place,
    /// Where it is in the underlay.
    pub endpoint: Ipv4Addr,
    /// What lies behind it in the overlay.
    pub networks: Vec<Ipv4Net>,
}

/// Namespaces and wires. They are gone when the last descriptor and process in them are.
#[derive(Debug)]
pub struct Topology {
    /// How the nodes are joined.
    pub shape: Shape,
    a: OwnedFd,
    b: OwnedFd,
    hub: Option<OwnedFd>,
}

/// Moves this process into a world of its own: an empty network, and a /run of its own for control sockets. Before any thread
/// is started.
///
/// # Errors
/// As unshare(2) and mount(2).
pub fn leave_the_host() -> Result<()> {
    netns::unshare_world().context("a network namespace (run as root)")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>)
        .context("a /run of our own")?;
    Ok(())
}

impl Topology {
    /// Lays the wires. `wire` turns off the segmentation offloads of the wires, so that trains are cut into real frames of 1,500
    /// bytes, as a network card would.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn lay(shape: Shape, wire: bool) -> Result<Self> {
        let [a, b] = [netns::create()?, netns::create()?];
        let hub = if shape == Shape::Hub { Some(netns::create()?) } else { None };
        let topology = Self { shape, a, b, hub };
        for &place in topology.places() {
            let namespace = topology.namespace(place);
            link::loopback_up(namespace)?;
            netns::run_in(namespace, || settings(place))?;
        }
        let wires: &[_] = match shape {
            Shape::Pair => &[(Place::A, "toB", Place::B, "toA", 0)],
            Shape::Hub => {
                &[(Place::A, "toHub", Place::Hub, "toA", 1), (Place::B, "toHub", Place::Hub, "toB", 2)]
            }
        };
        for &(left, left_name, right, right_name, number) in wires {
            let [left_net, right_net] = [1, 2].map(|host| net(number, host));
            link::veth(
                End { name: left_name, namespace: topology.namespace(left), addresses: &[left_net] },
                End { name: right_name, namespace: topology.namespace(right), addresses: &[right_net] },
            )?;
            if wire {
                let off = ["tso", "off", "gso", "off", "tx-udp-segmentation", "off", "gro", "on"];
                topology.run(left, Command::new("ethtool").args(["-K", left_name]).args(off))?;
                topology.run(right, Command::new("ethtool").args(["-K", right_name]).args(off))?;
            }
        }
        Ok(topology)
    }

    /// Everybody, the hub first.
    #[must_use]
    pub fn places(&self) -> &'static [Place] {
        match self.shape {
            Shape::Pair => &[Place::A, Place::B],
            Shape::Hub => &[Place::Hub, Place::A, Place::B],
        }
    }

    /// The network namespace of `place`. Without a hub, the hub's is A's.
    #[must_use]
    pub fn namespace(&self, place: Place) -> BorrowedFd<'_> {
        match place {
            Place::A => self.a.as_fd(),
            Place::B => self.b.as_fd(),
            Place::Hub => self.hub.as_ref().unwrap_or(&self.a).as_fd(),
        }
    }

    /// Whom `place` speaks with in the underlay.
    #[must_use]
    pub fn remotes(&self, place: Place) -> Vec<Remote> {
        let remote = |place, number, host, networks: &[Ipv4Net]| Remote {
            place,
            endpoint: Ipv4Addr::new(10, 99, number, host),
            networks: networks.to_vec(),
        };
        match (self.shape, place) {
            (Shape::Pair, Place::A) => vec![remote(Place::B, 0, 2, &[Place::B.slot()])],
            (Shape::Pair, _) => vec![remote(Place::A, 0, 1, &[Place::A.slot()])],
            (Shape::Hub, Place::Hub) => {
                vec![remote(Place::A, 1, 1, &[Place::A.slot()]), remote(Place::B, 2, 1, &[Place::B.slot()])]
            }
            (Shape::Hub, Place::A) => vec![remote(Place::Hub, 1, 2, &[OVERLAY])],
            (Shape::Hub, Place::B) => vec![remote(Place::Hub, 2, 2, &[OVERLAY])],
        }
    }

    /// Starts `command` at `place`. It is killed when the calling thread ends.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, place: Place, command: Command) -> Result<Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        child::spawn_in(self.namespace(place), command)
            .with_context(|| format!("{program} cannot be started"))
    }

    /// Runs `command` at `place` to its end, and returns what it printed.
    ///
    /// # Errors
    /// When it fails: what it said.
    pub fn run(&self, place: Place, command: &mut Command) -> Result<String> {
        let mut owned = Command::new(command.get_program());
        owned.args(command.get_args()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self.spawn(place, owned)?.wait_with_output()?;
        if !output.status.success() {
            bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `ip` with these words at `place`.
    ///
    /// # Errors
    /// As [`Topology::run`].
    pub fn ip(&self, place: Place, words: &str) -> Result<String> {
        self.run(place, Command::new("ip").args(words.split_whitespace()))
    }
}

/// The hub forwards (only the run without a tunnel needs it), and nobody checks the way back: overlay addresses come in over
/// several interfaces.
fn settings(place: Place) -> io::Result<()> {
    let ipv4 = "/proc/sys/net/ipv4";
    for name in ["all", "default"] {
        fs::write(format!("{ipv4}/conf/{name}/rp_filter"), "0")?;
    }
    if place == Place::Hub {
        fs::write(format!("{ipv4}/ip_forward"), "1")?;
    }
    Ok(())
}

/// The address of `host` on wire `number`.
fn net(number: u8, host: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(10, 99, number, host)), 30)
}
