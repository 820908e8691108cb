//! The programs that wg(8) configures over a socket in /run/wireguard: wireguard-go, boringtun-cli, gotatun.

use super::{Program, Site, key};
use crate::process::Daemon;
use anyhow::Result;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The UDP port of every place.
const PORT: u16 = 51820;

/// The MTU that WireGuard's tools choose on Ethernet: 1,500 less 80 (wg-quick(8)).
const MTU: u16 = 1420;

/// Starts it, and configures it.
pub fn start(site: &Site<'_>) -> Result<Daemon> {
    let mut command = site.command()?;
    command.arg("--foreground");
    if site.contender.program != Program::WireguardGo {
        // There is no other user in this world whom they could become.
        command.arg("--disable-drop-privileges");
    }
    // They log every packet that they drop otherwise.
    command.env("LOG_LEVEL", "error").env("WG_LOG_LEVEL", "error");
    fs::create_dir_all("/run/wireguard")?;
    let socket = format!("/run/wireguard/{}.sock", site.device());
    let _ = fs::remove_file(&socket);
    command.arg(site.device());
    let mut daemon = site.start(command)?;
    site.wait_for_device(&mut daemon)?;
    daemon.wait_until("no control socket", |_| Ok(Path::new(&socket).exists()))?;

    let key_file = site.write(&format!("{}.key", site.place.name()), &key(site.place).to_base64())?;
    let mut wg = Command::new("wg");
    wg.args(["set", site.device(), "listen-port", &PORT.to_string(), "private-key"]).arg(key_file);
    for remote in site.remotes() {
        let networks: Vec<_> = remote.networks.iter().map(ToString::to_string).collect();
        wg.args(["peer", &key(remote.place).public().to_string()]);
        wg.args(["endpoint", &format!("{}:{PORT}", remote.endpoint), "allowed-ips", &networks.join(",")]);
    }
    site.topology.run(site.place, &mut wg)?;
    site.configure_device(MTU)?;
    Ok(daemon)
}
