//! Doubles of the leaves in memory: a device, an underlay and a host that are plain queues and sets. For tests and for
//! anything that wants the whole gateway without a kernel.

mod device;
mod host;
mod transport;

pub use device::{HostEnd, MemoryDevice, device};
pub use host::{MemoryHost, RouteKey};
pub use transport::{MemoryNet, MemoryTransport};
