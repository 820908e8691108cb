//! Key files: found, private, and holding a key.

use std::path::Path;

use crate::diagnostic::{Mistake, Report};
use crate::name::{shown, shown_path};
use crate::{FileError, Files, KeyError, Source};

use super::section::Section;

/// How the key files of one source are read.
pub(super) struct KeyReader<'a> {
    pub source: &'a Source,
    pub files: &'a dyn Files,
}

impl KeyReader<'_> {
    /// The key in the file that `section` names under `key`.
    pub fn read<T>(
        &self,
        section: &Section<'_>,
        key: &str,
        make: &str,
        parse: fn(&str) -> Result<T, KeyError>,
        report: &mut Report,
    ) -> Option<T> {
        let name = section.string(key, report)?;
        report.keep(&name.place, self.open(name.value, make, parse))
    }

    fn open<T>(&self, name: &str, make: &str, parse: fn(&str) -> Result<T, KeyError>) -> Result<T, Mistake> {
        let error = |text: String, fix: String| Err(Mistake::new("key-file", text, fix));
        if name.is_empty() {
            return error(
                "the name of the key file is empty".into(),
                "enter a path, relative to this file".into(),
            );
        }
        let path = self.full_path(name);
        let read = self.files.read(Path::new(name));
        let name = shown(name);
        let file = match read {
            Ok(file) => file,
            Err(why) => {
                let fix = match why {
                    FileError::Missing => format!("make it: (umask 077; {make} > {path})"),
                    FileError::Denied => "run as the user that owns it, root for a service".into(),
                    FileError::Other(_) => "name a file that holds one key".into(),
                };
                return error(format!("cannot read the key file `{name}`: {why}"), fix);
            }
        };
        if !file.private {
            return error(
                format!("the key file `{name}` can be read by others"),
                self.files.private_fix(&path),
            );
        }
        let key = std::str::from_utf8(&file.bytes).map_err(|_| KeyError::NotBase64).and_then(parse);
        key.or_else(|why| {
            error(
                format!("the key file `{name}` holds no key: {why}"),
                format!("put there what `{make}` prints"),
            )
        })
    }

    /// As a shell in any folder takes it, when the configuration's own name does.
    fn full_path(&self, name: &str) -> String {
        let folder = Path::new(&self.source.name).parent().unwrap_or(Path::new(""));
        shown_path(&folder.join(name).to_string_lossy())
    }
}
