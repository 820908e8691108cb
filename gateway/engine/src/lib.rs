//! What happens to a packet: the engine of overlay-gw.
//!
//! ```text
//! host → Engine::handle_host     → packets for the underlay, answers for the host
//! peer → Engine::handle_underlay → packets for the host, datagrams for peers
//! time → Engine::handle_timeout  → handshakes and keepalives
//! ```
//!
//! Pure: no socket, no runtime, no file, and no clock: the time is an argument. The one exception is boringtun's own
//! hidden clock, confined to [`peer::tunnel`].
#![forbid(unsafe_code)]

pub mod claim;
pub mod control;
mod conversation;
pub mod counters;
mod direct;
pub mod engine;
pub mod event;
pub mod gateway;
mod host_side;
mod hub_side;
pub mod label;
pub mod listener;
mod notice;
mod output;
pub mod packet;
pub mod peer;
pub mod relay;
pub mod route;
mod schedule;
mod sender;
pub mod settings;
mod share;
pub mod table;
mod whereabouts;

pub use counters::{DropReason, Drops};
pub use engine::{Engine, PeerStatus};
pub use event::Event;
pub use output::Output;
pub use settings::{EngineSettings, RoleSettings};
pub use share::FloatingOwner;
