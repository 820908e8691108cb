//! The service's end of the control socket.

use super::{MAX_REQUEST, Request, Response, parse};
use crate::exit::Failure;
use serde_json::Value;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Connections at once; further ones wait in the socket's queue.
const CONNECTIONS: usize = 16;

/// A client that says nothing for this long is hung up on.
const IDLE: Duration = Duration::from_secs(30);

/// A client that does not take its answer within this long is hung up on.
const LISTENS: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(5) };

/// A request and where its answer goes.
pub type Call = (Request, oneshot::Sender<Result<Value, Failure>>);

/// The control socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl ControlSocket {
    /// Makes the socket: mode 0600, or 0660 for `group`.
    ///
    /// # Errors
    /// When a service answers there already, or the socket cannot be made.
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Self, Failure> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Failure::bad_input(
                format!("cannot {what} the control socket {}: {error}", path.display()),
                "choose another place with --control PATH",
            )
        };
        let gid = match group {
            Some(name) => Some(overlay_platform::os::group_id(name).ok_or_else(|| {
                Failure::bad_input(
                    format!("[control] group = \"{name}\": this host has no such group"),
                    format!("groupadd --system {name}, or take the line out"),
                )
            })?),
            None => None,
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| failed("make the folder of", &error))?;
        }
        // connect(2) refuses a plain file with the very error of a socket that nobody serves: only a socket may be replaced.
        if std::fs::symlink_metadata(path).is_ok_and(|there| !there.file_type().is_socket()) {
            return Err(Failure::bad_input(
                format!("{} is there already, and is no control socket", path.display()),
                "choose another place with --control PATH",
            ));
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => {
                return Err(Failure::bad_input(
                    format!("an overlay-gw already runs here: it answers at {}", path.display()),
                    format!("overlay-gw down --control {}", path.display()),
                ));
            }
            // Left behind by a process that was killed.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(|error| failed("replace", &error))?;
            }
            Err(_) => {}
        }
        // The mode counts from the first moment: the umask is narrowed while the socket is made, before other threads exist.
        let listener = overlay_platform::os::with_private_umask(|| UnixListener::bind(path))
            .map_err(|error| failed("make", &error))?;
        let socket = Self { path: path.to_owned(), listener };
        if let Some(gid) = gid {
            std::os::unix::fs::chown(path, None, Some(gid))
                .map_err(|error| failed("give the group", &error))?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
                .map_err(|error| failed("open to the group", &error))?;
        }
        Ok(socket)
    }

    /// Serves for ever: each request goes to `calls`, and its answer back.
    pub async fn serve(&self, calls: mpsc::Sender<Call>) {
        let places = std::sync::Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let calls = calls.clone();
                    tokio::task::spawn_local(async move {
                        let _place = place;
                        if let Err(error) = converse(stream, &calls).await {
                            tracing::debug!(%error, "control connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "control socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn converse(stream: UnixStream, calls: &mpsc::Sender<Call>) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut reader).take(MAX_REQUEST);
        let read = bounded.read_until(b'\n', &mut line);
        let length = tokio::time::timeout(IDLE, read).await.map_err(|_| ErrorKind::TimedOut)??;
        if length == 0 {
            return Ok(());
        }
        let whole = line.last() == Some(&b'\n');
        let outcome = match parse(&line) {
            Ok(request) => ask(request, calls).await,
            Err(failure) => Err(failure),
        };
        let mut answer = serde_json::to_vec(&Response::from(outcome))?;
        answer.push(b'\n');
        // Who asks and does not listen must not keep a place from the others for ever.
        tokio::time::timeout(LISTENS, writer.write_all(&answer)).await.map_err(|_| ErrorKind::TimedOut)??;
        if !whole {
            // Too long, or the client closed in the middle: the rest is not a request.
            return Ok(());
        }
    }
}

async fn ask(request: Request, calls: &mpsc::Sender<Call>) -> Result<Value, Failure> {
    let stopping = || Failure::no_service("the service is stopping", "try again when it runs");
    let (answer, outcome) = oneshot::channel();
    calls.send((request, answer)).await.map_err(|_| stopping())?;
    outcome.await.unwrap_or_else(|_| Err(stopping()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_a_killed_process_left_is_replaced_and_any_other_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = ControlSocket::bind(&path, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(ControlSocket::bind(&path, None).unwrap_err().code, crate::exit::BAD_INPUT);
        drop(socket);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(ControlSocket::bind(&path, None).unwrap_err().text.contains("no control socket"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn clients_that_never_read_their_answers_do_not_keep_others_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let socket = ControlSocket::bind(&path, None).unwrap();
        let (calls, mut called) = mpsc::channel::<Call>(1);
        let local = tokio::task::LocalSet::new();
        local.spawn_local(async move { socket.serve(calls).await });
        local.spawn_local(async move {
            while let Some((_, answer)) = called.recv().await {
                let _ = answer.send(Ok(Value::String("x".repeat(1 << 20))));
            }
        });
        let heard = local.run_until(async {
            let mut deaf = Vec::new();
            for _ in 0..CONNECTIONS {
                let mut stream = UnixStream::connect(&path).await.unwrap();
                stream.write_all(b"{\"version\":1,\"command\":\"status\"}\n").await.unwrap();
                deaf.push(stream);
            }
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(b"{\"version\":1,\"command\":\"status\"}\n").await.unwrap();
            tokio::time::timeout(20 * LISTENS, stream.read_u8()).await
        });
        assert!(heard.await.is_ok());
    }
}
