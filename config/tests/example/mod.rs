//! A valid node's and a valid hub's file, key files in memory, and what loading an edited one says.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;

use overlay_config::{
    Config, Diagnostics, FileError, FileText, Files, HostFacts, Overrides, PrivateKey, Source, load_hub,
    load_node,
};

/// Lines 1 to 22.
pub const NODE: &str = r#"version = 1

[node]
name = "cluster-1"
slot = 56
private_key_file = "cluster-1.key"
listen_port = 51820

[overlay]
cidr = "172.16.8.0/24"
dns = ["172.16.0.1"]
routes = [{ cidr = "172.16.0.0/24", via = "hub-a" }]

[[hubs]]
name = "hub-a"
public_key = "{hub-a}"
endpoint = "198.51.100.1:51820"

[[peers]]
name = "cluster-2"
public_key = "{cluster-2}"
slot = 64
"#;

/// Lines 1 to 22.
pub const HUB: &str = r#"version = 1

[hub]
name = "hub-a"
private_key_file = "hub-a.key"
listen_port = 51820

[overlay]
cidr = "172.16.8.0/24"
dns = ["172.16.0.1"]
routes = [{ cidr = "172.16.0.0/24", via = "hub-a" }]

[[peers]]
name = "cluster-1"
public_key = "{cluster-1}"
slot = 56

[[peers]]
name = "dc"
public_key = "{dc}"
allowed_ips = ["172.16.8.80/29", "172.16.0.0/24"]
"#;

/// A key of one's own for each name.
pub fn key(name: &str) -> PrivateKey {
    let mut bytes = [7; 32];
    for (byte, letter) in bytes.iter_mut().zip(name.bytes()) {
        *byte ^= letter;
    }
    PrivateKey::from_bytes(bytes)
}

/// The text with public keys in the place of `{name}`.
pub fn filled(text: &str) -> String {
    ["cluster-1", "cluster-2", "hub-a", "dc"].iter().fold(text.to_owned(), |text, name| {
        text.replace(&format!("{{{name}}}"), &key(name).public().to_string())
    })
}

/// The text after replacements, each of which must apply.
pub fn edited(text: &str, edits: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (from, to) in edits {
        assert!(text.contains(from), "`{from}` is not in the example");
        text = text.replacen(from, to, 1);
    }
    filled(&text)
}

/// Key files in memory.
#[derive(Default)]
pub struct Memory(pub HashMap<String, (Vec<u8>, bool)>);

impl Memory {
    /// The key files of the examples, and some that are wrong.
    pub fn examples() -> Self {
        let mut files = HashMap::new();
        for name in ["cluster-1", "hub-a"] {
            files.insert(format!("{name}.key"), (format!("{}\n", *key(name).to_base64()).into_bytes(), true));
        }
        files.insert("open.key".into(), (b"anything".to_vec(), false));
        files.insert("empty.key".into(), (b"\n".to_vec(), true));
        files.insert("short.key".into(), (b"c2hvcnQ=\n".to_vec(), true));
        files.insert("binary.key".into(), (vec![0xff; 32], true));
        Self(files)
    }
}

impl Files for Memory {
    fn read(&self, path: &Path) -> Result<FileText, FileError> {
        let name = path.to_str().unwrap();
        if name == "denied.key" {
            return Err(FileError::Denied);
        }
        let (bytes, private) = self.0.get(name).ok_or(FileError::Missing)?;
        Ok(FileText { bytes: bytes.clone().into(), private: *private })
    }
}

pub fn source(bytes: impl Into<Vec<u8>>) -> Source {
    Source { name: "/etc/overlay-gw/x.toml".into(), bytes: bytes.into() }
}

/// What an operator reads, with the folder left out of the place.
pub fn said(result: Result<Config, Diagnostics>) -> String {
    let diagnostics = match result {
        Ok(config) => Diagnostics(config.warnings),
        Err(diagnostics) => diagnostics,
    };
    // Windows joins the folder and a key's name with its own separator.
    let text = diagnostics.to_string().replace(r"/etc/overlay-gw\", "/etc/overlay-gw/");
    text.lines()
        .map(|line| line.strip_prefix("/etc/overlay-gw/").unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n")
}

pub fn node_says(text: impl Into<Vec<u8>>) -> String {
    node_says_with(text, &Overrides::default(), &HostFacts::default())
}

pub fn node_says_with(text: impl Into<Vec<u8>>, overrides: &Overrides, host: &HostFacts) -> String {
    said(load_node(Some(&source(text)), overrides, &Memory::examples(), host))
}

pub fn hub_says(text: impl Into<Vec<u8>>) -> String {
    said(load_hub(&source(text), &Overrides::default(), &Memory::examples(), &HostFacts::default()))
}
