//! Removing the pin of a link.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

// Commands of bpf(2) (include/uapi/linux/bpf.h).
const OBJ_GET: libc::c_int = 7;
const LINK_DETACH: libc::c_int = 34;

/// The member of `union bpf_attr` for [`OBJ_GET`].
#[repr(C)]
#[derive(Default)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The same for [`LINK_DETACH`].
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// Takes a link's program off its device, and the pin away.
///
/// The last reference alone would do it as well, but some moments later: the kernel lets go of a link
/// on a work queue (bpf_link_put). Whoever is told that nothing of ours is left may look at once.
///
/// # Errors
/// The pin is not there, or cannot be removed.
pub(super) fn unpin_link(pin: &Path) -> io::Result<()> {
    if let Ok(link) = open(pin) {
        let mut attributes = LinkDetach {
            link_fd: link.as_raw_fd().cast_unsigned(),
        };
        // With its device gone, or a kernel that detaches no such link, the pin's end does it.
        let _ = bpf(LINK_DETACH, &mut attributes);
    }
    fs::remove_file(pin)
}

fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attributes = ObjGet {
        pathname: path.as_ptr() as u64,
        ..ObjGet::default()
    };
    let fd = bpf(OBJ_GET, &mut attributes)?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the attributes are a prefix of `union bpf_attr` of the size given, and what they point to
    // outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    match libc::c_int::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
