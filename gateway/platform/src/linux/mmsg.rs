//! recvmmsg(2) and sendmmsg(2): many datagrams with one system call, and trains of them in one message (udp(7),
//! `UDP_SEGMENT` and `UDP_GRO`). All of the leaf's unsafe socket code is here.
//!
//! quinn-udp has the trains, and sends one message a call: a hub whose batch goes to many members would pay a system
//! call for each of them. Hence this file.
#![allow(
    unsafe_code,
    reason = "neither call has a safe wrapper that takes caller-owned buffers without allocating"
)]

use std::{
    io,
    mem::{self, MaybeUninit},
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use socket2::SockAddr;

/// The most messages that one call moves. 64 of them fill a train of 1,500-byte frames beyond which no gain was seen.
pub const MAX_MESSAGES: usize = 64;

/// The most datagrams in one message (the kernel's UDP_MAX_SEGMENTS, 64 before Linux 6.9).
pub const MAX_SEGMENTS: usize = 64;

/// The most bytes in one message: the largest UDP payload over IPv4 (65,535 - 20 - 8).
pub const MAX_TRAIN: usize = 65_507;

/// What was received into one buffer.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// The sender, with IPv4 always as IPv4; `None` when the kernel gave none that is an IP address.
    pub from: Option<SocketAddr>,
    /// Its length in bytes.
    pub len: usize,
    /// The length of each datagram in it but the last, when the kernel has joined several.
    pub stride: Option<usize>,
    /// Whether it was longer than the buffer and lost its end.
    pub truncated: bool,
}

/// What is to be sent with one message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Where to.
    pub to: SocketAddr,
    /// One datagram, or several.
    pub bytes: &'a [u8],
    /// The length of each datagram in it but the last, when there are several.
    pub stride: Option<u16>,
}

/// Room for one control message that holds an int.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_LEN]);

/// CMSG_SPACE(4): a header and a value, each padded to 8 bytes. 32-bit systems need less.
const CONTROL_LEN: usize = 24;

/// Receives what is waiting into `buffers`, at most [`MAX_MESSAGES`], writes what came into `received` and returns how
/// many came.
///
/// # Errors
/// As recvmmsg(2); `WouldBlock` when nothing is waiting. The socket must be non-blocking: a blocking one waits until all
/// buffers are full.
pub fn receive<'a>(
    socket: BorrowedFd<'_>,
    buffers: impl Iterator<Item = &'a mut [u8]>,
    received: &mut [Option<Received>; MAX_MESSAGES],
) -> io::Result<usize> {
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; MAX_MESSAGES];
    let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; MAX_MESSAGES];
    let mut names = [const { MaybeUninit::<libc::sockaddr_storage>::uninit() }; MAX_MESSAGES];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; MAX_MESSAGES];
    let mut count = 0;
    for ((((buffer, header), vector), name), control) in
        buffers.zip(&mut headers).zip(&mut vectors).zip(&mut names).zip(&mut controls)
    {
        let vector =
            vector.write(libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() });
        // The kernel writes both before they are read, and what it does not write is zero then.
        let name = name.write(zeroed_storage());
        let control = control.write(Control([0; CONTROL_LEN]));
        header.write(message_header(
            vector,
            ptr::from_mut(name).cast(),
            storage_len(),
            ptr::from_mut(control).cast(),
            CONTROL_LEN,
        ));
        count += 1;
    }
    // SAFETY: the first `count` headers were written above and point to live, distinct buffers (exclusively borrowed
    // for 'a), vectors, names and control buffers, each with its true length; `count` is at most the arrays' length; a
    // null timeout means none.
    let result =
        unsafe { libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr().cast(), count, 0, ptr::null_mut()) };
    let got = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    for ((slot, header), name) in received.iter_mut().zip(&headers).zip(&names).take(got) {
        // SAFETY: the kernel fills at most `count` headers, and the first `count` headers and names were written above.
        let (header, name) = unsafe { (header.assume_init_ref(), name.assume_init_ref()) };
        *slot = Some(Received {
            from: address(*name, header.msg_hdr.msg_namelen),
            len: header.msg_len as usize,
            stride: joined(&header.msg_hdr),
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        });
    }
    Ok(got)
}

/// Sends `messages` in order, at most [`MAX_MESSAGES`], and returns how many the kernel took.
///
/// # Errors
/// As sendmmsg(2): the error is that of the first message, and none was sent.
pub fn send<'a>(socket: BorrowedFd<'_>, messages: impl Iterator<Item = Message<'a>>) -> io::Result<usize> {
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; MAX_MESSAGES];
    let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; MAX_MESSAGES];
    let mut names = [const { MaybeUninit::<SockAddr>::uninit() }; MAX_MESSAGES];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; MAX_MESSAGES];
    let mut count = 0;
    for ((((message, header), vector), name), control) in
        messages.zip(&mut headers).zip(&mut vectors).zip(&mut names).zip(&mut controls)
    {
        let name = name.write(SockAddr::from(message.to));
        let vector = vector.write(libc::iovec {
            iov_base: message.bytes.as_ptr().cast_mut().cast(),
            iov_len: message.bytes.len(),
        });
        let (control, control_len) = match message.stride {
            Some(stride) => (ptr::from_mut(control.write(segment_control(stride))).cast(), CONTROL_LEN),
            None => (ptr::null_mut(), 0),
        };
        header.write(message_header(
            vector,
            name.as_ptr().cast_mut().cast(),
            name.len(),
            control,
            control_len,
        ));
        count += 1;
    }
    // SAFETY: the first `count` headers were written above and point to live buffers (borrowed for 'a), vectors, names
    // and control messages with their true lengths; the kernel only reads through the pointers that were made from
    // shared borrows. SockAddr has no destructor: leaving the names behind leaks nothing.
    let result =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr().cast(), count, libc::MSG_NOSIGNAL) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Lets the kernel join datagrams of one flow before `socket` reads them (udp(7), `UDP_GRO`).
