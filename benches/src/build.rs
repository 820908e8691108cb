//! The program that is measured: built when Cargo runs us, so that one command measures what the sources say now.

use anyhow::{Context, Result, bail};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The overlay-gw to measure: `$OVERLAY_GW`, or the one of this workspace, built in the profile that this program was built in.
///
/// # Errors
/// When it does not build, or there is none.
pub fn overlay_gw() -> Result<PathBuf> {
    if let Some(path) = env::var_os("OVERLAY_GW") {
        return Path::new(&path).canonicalize().with_context(|| format!("OVERLAY_GW={}", path.display()));
    }
    cargo_build(&["-p", "overlay-gw", "--bin", "overlay-gw"])?;
    beside("overlay-gw")
}

/// Builds an example of this crate, and returns its file.
///
/// # Errors
/// As [`overlay_gw`].
pub fn example(name: &str, file: &str) -> Result<PathBuf> {
    cargo_build(&["-p", "overlay-benches", "--example", name])?;
    beside(&format!("examples/{file}"))
}

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// What stands beside this program in the target folder.
fn beside(name: &str) -> Result<PathBuf> {
    let path = env::current_exe()?.with_file_name(name);
    if !path.exists() {
        bail!("{} is not there: start this through cargo run, or build it first", path.display());
    }
    Ok(path)
}

fn cargo_build(words: &[&str]) -> Result<()> {
    // Only when started by Cargo: otherwise what is there is measured.
    let Some(cargo) = env::var_os("CARGO") else { return Ok(()) };
    let mut command = Command::new(cargo);
    command.current_dir(repository()).args(["build", "--quiet"]).args(words);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    if !command.status()?.success() {
        bail!("{command:?} failed");
    }
    Ok(())
}
