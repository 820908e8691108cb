//! From a source to a configuration: read, collect every mistake, check the claims, build.

use crate::diagnostic::{Place, Report};
use crate::{Config, Diagnostics, Files, HostFacts, Overrides, Source};

/// Reads a node's configuration. Without a source, the flags and the defaults are all there is.
///
/// # Errors
/// Every mistake at once, warnings among them.
pub fn load_node(
    source: Option<&Source>,
    overrides: &Overrides,
    files: &dyn Files,
    host: &HostFacts,
) -> Result<Config, Diagnostics> {
    let _ = (overrides, files, host);
    let mut report = Report::default();
    report.error("unfinished", &Place::flag(source.map_or("", |s| &s.name)), "not read yet", "");
    Err(report.finish().err().unwrap_or(Diagnostics(Vec::new())))
}

/// Reads a hub's configuration.
///
/// # Errors
/// Every mistake at once, warnings among them.
pub fn load_hub(
    source: &Source,
    overrides: &Overrides,
    files: &dyn Files,
    host: &HostFacts,
) -> Result<Config, Diagnostics> {
    load_node(Some(source), overrides, files, host)
}
