//! The control socket on Unix: a stream socket in the file system, mode 0600, or 0660 for a group.

use crate::exit::Failure;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;

/// Where the control sockets are.
const FOLDER: &str = "/run/overlay-gw";

/// Who else may ask, in words.
pub const RIGHTS: &str = "run as root, or as a member of the group that [control] names";

/// Where the service of `instance` listens when no flag says otherwise.
#[must_use]
pub fn place(instance: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{instance}.sock"))
}

/// The places where a service answers.
#[must_use]
pub fn running() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(FOLDER)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
        .filter(|path| {
            std::os::unix::net::UnixStream::connect(path)
                .map_or_else(|e| e.kind() == ErrorKind::PermissionDenied, |_| true)
        })
        .collect();
    found.sort();
    found
}

/// Connects to the service at `path`, which has `patience` to answer.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when no service is there; as connect(2).
pub fn connect(path: &Path, patience: Duration) -> std::io::Result<impl Read + Write> {
    let stream = std::os::unix::net::UnixStream::connect(path)?;
    stream.set_read_timeout(Some(patience))?;
    Ok(stream)
}

/// The service's end; its file goes when this is dropped.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    listener: UnixListener,
}

impl Listener {
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

    /// The next client.
    ///
    /// # Errors
    /// As accept(2).
    pub async fn accept(&mut self) -> std::io::Result<impl AsyncRead + AsyncWrite + Unpin + use<>> {
        Ok(self.listener.accept().await?.0)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A place for a socket of a test.
    pub fn place_in(folder: &Path) -> PathBuf {
        folder.join("x.sock")
    }

    /// A client that a test drives.
    pub async fn client(path: &Path) -> tokio::net::UnixStream {
        tokio::net::UnixStream::connect(path).await.unwrap()
    }

    #[tokio::test]
    async fn a_socket_that_a_killed_process_left_is_replaced_and_any_other_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = Listener::bind(&path, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Listener::bind(&path, None).unwrap_err().code, crate::exit::BAD_INPUT);
        drop(socket);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(Listener::bind(&path, None).unwrap_err().text.contains("no control socket"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
