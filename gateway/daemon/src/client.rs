//! The commands that speak to the running service.

use crate::cli::{Global, ListenerAction, ListenerArgs, PeerAction, PeerArgs};
use crate::control::{Request, client};
use crate::exit::{self, Failure};
use crate::status::{self, Listener, PeerLine, State, Status};
use overlay_platform::os::places;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// `status`
///
/// # Errors
/// When no service answers.
pub fn status(args: &Global) -> Result<u8, Failure> {
    let value = ask(args, Request::Status)?;
    let status: Status = read(value.clone())?;
    print(args, &value, || status::render(&status));
    Ok(match status.state {
        State::Ok => exit::OK,
        State::Degraded => exit::DEGRADED,
        State::Down => exit::DOWN,
    })
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
/// When no service answers.
pub fn peer(args: &PeerArgs, global: &Global) -> Result<u8, Failure> {
    let PeerAction::List = args.action;
    let value = ask(global, Request::PeerList)?;
    let peers: Vec<PeerLine> = read(value.clone())?;
    print(global, &value, || status::render_peers(&peers));
    Ok(exit::OK)
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
    match client::socket(args.control.as_deref()).and_then(|path| client::ask(&path, Request::Down)) {
        Ok(value) => {
            print(args, &value, || render_cleared(&value, "stopped"));
            return Ok(exit::OK);
        }
        Err(failure) if failure.code == exit::NO_SERVICE => {}
        Err(failure) => return Err(failure),
    }
    let mut cleared = Vec::new();
    for folder in folders(args) {
        cleared.extend(crate::node::clear_left_behind(&folder, args.state_dir.is_some())?);
    }
    if cleared.is_empty() {
        return Err(Failure::no_service(
            "no service runs, and nothing is left to clean",
            "there is nothing to do",
        ));
    }
    let value = serde_json::json!({ "removed": cleared });
    print(args, &value, || render_cleared(&value, "cleaned"));
    Ok(exit::OK)
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
    let list = |name: &str| -> Vec<String> {
        let items = value.get(name).and_then(Value::as_array).into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut text = format!("{verb}\n");
    for removed in list("removed") {
        text.push_str(&format!("  removed  {removed}\n"));
    }
    for kept in list("kept") {
        text.push_str(&format!("  kept     {kept} (not ours)\n"));
    }
    text
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
