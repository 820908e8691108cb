//! Other processes: waiting for their end.
#![allow(unsafe_code, reason = "the calls of the system have no safe form; each says why it is sound")]

use std::{
    io,
    os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle},
    time::Duration,
};

use windows_sys::Win32::{
    Foundation::WAIT_OBJECT_0,
    System::Threading::{OpenProcess, PROCESS_SYNCHRONIZE, WaitForSingleObject},
};

/// A process that is waited for. Its number is not given to another one meanwhile.
#[derive(Debug)]
pub struct Process(OwnedHandle);

impl Process {
    /// The process with this number.
    ///
    /// # Errors
    /// When there is none, or it may not be waited for.
    pub fn open(number: u32) -> io::Result<Self> {
        // SAFETY: no pointer is involved.
        let handle = unsafe { OpenProcess(PROCESS_SYNCHRONIZE, 0, number) };
        if handle.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: opened just now, and nobody has a copy.
        Ok(Self(unsafe { OwnedHandle::from_raw_handle(handle) }))
    }

    /// Waits until it has ended, `most` at most; whether it has.
    #[must_use]
    pub fn wait(&self, most: Duration) -> bool {
        let most = u32::try_from(most.as_millis()).unwrap_or(u32::MAX - 1);
        // SAFETY: the handle is open as long as `self`.
        unsafe { WaitForSingleObject(self.0.as_raw_handle(), most) == WAIT_OBJECT_0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_waited_for_until_it_has_ended() {
        let mut other = std::process::Command::new("ping").args(["-n", "3", "127.0.0.1"]).spawn().unwrap();
        let process = Process::open(other.id()).unwrap();
        assert!(!process.wait(Duration::ZERO));
        other.kill().unwrap();
        assert!(process.wait(Duration::from_secs(10)));
        other.wait().unwrap();
        assert!(Process::open(0).is_err());
    }
}
