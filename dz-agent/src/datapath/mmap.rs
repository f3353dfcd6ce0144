//! Maps array maps into our address space (`BPF_F_MMAPABLE`): a store costs nothing where an update is
//! a system call.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::maps::Map;
use memmap2::{MmapOptions, MmapRaw};
use zerocopy::{Immutable, IntoBytes};

use super::map_error::MapError;
use super::object::Object;

/// An mmapped array map with values of type `T`, whose size is a multiple of 8 as the kernel rounds
/// it up to.
pub(super) struct Mapped<T> {
    memory: MmapRaw,
    len: u32,
    /// Keeps the value to one thread at a time: a store is not atomic.
    values: PhantomData<Cell<T>>,
}

impl<T: IntoBytes + Immutable + Copy> Mapped<T> {
    /// Maps the first `len` values of an array map.
    ///
    /// # Errors
    /// As `mmap(2)`.
    pub(super) fn new(map: BorrowedFd<'_>, len: u32) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let bytes = size_of::<T>() * len as usize;
        Ok(Self {
            memory: MmapOptions::new().len(bytes).map_raw(map.as_raw_fd())?,
            len,
            values: PhantomData,
        })
    }

    /// Returns a pointer to a value, if there is one of that index.
    pub(super) fn at(&self, index: u32) -> Option<*mut T> {
        let start: *mut T = self.memory.as_mut_ptr().cast();
        (index < self.len).then(|| start.wrapping_add(index as usize))
    }

    /// Stores a value, of which a reader may meanwhile see half.
    pub(super) fn store(&self, index: u32, value: T) {
        if let Some(target) = self.at(index) {
            // SAFETY: within the mapping, which is writable and lives as long as `self`.
            unsafe { target.write_volatile(value) }
        }
    }
}

/// Maps the first `len` values of a map of the object, which keeps it open.
pub(super) fn mapped<T>(
    object: &Object,
    name: &'static str,
    len: u32,
) -> Result<Mapped<T>, MapError>
where
    T: Immutable + IntoBytes + Copy,
{
    let Some(Map::Array(data)) = object.map(name) else {
        return Err(MapError::Layout(name));
    };
    Mapped::new(data.fd().as_fd(), len).map_err(|error| {
        MapError::Kernel(aya::maps::MapError::SyscallError(aya::sys::SyscallError {
            call: "mmap",
            io_error: error,
        }))
    })
}
