//! What a packet costs: the cipher, codecs, lookups, the engine's two ways, the gateway's answers, the relay of a hub.
//!
//! No socket and no device: engines are joined in memory, so what is measured is the engine and the cipher alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a bench that cannot do its work stops; criterion's macros document nothing"
)]

mod aead;
mod codecs;
mod engine;
mod gateway;
mod lookup;
mod packets;
mod world;

use criterion::{Criterion, criterion_group, criterion_main};
use std::time::Duration;

fn short() -> Criterion {
    // A second for each keeps the whole below a minute, and boringtun's sessions (its hidden clock ends them after
    // three minutes) alive.
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
}

criterion_group! {
    name = micro;
    config = short();
    targets = aead::benches, codecs::benches, lookup::benches, engine::benches, gateway::benches, lookup::flatness
}
criterion_main!(micro);
