//! The contenders: programs that carry packets between the same addresses. One file tells how each is set up.
//!
//! All get what a user would write: default ciphers and threads, the MTU that the program recommends. A new one is a variant of
//! [`Program`], a file, and a line in each `match` below.

mod nebula;
mod openvpn;
mod overlay_gw;
mod plain;
mod veth;
mod wireguard;

use crate::build;
use crate::process::Daemon;
use crate::topology::{Place, Remote, Topology};
use anyhow::{Context, Result, bail};
use overlay_config::PrivateKey;
use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// No tunnel: the wire itself, and at a hub the kernel's routing. What the machine can do.
    Veth,
    /// No cryptography, with every offload: the ceiling of a tunnel in user space.
    PlainGso,
    /// Ours. Through a hub: routed, the nodes have no session with each other.
    OverlayGw,
    /// Ours, with nodes that know each other: through a hub their datagrams are sealed end to end.
    OverlayGwSealed,
    /// wireguard-go: Go, with segmentation offload since 2023.
    WireguardGo,
    /// boringtun-cli: Rust, by Cloudflare.
    Boringtun,
    /// gotatun: Rust, by Mullvad, from boringtun.
    Gotatun,
    /// OpenVPN with AES-256-GCM, in user space.
    Openvpn,
    /// nebula: Go, by Slack.
    Nebula,
}

impl Program {
    /// All, in the order of the table.
    pub const ALL: [Self; 9] = [
        Self::Veth,
        Self::PlainGso,
        Self::OverlayGw,
        Self::OverlayGwSealed,
        Self::WireguardGo,
        Self::Gotatun,
        Self::Boringtun,
        Self::Openvpn,
        Self::Nebula,
    ];

    /// What it is called on the command line and in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::PlainGso => "plain-gso",
            Self::OverlayGw => "overlay-gw",
            Self::OverlayGwSealed => "overlay-gw-sealed",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun",
            Self::Gotatun => "gotatun",
            Self::Openvpn => "openvpn",
            Self::Nebula => "nebula",
        }
    }

    /// The program of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|program| program.name() == name)
    }

    /// Whether it is measured when nobody asks for it.
    #[must_use]
    pub fn by_default(self) -> bool {
        self != Self::OverlayGwSealed
    }

    /// Whether it is ours.
    #[must_use]
    pub fn is_ours(self) -> bool {
        matches!(self, Self::OverlayGw | Self::OverlayGwSealed)
    }

    /// Payload in bytes of the large UDP datagrams: as much as fits into its MTU.
    #[must_use]
    pub fn large_payload(self) -> usize {
        match self {
            // Its default MTU is 1,300.
            Self::Nebula => 1272,
            _ => 1372,
        }
    }

    /// Whether it is a tunnel of somebody else's, with cryptography.
    #[must_use]
    pub fn is_rival(self) -> bool {
        !self.is_ours() && !matches!(self, Self::Veth | Self::PlainGso)
    }

    fn binary(self) -> Option<&'static str> {
        Some(match self {
            Self::Veth | Self::OverlayGw | Self::OverlayGwSealed => return None,
            Self::PlainGso => "plainfwd",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun-cli",
            Self::Gotatun => "gotatun",
            Self::Openvpn => "openvpn",
            Self::Nebula => "nebula",
        })
    }
}

/// A program that is here.
#[derive(Clone, Debug)]
pub struct Contender {
    /// Which one.
    pub program: Program,
    /// Its file; none where there is no process.
    pub path: Option<PathBuf>,
    /// Its version, as it says itself.
    pub version: String,
    /// A library to load into it that counts allocations, and the folder for the counts.
    pub counts_allocations: Option<(PathBuf, PathBuf)>,
    /// Members that the hub has beside the two that are there (ours only).
    pub absent_members: usize,
}

impl Contender {
    /// Looks for the program: in the folder of `get-rivals`, then in the system. `None` when it is not installed.
    ///
    /// # Errors
    /// When ours does not build.
    pub fn find(program: Program) -> Result<Option<Self>> {
        let path = match program {
            Program::Veth => {
                return Ok(Some(Self {
                    program,
                    path: None,
                    version: String::new(),
                    counts_allocations: None,
                    absent_members: 0,
                }));
            }
            Program::OverlayGw | Program::OverlayGwSealed => build::overlay_gw()?,
            _ => match program.binary().and_then(installed) {
                Some(path) => path,
                None => return Ok(None),
            },
        };
        // It would take the flag for a device's name.
        let version = if program == Program::PlainGso { String::new() } else { version(&path) };
        Ok(Some(Self { program, path: Some(path), version, counts_allocations: None, absent_members: 0 }))
    }

    /// Its name and version.
    #[must_use]
    pub fn title(&self) -> String {
        let title = format!("{} {}", self.program.name(), self.version);
        title.trim_end().to_owned()
    }

