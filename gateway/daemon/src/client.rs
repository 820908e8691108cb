//! The commands that speak to the running service.

use crate::cli::{Global, ListenerAction, ListenerArgs, PeerAction, PeerArgs, StatusArgs};
use crate::config_file;
use crate::control::{MAX_RECORDS, Request, client};
use crate::exit::{self, Failure};
use crate::members::RecordOutcome;
use crate::node::LeftBehind;
use crate::status::{self, Listener, PeerLine, State, Status};
use overlay_config::membership::{RecordLines, SignedRecord};
use overlay_platform::os::places;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest file of records that is read, in bytes: every member of the largest overlay, with its comment.
const MAX_RECORDS_FILE: u64 = 32 << 20;

/// Between two looks of `status --watch`.
const WATCH_PACE: Duration = Duration::from_secs(1);

/// `status`
///
/// # Errors
/// When no service answers.
pub fn status(args: &StatusArgs, global: &Global) -> Result<u8, Failure> {
    loop {
        let value = ask(global, Request::Status)?;
        let status: Status = read(value.clone())?;
        // Home, and what was there before is cleared (ECMA-48, CUP and ED).
        let clear = if args.watch && !global.json { "\x1b[H\x1b[J" } else { "" };
        print(global, &value, || format!("{clear}{}", status::render(&status)));
        if !args.watch {
            return Ok(match status.state {
                State::Ok => exit::OK,
                State::Degraded => exit::DEGRADED,
                State::Down => exit::DOWN,
            });
        }
        std::thread::sleep(WATCH_PACE);
    }
}

/// `hub drain`
///
/// # Errors
/// When no service answers, or it is no hub.
pub fn drain(drain: bool, global: &Global) -> Result<u8, Failure> {
    let value = ask(global, Request::Drain { drain })?;
    print(global, &value, || {
        let told = value.get("told").and_then(Value::as_u64).unwrap_or_default();
        match drain {
            true => format!(
                "{told} nodes are asked to leave; `overlay-gw status` shows what still goes through here\n"
            ),
            false => format!("{told} nodes are told that this hub may be used again\n"),
        }
    });
    Ok(exit::OK)
}

/// `listener`
///
/// # Errors
/// When no service answers, or it refuses.
pub fn listener(args: &ListenerArgs, global: &Global) -> Result<u8, Failure> {
    let request = match &args.action {
        ListenerAction::Add { address } => Request::ListenerAdd { address: address.clone() },
        ListenerAction::Remove { address } => Request::ListenerRemove { address: address.clone() },
        ListenerAction::List => Request::ListenerList,
    };
    let value = ask(global, request)?;
    match &args.action {
        ListenerAction::Add { address } => print(global, &value, || format!("{address} is live\n")),
        ListenerAction::Remove { address } => print(global, &value, || format!("{address} is removed\n")),
        ListenerAction::List => {
            let listeners: Vec<Listener> = read(value.clone())?;
            print(global, &value, || status::render_listeners(&listeners));
        }
    }
    Ok(exit::OK)
}

/// `peer`
///
/// # Errors
/// When no service answers; a file that holds no records, or records that the service refuses: then it has changed nothing.
pub fn peer(args: &PeerArgs, global: &Global) -> Result<u8, Failure> {
    match &args.action {
        PeerAction::List => {
            let value = ask(global, Request::PeerList)?;
            let peers: Vec<PeerLine> = read(value.clone())?;
            print(global, &value, || status::render_peers(&peers));
        }
        PeerAction::Add { file } => hand_over(file, global, |records| Request::PeerAdd { records })?,
        PeerAction::Remove { file } => hand_over(file, global, |records| Request::PeerRemove { records })?,
    }
    Ok(exit::OK)
}

/// Hands the signed records of a file to the service.
fn hand_over(file: &Path, global: &Global, request: impl Fn(Vec<String>) -> Request) -> Result<(), Failure> {
    let records: Vec<String> = records(file)?.iter().map(ToString::to_string).collect();
    let mut all = serde_json::Map::new();
    for part in records.chunks(MAX_RECORDS) {
        // Each part is taken whole or not at all, and taking one twice changes nothing: after a refusal the file can be handed over again.
        let Value::Object(answer) = ask(global, request(part.to_vec()))? else { continue };
        for (name, value) in answer {
            match (all.get_mut(&name), value) {
                (Some(Value::Array(list)), Value::Array(more)) => list.extend(more),
                (_, value) => _ = all.insert(name, value),
            }
        }
    }
    let value = Value::Object(all);
    let outcomes: Vec<RecordOutcome> = read(value.get("records").cloned().unwrap_or_default())?;
    print(global, &value, || outcomes.iter().map(in_words).collect());
    Ok(())
}

fn in_words(outcome: &RecordOutcome) -> String {
    let RecordOutcome { name, kind, serial, .. } = outcome;
    let slot = outcome.slot.as_ref().map(|slot| format!(", slot {slot}")).unwrap_or_default();
    let what = match (outcome.outcome.as_str(), outcome.revoked, &outcome.replaced) {
        ("known", ..) => "was known already".to_owned(),
        (_, true, _) => "is a member no more".to_owned(),
        (_, false, Some(old)) => format!("is a member, in the place of {old}"),
        (_, false, None) => "is a member".to_owned(),
    };
    format!("{kind} {name}{slot}, serial {serial}: {what}\n")
}

