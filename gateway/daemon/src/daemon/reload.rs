//! From one configuration to another while packets flow: after a change of the file, or of the members.

use super::{Daemon, host_facts, largest_datagram};
use crate::exit::Failure;
use crate::resolve;
use crate::status::Warning;
use overlay_config::{Config, PrivateKey};
use overlay_engine::EngineSettings;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

impl Daemon {
    pub(super) async fn reload(&mut self) -> Result<Value, Failure> {
        let file = self.origin.load(&host_facts().await?)?;
        let fixed = fixed_changes(&self.file, &file);
        if !fixed.is_empty() {
            return Err(Failure::bad_input(
                format!("{} cannot change while the service runs", fixed.join(", ")),
                "put the old value back, or restart the service (with --persist the adapter stays)",
            ));
        }
        let before = self.members.clone();
        self.members.reopen(&file, &self.origin);
        let config = self.members.apply(&file);
        let changed = match self.put_in_force(config).await {
            Ok(changed) => changed,
            Err(failure) => {
                self.members = before;
                self.members.keep();
                return Err(failure);
            }
        };
        // What the old file was warned of goes; what was found at the start (the clock) stays.
        let old: Vec<Warning> = self.file.warnings.iter().map(Warning::from).collect();
        self.warnings.retain(|warning| !old.contains(warning));
        self.warnings.extend(file.warnings.iter().map(Warning::from));
        self.file = file;
        self.answer_revoked();
        Ok(json!({ "changed": changed }))
    }

    /// Brings host and engine from the configuration in force to another one; what changed, in words.
    pub(super) async fn put_in_force(&mut self, config: Config) -> Result<Vec<String>, Failure> {
        let mut changed = Vec::new();
        if let Some(node) = &mut self.node {
            match node.reconfigure(&config).await {
                Ok(changes) => changed.extend(changes),
                Err(failure) => {
                    // Half of it may be done: back to what was in force.
                    if let Err(again) = node.reconfigure(&self.config).await {
                        tracing::warn!("{again}");
                    }
                    return Err(failure);
                }
            }
        }
        let (old, new) = (EngineSettings::from_config(&self.config), EngineSettings::from_config(&config));
        changed.extend(peer_changes(&old, &new));
        self.transport.set_max_datagram(largest_datagram(&config));
        if old != new {
            self.engine.reconfigure(new, Instant::now());
        }
        if resolve::named(&self.config) != resolve::named(&config) {
            self.resolver.abort();
            self.resolver =
                tokio::task::spawn_local(resolve::run(Arc::clone(&self.engine), resolve::named(&config)));
        }
        self.config = config;
        Ok(changed)
    }
}

/// What a reload may not change, by the names in the file.
fn fixed_changes(old: &Config, new: &Config) -> Vec<&'static str> {
    let slot = |config: &Config| config.node().map(|node| node.slot);
    let key = |config: &Config| config.private_key().map(PrivateKey::public);
    let pairs = [
        ("name", old.name() == new.name()),
        ("slot", slot(old) == slot(new)),
        ("private_key_file", key(old).is_none() || key(old) == key(new)),
        ("listen_port", old.listen() == new.listen()),
        ("[overlay] cidr", old.overlay.cidr == new.overlay.cidr),
        ("[overlay] slot_prefix", old.overlay.slot_prefix == new.overlay.slot_prefix),
        ("[device] name", old.device.name == new.device.name),
        ("[device] mode", old.device.mode == new.device.mode),
        ("[device] queues", old.device.queues == new.device.queues),
        ("[control] group", old.control == new.control),
    ];
    pairs.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
}

/// What changed among the peers, in words.
fn peer_changes(old: &EngineSettings, new: &EngineSettings) -> Vec<String> {
    let find = |settings: &EngineSettings, key: &[u8; 32]| {
        settings.peers.iter().find(|p| p.public_key == *key).cloned()
    };
    let mut changes = Vec::new();
    for peer in &old.peers {
        match find(new, &peer.public_key) {
            None => changes.push(format!("{} removed", peer.name)),
            Some(now) if now != *peer => changes.push(format!("{} changed", now.name)),
            Some(_) => {}
        }
    }
    for peer in new.peers.iter().filter(|peer| find(old, &peer.public_key).is_none()) {
        changes.push(format!("{} added", peer.name));
    }
    if old.floating != new.floating {
        changes.push("floating".to_owned());
    }
    if old.refuse != new.refuse {
        changes.push("refuse".to_owned());
    }
    changes
}
