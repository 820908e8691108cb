//! The Linux leaf: TUN and TAP devices, UDP in batches, rtnetlink, systemd-resolved, network namespaces.

pub mod child;
mod device;
mod files;
mod gro;
mod gso;
mod host;
pub mod link;
mod mmsg;
pub mod netns;
pub mod resolved;
mod rtnl;
mod transport;
mod virtio;
mod wait;
mod watch;

pub use device::{DeviceDrops, TunDevice};
pub use files::{group_id, is_private, with_private_umask};
pub use host::{LinuxHost, boot_id, check_kernel};
pub use transport::{TransportErrors, UdpTransport};
pub use wait::{MAX_WAITED, Ready, Waker, wait_readable};
pub use watch::{DeviceState, DeviceWatch};
