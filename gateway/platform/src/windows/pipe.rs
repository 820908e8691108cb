//! Named pipes that only SYSTEM and the Administrators can make or open, one line of text each way.
//!
//! Their names lie under `ProtectedPrefix\Administrators`, where the system lets nobody else make a pipe: no other user can
//! be there first. Clients show themselves only by name (SECURITY_IDENTIFICATION), so that a server cannot act for them.
#![allow(unsafe_code, reason = "the calls of the system have no safe form; each says why it is sound")]

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::windows::{
        fs::OpenOptionsExt,
        io::{AsRawHandle, RawHandle},
    },
    path::{Path, PathBuf},
    sync::mpsc,
    time::{Duration, Instant},
};

use tokio::net::windows::named_pipe::{NamedPipeServer, ServerOptions};
use windows_sys::Win32::{
    Foundation::ERROR_PIPE_BUSY, Storage::FileSystem::SECURITY_IDENTIFICATION,
    System::Pipes::GetNamedPipeClientProcessId,
};

use super::security::{Descriptor, PIPE, is_administrator, sid_of};
use crate::access::SYSTEM;

/// Where the pipes are.
const PREFIX: &str = r"\\.\pipe\ProtectedPrefix\Administrators\overlay-gw\";

/// All instances of a pipe are taken: how often it is tried again.
const BUSY_RETRY: Duration = Duration::from_millis(20);

/// The name of the pipe called `name`.
#[must_use]
pub fn place(name: &str) -> PathBuf {
    PathBuf::from(format!("{PREFIX}{name}"))
}

/// The server's end of a pipe.
#[derive(Debug)]
pub struct PipeServer {
    name: PathBuf,
    descriptor: Descriptor,
    next: NamedPipeServer,
}

impl PipeServer {
    /// Makes the pipe. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `PermissionDenied` when somebody has made it already, or this process is not an administrator's.
    pub fn create(name: &Path) -> io::Result<Self> {
        let descriptor = Descriptor::new(PIPE)?;
        let next = instance(name, &descriptor, true)?;
        Ok(Self { name: name.to_owned(), descriptor, next })
    }

    /// The next client that is SYSTEM or an administrator.
    ///
    /// # Errors
    /// What the system says; the pipe stays.
    pub async fn accept(&mut self) -> io::Result<NamedPipeServer> {
        loop {
            self.next.connect().await?;
            let fresh = instance(&self.name, &self.descriptor, false)?;
            let client = std::mem::replace(&mut self.next, fresh);
            match check_client(client.as_raw_handle()) {
                Ok(()) => return Ok(client),
                Err(error) => tracing::warn!(%error, "a client of the control pipe was refused"),
            }
        }
    }
}

fn instance(name: &Path, descriptor: &Descriptor, first: bool) -> io::Result<NamedPipeServer> {
    let mut options = ServerOptions::new();
    options.first_pipe_instance(first).reject_remote_clients(true);
    let attributes = descriptor.attributes().cast_mut().cast();
    // SAFETY: the attributes are valid as long as `descriptor`.
    unsafe { options.create_with_security_attributes_raw(name, attributes) }
}

/// The pipe's access list lets nobody else in; this is the second lock.
fn check_client(pipe: RawHandle) -> io::Result<()> {
    let mut process = 0;
    // SAFETY: the pipe is open; `process` is written before it is read.
    if unsafe { GetNamedPipeClientProcessId(pipe.cast(), &raw mut process) } == 0 {
        return Err(io::Error::last_os_error());
    }
    if sid_of(process)? == SYSTEM || is_administrator(process)? {
        return Ok(());
    }
    let text = format!("process {process} is neither SYSTEM's nor an administrator's");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// A client's end of a pipe.
#[derive(Debug)]
pub struct PipeClient {
    file: File,
    patience: Duration,
}

/// Opens the pipe `name`. Whoever serves it has `patience` for each answer.
///
/// # Errors
/// `NotFound` when nobody serves it; `PermissionDenied` for those whom it is not for; `TimedOut` when it stays busy.
pub fn connect(name: &OsStr, patience: Duration) -> io::Result<PipeClient> {
    let until = Instant::now() + patience;
    loop {
        let opened =
            OpenOptions::new().read(true).write(true).security_qos_flags(SECURITY_IDENTIFICATION).open(name);
        match opened {
            Ok(file) => return Ok(PipeClient { file, patience }),
            Err(error) if error.raw_os_error() == Some(ERROR_PIPE_BUSY as i32) => {
                if Instant::now() >= until {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                std::thread::sleep(BUSY_RETRY);
            }
            Err(error) => return Err(error),
        }
    }
}

impl Write for PipeClient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for PipeClient {
    /// A read of a pipe cannot be given a time: another thread reads, and is left behind when it takes too long. It must
    /// not begin before all is written, for the system does one thing at a time with such a handle.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut file = self.file.try_clone()?;
        let mut room = vec![0; buffer.len()];
        let (answer, read) = mpsc::channel();
        std::thread::Builder::new().name("pipe-read".to_owned()).spawn(move || {
            let got = file.read(&mut room);
            let _ = answer.send(got.map(|length| {
                room.truncate(length);
                room
            }));
        })?;
        let bytes = match read.recv_timeout(self.patience) {
            Ok(Ok(bytes)) => bytes,
            // The other side has closed it.
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        let length = bytes.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..length), bytes.get(..length)) {
            to.copy_from_slice(from);
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_pipe_serves_one_client_after_the_other_and_knows_when_nobody_is_there() {
        let name = place(&format!("test-{}", std::process::id()));
        assert_eq!(connect(name.as_os_str(), Duration::ZERO).unwrap_err().kind(), io::ErrorKind::NotFound);
        let mut server = PipeServer::create(&name).unwrap();
        let clients = std::thread::spawn(move || {
            for text in ["one\n", "two\n"] {
                let mut client = connect(name.as_os_str(), Duration::from_secs(5)).unwrap();
                client.write_all(text.as_bytes()).unwrap();
                let mut answer = String::new();
                BufReader::new(client).read_line(&mut answer).unwrap();
                assert_eq!(answer, text);
            }
        });
        for _ in 0..2 {
            let mut client = server.accept().await.unwrap();
            let mut bytes = [0; 4];
            client.read_exact(&mut bytes).await.unwrap();
            client.write_all(&bytes).await.unwrap();
        }
        clients.join().unwrap();
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_costs_no_more_than_the_patience() {
        let name = place(&format!("deaf-{}", std::process::id()));
        let _server = PipeServer::create(&name).unwrap();
        let mut client = connect(name.as_os_str(), Duration::from_millis(50)).unwrap();
        let error = client.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
