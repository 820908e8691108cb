//! The control socket on Windows: a named pipe for SYSTEM and the Administrators.

use crate::exit::Failure;
use overlay_platform::os::{pipe, places};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Who else may ask, in words.
pub const RIGHTS: &str = "run in a console of an administrator";

/// Where the service of `instance` listens when no flag says otherwise.
#[must_use]
pub fn place(instance: &str) -> PathBuf {
    pipe::place(instance)
}

/// The places where a service answers: each instance that has a state folder is asked, and the default one.
#[must_use]
pub fn running() -> Vec<PathBuf> {
    let mut instances: BTreeSet<String> = std::fs::read_dir(places::state_root())
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    instances.insert(overlay_config::DEFAULT_DEVICE.to_owned());
    let places = instances.iter().map(|instance| place(instance));
    let answers = |path: &PathBuf| {
        pipe::connect(path.as_os_str(), Duration::ZERO).map_or_else(
            |error| matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::TimedOut),
            |_| true,
        )
    };
    places.filter(answers).collect()
}

/// Connects to the service at `path`, which has `patience` to answer.
///
/// # Errors
/// `NotFound` when no service is there; as CreateFile.
pub fn connect(path: &Path, patience: Duration) -> std::io::Result<impl Read + Write> {
    pipe::connect(path.as_os_str(), patience)
}

/// The service's end.
#[derive(Debug)]
pub struct Listener(pipe::PipeServer);

impl Listener {
    /// Makes the pipe.
    ///
    /// # Errors
    /// When somebody has made it already, or it cannot be made.
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Self, Failure> {
        if group.is_some() {
            return Err(Failure::bad_input(
                "[control] group: on Windows the control pipe is for SYSTEM and the Administrators",
                "take the line out",
            ));
        }
        pipe::PipeServer::create(path).map(Self).map_err(|error| {
            Failure::bad_input(
                format!("cannot make the control pipe {}: {error}", path.display()),
                "run as an administrator; if an overlay-gw runs already, stop it with `overlay-gw down`",
            )
        })
    }

    /// The next client.
    ///
    /// # Errors
    /// What the system says.
    pub async fn accept(&mut self) -> std::io::Result<impl AsyncRead + AsyncWrite + Unpin + use<>> {
        self.0.accept().await
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use tokio::net::windows::named_pipe::{ClientOptions, NamedPipeClient};

    /// A place for a pipe of a test.
    pub fn place_in(folder: &Path) -> PathBuf {
        pipe::place(&folder.file_name().unwrap().to_string_lossy())
    }

    /// A client that a test drives.
    pub async fn client(path: &Path) -> NamedPipeClient {
        /// ERROR_PIPE_BUSY (winerror.h).
        const BUSY: i32 = 231;
        loop {
            match ClientOptions::new().open(path) {
                Ok(client) => return client,
                Err(error) if error.raw_os_error() == Some(BUSY) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}
