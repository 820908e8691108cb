//! Buffers and wire formats: batches, and one protocol per file.

pub mod batch;

pub use batch::{Batch, DatagramBatch, HEADROOM, MAX_PACKET, PacketBatch, Reservation};
