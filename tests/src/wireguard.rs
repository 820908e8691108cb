//! Debian's wireguard-go, configured by `wg` and `ip` as its users do.

use std::time::Duration;

use crate::keys::Keys;
use crate::node::Node;
use crate::process::Process;
use crate::wait::until;

/// The interface of every wireguard-go.
pub const DEVICE: &str = "wg0";

/// A wireguard-go that runs in a node.
pub struct WireGuard {
    /// The node.
    pub node: Node,
    /// Its keys.
    pub keys: Keys,
    _process: Process,
}

/// A peer of a wireguard-go.
#[derive(Clone, Debug, Default)]
pub struct Peer<'a> {
    /// Its public key, base64.
    pub public: &'a str,
    /// What it may send from, and what is sent to it: `172.16.8.0/24,172.16.0.1/32`.
    pub allowed_ips: &'a str,
    /// Where it is, if that is known.
    pub endpoint: Option<String>,
    /// A preshared key, base64.
    pub preshared: Option<&'a str>,
    /// Seconds between keepalives; 0 is none.
    pub keepalive: u16,
}

impl WireGuard {
    /// Starts wireguard-go with that address on its interface; its UDP port is 51820.
    #[track_caller]
    pub fn start(node: &Node, keys: Keys, address: &str) -> Self {
        let mut command = node.command("wireguard-go");
        command.args(["-f", DEVICE]).env("LOG_LEVEL", "verbose").env("WG_PROCESS_FOREGROUND", "1");
        let mut process = node.spawn_command("wireguard-go", command, "wireguard-go -f wg0");
        // Not before it listens: wg removes a socket that refuses it, and wireguard-go then ends.
        process.wait_stdout(Duration::from_secs(30), |line| line.contains("UAPI listener started"));
        until("wg speaks to wireguard-go", || node.run("wg show wg0").code == Some(0));
        let key = node.write("wg0.key", &keys.private);
        node.ok(&format!("wg set {DEVICE} private-key {} listen-port 51820", key.display()));
        node.ok(&format!("ip addr add {address} dev {DEVICE}"));
        node.ok(&format!("ip link set {DEVICE} mtu 1420 up"));
        Self { node: node.clone(), keys, _process: process }
    }

    /// Adds or changes a peer; its allowed networks become routes.
    #[track_caller]
    pub fn peer(&self, peer: &Peer<'_>) {
        let mut line = format!("wg set {DEVICE} peer {} allowed-ips {}", peer.public, peer.allowed_ips);
        if let Some(endpoint) = &peer.endpoint {
            line.push_str(&format!(" endpoint {endpoint}"));
        }
        if let Some(preshared) = peer.preshared {
            let path = self.node.write("wg0.psk", preshared);
            line.push_str(&format!(" preshared-key {}", path.display()));
        }
        if peer.keepalive > 0 {
            line.push_str(&format!(" persistent-keepalive {}", peer.keepalive));
        }
        self.node.ok(&line);
        for network in peer.allowed_ips.split(',') {
            self.node.ok(&format!("ip route replace {network} dev {DEVICE}"));
        }
    }

    /// The seconds since 1970 of the last handshake with that peer; 0 when there was none.
    #[must_use]
    #[track_caller]
    pub fn latest_handshake(&self, public: &str) -> u64 {
        self.number(&format!("wg show {DEVICE} latest-handshakes"), public, 1)
    }

    /// Bytes received from that peer, keepalives included.
    #[must_use]
    #[track_caller]
    pub fn received(&self, public: &str) -> u64 {
        self.number(&format!("wg show {DEVICE} transfer"), public, 1)
    }

    /// Where it last heard that peer.
    #[must_use]
    #[track_caller]
    pub fn endpoint(&self, public: &str) -> String {
        self.column(&format!("wg show {DEVICE} endpoints"), public, 1)
    }

    #[track_caller]
    fn column(&self, line: &str, public: &str, column: usize) -> String {
        let shown = self.node.ok(line);
        let row = shown
            .lines()
            .find(|row| row.starts_with(public))
            .unwrap_or_else(|| panic!("no peer {public}:\n{shown}"));
        row.split_whitespace().nth(column).unwrap_or_default().to_owned()
    }

    #[track_caller]
    fn number(&self, line: &str, public: &str, column: usize) -> u64 {
        let text = self.column(line, public, column);
        text.parse().unwrap_or_else(|error| panic!("{text:?} is no number: {error}"))
    }
}
