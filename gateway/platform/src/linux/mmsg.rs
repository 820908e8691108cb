//! recvmmsg(2) and sendmmsg(2): many datagrams with one system call. All of the leaf's unsafe socket code is here.
#![allow(
    unsafe_code,
    reason = "neither call has a safe wrapper that takes caller-owned buffers without allocating"
)]

use std::{
    io, mem,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use socket2::SockAddr;

/// The most datagrams that one call moves. 64 of them fill a train of 1,500-byte frames beyond which no gain was seen.
pub const MAX_MESSAGES: usize = 64;

/// What was received into one buffer.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// The sender, with IPv4 always as IPv4; `None` when the kernel gave none that is an IP address.
    pub from: Option<SocketAddr>,
    /// Its length in bytes.
    pub len: usize,
    /// Whether it was longer than the buffer and lost its end.
    pub truncated: bool,
}

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
    // SAFETY: mmsghdr, iovec and sockaddr_storage are plain C structures for which all-zero bytes are valid (null
    // pointers with zero lengths).
    let (mut headers, mut vectors, mut names): (
        [libc::mmsghdr; MAX_MESSAGES],
        [libc::iovec; MAX_MESSAGES],
        [libc::sockaddr_storage; MAX_MESSAGES],
    ) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
    let mut count = 0;
    for (((buffer, header), vector), name) in buffers.zip(&mut headers).zip(&mut vectors).zip(&mut names) {
        vector.iov_base = buffer.as_mut_ptr().cast();
        vector.iov_len = buffer.len();
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_name = (name as *mut libc::sockaddr_storage).cast();
        header.msg_hdr.msg_namelen = storage_len();
        count += 1;
    }
    // SAFETY: the first `count` headers point to live, distinct buffers (exclusively borrowed for 'a), vectors and
    // names, each with its true length; `count` is at most the arrays' length; a null timeout means none.
    let result =
        unsafe { libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, 0, std::ptr::null_mut()) };
    let got = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    for (slot, (header, name)) in received.iter_mut().zip(headers.iter().zip(names)).take(got) {
        *slot = Some(Received {
            from: address(name, header.msg_hdr.msg_namelen),
            len: header.msg_len as usize,
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        });
    }
    Ok(got)
}

/// Sends `datagrams` in order, at most [`MAX_MESSAGES`], and returns how many the kernel took.
///
/// # Errors
/// As sendmmsg(2): the error is that of the first datagram, and none was sent.
pub fn send<'a>(
    socket: BorrowedFd<'_>,
    datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])>,
) -> io::Result<usize> {
    // SAFETY: as in `receive`: all-zero bytes are valid for these C structures.
    let (mut headers, mut vectors): ([libc::mmsghdr; MAX_MESSAGES], [libc::iovec; MAX_MESSAGES]) =
        unsafe { (mem::zeroed(), mem::zeroed()) };
    let mut names: [Option<SockAddr>; MAX_MESSAGES] = [const { None }; MAX_MESSAGES];
    let mut count = 0;
    for ((((to, bytes), header), vector), name) in
        datagrams.zip(&mut headers).zip(&mut vectors).zip(&mut names)
    {
        let name = name.insert(SockAddr::from(to));
        vector.iov_base = bytes.as_ptr().cast_mut().cast();
        vector.iov_len = bytes.len();
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_name = name.as_ptr().cast_mut().cast();
        header.msg_hdr.msg_namelen = name.len();
        count += 1;
    }
    // SAFETY: the first `count` headers point to live buffers (borrowed for 'a), vectors and names with their true
    // lengths; the kernel only reads through the pointers that were made from shared borrows.
    let result =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_NOSIGNAL) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Switches path MTU discovery off for `socket` (ip(7), `IP_MTU_DISCOVER`): no "don't fragment" on what it sends.
///
/// # Errors
/// As setsockopt(2).
pub fn allow_fragments(socket: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    let (level, option, value) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
    };
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

fn address(storage: libc::sockaddr_storage, len: libc::socklen_t) -> Option<SocketAddr> {
    let mut address = socket2::SockAddrStorage::zeroed();
    // SAFETY: SockAddrStorage is a transparent wrapper of sockaddr_storage, which view_as demands to be compatible.
    *unsafe { address.view_as::<libc::sockaddr_storage>() } = storage;
    // SAFETY: the kernel wrote `len` bytes of a socket address there, the rest is zero.
    let address = unsafe { SockAddr::new(address, len) }.as_socket()?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}
