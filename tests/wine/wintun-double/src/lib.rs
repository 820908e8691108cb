//! A double of wintun.dll (wintun.h, release 0.14): the functions of the real one, with a UDP socket in place of the driver.
//!
//! Everything it knows of other processes is in the folder `OVERLAY_GW_DOUBLES`: `adapter-NAME` while a process that made the
//! adapter lives and has not closed it (a test that deletes it plays the program that removes foreign adapters), and
//! `wintun.txt`, one line for each thing that happened. A packet is a datagram to `OVERLAY_WINTUN_PORT` on the loopback, where
//! a Linux process gives it to a TUN device, and the other way round; an empty datagram says that a session has begun.
#![allow(unsafe_code, non_snake_case, clippy::missing_safety_doc, reason = "a C interface, for tests")]

use std::collections::{HashMap, VecDeque};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use windows_sys::Win32::Foundation::{
    CloseHandle, ERROR_ALREADY_EXISTS, ERROR_BUFFER_OVERFLOW, ERROR_FILE_NOT_FOUND, ERROR_HANDLE_EOF,
    ERROR_NO_MORE_ITEMS, HANDLE, SetLastError, WAIT_TIMEOUT,
};
use windows_sys::Win32::System::Threading::{
    CreateEventW, OpenProcess, PROCESS_SYNCHRONIZE, SetEvent, WaitForSingleObject,
};

/// Packets that the ring holds: more are lost, as in a ring that is full.
const RING: usize = 4096;

pub struct Adapter {
    name: String,
    made: bool,
}

pub struct Session {
    socket: UdpSocket,
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
    /// Packets that the program has in hand: those it reads, and those it writes, with the thread that asked for them.
    lent: Mutex<HashMap<usize, (Box<[u8]>, std::thread::ThreadId)>>,
    name: String,
}

struct Shared {
    queue: Mutex<VecDeque<Box<[u8]>>>,
    event: usize,
    over: AtomicBool,
    removed: AtomicBool,
}

fn folder() -> PathBuf {
    PathBuf::from(std::env::var_os("OVERLAY_GW_DOUBLES").unwrap_or_default())
}

fn file(name: &str) -> PathBuf {
    folder().join(format!("adapter-{name}"))
}

fn note(text: &str) {
    if let Ok(mut log) = OpenOptions::new().create(true).append(true).open(folder().join("wintun.txt")) {
        let _ = log.write_all(format!("{text} process {}\n", std::process::id()).as_bytes());
    }
}

fn fail<T: Default>(error: u32) -> T {
    unsafe { SetLastError(error) };
    T::default()
}

fn null<T>(error: u32) -> *mut T {
    unsafe { SetLastError(error) };
    std::ptr::null_mut()
}

/// The process that made the adapter, if it lives.
fn maker(name: &str) -> Option<u32> {
    let process = fs::read_to_string(file(name)).ok()?.split_whitespace().next()?.parse().ok()?;
    let handle = unsafe { OpenProcess(PROCESS_SYNCHRONIZE, 0, process) };
    if handle.is_null() {
        return None;
    }
    let runs = unsafe { WaitForSingleObject(handle, 0) } == WAIT_TIMEOUT;
    unsafe { CloseHandle(handle) };
    runs.then_some(process)
}

