//! What a host's network looks like, byte for byte: links, addresses, routes, rules and sysctls. Taken before and after.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::node::Node;

/// The files under `/proc/sys/net` that change by themselves.
const LIVING: [&str; 3] = ["nf_conntrack_count", "tcp_fastopen_key", "stable_secret"];

/// A picture of a host's network.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostState(BTreeMap<String, String>);

impl HostState {
    /// Takes it.
    #[must_use]
    #[track_caller]
    pub fn of(node: &Node) -> Self {
        let mut state = BTreeMap::new();
        for line in [
            "ip -j link show",
            "ip -j addr show",
            "ip -j -4 route show table all",
            "ip -j -6 route show table all",
            "ip -j -4 rule show",
            "ip -j -6 rule show",
        ] {
            // A line per object, so that a difference is one line.
            state.insert(line.to_owned(), node.ok(line).replace("},{", "},\n{"));
        }
        let sysctls = node.inside(|| {
            let mut found = Vec::new();
            walk(Path::new("/proc/sys/net"), &mut found);
            found
        });
        state.extend(sysctls);
        for file in ["/etc/resolv.conf", "/etc/hosts"] {
            state.insert(file.to_owned(), node.ok(&format!("cat {file}")));
        }
        Self(state)
    }

    /// # Panics
    /// When `node` no longer looks like this; the message has every difference.
    #[track_caller]
    pub fn unchanged(&self, node: &Node) {
        let now = Self::of(node);
        let mut differences = String::new();
        // A device that came or went has a hundred files: its folders say enough.
        let mut folders = BTreeSet::new();
        for key in self.0.keys().chain(now.0.keys()) {
            match (self.0.get(key), now.0.get(key)) {
                (Some(before), Some(after)) if before != after => {
                    let text = format!(
                        "{key}\n--- before:\n{}\n--- after:\n{}\n",
                        before.trim_end(),
                        after.trim_end()
                    );
                    if !differences.contains(&text) {
                        differences.push_str(&text);
                    }
                }
                (Some(_), None) => {
                    folders.insert(format!("gone from {}", folder(key)));
                }
                (None, Some(_)) => {
                    folders.insert(format!("new in {}", folder(key)));
                }
                _ => {}
            }
        }
        for line in folders {
            differences.push_str(&line);
            differences.push('\n');
        }
        assert!(differences.is_empty(), "the host is not as it was:\n{differences}");
    }
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(folder, _)| folder)
}

fn walk(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, found);
        } else if !LIVING.iter().any(|name| path.ends_with(name)) {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| format!("({error})"));
            found.push((path.display().to_string(), text));
        }
    }
}