    /// Starts it at every place of `topology`, with its files in `folder`. The daemons run on when this returns; whether there is
    /// a path yet is another question.
    ///
    /// # Errors
    /// When one does not start: with its last words.
    pub fn start(&self, topology: &Topology, folder: &Path) -> Result<Vec<Daemon>> {
        let mut daemons = Vec::new();
        for &place in topology.places() {
            let site = Site { contender: self, topology, place, folder };
            let started = match self.program {
                Program::Veth => veth::lay(&site).map(|()| None),
                Program::OverlayGw => overlay_gw::start(&site, false).map(Some),
                Program::OverlayGwSealed => overlay_gw::start(&site, true).map(Some),
                Program::WireguardGo | Program::Boringtun | Program::Gotatun => {
                    wireguard::start(&site).map(Some)
                }
                Program::PlainGso => plain::start(&site).map(Some),
                Program::Openvpn => openvpn::start(&site).map(Some),
                Program::Nebula => nebula::start(&site).map(Some),
            };
            daemons.extend(started.with_context(|| format!("{} at {}", self.program.name(), place.name()))?);
        }
        Ok(daemons)
    }
}

/// Where one of a contender's processes runs.
struct Site<'a> {
    contender: &'a Contender,
    topology: &'a Topology,
    place: Place,
    folder: &'a Path,
}

impl Site<'_> {
    fn command(&self) -> Result<Command> {
        let mut command =
            Command::new(self.contender.path.as_ref().context("this contender has no program")?);
        if let Some((library, folder)) = &self.contender.counts_allocations {
            let counts = folder.join(format!("{}.allocations", self.place.name()));
            fs::write(&counts, [0; 128 * 16])?;
            command.env("LD_PRELOAD", library).env("COUNT_ALLOCATIONS", counts);
        }
        Ok(command)
    }

    fn start(&self, command: Command) -> Result<Daemon> {
        Daemon::start(self.topology, self.place, self.folder, command)
    }

    fn remotes(&self) -> Vec<Remote> {
        self.topology.remotes(self.place)
    }

    fn device(&self) -> &'static str {
        self.place.device()
    }

    /// Writes a file that only we can read, and returns where it is.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let mut options = fs::OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?
            .write_all(text.as_bytes())?;
        Ok(path)
    }

    /// Waits until the daemon has made its device.
    fn wait_for_device(&self, daemon: &mut Daemon) -> Result<()> {
        daemon.wait_until("no device", |_| {
            Ok(self.topology.ip(self.place, &format!("link show dev {}", self.device())).is_ok())
        })
    }

    /// Address and routes, for daemons that leave these to the user.
    fn configure_device(&self, mtu: u16) -> Result<()> {
        let (ip, device) = (|words: String| self.topology.ip(self.place, &words), self.device());
        ip(format!("address add {}/32 dev {device}", self.place.overlay()))?;
        ip(format!("link set {device} up mtu {mtu}"))?;
        for network in self.remotes().iter().flat_map(|remote| &remote.networks) {
            ip(format!("route replace {network} dev {device}"))?;
        }
        Ok(())
    }
}

/// The WireGuard key of a place. Always the same: it protects nothing but this measurement.
fn key(place: Place) -> PrivateKey {
    PrivateKey::from_bytes([place.slot_number() | 1; 32])
}

/// The file of a program that is not ours.
fn installed(name: &str) -> Option<PathBuf> {
    rivals_folders().chain(search_path()).map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn rivals_folders() -> impl Iterator<Item = PathBuf> {
    let given = env::var_os("RIVALS_DIR").map(PathBuf::from);
    // This program is target/<profile>/side-by-side, and get-rivals fills target/rivals.
    let program = env::current_exe().unwrap_or_default();
    let target = program.ancestors().nth(2).map(|target| target.join("rivals"));
    [given, target].into_iter().flatten().map(|folder| folder.join("bin"))
}

/// $PATH, and where Debian keeps the administrator's programs.
fn search_path() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect::<Vec<_>>().into_iter()
}

/// What the program says of itself: the first word that looks like a version.
fn version(path: &Path) -> String {
    // nebula knows only the short form.
    for flag in ["--version", "-version"] {
        let Ok(output) = Command::new(path).arg(flag).output() else { continue };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if let Some(version) = text.split_whitespace().find_map(as_version) {
            return version.to_owned();
        }
    }
    String::new()
}

fn as_version(word: &str) -> Option<&str> {
    let version = word.strip_prefix('v').unwrap_or(word);
    let looks = version.starts_with(|c: char| c.is_ascii_digit()) && version.contains('.');
    looks.then_some(version)
}

/// The program beside another one (nebula-cert beside nebula).
fn sibling(path: &Path, name: &str) -> Result<PathBuf> {
    let sibling = path.with_file_name(name);
    if !sibling.is_file() {
        bail!("{} is not there", sibling.display());
    }
    Ok(sibling)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_what_programs_say() {
        let found = |text: &str| text.split_whitespace().find_map(as_version).map(str::to_owned);
        assert_eq!(found("wireguard-go v0.0.20250522\nUserspace").as_deref(), Some("0.0.20250522"));
        assert_eq!(found("OpenVPN 2.6.14 x86_64-pc-linux-gnu").as_deref(), Some("2.6.14"));
        assert_eq!(found("Version: 1.11.0").as_deref(), Some("1.11.0"));
        assert_eq!(found("no number"), None);
    }

    #[test]
    fn every_program_is_found_by_its_name() {
        assert!(Program::ALL.into_iter().all(|program| Program::named(program.name()) == Some(program)));
    }

    #[test]
    fn the_keys_of_the_places_differ() {
        let mut keys = [Place::A, Place::B, Place::Hub].map(|place| key(place).public());
        keys.sort_unstable();
        assert!(keys.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