///
/// # Errors
/// As setsockopt(2): a kernel without it says so.
pub fn join_received(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_int(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Whether the kernel cuts trains (udp(7), `UDP_SEGMENT`).
#[must_use]
pub fn can_cut(socket: BorrowedFd<'_>) -> bool {
    // 0 is what it is without being set: trains are asked for message by message.
    set_int(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok()
}

fn message_header(
    vector: &mut libc::iovec,
    name: *mut libc::c_void,
    name_len: libc::socklen_t,
    control: *mut libc::c_void,
    control_len: usize,
) -> libc::mmsghdr {
    // SAFETY: mmsghdr is a plain C structure (with private padding on some systems) for which all-zero bytes are valid.
    let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
    header.msg_hdr.msg_iov = vector;
    header.msg_hdr.msg_iovlen = 1;
    header.msg_hdr.msg_name = name;
    header.msg_hdr.msg_namelen = name_len;
    header.msg_hdr.msg_control = control;
    header.msg_hdr.msg_controllen = control_len as _;
    header
}

/// The control message that has the kernel cut a message at `stride` bytes.
fn segment_control(stride: u16) -> Control {
    let mut control = Control([0; CONTROL_LEN]);
    let value = stride.to_ne_bytes();
    // SAFETY: `control` is aligned for a cmsghdr and has room for CMSG_SPACE(4), which is more than CMSG_SPACE(2); the
    // data lies directly behind the header, within the same array.
    unsafe {
        let header = ptr::from_mut(&mut control).cast::<libc::cmsghdr>();
        (*header).cmsg_level = libc::SOL_UDP;
        (*header).cmsg_type = libc::UDP_SEGMENT;
        (*header).cmsg_len = libc::CMSG_LEN(2) as _;
        ptr::copy_nonoverlapping(value.as_ptr(), libc::CMSG_DATA(header), value.len());
    }
    control
}

/// The stride of a received message that holds several datagrams.
fn joined(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel has set the header's control length to what it wrote into the control buffer, which lives; the
    // macros stay within that length.
    unsafe {
        let control = libc::CMSG_FIRSTHDR(header);
        if control.is_null()
            || (*control).cmsg_level != libc::SOL_UDP
            || (*control).cmsg_type != libc::UDP_GRO
            || ((*control).cmsg_len as usize) < libc::CMSG_LEN(4) as usize
        {
            return None;
        }
        let stride = ptr::read_unaligned(libc::CMSG_DATA(control).cast::<libc::c_int>());
        usize::try_from(stride).ok().filter(|stride| *stride > 0)
    }
}

/// Whether what `socket` sends may be fragmented, here and on its way (ip(7), `IP_MTU_DISCOVER`; ipv6(7)). In neither case is a path
/// MTU believed that somebody else has told: allowed, there is no "don't fragment" (`IP_PMTUDISC_OMIT`); forbidden, only the
/// device's own MTU counts (`IP_PMTUDISC_PROBE`).
///
/// # Errors
/// As setsockopt(2).
pub fn allow_fragments(socket: BorrowedFd<'_>, ipv6: bool, allowed: bool) -> io::Result<()> {
    if !ipv6 {
        let value = if allowed { libc::IP_PMTUDISC_OMIT } else { libc::IP_PMTUDISC_PROBE };
        return set_int(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, value);
    }
    let value = if allowed { libc::IPV6_PMTUDISC_DONT } else { libc::IPV6_PMTUDISC_PROBE };
    set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, value)?;
    set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, (!allowed).into())
}

fn set_int(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the option's value is one C int, read through the pointer during the call only; the length is its size.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), int_len()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The size of a C int in bytes, 4.
#[allow(clippy::cast_possible_truncation, reason = "it is 4")]
const fn int_len() -> libc::socklen_t {
    mem::size_of::<libc::c_int>() as libc::socklen_t
}

/// The size of a `sockaddr_storage` in bytes, 128.
#[allow(clippy::cast_possible_truncation, reason = "it is 128")]
const fn storage_len() -> libc::socklen_t {
    mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t
}

fn zeroed_storage() -> libc::sockaddr_storage {
    // SAFETY: sockaddr_storage is a plain C structure for which all-zero bytes are valid.
    unsafe { mem::zeroed() }
}

fn address(storage: libc::sockaddr_storage, len: libc::socklen_t) -> Option<SocketAddr> {
    let mut address = socket2::SockAddrStorage::zeroed();
    // SAFETY: SockAddrStorage is a transparent wrapper of sockaddr_storage, which view_as demands to be compatible.
    *unsafe { address.view_as::<libc::sockaddr_storage>() } = storage;
    // SAFETY: the kernel wrote `len` bytes of a socket address there, the rest is zero.
    let address = unsafe { SockAddr::new(address, len) }.as_socket()?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}
