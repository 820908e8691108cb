//! What ends the event loop, also in the middle of something long.

use super::CALLS;
use crate::control::Request;
use crate::control::server::{Answer, Call};
use crate::service::{Notice, Notices};
use std::collections::VecDeque;
use tokio::sync::mpsc;

/// What ends the event loop.
#[derive(Debug)]
pub enum End {
    /// The operator or the service manager.
    Signal,
    /// `down`, and who waits for its outcome.
    Down(Answer),
}

/// What came while the event loop was at something long, and waits for its turn.
#[derive(Debug, Default)]
pub struct Later {
    /// Requests, in their order.
    pub calls: VecDeque<Call>,
    /// The configuration is to be read again.
    pub reload: bool,
}

/// Does what may take long, unless the end is asked for meanwhile: then it is given up where it stands, as a crash would. Whatever else
/// comes waits in `later`.
pub async fn unless_ended(
    work: impl Future<Output = ()>,
    notices: &mut Notices,
    called: &mut mpsc::Receiver<Call>,
    later: &mut Later,
) -> Option<End> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            () = &mut work => return None,
            notice = notices.next() => match notice {
                Notice::Stop => return Some(End::Signal),
                Notice::Reload => later.reload = true,
            },
            call = called.recv(), if later.calls.len() < CALLS => match call {
                None => return Some(End::Signal),
                Some((Request::Down, answer)) => return Some(End::Down(answer)),
                Some(call) => later.calls.push_back(call),
            },
        }
    }
}
