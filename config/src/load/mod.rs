//! From a source to a configuration: read, put every mistake on record, check the claims, build.

mod files;
mod members;
mod overlay;
mod section;

use toml_edit::Document;

use crate::claims::{Claims, View};
use crate::diagnostic::{Place, Report};
use crate::{
    CONFIG_VERSION, Config, Device, Diagnostic, Diagnostics, Files, HostFacts, HubRole, Membership, Node,
    Overlay, Overrides, Peer, Role, Source,
};

use files::KeyReader;
use section::{Section, Text};

const ROOT_KEYS: &[&str] = &["version", "node", "hub", "overlay", "device", "control", "hubs", "peers"];

/// Reads a node's configuration. Without a source, the flags and the defaults are all there is.
///
/// # Errors
/// Every mistake at once, warnings among them.
pub fn load_node(
    source: Option<&Source>,
    overrides: &Overrides,
    files: &dyn Files,
    host: &HostFacts,
) -> Result<Config, Diagnostics> {
    let nothing = Source { name: "--slot".into(), bytes: b"version = 1".to_vec() };
    if source.is_none() && overrides.slot.is_none() {
        let mut report = Report::default();
        let fix = "give the node's slot, such as `--slot 56`, or a configuration, `--config FILE`";
        report.error(
            "no-slot",
            &Place::flag("--slot"),
            "there is neither a configuration file nor a slot",
            fix,
        );
        return Err(failed(report));
    }
    load(View::Node, source.unwrap_or(&nothing), overrides, files, host)
}

/// Reads a hub's configuration.
///
/// # Errors
/// Every mistake at once, warnings among them.
pub fn load_hub(
    source: &Source,
    overrides: &Overrides,
    files: &dyn Files,
    host: &HostFacts,
) -> Result<Config, Diagnostics> {
    load(View::Hub, source, overrides, files, host)
}

fn failed(report: Report) -> Diagnostics {
    report.finish().map_or_else(|errors| errors, Diagnostics)
}

fn load(
    view: View,
    source: &Source,
    overrides: &Overrides,
    files: &dyn Files,
    host: &HostFacts,
) -> Result<Config, Diagnostics> {
    let keys = KeyReader { source, files };
    let read = |root: &Section<'_>, report: &mut Report| read(view, root, &keys, overrides, host, report);
    let (mut config, warnings) = with_root(source, ROOT_KEYS, read)?;
    config.warnings = warnings;
    Ok(config)
}

/// Reads what a plan keeps of an overlay: `[overlay]`, and the plain WireGuard members as `[[peers]]`.
pub(crate) fn load_overlay(source: &Source, files: &dyn Files) -> Result<(Overlay, Vec<Peer>), Diagnostics> {
    let keys = KeyReader { source, files };
    let read = |root: &Section<'_>, report: &mut Report| {
        let mut claims = Claims::new(View::Plan);
        let section = overlay::open(root, report);
        let overlay =
            overlay::overlay(section.as_ref(), &Overrides::default(), &root.place, &mut claims, report);
        let mut peers = Vec::new();
        for (id, section) in root.tables("peers", report).into_iter().enumerate() {
            peers.extend(members::peer(section, id, &keys, &mut claims, report));
        }
        claims.check(report);
        Some((overlay, peers))
    };
    with_root(source, &["version", "overlay", "peers"], read).map(|(read, _)| read)
}

/// Opens a source and has its root read; the warnings when there is no error.
fn with_root<T>(
    source: &Source,
    known: &[&str],
    read: impl FnOnce(&Section<'_>, &mut Report) -> Option<T>,
) -> Result<(T, Vec<Diagnostic>), Diagnostics> {
    let mut report = Report::default();
    let Some(text) = decode(source, &mut report) else { return Err(failed(report)) };
    let text = Text::new(&source.name, text);
    let document = match Document::parse(text.as_str()) {
        Ok(document) => document,
        Err(error) => {
            syntax_error(&text, &error, &mut report);
            return Err(failed(report));
        }
    };
    let root = Section::root(&text, document.as_table());
    if !version(&root, &mut report) {
        return Err(failed(report));
    }
    let root = root.only(known, &mut report);
    match read(&root, &mut report) {
        Some(read) => Ok((read, report.finish()?)),
        None => Err(failed(report)),
    }
}

fn decode<'a>(source: &'a Source, report: &mut Report) -> Option<&'a str> {
    let text = match std::str::from_utf8(&source.bytes) {
        Ok(text) if !text.contains('\0') => return Some(text),
        Ok(text) => text.find('\0').and_then(|at| text.get(..at)),
        Err(error) => source.bytes.get(..error.valid_up_to()).and_then(|good| std::str::from_utf8(good).ok()),
    };
    let good = text.unwrap_or("");
    let place = Text::new(&source.name, good).place(good.len());
    let fix = "name a TOML file in UTF-8; an editor on Windows may have saved it as UTF-16";
    report.error("binary", &place, "this is not a text file", fix);
    None
}

