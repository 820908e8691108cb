//! Membership: who is in the overlay, signed by its administrator. Records in, the newest of each out.
//!
//! **Trust is signed, whoever carries it.** A [`Record`] says that a key is a node with a slot, or a hub with endpoints; a
//! revocation says that it is no more. The overlay's [`SigningKey`], which only the administrator has, signs it; hubs and nodes
//! hand [`SignedRecord`]s on to each other, keep them on disk, and believe none that their [`Book`] has not verified.
//!
//! ```text
//! bytes ─ SignedRecord::from_bytes ─▶ well formed ─ Book::merge ─▶ verified, inside the overlay, the newest of its key and seat
//!                                                                  Book::members ─▶ Config::with_members ─▶ the engine
//!                                                                  Book::{digest, listing, missing, wanted} ─▶ other gateways
//! ```

mod apply;
mod book;
mod codec;
mod gossip;
mod record;
mod signing;
mod text;

pub use apply::Applied;
pub use book::{Book, Invalid, MAX_RECORDS, Merge, Standing};
pub use gossip::{Digest, Held, KeyId, Listing};
pub(crate) use record::MAX_NETWORKS;
pub use record::{MAX_RECORD_BYTES, Record, RecordError, RecordKind};
pub use signing::{SignError, SignedRecord, SigningKey, SigningPublicKey};
pub use text::{BadLine, RECORDS_FILE, RecordLines};
