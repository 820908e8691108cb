//! The interface by which a socket sends: bound (`IP_UNICAST_IF`, `IPV6_UNICAST_IF`) where the host would lead a datagram of the
//! underlay into the overlay, and left to the host everywhere else.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::windows::io::AsRawSocket,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use windows_sys::Win32::Networking::WinSock::{
    IP_UNICAST_IF, IPPROTO_IP, IPPROTO_IPV6, IPV6_UNICAST_IF, SOCKET, WSAENETUNREACH,
};

use super::transport::set_option;
use crate::underlay_routes::UnderlayRoutes;

/// What a socket is bound to.
#[derive(Debug, Default)]
pub struct Outlet {
    /// The interface's number; 0: none. Written by who has the turn.
    bound: AtomicU32,
    turn: Mutex<()>,
}

/// Held while a datagram is sent for which the socket was bound.
pub type Turn<'a> = Option<MutexGuard<'a, ()>>;

impl Outlet {
    /// Sees to it that what `socket` sends to `to` stays out of the overlay, as long as what is returned is held.
    ///
    /// As long as no datagram needs a binding this is a look into a short list. From the first one on, the socket is bound to where
    /// each datagram would go without the overlay: one after the other, and with a system call only where the interface is another
    /// than that of the datagram before.
    ///
    /// # Errors
    /// `WSAENETUNREACH` when there is no way but the overlay's; what the system says to the binding.
    pub fn aim(&self, socket: &UdpSocket, routes: &UnderlayRoutes, to: SocketAddr) -> io::Result<Turn<'_>> {
        // A binding that another thread makes at this moment costs this datagram at most, which UDP may lose.
        if self.bound.load(Ordering::Relaxed) == 0 && !routes.leads_into_overlay(to) {
            return Ok(None);
        }
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let unreachable = || io::Error::from_raw_os_error(WSAENETUNREACH);
        self.bind(socket, to.is_ipv4(), routes.interface_outside(to).ok_or_else(unreachable)?)?;
        Ok(Some(turn))
    }

    /// Leaves the way to the host again, until a datagram needs a binding: the table has changed. `ipv4`: the socket's family.
    ///
    /// # Errors
    /// What the system says.
    pub fn release(&self, socket: &UdpSocket, ipv4: bool) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.bind(socket, ipv4, 0)
    }

    fn bind(&self, socket: &UdpSocket, ipv4: bool, interface: u32) -> io::Result<()> {
        if self.bound.load(Ordering::Relaxed) == interface {
            return Ok(());
        }
        let (level, option, value) = unicast_if(ipv4, interface);
        set_option(socket.as_raw_socket() as SOCKET, level, option, value.cast_signed())?;
        self.bound.store(interface, Ordering::Relaxed);
        tracing::debug!(interface, ipv4, "the underlay's socket is bound");
        Ok(())
    }
}

/// Level, option and value that bind a socket: IPv4's number is in network byte order, IPv6's in the host's ("IPPROTO_IP socket
/// options" and "IPPROTO_IPV6 socket options", Windows' documentation).
fn unicast_if(ipv4: bool, interface: u32) -> (i32, i32, u32) {
    if ipv4 {
        (IPPROTO_IP, IP_UNICAST_IF, interface.to_be())
    } else {
        (IPPROTO_IPV6, IPV6_UNICAST_IF, interface)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interfaces_number_has_the_byte_order_of_its_family() {
        // As it lies in memory. IPv4's is tried with a socket as well (`transport`); IPv6's cannot be under Wine, which hands it on to
        // Linux as it is, and Linux wants it in network byte order.
        assert_eq!(unicast_if(true, 7).2.to_ne_bytes(), [0, 0, 0, 7]);
        assert_eq!(unicast_if(false, 7), (IPPROTO_IPV6, IPV6_UNICAST_IF, 7));
    }
}
