//! Reads layout and size of maps that an earlier agent has left.

use std::fs;
use std::path::Path;

use aya::maps::MapData;
use dz_common::map::{ABI_VERSION, SLOTS_PER_GROUP, name};
use tracing::info;

use super::names::MAPS;
use super::raw::map::RawMap;
use crate::error::{ExitCode, Failure};

/// Returns the number of deadline slots: that of the maps that are there already, else as asked for.
pub(super) fn slots(pin_dir: &Path, max_sessions: u32) -> Result<u32, Failure> {
    let wanted = max_sessions.next_multiple_of(SLOTS_PER_GROUP);
    let config = pin_dir.join(name::CONFIG);
    if !config.exists() {
        // The first map that a stop removes: one that died right after it has left the others, which
        // may be of another size than we want. Nobody uses them.
        remove_maps(pin_dir);
        return Ok(wanted);
    }
    let deadlines = MapData::from_pin(pin_dir.join(name::DEADLINES));
    let found = deadlines
        .ok()
        .and_then(|map| Some(map.info().ok()?.max_entries()));
    let abi = abi_version(&config);
    match (abi, found) {
        (Some(ABI_VERSION), Some(slots)) => {
            info!(pin_dir = %pin_dir.display(), slots, "taking over the maps of an earlier agent");
            Ok(slots)
        }
        // Created, but never configured: an agent died before anything could use them.
        (Some(0), _) | (_, None) => {
            remove_maps(pin_dir);
            Ok(wanted)
        }
        // Those of earlier layouts have been taken over before.
        (abi, _) => Err(Failure::new(
            ExitCode::Failure,
            format!(
                "{}: maps of layout {} found, this version has {ABI_VERSION}: the kernel part goes on \
                 as it was; start the version that made them, or remove it all with `dz-agent purge`",
                pin_dir.display(),
                abi.map_or_else(|| "unknown".to_owned(), |abi| abi.to_string()),
            ),
        )),
    }
}

fn remove_maps(pin_dir: &Path) {
    for name in MAPS {
        // What is not there need not go.
        let _ = fs::remove_file(pin_dir.join(name));
    }
}

/// Reads the layout of pinned maps, by the configuration among them: its first number, whatever follows. 0:
/// never configured. None: there is none.
pub(super) fn abi_version(config: &Path) -> Option<u32> {
    let value = RawMap::from_pin(config).ok()?.get(&[0; 4], false).ok()?;
    Some(u32::from_ne_bytes(*value.first_chunk()?))
}