unsafe fn text(wide: *const u16) -> String {
    let length = (0..).take_while(|&at| unsafe { *wide.add(at) } != 0).count();
    String::from_utf16_lossy(unsafe { std::slice::from_raw_parts(wide, length) })
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WintunCreateAdapter(
    name: *const u16,
    tunnel_type: *const u16,
    guid: *const [u8; 16],
) -> *mut Adapter {
    let (name, tunnel_type) = unsafe { (text(name), text(tunnel_type)) };
    // As the system may at boot: the test says how often.
    let refusals = folder().join("refuse-creation");
    if let Some(left) = fs::read_to_string(&refusals).ok().and_then(|text| text.trim().parse::<u32>().ok())
        && left > 0
    {
        let _ = fs::write(&refusals, (left - 1).to_string());
        note("refused create");
        return null(ERROR_FILE_NOT_FOUND);
    }
    if maker(&name).is_some() {
        return null(ERROR_ALREADY_EXISTS);
    }
    let guid = if guid.is_null() { [0; 16] } else { unsafe { *guid } };
    // The first three numbers of a GUID lie in memory with their low byte first.
    let digits: String = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]
        .iter()
        .map(|&at: &usize| format!("{:02x}", guid[at]))
        .collect();
    let _ = fs::write(file(&name), format!("{} {digits}", std::process::id()));
    note(&format!("create {name} {tunnel_type} {digits}"));
    Box::into_raw(Box::new(Adapter { name, made: true }))
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WintunOpenAdapter(name: *const u16) -> *mut Adapter {
    let name = unsafe { text(name) };
    if maker(&name).is_none() {
        return null(ERROR_FILE_NOT_FOUND);
    }
    note(&format!("open {name}"));
    Box::into_raw(Box::new(Adapter { name, made: false }))
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WintunCloseAdapter(adapter: *mut Adapter) {
    if adapter.is_null() {
        return;
    }
    let adapter = unsafe { Box::from_raw(adapter) };
    note(&format!("close {}{}", adapter.name, if adapter.made { " remove" } else { "" }));
    if adapter.made {
        let _ = fs::remove_file(file(&adapter.name));
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WintunDeleteDriver() -> i32 {
    note("delete driver");
    1
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WintunGetAdapterLUID(_: *mut Adapter, luid: *mut u64) {
    unsafe { *luid = 0 };
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WintunGetRunningDriverVersion() -> u32 {
    14
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WintunSetLogger(_: *const std::ffi::c_void) {}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WintunStartSession(adapter: *mut Adapter, capacity: u32) -> *mut Session {
    let name = unsafe { &*adapter }.name.clone();
    let port: u16 = std::env::var("OVERLAY_WINTUN_PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(0);
    let Ok(socket) = UdpSocket::bind("127.0.0.1:0") else { return null(ERROR_FILE_NOT_FOUND) };
    let _ = socket.connect(("127.0.0.1", port));
    let _ = socket.set_read_timeout(Some(Duration::from_millis(50)));
    let event = unsafe { CreateEventW(std::ptr::null(), 0, 0, std::ptr::null()) } as usize;
    let shared = Arc::new(Shared {
        queue: Mutex::default(),
        event,
        over: AtomicBool::new(false),
        removed: AtomicBool::new(false),
    });
    let (Ok(ear), told, adapter_file) = (socket.try_clone(), Arc::clone(&shared), file(&name)) else {
        return null(ERROR_FILE_NOT_FOUND);
    };
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while !told.over.load(Ordering::Acquire) {
            if let Ok(length) = ear.recv(&mut buffer) {
                let mut queue = told.queue.lock().unwrap();
                if queue.len() < RING {
                    queue.push_back(buffer[..length].into());
                    unsafe { SetEvent(told.event as HANDLE) };
                }
            } else if !adapter_file.exists() && !told.removed.swap(true, Ordering::AcqRel) {
                unsafe { SetEvent(told.event as HANDLE) };
            }
        }
    });
    let _ = socket.send(&[]);
    note(&format!("session {name} ring {capacity}"));
    Box::into_raw(Box::new(Session { socket, shared, reader: Some(reader), lent: Mutex::default(), name }))
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WintunEndSession(session: *mut Session) {
    let mut session = unsafe { Box::from_raw(session) };
    session.shared.over.store(true, Ordering::Release);
    unsafe { SetEvent(session.shared.event as HANDLE) };
    if let Some(reader) = session.reader.take() {
        let _ = reader.join();
    }
    unsafe { CloseHandle(session.shared.event as HANDLE) };
    note(&format!("end {}", session.name));
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WintunGetReadWaitEvent(session: *mut Session) -> HANDLE {
    unsafe { &*session }.shared.event as HANDLE
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WintunReceivePacket(session: *mut Session, size: *mut u32) -> *mut u8 {
    let session = unsafe { &*session };
    if session.shared.over.load(Ordering::Acquire) || session.shared.removed.load(Ordering::Acquire) {
        return null(ERROR_HANDLE_EOF);
    }
    let Some(packet) = session.shared.queue.lock().unwrap().pop_front() else {
        return null(ERROR_NO_MORE_ITEMS);
    };
    unsafe { *size = packet.len() as u32 };
    lend(session, packet)
}

fn lend(session: &Session, mut packet: Box<[u8]>) -> *mut u8 {
    let bytes = packet.as_mut_ptr();
    let thread = std::thread::current().id();
    session.lent.lock().unwrap().insert(bytes as usize, (packet, thread));
    bytes
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WintunReleaseReceivePacket(session: *mut Session, packet: *const u8) {
    let lent = unsafe { &*session }.lent.lock().unwrap().remove(&(packet as usize));
    if lent.is_none() {
        note("misuse: released what was not received");
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WintunAllocateSendPacket(session: *mut Session, size: u32) -> *mut u8 {
    let session = unsafe { &*session };
    if session.shared.removed.load(Ordering::Acquire) {
        return null(ERROR_HANDLE_EOF);
    }
    if size == 0 || size > 65_535 {
        return fail::<usize>(ERROR_BUFFER_OVERFLOW) as *mut u8;
    }
    lend(session, vec![0; size as usize].into())
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WintunSendPacket(session: *mut Session, packet: *const u8) {
    let session = unsafe { &*session };
    let lent = session.lent.lock().unwrap().remove(&(packet as usize));
    match lent {
        Some((packet, thread)) => {
            if thread != std::thread::current().id() {
                note("misuse: sent by another thread than had it allocated");
            }
            let _ = session.socket.send(&packet);
        }
        None => note("misuse: sent what was not allocated"),
    }
}
