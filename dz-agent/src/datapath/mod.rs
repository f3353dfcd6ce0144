//! The kernel part: loading, attaching, and typed access to the maps.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

mod attach;
mod choice;
mod clsact;
mod confined;
pub mod filters;
mod gate;
mod kernel;
mod load;
mod lookup_batch;
mod maps;
mod mmap;
mod pins;
mod programs;
mod sys;
mod unpin;
mod upgrade;

pub use attach::{AttachMode, Attachment};
pub use choice::{Choice, choose};
pub use kernel::check_kernel;
pub use load::{Datapath, MAPS, OBJECT, Settings};
pub use maps::{MapError, MapReader, Maps};
pub use pins::Pin;
pub use programs::{Order, Transmitted};
pub use sys::undisturbed;
pub use upgrade::{take_over, unfinished};

/// Waits for a ring buffer or a timer to become readable. Must be called within a tokio runtime.
///
/// # Errors
/// If the reactor refuses the file descriptor.
pub fn readable<T: AsFd + AsRawFd>(file: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `T: AsFd` owns its descriptor, which stays open and the same for as long as the
    // `AsyncFd` owns the value; none of them (ring buffer, logger, timer) replaces its own.
    unsafe { Ok(AsyncFd::register_with_interest(file, Interest::READABLE)?) }
}

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_ns`.
pub fn now_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a live timespec. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
