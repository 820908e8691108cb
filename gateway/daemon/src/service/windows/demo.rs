//! `demo` needs Linux.

use crate::cli::{DemoArgs, Global};
use crate::exit::Failure;

/// Says where the demo runs.
///
/// # Errors
/// Always.
pub fn run(_: &DemoArgs, _: &Global) -> Result<u8, Failure> {
    Err(Failure::bad_input(
        "the demo lays its overlay in network namespaces, which only Linux has",
        "run `overlay-gw demo` on any Linux machine; here, `overlay-gw up --slot 56` starts a node",
    ))
}
