//! Buffers and wire formats: batches, and one protocol per file.
//!
//! The codecs are written by hand, on slices: a view borrows the bytes, checks its header once when it is made, and
//! then only reads; a plain struct is written into a caller's buffer. Nothing is allocated or copied on the packet
//! path. The crate etherparse is the reference that the tests hold them against, and stands in tests only.

pub mod arp;
pub mod batch;
pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod mss;
pub mod tcp;
pub mod udp;

pub use batch::{Batch, DatagramBatch, Filled, HEADROOM, MAX_PACKET, PacketBatch, Reservation, Train};

/// Why bytes are not what they claim to be. Lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Fewer bytes than the header says, or than it needs itself.
    #[error("{what}: needs {needed} bytes, has {found}")]
    Truncated {
        /// The protocol or the part of it.
        what: &'static str,
        /// How many bytes it needs.
        needed: usize,
        /// How many there are.
        found: usize,
    },
    /// A length field that contradicts the rest of the header.
    #[error("{what}: a length field says {found} bytes, at least {least} are its own header")]
    Length {
        /// The protocol.
        what: &'static str,
        /// What the field says.
        found: usize,
        /// The least that it may say.
        least: usize,
    },
    /// A field whose value belongs to another protocol, or to none.
    #[error("{what}: value {found} where {expected} belongs")]
    Value {
        /// The field.
        what: &'static str,
        /// What it holds.
        found: u16,
        /// What it should hold.
        expected: u16,
    },
}
