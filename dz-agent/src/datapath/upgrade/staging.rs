//! The folders of a takeover, whose names say how far it was.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::datapath::made::is_there;
use crate::datapath::pins::Pin;
use crate::datapath::raw::map::RawMap;
use crate::error::{ExitCode, FailWith, Failure};

/// The folder of maps that are being made ready; of no use to the next start.
pub(super) const NEW: &str = "takeover_new";
/// The folder of maps whose programs some links may have been given.
pub(super) const SWAP: &str = "takeover_swap";
/// The folder of maps whose programs all links have been given.
pub(super) const MOVE: &str = "takeover_move";

/// Returns the folders that an unfinished takeover has left, for `purge`.
///
/// # Errors
/// They cannot be looked for.
pub fn unfinished(pin_dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for folder in [NEW, SWAP, MOVE].map(|folder| pin_dir.join(folder)) {
        if exists(&folder)? {
            found.push(folder);
        }
    }
    Ok(found)
}

/// Says whether there is a folder.
pub(super) fn exists(folder: &Path) -> Result<bool, Failure> {
    is_there(folder).fail_with(ExitCode::Failure, || folder.display().to_string())
}

/// Reads the kernel ids of the maps pinned in a folder.
pub(super) fn map_ids(folder: &Path) -> Result<Vec<u32>, Failure> {
    let what = || format!("reading {}", folder.display());
    let pins = Pin::list(folder).fail_with(ExitCode::Failure, what)?;
    let maps = pins.iter().filter(|pin| matches!(pin, Pin::Map(_)));
    let ids = maps.map(|pin| Ok(RawMap::from_pin(&pin.path(folder))?.id()));
    let ids: io::Result<_> = ids.collect();
    ids.fail_with(ExitCode::Failure, what)
}

/// Renames a folder.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), String> {
    fs::rename(from, to).map_err(|error| format!("renaming {}: {error}", from.display()))
}

/// Removes a folder of a takeover that was given up. Without it there is nothing to do.
pub(super) fn remove(folder: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(folder) {
        Ok(()) => {
            warn!(folder = %folder.display(), "thrown away: an agent died before it was used");
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).fail_with(ExitCode::Failure, || {
            format!("removing {}", folder.display())
        }),
    }
}
