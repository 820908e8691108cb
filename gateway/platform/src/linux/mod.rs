//! The Linux leaf: TUN and TAP devices, UDP in batches, rtnetlink, systemd-resolved, network namespaces.

pub mod advice;
pub mod child;
mod device;
mod files;
mod gro;
mod gso;
mod hold;
mod host;
pub mod link;
mod mmsg;
pub mod netns;
pub mod places;
pub mod resolved;
mod rtnl;
mod thread;
mod transport;
mod virtio;
mod wait;
mod watch;

pub use crate::change::{intended, listener};
pub use device::TunDevice;
pub use files::{
    create_private_dir, distrust, group_id, is_private, open_key, private_file, private_fix, seal_file,
    seal_key, with_private_umask,
};
pub use hold::idle_queue;
pub use host::{LinuxHost, LinuxHost as Host, boot_id, check_kernel, connect_host};
pub use thread::favour_this_thread;
pub use transport::UdpTransport;
pub use wait::{Source, Waitable, Waker, wait_readable};
pub use watch::{DeviceState, DeviceWatch};

/// On Linux nothing is done for it: a datagram of the underlay that the host leads into the overlay is recognised on the device,
/// dropped and counted.
pub fn keep_underlay_outside(_: std::sync::Arc<UdpTransport>, _: String) -> impl Future<Output = ()> {
    std::future::ready(())
}

/// The most queues that a device and an underlay can have, as far as the program is concerned.
pub const MOST_QUEUES: usize = 256;
