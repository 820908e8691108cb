//! overlay-gw's configuration: bytes of TOML in, valid types out, and the plan that cuts an overlay into slots.
//!
//! **Pure.** No file, clock, socket or random number is touched here. Key files are read through [`Files`], the
//! host's addresses come in as [`HostFacts`], and the bytes of new keys as an argument, so every mistake a file can
//! hold is found, and tested, without a machine around it.
//!
//! What flows through:
//!
//! ```text
//! Source ─ load/toml ─▶ Sections with places ─ load/{own,overlay,members} ─▶ values + Claims
//!                                                        claims: what no single value shows (taken twice, inside, outside)
//!                                                                          ─▶ Config, or every Diagnostic at once
//! Plan ─ the same Claims ─▶ packs: Config::to_toml and key files, one folder for each node and hub
//! signed records ─ membership::Book ─▶ members ─ Config::with_members ─▶ Config
//! ```
//!
//! A [`Config`] that exists is valid: nothing downstream checks it again.

#![forbid(unsafe_code)]

mod claims;
mod diagnostic;
mod endpoint;
mod key;
mod load;
pub mod membership;
mod model;
mod name;
mod network;
pub mod plan;
mod slot;
mod source;
mod words;
mod write;

pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use endpoint::{Endpoint, EndpointError};
pub use key::{KeyError, PresharedKey, PrivateKey, PublicKey};
pub use load::{load_hub, load_node};
pub use model::{
    Config, Control, DEFAULT_DEVICE, DEFAULT_HUB_PORT, DEFAULT_MTU, DEFAULT_OVERLAY, DEFAULT_SLOT_PREFIX,
    Device, Floating, Hub, HubKind, HubRole, Listen, MAX_SLOTS, Membership, Mode, Node, Overlay, Peer,
    Refuse, Relay, Role, Route, Windows,
};
pub use slot::{Slot, SlotError};
pub use source::{FileError, FileText, Files, HostFacts, Overrides, Source};
pub use write::KeyFile;

/// The `version` that this program reads and writes.
pub const CONFIG_VERSION: i64 = 1;
