//! Names: of members (they become file names), of devices (they become interface names), and the nearest known one.

use crate::diagnostic::Mistake;

/// Longest name of a member, in bytes: that of a DNS label.
const MAX_MEMBER: usize = 63;
/// Longest name of a device, in bytes: `IFNAMSIZ` less the final zero (`linux/if.h`).
const MAX_DEVICE: usize = 15;

/// Why a member cannot have this name, and what to do.
pub(crate) fn member_mistake(name: &str) -> Option<Mistake> {
    let fix = format!(
        "use letters, digits, `-`, `_` and `.`, beginning with a letter or digit, at most {MAX_MEMBER}"
    );
    if name.is_empty() {
        return Some(Mistake::new("name", "the name is empty", fix));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let begins = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !begins || !name.bytes().all(allowed) || name.len() > MAX_MEMBER || name.ends_with('.') {
        return Some(Mistake::new(
            "name",
            format!("`{}` cannot be a name: it also names files", shown(name)),
            fix,
        ));
    }
    if is_dos_device(name) {
        let text = format!("`{name}` cannot be a name: Windows opens a device by it, not a file");
        return Some(Mistake::new("name", text, "choose another name"));
    }
    None
}

/// `CON`, `NUL`, `COM1` and the like, with any extension ("Naming Files, Paths, and Namespaces", learn.microsoft.com).
fn is_dos_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).to_ascii_lowercase();
    match stem.strip_prefix("com").or_else(|| stem.strip_prefix("lpt")) {
        Some(number) => number.len() == 1 && number.bytes().all(|b| b.is_ascii_digit()),
        None => matches!(stem.as_str(), "con" | "prn" | "aux" | "nul"),
    }
}

/// Why a device cannot have this name, and what to do.
pub(crate) fn device_mistake(name: &str) -> Option<Mistake> {
    let fix = format!("use 1 to {MAX_DEVICE} letters, digits, `-`, `_` and `.`, such as `Overlay`");
    let say = |why: &str| {
        let text = format!("`{}` cannot be a device's name: {why}", shown(name));
        Some(Mistake::new("device-name", text, fix.clone()))
    };
    if name.is_empty() {
        return say("it is empty");
    }
    if name.len() > MAX_DEVICE {
        return say(&format!("it has {} bytes, and the kernel takes {MAX_DEVICE}", name.len()));
    }
    // `%d` is a template to the kernel, `:` and `/` separate, the rest is what Windows keeps out of file names.
    if let Some(bad) = name.chars().find(|c| !c.is_ascii_graphic() || r#"/\:%*?"<>|"#.contains(*c)) {
        let bad = if bad == ' ' { "a space".into() } else { format!("`{}`", bad.escape_default()) };
        return say(&format!("it holds {bad}"));
    }
    if name.starts_with(['.', '-']) {
        return say("it begins with `.` or `-`");
    }
    // `net.ipv4.conf.all` and `.default` are every interface and the next one to come.
    if matches!(name, "all" | "default" | "lo") {
        return say("the kernel means something else by it");
    }
    None
}

/// The known word nearest to a mistyped one, if it is near enough that it may be meant.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    known
        .into_iter()
        .map(|candidate| {
            let lower = candidate.to_ascii_lowercase();
            let part = word.len() >= 4 && (lower.starts_with(&word) || word.starts_with(&lower));
            let score = strsim::normalized_damerau_levenshtein(&word, &lower) + if part { 0.3 } else { 0.0 };
            (score, candidate)
        })
        .filter(|(score, _)| *score >= 0.5)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// A value as a diagnostic shows it: on one line, without control characters, not longer than needed to recognise it.
pub(crate) fn shown(value: &str) -> String {
    shown_up_to(60, value)
}

/// A path as a command takes it: on one line, without control characters, and whole. No path is longer (PATH_MAX).
pub(crate) fn shown_path(value: &str) -> String {
    shown_up_to(4096, value)
}

fn shown_up_to(longest: usize, value: &str) -> String {
    let mut text: String = value.chars().take(longest).collect();
    if text.len() < value.len() {
        text.push('…');
    }
    if text.chars().any(char::is_control) { text.escape_debug().to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_offered_only_when_it_is_near() {
        let known = ["private_key_file", "listen_port", "name", "slot"];
        assert_eq!(nearest("listen-port", known), Some("listen_port"));
        assert_eq!(nearest("private_key", known), Some("private_key_file"));
        assert_eq!(nearest("Slot", known), Some("slot"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest("", known), None);
    }

    #[test]
    fn a_value_is_shortened_and_a_path_that_a_command_is_to_take_is_not() {
        let long = "a/".repeat(100);
        assert_eq!(shown(&long).chars().count(), 61);
        assert_eq!(shown_path(&long), long);
        assert_eq!(shown_path("a\n rm b"), "a\\n rm b");
    }

    #[test]
    fn names_of_members_are_safe_as_file_names_on_both_systems() {
        for good in ["cluster-1", "hub_a", "dc.example", "7", "console", "com10"] {
            assert_eq!(member_mistake(good), None, "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "-x", "é", "nul", "COM1.txt", "x.", &"x".repeat(64)] {
            assert!(member_mistake(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn names_of_devices_are_those_that_the_kernel_takes() {
        for good in ["Overlay", "wg0", "overlay_2.b", "exactly15bytes."] {
            assert_eq!(device_mistake(good), None, "{good}");
        }
        for bad in ["", "a b", "a/b", "sixteen-bytes-xx", "..", "eth%d", "all", "é", "a:1"] {
            assert!(device_mistake(bad).is_some(), "{bad}");
        }
    }
}
