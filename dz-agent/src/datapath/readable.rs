//! Registers file descriptors that the runtime waits for.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits for a ring buffer or a timer to become readable. Must be called within a tokio runtime.
///
/// # Errors
/// If the reactor refuses the file descriptor.
pub fn readable<T: AsFd + AsRawFd>(file: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `T: AsFd` owns its descriptor, which stays open and the same for as long as the
    // `AsyncFd` owns the value; none of them (ring buffer, logger, timer) replaces its own.
    unsafe { Ok(AsyncFd::register_with_interest(file, Interest::READABLE)?) }
}
