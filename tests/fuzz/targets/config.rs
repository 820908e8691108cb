//! Configuration: what is accepted is valid and survives being written and read; what is not has places and words.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overlay_config::{
    Config, FileError, FileText, Files, HostFacts, KeyFile, Overrides, Severity, Source, load_hub, load_node,
};
use std::path::Path;

/// Every file holds the same key, but those that a configuration was written with.
struct Keys(Vec<KeyFile>);

impl Files for Keys {
    fn read(&self, path: &Path) -> Result<FileText, FileError> {
        let known = self.0.iter().find(|file| Path::new(&file.path) == path);
        let text =
            known.map_or("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n", |file| file.contents.as_str());
        if path.as_os_str().len() > 40 {
            return Err(FileError::Missing);
        }
        Ok(FileText { bytes: zeroize::Zeroizing::new(text.as_bytes().to_vec()), private: true })
    }
}

fn check(config: &Config, is_node: bool) {
    assert_eq!(config.node().is_some(), is_node);
    let overlay = config.overlay.cidr;
    if let Some(node) = config.node() {
        let slot = node.slot.net();
        assert!(overlay.contains(&slot) && slot.prefix_len() == config.overlay.slot_prefix);
        assert!(
            config.overlay.dns.iter().all(|dns| *dns != node.slot.gateway() && *dns != node.slot.broadcast())
        );
        assert!(config.peers.iter().all(|peer| peer.slot != Some(node.slot)), "a slot taken twice");
    }
    let mut keys: Vec<_> = config.hubs.iter().map(|hub| hub.public_key).collect();
    keys.extend(config.peers.iter().map(|peer| peer.public_key));
    keys.extend(config.private_key().map(|key| key.public()));
    let count = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), count, "a key used twice");
    // The engine takes whatever is valid.
    let settings = overlay_engine::EngineSettings::from_config(config);
    let engine = overlay_engine::Engine::new(settings, [1; 32], std::time::Instant::now(), 1);
    assert_eq!(engine.peers().len(), config.hubs.len() + config.peers.len());
}

fuzz_target!(|bytes: &[u8]| {
    let (flags, host) = (Overrides::default(), HostFacts::default());
    let source = Source { name: "config.toml".into(), bytes: bytes.to_vec() };
    let lines = bytes.split(|byte| *byte == b'\n').count();
    for is_node in [true, false] {
        let load = |source: &Source, keys: &Keys| {
            if is_node {
                load_node(Some(source), &flags, keys, &host)
            } else {
                load_hub(source, &flags, keys, &host)
            }
        };
        match load(&source, &Keys(Vec::new())) {
            Ok(config) => {
                check(&config, is_node);
                let source = Source { name: "config.toml".into(), bytes: config.to_toml().into_bytes() };
                let mut again =
                    load(&source, &Keys(config.key_files())).expect("what was written can be read");
                again.warnings.clone_from(&config.warnings);
                assert_eq!(again, config);
            }
            Err(diagnostics) => {
                assert!(diagnostics.0.iter().any(|d| d.severity == Severity::Error));
                assert!(diagnostics.0.iter().all(|d| (1..=lines + 1).contains(&d.line) && d.column > 0));
                assert!(diagnostics.0.iter().all(|d| !d.text.is_empty() && !d.code.is_empty()));
            }
        }
    }
});
