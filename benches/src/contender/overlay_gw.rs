//! overlay-gw, through its configuration file.

use super::{Site, key};
use crate::process::Daemon;
use crate::topology::{OVERLAY, Place, SLOT_PREFIX, Shape};
use anyhow::Result;
use ipnet::Ipv4Net;
use overlay_config::PrivateKey;
use std::net::Ipv4Addr;

/// The hub's name.
const HUB: &str = "hub";

/// An overlay with room for many members, in which the places have the same slots.
const LARGE_OVERLAY: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 16);

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
        text += &format!("slot = \"{}\"\n", site.place.slot().addr());
    }
    let absent = site.contender.absent_members;
    let overlay = if absent > 0 { LARGE_OVERLAY } else { OVERLAY };
    text += &format!("[overlay]\ncidr = \"{overlay}\"\nslot_prefix = {SLOT_PREFIX}\n");
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
    if site.place == Place::Hub {
        text.extend(absent_members(absent));
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
    member_of(node.name(), &key(node), node.slot().addr())
}

fn member_of(name: &str, key: &PrivateKey, slot: Ipv4Addr) -> String {
    format!("[[peers]]\nname = \"{name}\"\npublic_key = \"{}\"\nslot = \"{slot}\"\n", key.public())
}

/// Members that are nowhere, each with a key and a slot of its own.
fn absent_members(count: usize) -> impl Iterator<Item = String> {
    let taken = [Place::A, Place::B].map(|place| place.slot().addr());
    let free = LARGE_OVERLAY.subnets(SLOT_PREFIX).into_iter().flatten().map(|slot| slot.addr());
    free.filter(move |slot| !taken.contains(slot)).take(count).map(|slot| {
        let mut bytes = [0x40; 32];
        for (to, from) in bytes.iter_mut().zip(slot.octets()) {
            *to = from;
        }
        member_of(&format!("absent-{slot}"), &PrivateKey::from_bytes(bytes), slot)
    })
}
