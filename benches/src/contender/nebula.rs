//! nebula: certificates of its own kind; through a hub, the lighthouse is the relay.

use super::{Site, sibling};
use crate::process::Daemon;
use crate::topology::{OVERLAY, Place, Shape};
use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::process::Command;

/// The UDP port of every place.
const PORT: u16 = 4242;

/// Starts it.
pub fn start(site: &Site<'_>) -> Result<Daemon> {
    let name = site.place.name();
    let program = site.contender.path.as_deref().context("nebula has a program")?;
    sign(&sibling(program, "nebula-cert")?, site.folder, site.place)?;

    let through_hub = site.topology.shape == Shape::Hub;
    let at_hub = site.place == Place::Hub;
    let hubs = if through_hub && !at_hub { json!([Place::Hub.overlay()]) } else { json!([]) };
    let mut endpoints = Map::new();
    for remote in site.remotes().iter().filter(|remote| !through_hub || remote.place == Place::Hub) {
        endpoints.insert(remote.place.overlay().to_string(), json!([format!("{}:{PORT}", remote.endpoint)]));
    }
    let file = |name: String| site.folder.join(name).display().to_string();
    let anything = json!([{"port": "any", "proto": "any", "host": "any"}]);
    // JSON is YAML.
    let config = json!({
        "pki": {"ca": file("ca.crt".into()), "cert": file(format!("{name}.crt")), "key": file(format!("{name}.key"))},
        "static_host_map": Value::Object(endpoints),
        "lighthouse": {"am_lighthouse": at_hub, "interval": 10, "hosts": &hubs},
        "listen": {"host": "0.0.0.0", "port": PORT},
        "relay": {"am_relay": at_hub, "use_relays": true, "relays": &hubs},
        "tun": {"dev": site.device()},
        "logging": {"level": "warning"},
        "firewall": {"outbound": &anything, "inbound": &anything},
    });
    let config = site.write(&format!("{name}.yml"), &config.to_string())?;
    let mut command = site.command()?;
    command.arg("-config").arg(config);
    let mut daemon = site.start(command)?;
    site.wait_for_device(&mut daemon)?;
    Ok(daemon)
}

/// The certificate of a place, signed by an authority that is made for this measurement.
fn sign(tool: &Path, folder: &Path, place: Place) -> Result<()> {
    let run = |words: &[&str]| {
        let output = Command::new(tool).current_dir(folder).args(words).output()?;
        ensure!(output.status.success(), "nebula-cert: {}", String::from_utf8_lossy(&output.stderr));
        anyhow::Ok(())
    };
    if !folder.join("ca.crt").exists() {
        run(&["ca", "-name", "bench"])?;
    }
    let address = format!("{}/{}", place.overlay(), OVERLAY.prefix_len());
    run(&["sign", "-name", place.name(), "-ip", &address])
}
