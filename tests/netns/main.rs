//! overlay-gw on real devices, in network namespaces: one hub, up to three nodes, TUN and TAP.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken expectation ends the test, and says where"
)]

use std::process::ExitCode;

mod harness;

fn main() -> ExitCode {
    let cases = [harness::cases()].concat();
    overlay_tests::harness::main(&cases)
}
