//! What is wrong with a configuration, where, and what to do about it.

use std::fmt;
use std::sync::Arc;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It is taken, but may not be what was meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One mistake. Displayed as a compiler would, the fix on an indented line of its own:
///
/// ```text
/// cluster-1.toml:4:8: error: slot 60 is not a multiple of 8
///     a /29 begins at a multiple of 8: take 56 or 64
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// A stable name of the kind of mistake, for programs.
    pub code: &'static str,
    /// The source's name, or the flag that holds the mistake (`--slot`).
    pub file: String,
    /// From 1; 0 in a flag.
    pub line: usize,
    /// In characters, from 1; 0 in a flag.
    pub column: usize,
    /// What is wrong, with the value.
    pub text: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { severity, file, line, column, text, fix, .. } = self;
        match line {
            0 => write!(f, "{file}: {severity}: {text}")?,
            _ => write!(f, "{file}:{line}:{column}: {severity}: {text}")?,
        }
        if fix.is_empty() { Ok(()) } else { write!(f, "\n    {fix}") }
    }
}

/// Everything that is wrong, in the order of the file. At least one of them is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// A place in a file or flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub file: Arc<str>,
    pub line: usize,
    pub column: usize,
}

impl Place {
    pub fn flag(name: &str) -> Self {
        Self { file: name.into(), line: 0, column: 0 }
    }

    /// How another diagnostic refers to this place: by its line, or by its flag.
    pub fn reference(&self) -> String {
        match self.line {
            0 => self.file.to_string(),
            line => format!("line {line}"),
        }
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Placed<T> {
    pub value: T,
    pub place: Place,
}

impl<T> Placed<T> {
    pub fn new(value: T, place: Place) -> Self {
        Self { value, place }
    }

    pub fn with<U>(&self, value: U) -> Placed<U> {
        Placed { value, place: self.place.clone() }
    }
}

/// A mistake that does not yet know where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub code: &'static str,
    pub text: String,
    pub fix: String,
}

impl Mistake {
    pub fn new(code: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { code, text: text.into(), fix: fix.into() }
    }
}

/// The mistakes found so far: reading goes on after each.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<Diagnostic>);

impl Report {
    pub fn error(
        &mut self,
        code: &'static str,
        place: &Place,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.add(Severity::Error, code, place, text.into(), fix.into());
    }

    pub fn warning(
        &mut self,
        code: &'static str,
        place: &Place,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.add(Severity::Warning, code, place, text.into(), fix.into());
    }

    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    pub fn mistake(&mut self, place: &Place, mistake: Mistake) {
        self.add(Severity::Error, mistake.code, place, mistake.text, mistake.fix);
    }

    /// The value, or its mistake put on record.
    pub fn keep<T>(&mut self, place: &Place, result: Result<T, Mistake>) -> Option<T> {
        result.map_err(|mistake| self.mistake(place, mistake)).ok()
    }

    fn add(&mut self, severity: Severity, code: &'static str, place: &Place, text: String, fix: String) {
        let Place { file, line, column } = place;
        let file = file.to_string();
        self.0.push(Diagnostic { severity, code, file, line: *line, column: *column, text, fix });
    }

    /// The warnings, in the order of the file, when there is no error.
    pub fn finish(mut self) -> Result<Vec<Diagnostic>, Diagnostics> {
        self.0.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        if self.has_errors() { Err(Diagnostics(self.0)) } else { Ok(self.0) }
    }
}
