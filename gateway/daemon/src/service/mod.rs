//! The process around the event loop: its runtime, its log, and what it tells the service manager.

pub mod log;

use crate::exit::Failure;
use sd_notify::NotifyState;

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

/// Tells systemd, if it asks (sd_notify(3)), that packets can flow.
pub fn notify_ready() {
    let _ = sd_notify::notify(&[NotifyState::Ready]);
}

/// Tells systemd that the end has begun.
pub fn notify_stopping() {
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
}
