//! overlay-gw measured against the programs that do the same work.
//!
//! ```text
//! machine    namespaces joined by wires, and who else uses the processor
//! contender  one file per program: how it is configured and started in such a world
//! measure    TCP, UDP, round trips, and what the tunnel's processes cost meanwhile
//! results    medians and spread; the Markdown table and the chart
//! ```
//!
//! The programs of this crate stand in `bin/`; the benches per packet are in `micro/`. README.md tells how
//! to run them and how to read what they print.

pub mod build;
pub mod contender;
pub mod machine;
pub mod measure;
pub mod process;
pub mod results;
pub mod schedule;
pub mod topology;

/// How a bench ends: 0 when all is well, 1 when what it looks for is not, 4 when it cannot work, with the reason on standard error.
#[must_use]
pub fn exit_code(result: anyhow::Result<bool>) -> std::process::ExitCode {
    match result {
        Ok(well) => u8::from(!well).into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            4.into()
        }
    }
}
