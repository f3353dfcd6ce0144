//! Calls bpf(2), and opens pinned objects.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `BPF_OBJ_GET` (include/uapi/linux/bpf.h).
const OBJ_GET: libc::c_int = 7;

/// Runs one command.
///
/// # Safety
/// `attributes` is a prefix of `union bpf_attr` for this command, without padding; what it points to is
/// alive, and of the size that the kernel reads or writes there.
///
/// # Errors
/// The kernel refuses the command.
pub(super) unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the caller's part; the size is that of the prefix.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs a command that returns a descriptor.
///
/// # Safety
/// As [`bpf`], and the command is one that does.
///
/// # Errors
/// The kernel refuses the command.
pub(super) unsafe fn descriptor<T>(
    command: libc::c_int,
    attributes: &mut T,
) -> io::Result<OwnedFd> {
    // SAFETY: the caller's part.
    let fd = unsafe { bpf(command, attributes) }?;
    // SAFETY: the call has just returned it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens the object that is pinned at `pin`.
///
/// # Errors
/// There is nothing, or we may not.
pub(in crate::datapath) fn open_pin(pin: &Path) -> io::Result<OwnedFd> {
    /// The member of `union bpf_attr` for [`OBJ_GET`].
    #[repr(C)]
    struct Get {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut get = Get {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads the path, which ends with a zero and outlives the call.
    unsafe { descriptor(OBJ_GET, &mut get) }
}

/// Returns a descriptor's number, as attributes hold it.
pub(super) fn number(fd: BorrowedFd<'_>) -> u32 {
    // An open descriptor is not negative.
    fd.as_raw_fd().cast_unsigned()
}
