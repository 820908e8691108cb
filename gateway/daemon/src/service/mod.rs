//! The process around the event loop: its runtime, its log, and what it tells the service manager.

pub mod log;

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod os;

#[cfg(windows)]
#[path = "windows/mod.rs"]
mod os;

#[cfg(target_os = "linux")]
#[path = "../demo/mod.rs"]
pub mod demo;

#[cfg(windows)]
#[path = "windows/demo.rs"]
pub mod demo;

use crate::exit::Failure;

pub use os::{Notice, Notices, hold, hung, keep_carrier, log_file, notify_ready, notify_stopping, run, tell};

/// What the host's own event log is told. The numbers are for programs that watch it: they stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// Packets flow.
    Ready = 1,
    /// The end has begun.
    Stopping = 2,
    /// Somebody took the adapter away.
    AdapterLost = 10,
    /// The packet path is there again.
    PathRestored = 11,
    /// A thread has panicked: a bug.
    Panicked = 13,
}

/// Runs `work` on this thread. The packet path has threads of its own: this one only decides.
///
/// # Errors
/// What `work` fails with.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from)?;
    let outcome = tokio::task::LocalSet::new().block_on(&runtime, work);
    // A name that is still being resolved must not hold up the end.
    runtime.shutdown_background();
    outcome
}
