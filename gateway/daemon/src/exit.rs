//! How the program ends: the exit codes that scripts rely on, and failures that say what to do.

use overlay_config::Diagnostics;

/// All is well.
pub const OK: u8 = 0;
/// `status`: some hub or configured peer has no session; or a check failed.
pub const DEGRADED: u8 = 1;
/// `status`: no hub and no configured peer has a session.
pub const DOWN: u8 = 2;
/// No service runs; `down`: and there was nothing to clean.
pub const NO_SERVICE: u8 = 3;
/// Bad input, or anything that stops `up` before `ready`.
pub const BAD_INPUT: u8 = 4;

/// A failure as it is told to a person: what happened, and what to do.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What happened.
    pub text: String,
    /// What to do, if there is something.
    pub fix: Option<String>,
}

impl Failure {
    /// Bad input, or the service cannot start: exit code 4.
    pub fn bad_input(text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { code: BAD_INPUT, text: text.into(), fix: Some(fix.into()) }
    }

    /// No service runs: exit code 3.
    pub fn no_service(text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { code: NO_SERVICE, text: text.into(), fix: Some(fix.into()) }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Diagnostics carry their own "error:" on each line.
        let prefix = if self.text.contains(": error: ") { "" } else { "error: " };
        write!(f, "{prefix}{}", self.text)?;
        match &self.fix {
            Some(fix) => write!(f, "\n  fix: {fix}"),
            None => Ok(()),
        }
    }
}

impl From<Diagnostics> for Failure {
    fn from(diagnostics: Diagnostics) -> Self {
        Self { code: BAD_INPUT, text: diagnostics.to_string().trim_end().to_owned(), fix: None }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { code: BAD_INPUT, text: format!("{error:#}"), fix: None }
    }
}
