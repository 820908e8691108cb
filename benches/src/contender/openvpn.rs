//! OpenVPN in user space, with AES-256-GCM: between two nodes without a server, through a hub with one that lets its clients talk.

use super::Site;
use crate::process::Daemon;
use crate::topology::{OVERLAY, Place, Shape};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Starts it.
pub fn start(site: &Site<'_>) -> Result<Daemon> {
    let name = site.place.name();
    let mut text = format!(
        "dev {}\ndev-type tun\nproto udp4\nport 1194\nverb 1\ndh none\ndisable-dco\n\
         data-ciphers AES-256-GCM\ncipher AES-256-GCM\n",
        site.device()
    );
    let (certificate, key) = certificate(site.folder, site.place)?;
    text += &format!("cert {}\nkey {}\n<peer-fingerprint>\n", certificate.display(), key.display());
    for remote in site.remotes() {
        text += &format!("{}\n", fingerprint(site.folder, remote.place)?);
    }
    text += "</peer-fingerprint>\n";

    let own = site.place.overlay();
    match (site.topology.shape, site.place) {
        (Shape::Hub, Place::Hub) => {
            let clients = site.folder.join("clients");
            fs::create_dir_all(&clients)?;
            for client in [Place::A, Place::B] {
                // The common name of a certificate is the name of the place.
                let line = format!("ifconfig-push {} {}\n", client.overlay(), OVERLAY.netmask());
                fs::write(clients.join(client.name()), line)?;
            }
            text += &format!(
                "mode server\ntls-server\ntopology subnet\nclient-to-client\nclient-config-dir {}\n\
                 ifconfig {own} {}\npush \"topology subnet\"\n",
                clients.display(),
                OVERLAY.netmask()
            );
        }
        (shape, place) => {
            let remote = site.remotes().into_iter().next().context("a node has a remote")?;
            text += &format!("remote {}\n", remote.endpoint);
            text += &match (shape, place) {
                (Shape::Hub, _) => "client\n".to_owned(),
                (Shape::Pair, Place::A) => format!("tls-server\nifconfig {own} {}\n", Place::B.overlay()),
                (Shape::Pair, _) => format!("tls-client\nifconfig {own} {}\n", Place::A.overlay()),
            };
        }
    }
    let config = site.write(&format!("{name}.ovpn"), &text)?;
    let mut command = site.command()?;
    command.arg("--config").arg(config);
    let mut daemon = site.start(command)?;
    site.wait_for_device(&mut daemon)?;
    Ok(daemon)
}

/// Certificate and key of a place, made when they are not there yet.
fn certificate(folder: &Path, place: Place) -> Result<(std::path::PathBuf, std::path::PathBuf)> {
    let file = |ending| folder.join(format!("{}.{ending}", place.name()));
    let (certificate, key) = (file("crt"), file("pem"));
    if !certificate.exists() {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]);
        openssl.args(["-days", "30", "-subj", &format!("/CN={}", place.name()), "-keyout"]);
        openssl.arg(&key).arg("-out").arg(&certificate);
        run(&mut openssl)?;
    }
    Ok((certificate, key))
}

/// The SHA-256 fingerprint of a place's certificate.
fn fingerprint(folder: &Path, place: Place) -> Result<String> {
    let (certificate, _) = certificate(folder, place)?;
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(certificate);
    let text = run(&mut openssl)?;
    let (_, fingerprint) = text.split_once('=').context("openssl x509 -fingerprint")?;
    Ok(fingerprint.trim().to_owned())
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    anyhow::ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
