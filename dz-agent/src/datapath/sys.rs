//! bpf(2): the commands that aya does not offer, and what its callers have to know.

use std::error::Error;
use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::signal::{SigSet, SigmaskHow};

/// `BPF_OBJ_GET` (include/uapi/linux/bpf.h).
const OBJ_GET: libc::c_int = 7;

/// Keeps signals from this thread while programs are loaded, also those by which aya finds out what
/// the kernel can: the verifier gives up with EAGAIN when a signal is pending (`do_check`), and SIGHUP
/// during a start must not be its end. They wait.
pub fn undisturbed<T>(load: impl FnOnce() -> T) -> T {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let loaded = load();
    if let Ok(before) = before {
        // It was in force a moment ago.
        let _ = before.thread_set_mask();
    }
    loaded
}

/// The number of the system's error that is the cause of another, if there is one.
pub(super) fn os_error(error: &(dyn Error + 'static)) -> Option<libc::c_int> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        cause = error.source();
    }
    None
}

/// One command.
///
/// # Safety
/// `attributes` is a prefix of `union bpf_attr` for this command, without padding; what it points to is
/// alive, and of the size that the kernel reads or writes there.
///
/// # Errors
/// What the kernel refuses.
pub(super) unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the caller's part; the size is that of the prefix.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A command that returns a descriptor.
///
/// # Safety
/// As [`bpf`], and the command is one that does.
///
/// # Errors
/// What the kernel refuses.
pub(super) unsafe fn descriptor<T>(
    command: libc::c_int,
    attributes: &mut T,
) -> io::Result<OwnedFd> {
    // SAFETY: the caller's part.
    let fd = unsafe { bpf(command, attributes) }?;
    // SAFETY: the call has just returned it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens what is pinned there.
///
/// # Errors
/// There is nothing, or we may not.
pub(super) fn open_pin(pin: &Path) -> io::Result<OwnedFd> {
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
