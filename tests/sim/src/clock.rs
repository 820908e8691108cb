//! The two clocks that boringtun reads by itself, answered from virtual time.
//!
//! boringtun's `Instant` is `CLOCK_BOOTTIME`, its handshake timestamps begin with `CLOCK_REALTIME`. Both end in
//! `clock_gettime`, which this program defines itself: the linker takes it before libc's. So boringtun is simulated as
//! it is shipped, without its feature `mock-instant` (which leaves the wall clock real, and a restart in virtual time
//! is then refused as a replay). The engine itself is told the time as an argument.

use std::cell::Cell;
use std::time::Duration;

/// What the wall clock says when a simulation begins: some time in 2026.
const EPOCH: Duration = Duration::from_secs(1_780_000_000);

/// What the clock since boot says then.
const BOOT: Duration = Duration::from_secs(1_000);

#[derive(Clone, Copy)]
struct Virtual {
    boot: u64,
    wall: u64,
    /// The highest time that was read: two readings are never the same, as in real life.
    last: u64,
}

thread_local! {
    /// Nothing on threads that simulate nothing.
    static VIRTUAL: Cell<Option<Virtual>> = const { Cell::new(None) };
}

/// A new simulation begins on this thread.
pub fn reset() {
    VIRTUAL.set(Some(Virtual { boot: nanos(BOOT), wall: nanos(EPOCH), last: 0 }));
}

/// Virtual time on this thread is `now`, on a host whose wall clock is `offset_s` seconds ahead.
pub fn set(now: Duration, offset_s: i64) {
    let last = VIRTUAL.get().map_or(0, |v| v.last);
    let wall = nanos(EPOCH + now).saturating_add_signed(offset_s * 1_000_000_000);
    VIRTUAL.set(Some(Virtual { boot: nanos(BOOT + now), wall, last }));
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

/// clock_gettime(2), of which only the two clocks above are ours, and only on a thread that simulates.
///
/// # Safety
/// `time` points to a timespec that may be written, as in libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    let read = match (clock, VIRTUAL.get()) {
        (libc::CLOCK_BOOTTIME, Some(v)) => {
            let now = v.boot.max(v.last + 1);
            VIRTUAL.set(Some(Virtual { last: now, ..v }));
            now
        }
        (libc::CLOCK_REALTIME, Some(v)) => v.wall,
        // SAFETY: the same call with the same arguments.
        _ => return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) } as libc::c_int,
    };
    let (seconds, rest) = (read / 1_000_000_000, read % 1_000_000_000);
    // SAFETY: the caller says that `time` may be written.
    unsafe { time.write(libc::timespec { tv_sec: seconds as libc::time_t, tv_nsec: rest as libc::c_long }) };
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn the_wall_clock_is_virtual_on_a_thread_that_simulates_and_on_no_other() {
        reset();
        set(Duration::from_secs(60), -3600);
        let virtual_now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(virtual_now, EPOCH + Duration::from_secs(60) - Duration::from_secs(3600));
        let real = std::thread::spawn(|| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap());
        assert_ne!(real.join().unwrap().as_secs(), virtual_now.as_secs());
    }
}
