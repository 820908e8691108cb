//! The log: to standard error, so that systemd's journal has it. Keys never; addresses at DEBUG; packets at TRACE.

use tracing_subscriber::EnvFilter;

/// Starts the log. `RUST_LOG` overrides `verbose`. boringtun says of every silent peer that it expired, as an error: what
/// that means is said here instead.
pub fn init(verbose: u8) {
    let default = match verbose {
        0 => "info,boringtun=off",
        1 => "debug,boringtun=off,netlink_proto=info,zbus=info",
        _ => "trace,netlink_proto=info,zbus=info",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
}
