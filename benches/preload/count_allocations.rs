//! Counts what a program allocates, per thread: loaded into it with LD_PRELOAD, in front of the C library's allocator.
//!
//! Rust's allocator calls malloc(3) and its kin, so this sees every allocation of an unmodified release build. The counts go to the
//! file that `COUNT_ALLOCATIONS` names, as pairs of 64-bit numbers (thread id, allocations), [`THREADS`] of them; the file is
//! mapped, so that whoever reads it disturbs nobody. A thread beyond the table counts in its last pair.
#![allow(unsafe_code, reason = "the C library's allocator has a C interface")]

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::Relaxed};

/// Threads that are told apart.
const THREADS: usize = 128;

type Pair = [AtomicU64; 2];

static TABLE: AtomicPtr<Pair> = AtomicPtr::new(null_mut());

/// What the table is when there is nothing to count into.
const NOWHERE: *mut Pair = usize::MAX as *mut Pair;

// The allocator of the GNU C library under the names that it keeps for those who replace the others.
unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(old: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(alignment: usize, size: usize) -> *mut c_void;
}

/// malloc(3).
///
/// # Safety
/// As malloc(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
    count();
    // SAFETY: the caller's promises are passed on.
    unsafe { __libc_malloc(size) }
}

/// calloc(3).
///
/// # Safety
/// As calloc(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    self::count();
    // SAFETY: the caller's promises are passed on.
    unsafe { __libc_calloc(count, size) }
}

/// realloc(3).
///
/// # Safety
/// As realloc(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
    count();
    // SAFETY: the caller's promises are passed on.
    unsafe { __libc_realloc(old, size) }
}

/// aligned_alloc(3).
///
/// # Safety
/// As aligned_alloc(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    count();
    // SAFETY: the caller's promises are passed on.
    unsafe { __libc_memalign(alignment, size) }
}

/// posix_memalign(3).
///
/// # Safety
/// As posix_memalign(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, alignment: usize, size: usize) -> c_int {
    count();
    // SAFETY: the caller's promises are passed on.
    let memory = unsafe { __libc_memalign(alignment, size) };
    if memory.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller promises that `out` can be written.
    unsafe { *out = memory };
    0
}

/// Adds one to this thread's count. Allocates nothing itself.
fn count() {
    let mut table = TABLE.load(Relaxed);
    if table.is_null() {
        table = open();
        // Two threads may have opened it: both map the same file.
        TABLE.store(table, Relaxed);
    }
    if table == NOWHERE {
        return;
    }
    // SAFETY: `open` has mapped THREADS pairs, which stay mapped; a fresh file is all zero, which is a valid pair.
    let pairs = unsafe { std::slice::from_raw_parts(table, THREADS) };
    // SAFETY: gettid(2) has no arguments and cannot fail.
    let me = unsafe { libc::syscall(libc::SYS_gettid) } as u64;
    let mine = pairs.iter().find(|[thread, _]| {
        thread.load(Relaxed) == me || thread.compare_exchange(0, me, Relaxed, Relaxed).is_ok()
    });
    if let Some([_, count]) = mine.or(pairs.last()) {
        count.fetch_add(1, Relaxed);
    }
}

/// Maps the table.
fn open() -> *mut Pair {
    const LEN: usize = size_of::<Pair>() * THREADS;
    // SAFETY: getenv(3) returns null or a string that stays: nobody changes the environment of a program that starts.
    let path = unsafe { libc::getenv(c"COUNT_ALLOCATIONS".as_ptr()) };
    if path.is_null() {
        return NOWHERE;
    }
    // SAFETY: `path` is a string that ends with a zero byte.
    let file = unsafe { libc::open(path, libc::O_RDWR | libc::O_CLOEXEC) };
    if file < 0 {
        return NOWHERE;
    }
    // SAFETY: a fresh mapping of a file that its maker has made LEN bytes long; nothing else knows the address.
    let table =
        unsafe { libc::mmap(null_mut(), LEN, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file, 0) };
    // SAFETY: the descriptor is ours and not used again; the mapping lives on.
    unsafe { libc::close(file) };
    if table == libc::MAP_FAILED { NOWHERE } else { table.cast() }
}
