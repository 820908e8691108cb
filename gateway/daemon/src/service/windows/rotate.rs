//! A log file that does not grow without end: when it is full it becomes `NAME.1`, that `NAME.2`, and the last one goes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file of this many bytes is full.
const FULL: u64 = 4 << 20;

/// Older files that are kept.
const KEPT: u32 = 4;

/// The log file.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    file: Option<File>,
    length: u64,
}

impl RotatingFile {
    /// Opens the file in `folder`, and goes on where it ends.
    ///
    /// # Errors
    /// When folder or file cannot be made.
    pub fn open(folder: &Path, name: &str) -> io::Result<Self> {
        overlay_platform::os::create_private_dir(folder)?;
        let mut log = Self { path: folder.join(name), file: None, length: 0 };
        log.begin()?;
        Ok(log)
    }

    fn begin(&mut self) -> io::Result<()> {
        let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        self.length = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        // Windows does not rename a file that is open.
        self.file = None;
        let numbered = |number: u32| PathBuf::from(format!("{}.{number}", self.path.display()));
        let _ = fs::remove_file(numbered(KEPT));
        for number in (1..KEPT).rev() {
            let _ = fs::rename(numbered(number), numbered(number + 1));
        }
        let _ = fs::rename(&self.path, numbered(1));
        self.begin()
    }
}

impl Write for RotatingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.length > 0 && self.length + bytes.len() as u64 > FULL {
            self.rotate()?;
        }
        let file = self.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        let written = file.write(bytes)?;
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), File::flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_makes_room_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let line = vec![b'x'; 1 << 20];
        for _ in 0..2 {
            // Opened twice: a restart goes on where it was.
            let mut log = RotatingFile::open(folder.path(), "x.log").unwrap();
            for _ in 0..20 {
                log.write_all(&line).unwrap();
            }
        }
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names, ["x.log", "x.log.1", "x.log.2", "x.log.3", "x.log.4"]);
        assert!(fs::metadata(folder.path().join("x.log.1")).unwrap().len() <= FULL);
    }
}
