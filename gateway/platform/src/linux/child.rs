//! A child process in a network namespace, which does not outlive its parent: for the demo.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command},
};

use nix::{
    sys::{prctl, signal::Signal},
    unistd::{getpid, getppid},
};

use super::netns;

/// Starts `command` within the network namespace `namespace`, to be killed when the calling *thread* ends, however it
/// ends (PR_SET_PDEATHSIG, prctl(2)): call it from a thread that lives as long as the child should.
///
/// # Errors
/// As [`Command::spawn`] and setns(2).
#[expect(unsafe_code, reason = "Command::pre_exec: what runs between fork and exec")]
pub fn spawn_in(namespace: impl AsFd, mut command: Command) -> io::Result<Child> {
    let namespace: OwnedFd = namespace.as_fd().try_clone_to_owned()?;
    let parent = getpid();
    let confine = move || {
        netns::enter(&namespace)?;
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // A parent that was gone before the call above sends no signal any more.
        if getppid() == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
    };
    // SAFETY: between fork and exec only async-signal-safe functions may be called: setns, prctl and getppid are bare
    // system calls, and neither they nor their errors (kept as a number) allocate or take a lock.
    unsafe { command.pre_exec(confine) };
    command.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_child_ends_with_the_thread_that_started_it() {
        let Ok(here) = netns::current() else { return };
        let started = thread::spawn(move || {
            let mut command = Command::new("sleep");
            command.arg("60");
            spawn_in(&here, command)
        });
        match started.join().unwrap() {
            Ok(mut child) => assert!(!child.wait().unwrap().success(), "it was killed"),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "setns needs CAP_SYS_ADMIN")
            }
        }
    }
}
