//! A command's end of the control socket.

use super::{Envelope, Request, Response, VERSION, leaf};
use crate::exit::Failure;
use serde_json::Value;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A service that has not answered after this long hangs. Undoing everything takes a moment.
const PATIENCE: Duration = Duration::from_secs(30);

/// The socket that `flag` names, or the only one there is.
///
/// # Errors
/// None (exit code 3), or several (exit code 4, with their names).
pub fn socket(flag: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = flag {
        return Ok(path.to_owned());
    }
    let found = leaf::running();
    match found.as_slice() {
        [] => Err(none_runs()),
        [one] => Ok(one.clone()),
        several => {
            let names: Vec<_> = several.iter().map(|path| format!("\n  {}", path.display())).collect();
            Err(Failure::bad_input(
                format!("several services run on this host:{}", names.concat()),
                "say which with --control PATH",
            ))
        }
    }
}

/// Asks the service at `path`.
///
/// # Errors
/// When no service answers (exit code 3), or it refuses (its own exit code).
pub fn ask(path: &Path, request: Request) -> Result<Value, Failure> {
    let broken = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => none_runs(),
        ErrorKind::PermissionDenied => {
            Failure::bad_input(format!("{}: permission denied", path.display()), leaf::RIGHTS)
        }
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Failure::no_service(
            format!("the service at {} did not answer within {} s", path.display(), PATIENCE.as_secs()),
            "look at its log",
        ),
        _ => Failure::no_service(format!("{}: {error}", path.display()), "look at the service's log"),
    };
    let mut stream = leaf::connect(path, PATIENCE).map_err(broken)?;
    let mut line = serde_json::to_vec(&Envelope { version: VERSION, request }).unwrap_or_default();
    line.push(b'\n');
    stream.write_all(&line).map_err(broken)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(broken)?;
    if answer.is_empty() {
        return Err(Failure::no_service("the service hung up", "look at its log"));
    }
    let response: Response = serde_json::from_str(&answer).map_err(|error| {
        Failure::bad_input(
            format!("the service answered what this program does not understand: {error}"),
            "use the overlay-gw of the same installation as the service's",
        )
    })?;
    match (response.result, response.error) {
        (_, Some(error)) => Err(Failure { code: error.exit, text: error.text, fix: error.fix }),
        (result, None) => Ok(result.unwrap_or(Value::Null)),
    }
}

fn none_runs() -> Failure {
    Failure::no_service("no overlay-gw service runs on this host", "start one with `overlay-gw up --slot 56`")
}
