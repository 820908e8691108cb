//! The Windows leaf: the Wintun adapter and the process that holds it, UDP, the IP Helper API, named pipes, DPAPI.

pub mod advice;
mod boot;
mod category;
mod device;
mod dll;
mod dns;
mod files;
mod forwarding;
pub mod holder;
mod host;
mod iphelper;
mod outlet;
mod outside;
pub mod pipe;
pub mod places;
mod policy;
mod process;
pub mod security;
mod subscription;
mod transport;
mod wait;
mod watch;

#[cfg(feature = "doubles")]
pub mod doubles;

#[cfg(not(feature = "doubles"))]
#[path = "no_doubles.rs"]
mod doubles;

pub use crate::change::{intended_on_windows as intended, listener_on_windows as listener};
pub use boot::{boot_id, check_kernel, forget as forget_boot};
pub use device::TunDevice;
pub use dll::{DllFacts, delete_driver};
pub use files::{
    create_private_dir, distrust, group_id, is_clear_key, is_private, is_private_for_service, open_key,
    private_file, private_fix, seal_file, seal_key,
};
pub use host::{Host, connect_host};
pub use outside::keep_underlay_outside;
pub use process::Process;
pub use transport::UdpTransport;
pub use wait::{Event, Source, Waitable, Waker, wait_readable};
pub use watch::{DeviceState, DeviceWatch};

/// Wintun has one queue, and Windows does not spread senders over sockets.
pub const MOST_QUEUES: usize = 1;

/// Gives the calling thread precedence over ordinary ones: Windows does that by itself for a thread whose wait has ended (Priority
/// Boosts).
///
/// # Errors
/// Never.
pub fn favour_this_thread() -> std::io::Result<()> {
    Ok(())
}
