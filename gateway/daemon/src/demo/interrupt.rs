//! Ctrl-C while the demo runs: a flag that every wait looks at, so that the end is always the orderly one.

use super::show::Broken;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// How long a wait may go on after Ctrl-C before it notices.
const GRAIN: Duration = Duration::from_millis(20);

/// Whether the demo was asked to end.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on SIGINT, SIGTERM and SIGHUP (the terminal was closed) only set the flag.
    ///
    /// # Errors
    /// When there is no descriptor or thread left.
    pub fn watch() -> io::Result<Self> {
        let interrupt = Self::default();
        let flag = Arc::clone(&interrupt.0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (mut interrupted, mut terminated, mut hung_up) = {
            let _inside = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            )
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupted.recv() => {}
                        _ = terminated.recv() => {}
                        _ = hung_up.recv() => {}
                    }
                    flag.store(true, Ordering::Relaxed);
                }
            });
        })?;
        Ok(interrupt)
    }

    /// # Errors
    /// [`Broken::Interrupted`], once the demo was asked to end.
    pub fn check(&self) -> Result<(), Broken> {
        if self.0.load(Ordering::Relaxed) { Err(Broken::Interrupted) } else { Ok(()) }
    }

    /// Sleeps for `time`.
    ///
    /// # Errors
    /// As [`Interrupt::check`], soon after it happened.
    pub fn sleep(&self, time: Duration) -> Result<(), Broken> {
        let until = Instant::now() + time;
        loop {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(GRAIN));
        }
    }
}
