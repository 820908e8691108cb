//! Doubles for tests under Wine, which lacks what changes a host's network. Never in what is shipped: the feature
//! `doubles` is for tests alone, and even then the environment variable `OVERLAY_GW_DOUBLES` has to name a folder.
//!
//! The double of the host writes each change as a line of JSON into `host.jsonl` of that folder, and believes what is
//! written there and in `cluster.txt` (addresses that another program has put on the adapter, one a line).

use std::{
    fs,
    io::{self, Write},
    net::Ipv4Addr,
    path::PathBuf,
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::change::Change;

/// Names the folder of the doubles.
const FOLDER: &str = "OVERLAY_GW_DOUBLES";

fn folder() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

/// Whether a library that nobody signed is taken: the double of wintun.dll.
#[must_use]
pub fn accepts_unsigned() -> bool {
    folder().is_some()
}

/// As whom a service runs: under Wine as the one user that there is, or as whom a test says in a file called `service-account`.
#[must_use]
pub fn service_account() -> Option<String> {
    let folder = folder()?;
    let said = fs::read_to_string(folder.join("service-account")).ok();
    said.map(|sid| sid.trim().to_owned()).or_else(|| super::security::own_sid().ok())
}

/// Whether the adapter `name` is still the one that was made with the GUID `made`: under Wine the interface is Linux' and has
/// another GUID, and what tells is the file of the double of wintun.dll.
#[must_use]
pub fn is_still_there(name: &str, there: Option<u128>, made: u128) -> bool {
    folder().map_or(there == Some(made), |folder| folder.join(format!("adapter-{name}")).exists())
}

/// Panics when a test has asked for it with a file called `panic`, once.
///
/// # Panics
/// That is what it is for.
pub fn panic_if_asked() {
    if let Some(folder) = folder()
        && fs::remove_file(folder.join("panic")).is_ok()
    {
        // The lint is for packets; this is a test's wish.
        std::panic::panic_any("a test has asked for it");
    }
}

/// The double of the host, where one is wanted.
#[must_use]
pub fn host(device: &str) -> Option<RecordingHost> {
    folder().map(|folder| RecordingHost { folder, device: device.to_owned() })
}

/// One line of the record.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    device: String,
    done: Done,
    #[serde(flatten)]
    change: Change,
}

/// What was done with a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Done {
    Applied,
    Undone,
}

/// Stands for the host's network configuration, and records what is done to it.
#[derive(Clone, Debug)]
pub struct RecordingHost {
    folder: PathBuf,
    device: String,
}

impl RecordingHost {
    /// Makes a change; `false`: it was there.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn apply(&self, change: &Change) -> io::Result<bool> {
        if self.present(change) {
            return Ok(false);
        }
        self.write(Done::Applied, change)?;
        Ok(true)
    }

    /// Why the network's category is not to be had, when a test says so in a file called `public-network`.
    #[must_use]
    pub fn refuses_category(&self) -> Option<String> {
        fs::read_to_string(self.folder.join("public-network")).ok()
    }

    /// Whether the change is there.
    #[must_use]
    pub fn present(&self, change: &Change) -> bool {
        match (change, change.assigned()) {
            (_, Some(net)) => self.addresses().contains(&net),
            (Change::Dns { servers }, _) => self.dns() == *servers,
            _ => self.held().contains(change),
        }
    }

    /// Takes a change back; `false`: it was not there.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn undo(&self, change: &Change) -> io::Result<bool> {
        if !self.held().contains(change) {
            return Ok(false);
        }
        self.write(Done::Undone, change)?;
        Ok(true)
    }

    /// The addresses of the adapter: those of the record, and the cluster's.
    #[must_use]
    pub fn addresses(&self) -> Vec<Ipv4Net> {
        let mut list: Vec<Ipv4Net> = self.held().iter().filter_map(Change::assigned).collect();
        let foreign = fs::read_to_string(self.folder.join("cluster.txt")).unwrap_or_default();
        list.extend(foreign.lines().filter_map(|line| line.trim().parse::<Ipv4Net>().ok()));
        list
    }

    /// The DNS servers of the adapter: those of the record, or those that another program has set, one a line of `dns.txt`.
    #[must_use]
    pub fn dns(&self) -> Vec<Ipv4Addr> {
        if let Ok(foreign) = fs::read_to_string(self.folder.join("dns.txt")) {
            return foreign.lines().filter_map(|line| line.trim().parse().ok()).collect();
        }
        let set = self.held().into_iter().find_map(|change| match change {
            Change::Dns { servers } => Some(servers),
            _ => None,
        });
        set.unwrap_or_default()
    }

    /// The adapter is gone, and all that was on it but the firewall's rules.
    pub fn forget(&self) {
        for change in self.held().iter().rev().filter(|change| !matches!(change, Change::Firewall { .. })) {
            let _ = self.write(Done::Undone, change);
        }
    }

    fn held(&self) -> Vec<Change> {
        let text = fs::read_to_string(self.folder.join("host.jsonl")).unwrap_or_default();
        let mut held = Vec::new();
        for line in text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()) {
            if line.device != self.device {
                continue;
            }
            held.retain(|change| *change != line.change);
            if line.done == Done::Applied {
                held.push(line.change);
            }
        }
        held
    }

    fn write(&self, done: Done, change: &Change) -> io::Result<()> {
        let line = Line { device: self.device.clone(), done, change: change.clone() };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("host.jsonl"))?
            .write_all(&text)
    }
}
