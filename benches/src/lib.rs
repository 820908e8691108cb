//! overlay-gw measured against the programs that do the same work.
//!
//! ```text
//! machine    namespaces joined by wires, and who else uses the processor
//! contender  one file per program: how it is configured and started in such a world
//! measure    TCP, UDP, round trips, and what the tunnel's processes cost meanwhile
//! results    medians and spread; the Markdown table and the chart
//! ```
//!
//! The programs of this crate are `side-by-side` and `allocations`; the benches per packet are in `micro/`. README.md tells how
//! to run them and how to read what they print.

pub mod build;
pub mod contender;
pub mod machine;
pub mod measure;
pub mod process;
pub mod results;
pub mod schedule;
pub mod topology;
