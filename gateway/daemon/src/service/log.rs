//! The log: to standard error, so that systemd's journal has it, or to a file where a service has no standard error. Keys
//! never; addresses at DEBUG; packets at TRACE.

use super::HostEvent;
use crate::cli::Command;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{Location, PanicHookInfo};
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
    log_panics();
}

/// A panic goes where the log goes: a service has no standard error that would keep it. Its own text stays for those who have shut
/// the log's errors off.
fn log_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic_in_words(std::thread::current().name(), panic.location(), message(panic));
        // With RUST_BACKTRACE=1, as without this hook.
        let trace = Backtrace::capture();
        let text = match trace.status() {
            BacktraceStatus::Captured => format!("{text}\n{trace}"),
            _ => text,
        };
        if tracing::enabled!(tracing::Level::ERROR) {
            tracing::error!("{text}");
        } else {
            before(panic);
        }
        super::tell(HostEvent::Panicked, &text);
    }));
}

/// What the panic says of itself, when that is a text.
fn message<'a>(panic: &'a PanicHookInfo<'_>) -> &'a str {
    panic.payload_as_str().unwrap_or("no text")
}

fn panic_in_words(thread: Option<&str>, place: Option<&Location<'_>>, message: &str) -> String {
    let thread = thread.unwrap_or("without a name");
    let place = place.map(|place| format!(" at {place}")).unwrap_or_default();
    format!("a bug: thread {thread} panicked{place}: {message}; report this with the log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_with_its_thread_its_place_and_what_it_says() {
        let here = Location::caller();
        let told = panic_in_words(Some("packets-host"), Some(here), "index out of bounds");
        assert_eq!(
            told,
            format!(
                "a bug: thread packets-host panicked at {here}: index out of bounds; report this with the log"
            )
        );
        assert!(panic_in_words(None, None, "x").starts_with("a bug: thread without a name panicked: x"));
    }
}
