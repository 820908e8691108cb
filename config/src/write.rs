//! A configuration back to TOML, in the order and words of the contract, and the key files that it names.

use std::fmt::{Display, Write as _};

use zeroize::Zeroizing;

use crate::words::{KIND, MEMBERSHIP, MODE, REFUSE, RELAY, word};
use crate::{
    CONFIG_VERSION, Config, Device, Floating, Hub, HubKind, Membership, Mode, Overlay, Peer, PresharedKey,
    Refuse, Relay, Role, Slot, Windows,
};

/// A file with a secret that a written configuration refers to.
#[derive(Clone, Debug)]
pub struct KeyFile {
    /// Beside the configuration: the relative path that it holds.
    pub path: String,
    /// Base64 and a line end.
    pub contents: Zeroizing<String>,
}

impl Config {
    /// The configuration as TOML; what has its default is left out. Secrets are not in it: it refers to the files
    /// of [`Config::key_files`]. Nor are the warnings, and the address that only `--listen` sets.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut toml = Toml(String::new());
        toml.line("version", CONFIG_VERSION);
        let key = self.private_key().map(|_| key_path(self.name()));
        match &self.role {
            Role::Node(node) => {
                toml.section("[node]");
                toml.text("name", &node.name);
                toml.slot("slot", node.slot, &self.overlay);
            }
            Role::Hub(hub) => {
                toml.section("[hub]");
                toml.text("name", &hub.name);
            }
        }
        toml.maybe_text("private_key_file", key.as_ref());
        toml.line("listen_port", self.listen().port);
        toml.overlay(&self.overlay);
        self.device_section(&mut toml);
        if let Some(group) = &self.control.group {
            toml.section("[control]");
            toml.text("group", group);
        }
        for hub in &self.hubs {
            toml.hub(hub);
        }
        for peer in &self.peers {
            toml.peer(peer, &self.overlay);
        }
        toml.0
    }

    /// The secrets that [`Config::to_toml`] refers to: `NAME.key` and one `NAME.psk` for each preshared key.
    #[must_use]
    pub fn key_files(&self) -> Vec<KeyFile> {
        let mut files = Vec::new();
        let mut add = |path, base64: Zeroizing<String>| {
            let mut contents = Zeroizing::new(String::with_capacity(base64.len() + 1));
            contents.push_str(&base64);
            contents.push('\n');
            files.push(KeyFile { path, contents });
        };
        if let Some(key) = self.private_key() {
            add(key_path(self.name()), key.to_base64());
        }
        let hubs = self.hubs.iter().map(|hub| (&hub.name, &hub.preshared_key));
        let peers = self.peers.iter().map(|peer| (&peer.name, &peer.preshared_key));
        for (name, key) in hubs.chain(peers) {
            if let Some(key) = key {
                add(psk_path(name), key.to_base64());
            }
        }
        files
    }

    fn device_section(&self, toml: &mut Toml) {
        let default = Device::default();
        let Device { name, mode, mtu, queues, windows } = &self.device;
        if self.device == default || matches!(self.role, Role::Hub(_)) {
            return;
        }
        toml.section("[device]");
        if *name != default.name {
            toml.text("name", name);
        }
        if *mode != Mode::default() {
            toml.text("mode", word(mode, MODE));
        }
        if *mtu != default.mtu {
            toml.line("mtu", mtu);
        }
        if let Some(queues) = queues {
            toml.line("queues", queues);
        }
        let Windows { private_network, icmp, cluster, smb, rpc } = windows;
        let switches = [
            ("private_network", private_network),
            ("icmp", icmp),
            ("cluster", cluster),
            ("smb", smb),
            ("rpc", rpc),
        ];
        if *windows != default.windows {
            toml.section("[device.windows]");
            // All are on that are not written.
            for (key, _) in switches.into_iter().filter(|(_, on)| !**on) {
                toml.line(key, false);
            }
        }
    }
}

/// What [`crate::load::load_overlay`] reads.
pub(crate) fn overlay_to_toml(overlay: &Overlay, plain: &[Peer]) -> String {
    let mut toml = Toml(String::new());
    toml.line("version", CONFIG_VERSION);
    toml.overlay(overlay);
    for peer in plain {
        toml.peer(peer, overlay);
    }
    toml.0
}

fn key_path(name: &str) -> String {
    format!("{name}.key")
}

