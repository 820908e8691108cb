//! The log: to standard error, so that systemd's journal has it, or to a file where a service has no standard error. Keys
//! never; addresses at DEBUG; packets at TRACE.

use crate::cli::Command;
use std::sync::Mutex;
use tracing_subscriber::EnvFilter;

/// Starts the log. `RUST_LOG` overrides `verbose`. boringtun says of every silent peer that it expired, as an error: what
/// that means is said here instead.
pub fn init(verbose: u8, command: &Command) {
    let default = match verbose {
        0 => "info,boringtun=off",
        1 => "debug,boringtun=off,netlink_proto=info,zbus=info",
        _ => "trace,netlink_proto=info,zbus=info",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    let _ = match super::log_file(command) {
        Some(file) => log.with_writer(Mutex::new(file)).with_ansi(false).try_init(),
        None => log
            .with_writer(std::io::stderr)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .try_init(),
    };
}
