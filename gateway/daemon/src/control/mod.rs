//! The control socket: line-delimited JSON, one request and one response per line, versioned.
//!
//! ```text
//! → {"version":1,"command":"listener_add","address":"172.16.8.59"}
//! ← {"version":1,"result":{"address":"172.16.8.59","origin":"command"}}
//! ← {"version":1,"error":{"exit":4,"text":"…","fix":"…"}}
//! ```

pub mod client;
pub mod server;

#[cfg(unix)]
#[path = "unix.rs"]
pub mod leaf;

#[cfg(windows)]
#[path = "windows.rs"]
pub mod leaf;

use crate::exit::Failure;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version that is spoken here.
pub const VERSION: u32 = 1;

/// The longest line that is read, in bytes: a request holds [`MAX_RECORDS`] at most.
pub const MAX_REQUEST: u64 = 64 * 1024;

/// The most signed records in one request: each is at most 1,024 bytes, 1,368 in base64.
pub const MAX_RECORDS: usize = 40;

/// A request to the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    /// How it is.
    Status,
    /// Put an address on the device.
    ListenerAdd {
        /// The address.
        address: String,
    },
    /// Take an address off that was added by command.
    ListenerRemove {
        /// The address.
        address: String,
    },
    /// The addresses that are live.
    ListenerList,
    /// The peers.
    PeerList,
    /// Take signed records in that make members.
    PeerAdd {
        /// In base64, at most [`MAX_RECORDS`].
        records: Vec<String>,
    },
    /// Take signed records in that end memberships.
    PeerRemove {
        /// In base64, at most [`MAX_RECORDS`].
        records: Vec<String>,
    },
    /// A hub: be left by its nodes, or not any more.
    Drain {
        /// It is to be left.
        drain: bool,
    },
    /// Read the configuration again.
    Reload,
    /// Remove everything that was added, and stop.
    Down,
}

/// A line to the service.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// The version of this protocol.
    pub version: u32,
    /// What is wanted.
    #[serde(flatten)]
    pub request: Request,
}

/// A line from the service: a result or an error.
#[derive(Debug, Serialize, Deserialize)]
pub struct Response {
    /// The version of this protocol.
    pub version: u32,
    /// What was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why there is no result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}

/// Why a request failed.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The exit code for the program that asked.
    pub exit: u8,
    /// What happened.
    pub text: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl From<Result<Value, Failure>> for Response {
    fn from(outcome: Result<Value, Failure>) -> Self {
        match outcome {
            Ok(result) => Self { version: VERSION, result: Some(result), error: None },
            Err(Failure { code, text, fix }) => {
                Self { version: VERSION, result: None, error: Some(ErrorBody { exit: code, text, fix }) }
            }
        }
    }
}

/// Reads a request line.
///
/// # Errors
/// A line that is not a request of this version.
pub fn parse(line: &[u8]) -> Result<Request, Failure> {
    let value: Value = serde_json::from_slice(line).map_err(|error| {
        Failure::bad_input(format!("not a line of JSON: {error}"), "see ARCHITECTURE.md, control socket")
    })?;
    let version = value.get("version").and_then(Value::as_u64);
    if version != Some(u64::from(VERSION)) {
        return Err(Failure::bad_input(
            format!(
                "the service speaks version {VERSION} of the control protocol, and was asked in {version:?}"
            ),
            "use the overlay-gw of the same installation as the service's",
        ));
    }
    serde_json::from_value::<Envelope>(value).map(|envelope| envelope.request).map_err(|error| {
        Failure::bad_input(format!("not a request: {error}"), "see ARCHITECTURE.md, control socket")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_the_wire_and_strange_lines_are_refused() {
        for request in [
            Request::Status,
            Request::ListenerAdd { address: "172.16.8.59".into() },
            Request::PeerAdd { records: vec!["x".repeat(1368); MAX_RECORDS] },
            Request::Down,
        ] {
            let line = serde_json::to_vec(&Envelope { version: VERSION, request: request.clone() }).unwrap();
            assert!((line.len() as u64) < MAX_REQUEST);
            assert_eq!(parse(&line).unwrap(), request);
        }
        let strange: [&[u8]; 6] =
            [b"", b"{", b"[]", b"{\"version\":2,\"command\":\"status\"}", b"{\"version\":1}", b"\xff\xfe"];
        for line in strange {
            assert_eq!(parse(line).unwrap_err().code, crate::exit::BAD_INPUT);
        }
    }
}