fn syntax_error(text: &Text<'_>, error: &toml_edit::TomlError, report: &mut Report) {
    let place = text.place(error.span().map_or(0, |span| span.start));
    let message = error.message().lines().collect::<Vec<_>>().join("; ");
    let duplicate = message.contains("duplicate key");
    let (code, fix) = if duplicate {
        (
            "duplicate-key",
            "it stands twice in the same section: keep one; several hubs or peers are `[[hubs]]`, `[[peers]]`",
        )
    } else {
        ("syntax", "TOML is `key = value`, texts in double quotes, sections in brackets: https://toml.io")
    };
    report.error(code, &place, format!("not valid TOML: {message}"), fix);
}

/// Whether it makes sense to read on.
fn version(root: &Section<'_>, report: &mut Report) -> bool {
    if !root.has("version") {
        let fix = format!("make `version = {CONFIG_VERSION}` its first line");
        report.error("version", &root.place, "this file has no `version`", fix);
        return true;
    }
    match root.integer("version", report) {
        Some(version) if version.value != CONFIG_VERSION => {
            report.error(
                "version",
                &version.place,
                format!(
                    "this file is version {}, and this program reads version {CONFIG_VERSION}",
                    version.value
                ),
                "use the overlay-gw that it was written for, or write it anew with `overlay-gw plan`",
            );
            false
        }
        _ => true,
    }
}

fn read(
    view: View,
    root: &Section<'_>,
    keys: &KeyReader<'_>,
    overrides: &Overrides,
    host: &HostFacts,
    report: &mut Report,
) -> Option<Config> {
    let mut claims = Claims::new(view);
    if !right_role(view, root, overrides, report) {
        return None;
    }
    let overlay_section = overlay::open(root, report);
    let overlay = overlay::overlay(overlay_section.as_ref(), overrides, &root.place, &mut claims, report);
    claims.signed = overlay.membership == Membership::Signed;
    let device = match view {
        View::Hub => Device::default(),
        _ => {
            let section = overlay::open_device(root, report);
            overlay::device(section.as_ref(), overrides, report)
        }
    };
    let control = overlay::control(root, report);
    let own = own_section(view, root, overrides, report);
    let own = own.map(|section| members::own(section.as_ref(), overrides, keys, &mut claims, report));

    let mut id = 0;
    let mut hubs = Vec::new();
    for section in root.tables("hubs", report) {
        id += 1;
        hubs.extend(members::hub(section, id, keys, &mut claims, report));
    }
    let mut peers = Vec::new();
    for section in root.tables("peers", report) {
        id += 1;
        peers.extend(members::peer(section, id, keys, &mut claims, report));
    }
    claims.check(report);
    if view == View::Node {
        claims.check_host(host, &device.name, report);
    }
    let own = own?;
    let role = match view {
        View::Hub => Role::Hub(HubRole { name: own.name?, private_key: own.private_key, listen: own.listen }),
        _ => {
            let (name, slot) = (own.name?, own.slot?);
            Role::Node(Node { name, slot, private_key: own.private_key, listen: own.listen })
        }
    };
    Some(Config { role, overlay, device, control, hubs, peers, warnings: Vec::new() })
}

/// `[node]` or `[hub]`. None: it is missing, and on record; `Some(None)`: a node that needs none.
fn own_section<'a>(
    view: View,
    root: &Section<'a>,
    overrides: &Overrides,
    report: &mut Report,
) -> Option<Option<Section<'a>>> {
    let (key, known, example): (_, &[&str], _) = match view {
        View::Hub => ("hub", &["name", "private_key_file", "listen_port"], "`name` and `listen_port`"),
        _ => ("node", &["name", "slot", "private_key_file", "listen_port"], "`name` and `slot`"),
    };
    if root.has(key) {
        return root.table(key, report).map(|section| Some(section.only(known, report)));
    }
    if view == View::Node && overrides.slot.is_some() {
        return Some(None);
    }
    let text = format!("this file has no [{key}]");
    report.error("missing-section", &root.place, text, format!("add a section `[{key}]` with {example}"));
    None
}

/// Refuses what belongs to the other role's file or flags. False: this is the other role's file altogether.
fn right_role(view: View, root: &Section<'_>, overrides: &Overrides, report: &mut Report) -> bool {
    let (own, other, text, fix) = match view {
        View::Hub => (
            "hub",
            "node",
            "[node] does not belong in a hub's file",
            "start a node with `overlay-gw up --config FILE`; a hub's file has [hub]",
        ),
        _ => (
            "node",
            "hub",
            "[hub] does not belong in a node's file",
            "start a hub with `overlay-gw hub --config FILE`; a node's file has [node]",
        ),
    };
    if root.has(other) {
        report.error("role", &root.place_of(other), text, fix);
        if !root.has(own) {
            return false;
        }
    }
    if view == View::Hub {
        if root.has("device") {
            let text = "[device] does not belong in a hub's file: a hub has no adapter";
            report.error("role", &root.place_of("device"), text, "remove the section");
        }
        for (flag, given) in [
            ("--slot", overrides.slot.is_some()),
            ("--device", overrides.device.is_some()),
            ("--mode", overrides.mode.is_some()),
        ] {
            if given {
                let text = "a hub has neither slot nor adapter";
                report.error("role", &Place::flag(flag), text, "leave the flag out");
            }
        }
    }
    true
}