fn psk_path(name: &str) -> String {
    format!("{name}.psk")
}

/// A slot as an operator writes it: by its last octet where that says all.
fn slot_value(slot: Slot, overlay: &Overlay) -> String {
    if overlay.cidr.prefix_len() >= 24 {
        let [.., last] = slot.gateway().octets();
        last.to_string()
    } else {
        quoted(slot.gateway())
    }
}

/// A TOML string.
fn quoted(value: impl Display) -> String {
    toml_edit::Value::from(value.to_string()).to_string()
}

/// Writing into a `String` cannot fail.
struct Toml(String);

impl Toml {
    fn line(&mut self, key: &str, value: impl Display) {
        _ = writeln!(self.0, "{key} = {value}");
    }

    fn text(&mut self, key: &str, value: impl Display) {
        self.line(key, quoted(value));
    }

    fn maybe_text(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    fn section(&mut self, header: &str) {
        _ = writeln!(self.0, "\n{header}");
    }

    /// Nothing for an empty list; one line for a single value, else one for each, so that a change shows well.
    fn list(&mut self, key: &str, values: impl Iterator<Item = String>) {
        let values: Vec<_> = values.collect();
        let plain = values.iter().map(String::len).sum::<usize>() <= 80;
        match values.as_slice() {
            [] => {}
            [one] => self.line(key, format_args!("[{one}]")),
            many if plain && !many.iter().any(|value| value.starts_with('{')) => {
                self.line(key, format_args!("[{}]", many.join(", ")));
            }
            many => self.line(key, format_args!("[\n    {},\n]", many.join(",\n    "))),
        }
    }

    fn overlay(&mut self, overlay: &Overlay) {
        self.section("[overlay]");
        self.text("cidr", overlay.cidr);
        self.line("slot_prefix", overlay.slot_prefix);
        self.list("dns", overlay.dns.iter().map(quoted));
        self.list(
            "routes",
            overlay
                .routes
                .iter()
                .map(|route| format!("{{ cidr = {}, via = {} }}", quoted(route.cidr), quoted(&route.via))),
        );
        if let Some(key) = &overlay.signing_key {
            self.text("signing_key", key);
        }
        if (overlay.membership == Membership::Signed) != overlay.signing_key.is_some() {
            self.text("membership", word(&overlay.membership, MEMBERSHIP));
        }
        if overlay.relay != Relay::default() {
            self.text("relay", word(&overlay.relay, RELAY));
        }
        if overlay.refuse != Refuse::default() {
            self.text("refuse", word(&overlay.refuse, REFUSE));
        }
        self.list(
            "floating",
            overlay.floating.iter().map(|Floating { cidr, slots }| {
                let slots: Vec<_> = slots.iter().map(|slot| slot_value(*slot, overlay)).collect();
                format!("{{ cidr = {}, slots = [{}] }}", quoted(cidr), slots.join(", "))
            }),
        );
    }

    fn slot(&mut self, key: &str, slot: Slot, overlay: &Overlay) {
        self.line(key, slot_value(slot, overlay));
    }

    fn hub(&mut self, hub: &Hub) {
        self.section("[[hubs]]");
        self.text("name", &hub.name);
        self.text("public_key", hub.public_key);
        self.text("endpoint", &hub.endpoint);
        if hub.kind != HubKind::default() {
            self.text("kind", word(&hub.kind, KIND));
        }
        self.shared(&hub.name, hub.preshared_key.as_ref(), hub.persistent_keepalive);
        self.list("allowed_ips", hub.allowed_ips.iter().map(quoted));
    }

    fn peer(&mut self, peer: &Peer, overlay: &Overlay) {
        self.section("[[peers]]");
        self.text("name", &peer.name);
        self.text("public_key", peer.public_key);
        if let Some(slot) = peer.slot {
            self.slot("slot", slot, overlay);
        }
        self.list("allowed_ips", peer.allowed_ips.iter().map(quoted));
        self.maybe_text("endpoint", peer.endpoint.as_ref());
        self.shared(&peer.name, peer.preshared_key.as_ref(), peer.persistent_keepalive);
    }

    fn shared(&mut self, name: &str, key: Option<&PresharedKey>, keepalive: Option<u16>) {
        if key.is_some() {
            self.text("preshared_key_file", psk_path(name));
        }
        if let Some(seconds) = keepalive {
            self.line("persistent_keepalive", seconds);
        }
    }
}
