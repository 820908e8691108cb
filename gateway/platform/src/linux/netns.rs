//! Network namespaces without names: worlds for the demo and for tests, gone when the last process leaves them.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    unistd::{Uid, getgid, getuid},
};

/// Moves this process into a network and a mount namespace of its own; without root, into a user namespace of its own
/// first, where it is root. Call it before any thread is started: a process with threads cannot enter a user namespace.
///
/// # Errors
/// `PermissionDenied` where the host allows no user namespaces; what unshare(2) reports.
pub fn unshare_world() -> io::Result<()> {
    let worlds = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    if Uid::effective().is_root() {
        unshare(worlds)?;
    } else {
        let (uid, gid) = (getuid(), getgid());
        unshare(worlds | CloneFlags::CLONE_NEWUSER)?;
        // user_namespaces(7): an unprivileged process must give up setgroups before it may map its group.
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    }
    // What is mounted from now on stays in here.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    Ok(())
}

/// The network namespace that this thread is in.
///
/// # Errors
/// When /proc is not mounted.
pub fn current() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// A new network namespace, which lives as long as the descriptor or a process in it. This thread stays where it is.
///
/// # Errors
/// As unshare(2).
pub fn create() -> io::Result<OwnedFd> {
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        current()
    })
}

/// Moves this thread into the network namespace `fd`. Only a system call: fit for `pre_exec`.
///
/// # Errors
/// As setns(2).
pub fn enter(fd: impl AsFd) -> io::Result<()> {
    Ok(setns(fd, CloneFlags::CLONE_NEWNET)?)
}

/// Runs `work` on a thread of its own within the network namespace `fd`.
///
/// # Errors
/// As setns(2), and what `work` reports.
pub fn run_in<T: Send>(fd: impl AsFd + Send, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    on_thread(|| {
        enter(fd)?;
        work()
    })
}

fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the namespace thread panicked")))
    })
}
