//! Reads whole hash maps, a thousand entries per system call (`BPF_MAP_LOOKUP_BATCH`, since Linux 5.6), which
//! aya does not offer. Iterating takes two calls per entry, and begins anew when the entry that it
//! stands at is deleted meanwhile.

use std::os::fd::AsFd;

use aya::Pod;
use aya::maps::{HashMap, IterableMap, MapData};

use super::call::{bpf, number};
use crate::datapath::map_error::MapError;

/// `BPF_MAP_LOOKUP_BATCH` (include/uapi/linux/bpf.h).
const MAP_LOOKUP_BATCH: libc::c_int = 24;
/// Entries per call: no bucket of a map holds nearly as many.
const ENTRIES_PER_CALL: usize = 1_024;

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Shows every entry. One that is there all the while is shown once; one that comes or goes meanwhile may be.
///
/// `flags`: those of the look-up (`BPF_F_LOCK`).
///
/// # Errors
/// The kernel refuses, or `show` returns an error, the first of which ends it.
pub(in crate::datapath) fn each<const K: usize, const V: usize>(
    map: &HashMap<MapData, [u8; K], [u8; V]>,
    flags: u64,
    mut show: impl FnMut(&[u8; K], &[u8; V]) -> Result<(), MapError>,
) -> Result<(), MapError>
where
    [u8; K]: Pod,
    [u8; V]: Pod,
{
    let data: &MapData = IterableMap::map(map);
    let map_fd = number(data.fd().as_fd());
    let mut keys = vec![[0_u8; K]; ENTRIES_PER_CALL];
    let mut values = vec![[0_u8; V]; ENTRIES_PER_CALL];
    // The number of the bucket where the next call goes on.
    let (mut position, mut begun) = (0_u32, false);
    loop {
        let at = &raw mut position as u64;
        let mut batch = Batch {
            in_batch: if begun { at } else { 0 },
            out_batch: at,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: ENTRIES_PER_CALL as u32,
            map_fd,
            elem_flags: flags,
            flags: 0,
        };
        // SAFETY: `batch` has the kernel's layout. The arrays have `count` elements of the map's sizes,
        // which aya has checked; a hash map's position is a u32 (`htab_map_ops`). All of it outlives
        // the call.
        let outcome = unsafe { bpf(MAP_LOOKUP_BATCH, &mut batch) };
        let last = match outcome {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(MapError::Batch(error)),
        };
        begun = true;
        for (key, value) in keys.iter().zip(&values).take(batch.count as usize) {
            show(key, value)?;
        }
        if last {
            return Ok(());
        }
    }
}