/// The signed records of a file, or of standard input for `-`.
fn records(file: &Path) -> Result<Vec<SignedRecord>, Failure> {
    let from_input = file == Path::new("-");
    let name = if from_input { "standard input".to_owned() } else { file.display().to_string() };
    let fix = "name a file that `overlay-gw plan add-node` or `overlay-gw plan revoke` wrote: NAME.record";
    let mut bytes = Vec::new();
    // One byte more than can be meant tells that there is more.
    let (most, input) = (MAX_RECORDS_FILE + 1, &mut bytes);
    let read = if from_input {
        std::io::stdin().lock().take(most).read_to_end(input)
    } else {
        std::fs::File::open(file).and_then(|open| open.take(most).read_to_end(input))
    };
    read.map_err(|error| Failure::bad_input(format!("{name}: {}", config_file::in_words(&error)), fix))?;
    if bytes.len() as u64 == most {
        return Err(Failure::bad_input(format!("{name} is too large for a file of records"), fix));
    }
    let lines = RecordLines::parse(&bytes);
    if !lines.bad.is_empty() {
        let bad: Vec<_> = lines.bad.iter().take(5).map(|bad| format!("{name}: {bad}")).collect();
        return Err(Failure::bad_input(bad.join("\n"), fix));
    }
    if lines.records.is_empty() {
        return Err(Failure::bad_input(format!("{name} holds no record"), fix));
    }
    Ok(lines.records.into_iter().map(|(_, record)| record).collect())
}

/// `reload`
///
/// # Errors
/// When no service answers, or the file has mistakes; then nothing has changed.
pub fn reload(args: &Global) -> Result<u8, Failure> {
    let value = ask(args, Request::Reload)?;
    print(args, &value, || {
        let changes: Vec<&str> = value
            .get("changed")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        match changes.as_slice() {
            [] => "reloaded: nothing has changed\n".to_owned(),
            changes => format!("reloaded: {}\n", changes.join(", ")),
        }
    });
    Ok(exit::OK)
}

/// `down`
///
/// # Errors
/// When there is nothing to stop and nothing to clean (exit code 3), or cleaning failed.
pub fn down(args: &Global) -> Result<u8, Failure> {
    match take_down(args)? {
        Down { ran: false, removed, kept } if removed.is_empty() => Err(nothing_to_clean(&kept)),
        _ => Ok(exit::OK),
    }
}

/// What was taken down.
#[derive(Debug)]
pub struct Down {
    /// A service ran.
    pub ran: bool,
    /// What was removed, in words.
    pub removed: Vec<String>,
    /// Addresses that are not ours, for whose sake a device stays.
    pub kept: Vec<String>,
}

/// As [`down`], but that nothing of ours was there is no error as long as a device stays.
///
/// # Errors
/// As [`down`].
pub fn take_down(args: &Global) -> Result<Down, Failure> {
    match client::socket(args.control.as_deref()).and_then(|path| client::ask(&path, Request::Down)) {
        Ok(value) => {
            print(args, &value, || render_cleared(&value, "stopped"));
            return Ok(Down {
                ran: true,
                removed: strings(&value, "removed"),
                kept: strings(&value, "kept"),
            });
        }
        Err(failure) if failure.code == exit::NO_SERVICE => {}
        Err(failure) => return Err(failure),
    }
    let mut cleared = LeftBehind::default();
    for folder in folders(args) {
        let more = crate::node::clear_left_behind(&folder, args.state_dir.is_some())?;
        cleared.removed.extend(more.removed);
        cleared.kept.extend(more.kept);
    }
    let LeftBehind { removed, kept } = cleared;
    if removed.is_empty() && kept.is_empty() {
        return Err(nothing_to_clean(&[]));
    }
    if !removed.is_empty() {
        let value = serde_json::json!({ "removed": removed, "kept": kept });
        print(args, &value, || render_cleared(&value, "cleaned"));
    }
    Ok(Down { ran: false, removed, kept })
}

fn nothing_to_clean(kept: &[String]) -> Failure {
    let text = match kept {
        [] => "no service runs, and nothing is left to clean".to_owned(),
        _ => format!(
            "no service runs, and nothing of ours is left to clean; the device stays for {}",
            kept.join(", ")
        ),
    };
    Failure::no_service(text, "there is nothing to do")
}

/// The state folders that `down` looks into when no service runs.
fn folders(args: &Global) -> Vec<PathBuf> {
    if let Some(folder) = &args.state_dir {
        return vec![folder.clone()];
    }
    // One instance was named by its socket: the others' leavings are not meant.
    if let Some(instance) = args.control.as_deref().and_then(Path::file_stem) {
        return vec![places::state_root().join(instance)];
    }
    let mut folders: Vec<_> = std::fs::read_dir(places::state_root())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    folders.sort();
    folders
}

fn render_cleared(value: &Value, verb: &str) -> String {
    let mut text = format!("{verb}\n");
    for removed in strings(value, "removed") {
        text.push_str(&format!("  removed  {removed}\n"));
    }
    for kept in strings(value, "kept") {
        text.push_str(&format!("  kept     {kept} (not ours)\n"));
    }
    text
}

fn strings(value: &Value, name: &str) -> Vec<String> {
    let items = value.get(name).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn ask(args: &Global, request: Request) -> Result<Value, Failure> {
    client::ask(&client::socket(args.control.as_deref())?, request)
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_json::from_value(value).map_err(|error| {
        Failure::bad_input(
            format!("the service answered what this program does not understand: {error}"),
            "use the overlay-gw of the same installation as the service's",
        )
    })
}

fn print(args: &Global, value: &Value, text: impl FnOnce() -> String) {
    use std::io::Write;
    let text = if args.json { format!("{value}\n") } else { text() };
    // A closed pipe (`| head`) is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
