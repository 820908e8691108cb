//! The service's end of the control socket.

use super::{MAX_REQUEST, Request, Response, leaf, parse};
use crate::exit::Failure;
use serde_json::Value;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Connections at once; further ones wait in the socket's queue.
const CONNECTIONS: usize = 16;

/// A client that says nothing for this long is hung up on.
const IDLE: Duration = Duration::from_secs(30);

/// A client that does not take its answer within this long is hung up on.
const LISTENS: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(5) };

/// Where the answer to a request goes.
pub type Answer = oneshot::Sender<Result<Value, Failure>>;

/// A request and where its answer goes.
pub type Call = (Request, Answer);

/// The control socket; it goes when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: leaf::Listener,
}

impl ControlSocket {
    /// Makes the socket: for the administrators of this host, or also for `group`.
    ///
    /// # Errors
    /// When a service answers there already, or the socket cannot be made.
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Self, Failure> {
        Ok(Self { listener: leaf::Listener::bind(path, group)? })
    }

    /// Serves for ever: each request goes to `calls`, and its answer back.
    pub async fn serve(mut self, calls: mpsc::Sender<Call>) {
        let places = std::sync::Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok(stream) => {
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

async fn converse(stream: impl AsyncRead + AsyncWrite, calls: &mpsc::Sender<Call>) -> std::io::Result<()> {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = BufReader::new(reader);
    let mut patience = IDLE;
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut reader).take(MAX_REQUEST);
        let read = bounded.read_until(b'\n', &mut line);
        let length = tokio::time::timeout(patience, read).await.map_err(|_| ErrorKind::TimedOut)??;
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
        // Who asks and does not listen must not keep a place from the others for ever. A pipe of Windows takes the answer whether
        // anybody listens or not: there it is the next request that has to come soon.
        tokio::time::timeout(LISTENS, writer.write_all(&answer)).await.map_err(|_| ErrorKind::TimedOut)??;
        patience = LISTENS;
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
    async fn clients_that_never_read_their_answers_do_not_keep_others_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = leaf::tests::place_in(folder.path());
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
                let mut stream = leaf::tests::client(&path).await;
                stream.write_all(b"{\"version\":1,\"command\":\"status\"}\n").await.unwrap();
                deaf.push(stream);
            }
            let mut stream = leaf::tests::client(&path).await;
            stream.write_all(b"{\"version\":1,\"command\":\"status\"}\n").await.unwrap();
            tokio::time::timeout(20 * LISTENS, stream.read_u8()).await
        });
        assert!(heard.await.is_ok());
    }
}
