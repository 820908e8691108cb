//! plain-gso: no cryptography at all, with the offloads of TUN and UDP. What a tunnel in user space could reach at best.
//!
//! `benches/ceiling/plainfwd.c`, compiled by `benches/get-rivals`. Its datagrams are as large as WireGuard's.

use super::Site;
use crate::process::Daemon;
use anyhow::Result;

/// The UDP port of every place.
const PORT: u16 = 6000;

/// WireGuard's, so that packets are of the same size.
const MTU: u16 = 1420;

/// Starts it, and configures its device.
pub fn start(site: &Site<'_>) -> Result<Daemon> {
    let mut command = site.command()?;
    command.arg("-g").arg(site.device()).arg(PORT.to_string());
    for remote in site.remotes() {
        for network in &remote.networks {
            command.arg(format!("{network}={}:{PORT}", remote.endpoint));
        }
    }
    let mut daemon = site.start(command)?;
    site.wait_for_device(&mut daemon)?;
    site.configure_device(MTU)?;
    Ok(daemon)
}
