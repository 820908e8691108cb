//! Records as a file: one on each line, in base64. Lines that begin with `#` are for eyes.

use std::fmt::Write as _;

use super::record::RecordError;
use super::signing::SignedRecord;

/// The file of records, beside a configuration and in a state folder.
pub const RECORDS_FILE: &str = "members.records";

/// What was read from a file of records.
#[derive(Clone, Debug, Default)]
pub struct RecordLines {
    /// The well-formed ones and their lines, from 1. Their signatures are not verified.
    pub records: Vec<(usize, SignedRecord)>,
    /// The others.
    pub bad: Vec<BadLine>,
}

/// A line that is no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct BadLine {
    /// From 1.
    pub line: usize,
    /// Why.
    pub why: RecordError,
}

impl RecordLines {
    /// Reads a file; bytes that are no text make bad lines.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let mut lines = Self::default();
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let record = std::str::from_utf8(line).map_err(|_| RecordError::NotBase64).and_then(str::parse);
            match record {
                Ok(record) => lines.records.push((index + 1, record)),
                Err(why) => lines.bad.push(BadLine { line: index + 1, why }),
            }
        }
        lines
    }

    /// The text of a file with these records, each below a comment that says what it is.
    #[must_use]
    pub fn write<'a>(records: impl IntoIterator<Item = &'a SignedRecord>) -> String {
        let mut text =
            String::from("# overlay-gw membership records, one signed record a line. No secret.\n");
        for record in records {
            // Writing into a `String` cannot fail.
            _ = writeln!(text, "# {}\n{record}", record.record());
        }
        text
    }
}
