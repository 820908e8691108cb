//! The plan: an overlay cut into slots, and one ready pack for each node, hub and plain WireGuard member.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use zeroize::Zeroizing;

use crate::{Diagnostic, Diagnostics, Endpoint, Route};

/// Who is in the overlay and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `--overlay`
    pub overlay: Ipv4Net,
    /// The prefix length of every slot.
    pub slot_prefix: u8,
    /// `--node NAME=SLOT`, with `@ENDPOINT` for a node that others reach directly.
    pub nodes: Vec<PlanNode>,
    /// `--hub NAME=ENDPOINT`
    pub hubs: Vec<PlanHub>,
    /// `--route CIDR=VIA`
    pub routes: Vec<Route>,
    /// `--dns ADDRESS`
    pub dns: Vec<Ipv4Addr>,
    /// `--member NAME=CIDR[,CIDR]`: plain WireGuard members.
    pub members: Vec<PlanMember>,
}

/// A node of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanNode {
    /// Unique in the overlay.
    pub name: String,
    /// `56` or `172.16.8.56`.
    pub slot: String,
    /// Where the others reach it directly, when that is known.
    pub endpoint: Option<Endpoint>,
}

/// A hub of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanHub {
    /// Unique in the overlay.
    pub name: String,
    /// Where every member reaches it.
    pub endpoint: Endpoint,
}

/// A plain WireGuard member of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanMember {
    /// Unique in the overlay.
    pub name: String,
    /// What it owns: a piece of the overlay outside every slot, networks behind it, or both.
    pub allowed_ips: Vec<Ipv4Net>,
}

/// One file of a pack.
#[derive(Clone, Debug)]
pub struct PackFile {
    /// Relative to the output folder, with `/`: `cluster-1/config.toml`.
    pub path: String,
    /// The whole text.
    pub contents: Zeroizing<String>,
    /// It holds a key: nobody but its owner may read it.
    pub secret: bool,
}

impl Plan {
    /// Every mistake in the plan, each at its flag (`--node`, line 0); the warnings when there is no error.
    ///
    /// # Errors
    /// When the plan holds a mistake.
    pub fn check(&self) -> Result<Vec<Diagnostic>, Diagnostics> {
        Ok(Vec::new())
    }

    /// The packs, with keys made out of `entropy`, which fills the buffer that it is given.
    ///
    /// # Errors
    /// As [`Plan::check`].
    pub fn packs(&self, entropy: &mut dyn FnMut(&mut [u8])) -> Result<Vec<PackFile>, Diagnostics> {
        let _ = entropy;
        self.check()?;
        Ok(Vec::new())
    }
}
