//! The pins of maps that a start makes, which it takes back if it fails.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::names::MAPS;
use crate::error::{ExitCode, FailWith, Failure};

/// The pins of the maps that were missing in a directory. Dropped before they are [kept](Self::keep), they are removed.
pub(super) struct MadePins(Vec<PathBuf>);

impl MadePins {
    /// Notes which maps are missing: they are about to be made.
    ///
    /// # Errors
    /// That cannot be told: only `ENOENT` means that a pin is missing.
    pub(super) fn of_missing(pin_dir: &Path) -> Result<Self, Failure> {
        let mut missing = Vec::new();
        for name in MAPS {
            let pin = pin_dir.join(name);
            let there = is_there(&pin).fail_with(ExitCode::Failure, || pin.display().to_string());
            if !there? {
                missing.push(pin);
            }
        }
        Ok(Self(missing))
    }

    /// Leaves the pins, from now on.
    pub(super) fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for MadePins {
    fn drop(&mut self) {
        for pin in &self.0 {
            // What was not made need not go.
            let _ = fs::remove_file(pin);
        }
    }
}

/// Says whether there is a file.
///
/// # Errors
/// That cannot be told: only `ENOENT` means that there is none.
pub(super) fn is_there(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_missing_is_removed_unless_it_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let pin = |name| directory.path().join(name);
        fs::write(pin(MAPS[0]), "").unwrap();
        for kept in [false, true] {
            let mut made = MadePins::of_missing(directory.path()).unwrap();
            fs::write(pin(MAPS[1]), "").unwrap();
            if kept {
                made.keep();
            }
            drop(made);
            assert_eq!(is_there(&pin(MAPS[1])).unwrap(), kept);
            assert!(is_there(&pin(MAPS[0])).unwrap(), "not made here");
        }
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_missing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(is_there(&file.join("below")).is_err(), "ENOTDIR");
        assert!(MadePins::of_missing(&file).is_err());
        assert!(!is_there(&directory.path().join("none")).unwrap());
    }
}
