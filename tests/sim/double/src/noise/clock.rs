//! The clocks that boringtun reads: the one that counts since boot, and the wall clock. A simulator answers for both.

use std::time::Duration;

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes one timespec, and `time` is one (clock_gettime(2)).
    unsafe { libc::clock_gettime(clock, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

pub(super) fn boot() -> Duration {
    read(libc::CLOCK_BOOTTIME)
}

pub(super) fn wall() -> Duration {
    read(libc::CLOCK_REALTIME)
}
