//! Reads layout and size of maps that an earlier agent has left.

use std::fs;
use std::io;
use std::path::Path;

use aya::maps::MapType;
use dz_common::counters::Counters;
use dz_common::map::{
    ABI_VERSION, Config, Confined, Deadline, Destination, Due, Group, LocalKey, Peer, PeerKey,
    SLOTS_PER_GROUP, SessionEntry, name,
};
use tracing::info;
use zerocopy::TryFromBytes;

use super::names::MAPS;
use super::raw::map::RawMap;
use crate::error::{ExitCode, FailWith, Failure};

/// Returns how many deadline slots so many sessions need: whole groups.
pub(super) const fn slots_for(max_sessions: u32) -> u32 {
    max_sessions.next_multiple_of(SLOTS_PER_GROUP)
}

/// Returns the number of deadline slots: that of the maps that are there already, else as asked for.
///
/// # Errors
/// The maps are of another layout, or cannot be read: only `ENOENT` means that a map is missing.
pub(super) fn slots(pin_dir: &Path, max_sessions: u32) -> Result<u32, Failure> {
    let wanted = slots_for(max_sessions);
    let abi = abi_version(pin_dir)?;
    let deadlines = pinned(pin_dir, name::DEADLINES)?.map(|map| map.max_entries());
    match (abi, deadlines) {
        (Some(ABI_VERSION), Some(slots)) => {
            info!(pin_dir = %pin_dir.display(), slots, "taking over the maps of an earlier agent");
            Ok(slots)
        }
        // Without a configuration: it is written when the programs are on the interfaces, and its map is the first
        // that a stop removes. An agent that died before or after left maps, perhaps of another size, that
        // nobody uses.
        (None | Some(0), _) | (_, None) => {
            remove_maps(pin_dir)?;
            Ok(wanted)
        }
        // Those of earlier layouts have been taken over before.
        (Some(abi), _) => Err(Failure::new(
            ExitCode::Failure,
            format!(
                "{}: maps of layout {abi} found, this version has {ABI_VERSION}: the kernel part goes on \
                 as it was; start the version that made them, or remove it all with `dz-agent purge`",
                pin_dir.display(),
            ),
        )),
    }
}

/// Checks that pinned maps have keys and values of our sizes, whatever layout they claim to have: the kernel would
/// write beyond ours.
///
/// # Errors
/// [`ExitCode::Failure`]: one has others, or cannot be opened.
pub(super) fn check_shapes(pin_dir: &Path) -> Result<(), Failure> {
    for (name, kind, key, value) in SHAPES {
        let ours = (kind as u32, key as u32, value as u32);
        let found = pinned(pin_dir, name)?.map(|map| map.shape());
        if let Some(found) = found.filter(|found| *found != ours) {
            let pin = pin_dir.join(name);
            let text = format!(
                "{}: a map of kind {}, keys of {} and values of {} bytes found, this version has {ours:?}: the kernel \
                 part goes on as it was; remove it all with `dz-agent purge`",
                pin.display(),
                found.0,
                found.1,
                found.2
            );
            return Err(Failure::new(ExitCode::Failure, text));
        }
    }
    Ok(())
}

/// Kind of each map, and the sizes of its keys and values.
const SHAPES: [(&str, MapType, usize, usize); 11] = [
    (name::CONFIG, MapType::Array, INDEX, size_of::<Config>()),
    (name::CONFINED, MapType::Hash, size_of::<Confined>(), NUMBER),
    (
        name::COUNTERS,
        MapType::PerCpuArray,
        INDEX,
        size_of::<Counters>(),
    ),
    (
        name::DEADLINES,
        MapType::Array,
        INDEX,
        size_of::<Deadline>(),
    ),
    (name::DUE, MapType::Array, INDEX, size_of::<Due>()),
    (name::EVENTS, MapType::RingBuf, 0, 0),
    (name::GROUPS, MapType::Array, INDEX, size_of::<Group>()),
    (name::HEARTBEAT, MapType::Array, INDEX, size_of::<u64>()),
    (name::LOCALS, MapType::Hash, size_of::<LocalKey>(), NUMBER),
    (
        name::PEERS,
        MapType::Hash,
        size_of::<PeerKey>(),
        size_of::<Peer>(),
    ),
    (
        name::SESSIONS,
        MapType::Hash,
        size_of::<Destination>(),
        size_of::<SessionEntry>(),
    ),
];
/// Size of the index of an array.
const INDEX: usize = size_of::<u32>();
/// Size of a value that is a number.
const NUMBER: usize = size_of::<u32>();

fn remove_maps(pin_dir: &Path) -> Result<(), Failure> {
    for name in MAPS {
        let pin = pin_dir.join(name);
        match fs::remove_file(&pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error)
                    .fail_with(ExitCode::Failure, || format!("removing {}", pin.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Opens a pinned map, if there is one.
fn pinned(pin_dir: &Path, name: &str) -> Result<Option<RawMap>, Failure> {
    let pin = pin_dir.join(name);
    match RawMap::from_pin(&pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        map => map.map(Some).fail_with(ExitCode::Failure, || {
            format!(
                "{}: cannot be opened, the kernel part goes on as it was",
                pin.display()
            )
        }),
    }
}

/// Reads the configuration of an earlier agent with our layout. None: there is none, or it means nothing.
///
/// # Errors
/// It cannot be read.
pub(super) fn earlier(pin_dir: &Path) -> Result<Option<Config>, Failure> {
    let value = configured(pin_dir)?;
    let config = value.and_then(|value| Config::try_read_from_bytes(&value).ok());
    Ok(config.filter(|config| config.abi_version == ABI_VERSION))
}

/// Reads the value of the pinned configuration, if there is one.
fn configured(pin_dir: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let Some(config) = pinned(pin_dir, name::CONFIG)? else {
        return Ok(None);
    };
    let value = config.get(&[0; 4], false).map(Some);
    value.fail_with(ExitCode::Failure, || {
        format!("reading {}", pin_dir.join(name::CONFIG).display())
    })
}

/// Reads the layout of pinned maps, by the configuration among them: its first number, whatever follows. 0:
/// never configured. None: there is no configuration.
///
/// # Errors
/// It cannot be read.
pub(super) fn abi_version(pin_dir: &Path) -> Result<Option<u32>, Failure> {
    let Some(value) = configured(pin_dir)? else {
        return Ok(None);
    };
    let abi = value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    let short = || {
        let text = format!("{}: has no number", pin_dir.join(name::CONFIG).display());
        Failure::new(ExitCode::Failure, text)
    };
    abi.ok_or_else(short).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_has_a_shape() {
        assert_eq!(SHAPES.map(|(name, ..)| name), MAPS);
    }
}
