//! Errors as the real calls return them.

use std::io;

use aya::sys::SyscallError;
use nix::errno::Errno;

use crate::datapath::MapError;

/// The system call that failed, as aya names it: a map's value is read.
pub(super) const LOOKUP: &str = "bpf_map_lookup_elem";
/// A map's value is written.
pub(super) const UPDATE: &str = "bpf_map_update_elem";
/// A map's entry is deleted.
pub(super) const DELETE: &str = "bpf_map_delete_elem";

/// Wraps a map's error number as aya does.
pub(super) fn map_error(call: &'static str, errno: Errno) -> MapError {
    MapError::Kernel(aya::maps::MapError::SyscallError(SyscallError {
        call,
        io_error: io_error(errno),
    }))
}

/// Wraps the error number of a map that was read as a whole.
pub(super) fn batch_error(errno: Errno) -> MapError {
    MapError::Batch(io_error(errno))
}

/// Wraps an error number as the standard library does.
pub(super) fn io_error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_found_where_the_engine_looks_for_it() {
        let error = map_error(UPDATE, Errno::E2BIG);
        let MapError::Kernel(aya::maps::MapError::SyscallError(error)) = &error else {
            panic!("{error}");
        };
        assert_eq!(error.call, UPDATE);
        assert_eq!(error.io_error.raw_os_error(), Some(libc::E2BIG));
        let text = batch_error(Errno::ENOMEM).to_string();
        assert!(text.starts_with("reading a map: "), "{text}");
    }
}
