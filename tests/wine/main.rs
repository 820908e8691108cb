//! overlay-gw.exe under Wine, as a node among native Linux nodes and hubs. Windows itself is not here: the driver and what changes
//! the host's network are doubles, and each test says so by speaking of what the doubles have recorded.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken expectation ends the test, and says where"
)]

use std::process::ExitCode;

mod adapter;
mod alone;
mod bridge;
mod overlay;
mod service;
mod wine;

fn main() -> ExitCode {
    let cases = [alone::cases(), overlay::cases(), adapter::cases(), service::cases()];
    overlay_tests::harness::main(&cases.concat())
}
