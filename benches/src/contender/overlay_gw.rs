//! overlay-gw, through its configuration file.

use super::{Site, key};
use crate::process::Daemon;
use crate::topology::{OVERLAY, Place, SLOT_PREFIX, Shape};
use anyhow::Result;

/// The hub's name.
const HUB: &str = "hub";

/// The UDP port of every place.
const PORT: u16 = 51820;

/// Starts it. With `acquainted`, nodes that meet at a hub know each other.
pub fn start(site: &Site<'_>, acquainted: bool) -> Result<Daemon> {
    let name = site.place.name();
    let key_file = site.write(&format!("{name}.key"), &format!("{}\n", *key(site.place).to_base64()))?;
    let mut text = "version = 1\n".to_owned();
    let role = if site.place == Place::Hub { "hub" } else { "node" };
    text += &format!("[{role}]\nname = \"{name}\"\nprivate_key_file = \"{}\"\n", key_file.display());
    text += &format!("listen_port = {PORT}\n");
    if site.place != Place::Hub {
        text += &format!("slot = {}\n", site.place.slot_number());
    }
    text += &format!("[overlay]\ncidr = \"{OVERLAY}\"\nslot_prefix = {SLOT_PREFIX}\n");
    if site.place != Place::Hub {
        text += &format!("[device]\nname = \"{}\"\nmtu = 1420\n", site.device());
    }
    for remote in site.remotes() {
        let endpoint = format!("endpoint = \"{}:{PORT}\"\n", remote.endpoint);
        text += &match (remote.place, site.topology.shape) {
            (Place::Hub, _) => {
                format!(
                    "[[hubs]]\nname = \"{HUB}\"\npublic_key = \"{}\"\n{endpoint}",
                    key(Place::Hub).public()
                )
            }
            (node, Shape::Pair) => member(node) + &endpoint,
            (node, Shape::Hub) => member(node),
        };
    }
    if acquainted && site.topology.shape == Shape::Hub && site.place != Place::Hub {
        text += &member(if site.place == Place::A { Place::B } else { Place::A });
    }
    let config = site.write(&format!("{name}.toml"), &text)?;

    let mut command = site.command()?;
    command.arg(if site.place == Place::Hub { "hub" } else { "up" }).arg("--config").arg(config);
    command.arg("--state-dir").arg(site.folder.join(format!("{name}.state")));
    command.arg("--control").arg(site.folder.join(format!("{name}.sock")));
    let mut daemon = site.start(command)?;
    daemon.wait_until("not ready", |daemon| Ok(daemon.output().lines().any(|line| line == "ready")))?;
    Ok(daemon)
}

fn member(node: Place) -> String {
    let (name, key, slot) = (node.name(), key(node).public(), node.slot_number());
    format!("[[peers]]\nname = \"{name}\"\npublic_key = \"{key}\"\nslot = {slot}\n")
}
