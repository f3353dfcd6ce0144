//! Array maps in our address space (`BPF_F_MMAPABLE`): a store costs nothing where an update is a
//! system call.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use zerocopy::{Immutable, IntoBytes};

/// An mmapped array map with values of type `T`, whose size is a multiple of 8 as the kernel rounds
/// it up to.
pub(super) struct Mapped<T> {
    start: NonNull<T>,
    len: u32,
    bytes: usize,
    values: PhantomData<T>,
}

// SAFETY: the memory belongs to the mapping, not to a thread; access is by volatile copies.
unsafe impl<T: Send> Send for Mapped<T> {}

impl<T: IntoBytes + Immutable + Copy> Mapped<T> {
    /// Maps the first `len` values of an array map.
    ///
    /// # Errors
    /// As `mmap(2)`.
    pub(super) fn new(map: BorrowedFd<'_>, len: u32) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let bytes = size_of::<T>() * len as usize;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::Other)?;
        Ok(Self {
            start,
            len,
            bytes,
            values: PhantomData,
        })
    }

    /// A pointer to a value, if there is one of that index.
    pub(super) fn at(&self, index: u32) -> Option<*mut T> {
        // SAFETY: within the mapping.
        (index < self.len).then(|| unsafe { self.start.as_ptr().add(index as usize) })
    }

    /// Stores a value. Whoever reads it meanwhile may see half of it.
    pub(super) fn store(&self, index: u32, value: T) {
        if let Some(target) = self.at(index) {
            // SAFETY: within the mapping, which is writable and lives as long as `self`.
            unsafe { target.write_volatile(value) }
        }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and nobody keeps a pointer beyond `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
