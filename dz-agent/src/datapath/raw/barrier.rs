//! A map whose every change waits for the kernel programs that run.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::MapType;

use super::call::{descriptor, number};
use super::map::put_number;

/// `BPF_MAP_CREATE`.
const MAP_CREATE: libc::c_int = 0;
/// The size of keys and values: an index, and the number of a descriptor.
const NUMBER: u32 = size_of::<u32>() as u32;

/// A map of one map. A program may be using the inner map that a change replaces, so the kernel returns from the
/// change after an RCU grace period (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c).
pub(in crate::datapath) struct Barrier {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Barrier {
    /// Makes the maps, which no program uses.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(in crate::datapath) fn new() -> io::Result<Self> {
        let inner = create(MapType::Array, 0)?;
        let outer = create(MapType::ArrayOfMaps, number(inner.as_fd()))?;
        Ok(Self { outer, inner })
    }

    /// Changes the map, and so waits.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(in crate::datapath) fn wait(&self) -> io::Result<()> {
        put_number(self.outer.as_fd(), 0, number(self.inner.as_fd()))
    }
}

/// Makes a map with room for one number.
fn create(kind: MapType, inner: u32) -> io::Result<OwnedFd> {
    // Type, sizes of key and value, entries, flags, inner map.
    let mut attributes = [kind as u32, NUMBER, NUMBER, 1, 0, inner];
    // SAFETY: numbers, and no pointer; the kernel returns a descriptor.
    unsafe { descriptor(MAP_CREATE, &mut attributes) }
}
