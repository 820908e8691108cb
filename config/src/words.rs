//! The words of the contract that stand for one of a few meanings, for reading and writing alike.

use crate::diagnostic::Mistake;
use crate::name::shown;
use crate::{HubKind, Membership, Mode, Refuse, Relay};

pub(crate) const MEMBERSHIP: &[(&str, Membership)] =
    &[("signed", Membership::Signed), ("file", Membership::File)];
pub(crate) const RELAY: &[(&str, Relay)] = &[("sealed", Relay::Sealed), ("routed", Relay::Routed)];
pub(crate) const REFUSE: &[(&str, Refuse)] =
    &[("reset", Refuse::Reset), ("unreachable", Refuse::Unreachable), ("silent", Refuse::Silent)];
pub(crate) const MODE: &[(&str, Mode)] = &[("tun", Mode::Tun), ("tap", Mode::Tap)];
pub(crate) const KIND: &[(&str, HubKind)] =
    &[("overlay-gw", HubKind::OverlayGw), ("wireguard", HubKind::Wireguard)];

/// What a word means.
pub(crate) fn meaning<T: Copy>(key: &str, word: &str, words: &[(&str, T)]) -> Result<T, Mistake> {
    words.iter().find(|(known, _)| *known == word).map(|(_, meaning)| *meaning).ok_or_else(|| {
        let known: Vec<_> = words.iter().map(|(known, _)| format!("\"{known}\"")).collect();
        let text = format!("`{key}` cannot be \"{}\"", shown(word));
        Mistake::new("unknown-value", text, format!("it is one of {}", known.join(", ")))
    })
}

/// The word for a meaning; every meaning has one.
pub(crate) fn word<T: PartialEq>(meaning: &T, words: &[(&'static str, T)]) -> &'static str {
    words.iter().find(|(_, known)| known == meaning).map_or("", |(word, _)| word)
}
