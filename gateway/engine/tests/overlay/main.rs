//! Whole overlays in memory: engines, and plain WireGuard members, joined by their datagrams in one thread.
//!
//! The time that the engines see is the test's own; boringtun's hidden clock is the real one and hardly moves, so what
//! depends on it (expiry, rekeying) is tested in `tests/sim`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking, also in the functions that its tests share"
)]

mod failover;
mod floating;
mod gateway;
mod hostile;
mod liar;
mod listeners;
mod many;
mod mtu;
mod packets;
mod peers;
mod properties;
mod reload;
mod roaming;
mod routing;
mod sealed;
mod tap;
mod world;
