//! The process under systemd or in a terminal: signals (signal(7)) and what systemd is told (sd_notify(3)).

use super::HostEvent;
use crate::cli::{Command, Global, HolderArgs, ServiceArgs};
use crate::exit::Failure;
use overlay_platform::os::{TunDevice, idle_queue};
use sd_notify::NotifyState;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What somebody outside wants of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// SIGINT or SIGTERM.
    Stop,
    /// SIGHUP.
    Reload,
}

/// The notices, as they come.
#[derive(Debug)]
pub struct Notices {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Notices {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the system takes no handler.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Notice {
        tokio::select! {
            _ = self.terminate.recv() => Notice::Stop,
            _ = self.interrupt.recv() => Notice::Stop,
            _ = self.hangup.recv() => Notice::Reload,
        }
    }
}

/// The name under which systemd keeps the queue that holds the device's carrier.
const CARRIER: &str = "overlay-gw-carrier";

/// Tells systemd, if it asks, that packets can flow, and from then on that the event loop is alive, as long as the packet path is
/// `healthy` (`WatchdogSec=`). Must be called on that loop.
pub fn notify_ready(healthy: &Arc<AtomicBool>) {
    tell(HostEvent::Ready, "");
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    if let Some(limit) = sd_notify::watchdog_enabled() {
        let healthy = Arc::clone(healthy);
        tokio::task::spawn_local(async move {
            loop {
                if healthy.load(Relaxed) {
                    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
                }
                tokio::time::sleep(limit / 3).await;
            }
        });
    }
}

/// Gives systemd, if it keeps descriptors (`FileDescriptorStoreMax=`), a queue of the device that carries nothing: the device has its
/// carrier while the service is started anew. One is enough, of whichever run.
pub fn keep_carrier(device: &TunDevice) {
    let kept = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    if std::env::var_os("NOTIFY_SOCKET").is_none() || kept.split(':').any(|name| name == CARRIER) {
        return;
    }
    let given = idle_queue(device).and_then(|queue| {
        sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(CARRIER)], &[queue.as_fd()])
    });
    if let Err(error) = given {
        tracing::info!(%error, "the device loses its carrier at a restart");
    }
}

/// A thread of the packet path hangs: systemd hears no more beats, and does what its unit says.
pub fn hung() {}

/// Tells systemd that the end has begun.
pub fn notify_stopping() {
    tell(HostEvent::Stopping, "");
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
}

/// The host's event log is the journal here, and has it from the log.
pub fn tell(_: HostEvent, _: &str) {}

/// Where the log goes instead of standard error: nowhere else.
#[must_use]
pub fn log_file(_: &Command) -> Option<RotatingFile> {
    None
}

/// What a log is written to in place of standard error: never made here.
#[derive(Debug)]
pub struct RotatingFile(std::convert::Infallible);

impl std::io::Write for RotatingFile {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        match self.0 {}
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self.0 {}
    }
}

/// `service`: systemd's affair here.
///
/// # Errors
/// Always.
pub fn run(_: &ServiceArgs, _: &Global) -> Result<u8, Failure> {
    Err(Failure::bad_input(
        "on Linux the service belongs to systemd",
        "systemctl enable --now overlay-gw; the unit comes with the package (packaging/linux)",
    ))
}

/// The process that holds the adapter: on Linux the kernel does.
///
/// # Errors
/// Always.
pub fn hold(_: &HolderArgs) -> Result<u8, Failure> {
    Err(Failure::bad_input("on Linux the kernel holds the device", "there is nothing to do"))
}

#[cfg(test)]
mod tests {
    use crate::state::StateFolder;
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_fix() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::new(Some(folder.path()), "x");
        state.make_key([7; 32]).unwrap();
        set_permissions(folder.path().join("private.key"), Permissions::from_mode(0o644)).unwrap();
        assert!(state.key().unwrap_err().fix.unwrap().starts_with("chmod 600"));
    }
}
