//! overlay-gw on real devices, in network namespaces: mostly one hub and up to three nodes, TUN and TAP.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken expectation ends the test, and says where"
)]

use std::process::ExitCode;

mod alone;
mod demo;
mod endpoints;
mod gateway_icmp;
mod harness;
mod left_behind;
mod listeners;
mod many;
mod members;
mod membership;
mod mtu;
mod paths;
mod reload;
mod service_manager;
mod signed;
mod tap;

fn main() -> ExitCode {
    let cases = [
        harness::cases(),
        alone::cases(),
        left_behind::cases(),
        members::cases(),
        membership::cases(),
        signed::cases(),
        mtu::cases(),
        paths::cases(),
        many::cases(),
        gateway_icmp::cases(),
        listeners::cases(),
        tap::cases(),
        endpoints::cases(),
        reload::cases(),
        service_manager::cases(),
        demo::cases(),
    ];
    overlay_tests::harness::main(&cases.concat())
}
