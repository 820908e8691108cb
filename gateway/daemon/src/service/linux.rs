//! The process under systemd or in a terminal: signals (signal(7)) and what systemd is told (sd_notify(3)).

use crate::cli::{Global, HolderArgs, ServiceArgs};
use crate::exit::Failure;
use sd_notify::NotifyState;
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

/// Tells systemd, if it asks, that packets can flow.
pub fn notify_ready() {
    let _ = sd_notify::notify(&[NotifyState::Ready]);
}

/// Tells systemd that the end has begun.
pub fn notify_stopping() {
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
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
