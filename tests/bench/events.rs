//! What sessions went through, and when by the kernel's own clock: read from the ring of events without
//! taking anything out of it, which is the agent's business alone.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use anyhow::{Context, ensure};
use aya::maps::MapData;
use dz_common::map::{Event, name};
use zerocopy::TryFromBytes;

/// Bits of a record's length (`BPF_RINGBUF_BUSY_BIT`, `BPF_RINGBUF_DISCARD_BIT`).
const BUSY: u32 = 1 << 31;
const DISCARD: u32 = 1 << 30;
const HEADER: u64 = 8;

/// A view of the ring. What was overwritten before it was looked at is an error.
pub(crate) struct Events {
    /// Keeps the map open.
    _map: MapData,
    /// The producer's position, and a page later the data, mapped twice in a row.
    start: NonNull<u8>,
    page: usize,
    size: u64,
    at: u64,
}

impl Events {
    /// From now on.
    pub(crate) fn open(pins: &Path) -> anyhow::Result<Self> {
        let map = MapData::from_pin(pins.join(name::EVENTS))?;
        let size = map.info()?.max_entries();
        // SAFETY: a system call without pointers.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page = usize::try_from(page).context("the size of a page")?;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                page + 2 * size as usize,
                libc::PROT_READ,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                page as libc::off_t,
            )
        };
        ensure!(
            start != libc::MAP_FAILED,
            "mapping dz_events: {}",
            io::Error::last_os_error()
        );
        let start = NonNull::new(start.cast()).context("a mapping at 0")?;
        let mut events = Self {
            _map: map,
            start,
            page,
            size: size.into(),
            at: 0,
        };
        events.at = events.produced();
        Ok(events)
    }

    /// State changes since the last call, in their order.
    pub(crate) fn take(&mut self) -> anyhow::Result<Vec<Event>> {
        let mut events = Vec::new();
        let end = self.produced();
        while self.at < end {
            let len = self.length_at(self.at);
            if len & BUSY != 0 {
                break;
            }
            let mut bytes = [0; size_of::<Event>()];
            self.copy(self.at + HEADER, &mut bytes);
            fence(Ordering::Acquire);
            ensure!(
                self.produced() - self.at <= self.size,
                "events were overwritten before they were seen"
            );
            if len & DISCARD == 0
                && let Ok(event) = Event::try_read_from_bytes(&bytes)
            {
                events.push(event);
            }
            self.at += (u64::from(len & !DISCARD) + HEADER).next_multiple_of(8);
        }
        Ok(events)
    }

    fn produced(&self) -> u64 {
        // SAFETY: the mapping begins with the producer's position, which the kernel updates
        // atomically.
        unsafe { self.start.cast::<AtomicU64>().as_ref() }.load(Ordering::Acquire)
    }

    fn length_at(&self, at: u64) -> u32 {
        let offset = self.page + (at % self.size) as usize;
        // SAFETY: within the mapping, and records are aligned to 8 bytes.
        let length = unsafe { self.start.add(offset).cast::<AtomicU32>().as_ref() };
        length.load(Ordering::Acquire)
    }

    fn copy(&self, at: u64, to: &mut [u8]) {
        let offset = self.page + (at % self.size) as usize;
        for (index, byte) in to.iter_mut().enumerate() {
            // SAFETY: within the mapping, whose second copy of the data follows the first.
            *byte = unsafe { self.start.add(offset + index).read_volatile() };
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let len = self.page + 2 * self.size as usize;
        // SAFETY: our own mapping, and nobody keeps a pointer beyond `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), len) };
    }
}
