//! overlay-gw with other people's programs: Debian's wireguard-go, configured by `wg`, keepalived, and corosync; and with its own
//! previous version.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken expectation ends the test, and says where"
)]

use std::process::ExitCode;

mod corosync;
mod direct_peer;
mod hub;
mod keepalived;
mod member;
mod previous;

fn main() -> ExitCode {
    overlay_tests::harness::main(
        &[
            corosync::cases(),
            direct_peer::cases(),
            hub::cases(),
            keepalived::cases(),
            member::cases(),
            previous::cases(),
        ]
        .concat(),
    )
}
