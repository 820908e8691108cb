//! The other end of the double of wintun.dll: a TUN device of the node, joined to a UDP socket on its loopback.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::thread;

use overlay_tests::node::Node;

/// Where the double sends its packets.
pub const PORT: u16 = 7777;

/// TUNSETIFF, IFF_TUN and IFF_NO_PI (linux/if_tun.h).
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const IFF_TUN: u16 = 0x0001;
const IFF_NO_PI: u16 = 0x1000;

/// What TUNSETIFF wants of `struct ifreq`: the name, the flags, and as many bytes as there are.
#[repr(C)]
struct Wanted {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Makes the device `name` with `address`/29 in the node, up and with a route to the overlay, and carries packets until the world
/// ends.
pub fn lay(node: &Node, name: &str, address: Ipv4Addr) {
    let (tun, socket) = node.inside(|| (open(name), UdpSocket::bind((Ipv4Addr::LOCALHOST, PORT)).unwrap()));
    node.ok(&format!("ip addr add {address}/29 dev {name}"));
    node.ok(&format!("ip link set {name} up mtu 1420"));
    node.ok(&format!("ip route add 172.16.8.0/24 dev {name} src {address}"));
    let session: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
    let (begun, mut from_session, to_host) =
        (Arc::clone(&session), tun.try_clone().unwrap(), socket.try_clone().unwrap());
    thread::spawn(move || {
        let mut packet = vec![0; 65_536];
        loop {
            let (length, from) = to_host.recv_from(&mut packet).unwrap();
            // An empty datagram: a session has begun, and packets go there from now on.
            *begun.lock().unwrap() = Some(from);
            if length > 0 {
                let _ = from_session.write(&packet[..length]);
            }
        }
    });
    let mut from_host = tun;
    thread::spawn(move || {
        let mut packet = vec![0; 65_536];
        loop {
            let length = from_host.read(&mut packet).unwrap();
            if let Some(to) = *session.lock().unwrap() {
                let _ = socket.send_to(&packet[..length], to);
            }
        }
    });
}

fn open(name: &str) -> File {
    let tun = File::options().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
    let mut wanted = Wanted { name: [0; 16], flags: IFF_TUN | IFF_NO_PI, rest: [0; 22] };
    wanted.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the descriptor is open, and the structure is as large as the call reads.
    #[allow(unsafe_code, reason = "nix has no call for it")]
    let done = unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, &raw const wanted) };
    assert_eq!(done, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
    tun
}
