//! Whole overlays in virtual time: `overlay-sim run` many seeds, `overlay-sim replay` one of them. See README.md.

mod check;
mod claims;
mod clock;
mod ledger;
mod memory;
mod model;
mod nat;
mod net;
mod op;
mod packet;
mod party;
mod pranks;
mod roll;
mod runner;
mod scenario;
mod sim;
mod trace;
mod wait;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

fn main() -> std::process::ExitCode {
    runner::main(std::env::args().skip(1))
}
