//! Waiting for packets: poll(2) over a few descriptors and a waker that another thread pulls.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        time::TimeSpec,
    },
};

use crate::{MAX_WAITED, Ready};

/// One of the things that can be waited for.
pub type Source<'a> = BorrowedFd<'a>;

/// What can be waited for with [`wait_readable`].
pub trait Waitable {
    /// Its descriptors, in an order that stays.
    fn sources(&self) -> Vec<Source<'_>>;
}

/// Ends another thread's [`wait_readable`]: an eventfd(2).
#[derive(Debug)]
pub struct Waker {
    event: EventFd,
}

impl Waker {
    /// A waker that nobody has pulled.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { event })
    }

    /// Ends the current wait, or the next one when nobody waits now.
    ///
    /// # Errors
    /// Never in practice: the counter has room for 2^64 - 2 wakes.
    pub fn wake(&self) -> io::Result<()> {
        match self.event.write(1) {
            // The counter is full: the other side is awake already.
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Waits until one of `fds` (at most [`MAX_WAITED`]) can be read or failed, `waker` was pulled, or `timeout` is over
/// (`None`: no limit). A signal ends the wait with nothing ready.
///
/// # Errors
/// `InvalidInput` for too many descriptors; what poll(2) reports.
pub fn wait_readable(fds: &[BorrowedFd<'_>], waker: &Waker, timeout: Option<Duration>) -> io::Result<Ready> {
    let event = waker.event.as_fd();
    let mut polled: [PollFd<'_>; MAX_WAITED + 1] =
        std::array::from_fn(|at| PollFd::new(fds.get(at).copied().unwrap_or(event), PollFlags::POLLIN));
    let (Some(last), true) = (polled.get_mut(fds.len()), fds.len() <= MAX_WAITED) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} descriptors", fds.len())));
    };
    *last = PollFd::new(event, PollFlags::POLLIN);
    let used = polled.get_mut(..=fds.len()).unwrap_or_default();
    match ppoll(used, timeout.map(TimeSpec::from_duration), None) {
        Ok(0) | Err(Errno::EINTR) => return Ok(Ready::default()),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let mut ready = Ready::default();
    for (at, descriptor) in used.iter().enumerate() {
        if descriptor.any() != Some(false) {
            if at == fds.len() {
                ready.woken = true;
                // Only re-arms it; that it was pulled is known.
                let _ = waker.event.read();
            } else {
                ready.set_readable(at);
            }
        }
    }
    Ok(ready)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::UdpSocket, time::Instant};

    #[test]
    fn the_wait_ends_by_a_datagram_by_the_waker_or_by_time() {
        let (idle, busy) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let waker = Waker::new().unwrap();
        let fds = [idle.as_fd(), busy.as_fd()];
        let wait = |time| wait_readable(&fds, &waker, Some(Duration::from_millis(time))).unwrap();
        assert!(!wait(0).any());
        let start = Instant::now();
        assert!(!wait(5).any());
        assert!(start.elapsed() >= Duration::from_millis(5));
        idle.send_to(b"x", busy.local_addr().unwrap()).unwrap();
        let ready = wait(1000);
        assert!(ready.is_readable(1) && !ready.is_readable(0) && !ready.woken);
        waker.wake().unwrap();
        waker.wake().unwrap();
        assert!(wait(1000).woken);
        assert!(!wait(0).woken, "the waker is re-armed");
    }

    #[test]
    fn too_many_descriptors_are_refused() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let waker = Waker::new().unwrap();
        for (count, fits) in [(MAX_WAITED, true), (MAX_WAITED + 1, false)] {
            let fds = vec![socket.as_fd(); count];
            assert_eq!(wait_readable(&fds, &waker, Some(Duration::ZERO)).is_ok(), fits);
        }
    }
}
