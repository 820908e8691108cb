//! The process under Windows' service control manager, or in a console.

mod events;
mod rotate;
mod scm;

use super::HostEvent;
use crate::cli::{Command, Global, HolderArgs, ServiceAction, ServiceArgs};
use crate::exit::Failure;
use crate::state::check_folder;
use overlay_platform::os::places;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use tokio::signal::windows::{
    CtrlBreak, CtrlC, CtrlClose, CtrlShutdown, ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown,
};

pub use rotate::RotatingFile;

/// What somebody outside wants of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The service manager, Ctrl-C, or the end of the session.
    Stop,
    /// The service manager's "parameters have changed".
    Reload,
}

/// The service, when this process is one.
static SERVICE: OnceLock<scm::Running> = OnceLock::new();

/// The notices, as they come.
#[derive(Debug)]
pub struct Notices {
    c: CtrlC,
    stop: CtrlBreak,
    close: CtrlClose,
    shutdown: CtrlShutdown,
}

impl Notices {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the system takes no handler.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { c: ctrl_c()?, stop: ctrl_break()?, close: ctrl_close()?, shutdown: ctrl_shutdown()? })
    }

    /// The next one.
    pub async fn next(&mut self) -> Notice {
        let of_service = async {
            match SERVICE.get() {
                Some(service) => service.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            notice = of_service => notice,
            _ = self.c.recv() => Notice::Stop,
            _ = self.stop.recv() => Notice::Stop,
            _ = self.close.recv() => Notice::Stop,
            _ = self.shutdown.recv() => Notice::Stop,
        }
    }
}

/// Tells the service manager that packets can flow. It asks for no beats: see [`hung`].
pub fn notify_ready(_: &Arc<AtomicBool>) {
    if let Some(service) = SERVICE.get() {
        service.running();
        tell(HostEvent::Ready, "");
    }
}

/// A thread of the packet path hangs: the process ends without a word to the service manager, whose failure actions start it again. The
/// adapter and its addresses belong to the holder, and stay.
pub fn hung() {
    if SERVICE.get().is_some() {
        std::process::exit(1);
    }
}

/// The adapter's holder keeps the adapter; Wintun knows no media state without a session.
pub fn keep_carrier(_: &overlay_platform::os::TunDevice) {}

/// Tells the service manager that the end has begun.
pub fn notify_stopping() {
    if let Some(service) = SERVICE.get() {
        service.stopping();
        tell(HostEvent::Stopping, "");
    }
}

/// Writes into the host's event log, when this process is a service.
pub fn tell(event: HostEvent, what: &str) {
    if SERVICE.get().is_some() {
        events::write(event, what);
    }
}

/// Where the log goes instead of standard error. What is wrong with it goes to both other places that an operator looks at: the event
/// log, and standard error where there is one.
#[must_use]
pub fn log_file(command: &Command) -> Option<RotatingFile> {
    let name = match command {
        Command::Service(ServiceArgs { action: ServiceAction::Run { .. } }) => "overlay-gw.log",
        Command::AdapterHolder(_) => "adapter-holder.log",
        _ => return None,
    };
    let folder = places::logs();
    let failure = match RotatingFile::open(&folder, name) {
        Ok(file) => return Some(file),
        Err(error) => check_logs(&folder).err().unwrap_or_else(|| unwritable(&folder.join(name), &error)),
    };
    eprintln!("{failure}");
    events::write_no_log(&failure.to_string());
    None
}

/// Refuses a log folder that somebody else has made or may write to: he could have what is said here written into a file of his
/// choice, or take it away.
///
/// # Errors
/// When it is such a folder, or cannot be looked at.
fn check_logs(folder: &Path) -> Result<(), Failure> {
    check_folder(
        "log",
        folder,
        "find out who did that, move the folder away and start the service again: it makes another",
        "see to it that SYSTEM has all rights to it, and start the service again",
    )
}

/// A log that cannot be written for another reason (the disk is full) stops nothing: what it would say is less than what the service
/// does.
fn unwritable(file: &Path, error: &std::io::Error) -> Failure {
    Failure::bad_input(
        format!("cannot write the log {}: {error}", file.display()),
        "mend this and start the service again; until then it runs without a log",
    )
}

/// `service`
///
/// # Errors
/// What the service manager refuses.
pub fn run(args: &ServiceArgs, global: &Global) -> Result<u8, Failure> {
    match &args.action {
        ServiceAction::Install { slot } => scm::install(slot.as_deref(), global),
        ServiceAction::Uninstall { purge } => scm::uninstall(*purge, global),
        ServiceAction::Start => scm::start(),
        ServiceAction::Stop => scm::stop(),
        ServiceAction::Status => scm::status(global),
        ServiceAction::Run { slot } => scm::run(slot.clone(), global),
    }
}

/// The process that holds the adapter.
///
/// # Errors
/// When another one holds it, or it cannot be made.
pub fn hold(args: &HolderArgs) -> Result<u8, Failure> {
    let Some(guid) = overlay_platform::guid::parse(&args.guid) else {
        return Err(Failure::bad_input("that is no GUID", "the service starts this process by itself"));
    };
    // 0 stands for "no holder".
    let id = (crate::random::seed() as u32).max(1);
    super::block_on(async {
        let held = overlay_platform::os::holder::run(&args.name, guid, id).await;
        if let Err(error) = &held {
            tracing::error!("{error}");
        }
        held.map_err(anyhow::Error::from)?;
        Ok(crate::exit::OK)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_cannot_be_written_is_told_with_its_file_and_a_missing_folder_is_no_reason_to_refuse() {
        let outer = tempfile::tempdir().unwrap();
        assert!(check_logs(&outer.path().join("logs")).is_ok());
        let error = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let failure = unwritable(&outer.path().join("overlay-gw.log"), &error);
        assert!(failure.text.contains("overlay-gw.log"), "{failure}");
        assert!(failure.fix.unwrap().contains("without a log"));
    }
}
