//! What the scheduler is told of the packet path's threads.

use std::io;

use nix::errno::Errno;

/// Their niceness (setpriority(2)): three times the weight of a thread of 0. What such a thread delivers wakes the program that it is
/// for, and that program would take its processor from it in the middle of a batch (benches/README.md has the figures); and a host that
/// is busy with something else must not hold heartbeats up.
const NICENESS: libc::c_int = -5;

/// Gives the calling thread precedence over ordinary ones. Where somebody has chosen a niceness for the process, that one stays.
///
/// # Errors
/// As setpriority(2): without CAP_SYS_NICE (and without a limit that allows it) the thread stays as it is.
#[allow(unsafe_code, reason = "nix has neither of the two calls")]
pub fn favour_this_thread() -> io::Result<()> {
    Errno::clear();
    // SAFETY: only numbers are passed; 0 is the calling thread.
    let chosen = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // -1 is a niceness as well as an error.
    if chosen == -1 && Errno::last_raw() != 0 {
        return Err(io::Error::last_os_error());
    }
    if chosen != 0 {
        return Ok(());
    }
    // SAFETY: as above.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use super::*;

    fn niceness() -> libc::c_int {
        // SAFETY: only numbers are passed.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    }

    fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(work).join().unwrap()
    }

    #[test]
    fn only_the_calling_thread_is_favoured_and_a_niceness_that_somebody_chose_stays() {
        if niceness() != 0 {
            eprintln!("these tests run with a niceness of their own: nothing was tested");
            return;
        }
        let favoured = on_a_thread(|| favour_this_thread().map(|()| niceness()));
        match favoured {
            Ok(niceness) => assert_eq!(niceness, NICENESS),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
        assert_eq!(niceness(), 0);
        let chosen = on_a_thread(|| {
            // SAFETY: only numbers are passed. To be less is always permitted.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 7) };
            favour_this_thread().map(|()| niceness())
        });
        assert_eq!(chosen.unwrap(), 7);
    }
}
