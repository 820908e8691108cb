//! WireGuard keys, made by `wg` itself.

use std::io::Write;
use std::process::{Command, Stdio};

/// A key pair in base64, as `wg genkey` and `wg pubkey` print it.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The private half.
    pub private: String,
    /// The public half.
    pub public: String,
}

impl Keys {
    /// A new pair.
    ///
    /// # Panics
    /// When `wg` (package wireguard-tools) is missing.
    #[must_use]
    pub fn new() -> Self {
        let private = wg("genkey", None);
        let public = wg("pubkey", Some(&private));
        Self { private, public }
    }

    /// A new preshared key, base64.
    ///
    /// # Panics
    /// When `wg` (package wireguard-tools) is missing.
    #[must_use]
    pub fn preshared() -> String {
        wg("genpsk", None)
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self::new()
    }
}

fn wg(verb: &str, input: Option<&str>) -> String {
    let mut child = Command::new("wg")
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("wg, of the package wireguard-tools");
    let mut stdin = child.stdin.take().unwrap();
    if let Some(input) = input {
        stdin.write_all(input.as_bytes()).unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "wg {verb}: {}", output.status);
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
