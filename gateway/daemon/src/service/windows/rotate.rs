//! A log file that does not grow without end: when it is full it becomes `NAME.1`, that `NAME.2`, and the last one goes. While it
//! cannot be renamed, since somebody has it open, it grows on and the older ones stay.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file of this many bytes is full.
const FULL: u64 = 4 << 20;

/// After a full file could not be renamed it is tried again when it has grown by this many bytes.
const AGAIN: u64 = 64 << 10;

/// Older files that are kept.
const KEPT: u32 = 4;

/// The log file.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    file: Option<File>,
    length: u64,
    /// From this length on it is full.
    full: u64,
}

impl RotatingFile {
    /// Opens the file in `folder`, and goes on where it ends.
    ///
    /// # Errors
    /// When folder or file cannot be made.
    pub fn open(folder: &Path, name: &str) -> io::Result<Self> {
        overlay_platform::os::create_private_dir(folder)?;
        let mut log = Self { path: folder.join(name), file: None, length: 0, full: FULL };
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
        let beside = |what: &str| PathBuf::from(format!("{}.{what}", self.path.display()));
        let numbered = |number: u32| beside(&number.to_string());
        // Aside first: an older one makes room only for a file that does come.
        let aside = beside("full");
        if fs::rename(&self.path, &aside).is_ok() {
            let _ = fs::remove_file(numbered(KEPT));
            for number in (1..KEPT).rev() {
                let _ = fs::rename(numbered(number), numbered(number + 1));
            }
            let _ = fs::rename(&aside, numbered(1));
            self.full = FULL;
        } else {
            self.full = self.length + AGAIN;
        }
        self.begin()
    }
}

impl Write for RotatingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.length > 0 && self.length + bytes.len() as u64 > self.full {
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
    use std::os::windows::fs::OpenOptionsExt;

    /// FILE_SHARE_READ, FILE_SHARE_WRITE (winnt.h).
    const FILE_SHARE_READ: u32 = 1;
    const FILE_SHARE_WRITE: u32 = 2;

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

    #[test]
    fn while_somebody_has_the_full_file_open_it_grows_and_the_older_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for number in 1..=KEPT {
            fs::write(at(&format!("x.log.{number}")), number.to_string()).unwrap();
        }
        let older = || -> Vec<String> {
            (1..=KEPT).map(|number| fs::read_to_string(at(&format!("x.log.{number}"))).unwrap()).collect()
        };
        let line = vec![b'x'; 1 << 20];
        let mut log = RotatingFile::open(folder.path(), "x.log").unwrap();
        log.write_all(&line).unwrap();
        // As an editor does, that lets others read and write but not delete or rename.
        let shared = FILE_SHARE_READ | FILE_SHARE_WRITE;
        let reader = OpenOptions::new().read(true).share_mode(shared).open(at("x.log")).unwrap();
        for _ in 0..9 {
            log.write_all(&line).unwrap();
        }
        assert_eq!(older(), ["1", "2", "3", "4"]);
        assert_eq!(fs::metadata(at("x.log")).unwrap().len(), 10 << 20);
        drop(reader);
        log.write_all(&line).unwrap();
        assert_eq!(fs::metadata(at("x.log.1")).unwrap().len(), 10 << 20);
        assert_eq!(older()[1..], ["1", "2", "3"]);
        assert_eq!(fs::metadata(at("x.log")).unwrap().len(), 1 << 20);
    }
}
