//! Removing the pin of a link.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::sys::{bpf, open_pin};

/// `BPF_LINK_DETACH` (include/uapi/linux/bpf.h).
const LINK_DETACH: libc::c_int = 34;

/// The member of `union bpf_attr` for [`LINK_DETACH`].
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
    if let Ok(link) = open_pin(pin) {
        let mut attributes = LinkDetach {
            link_fd: link.as_raw_fd().cast_unsigned(),
        };
        // With its device gone, or a kernel that detaches no such link, the pin's end does it.
        // SAFETY: a number, and no pointer.
        let _ = unsafe { bpf(LINK_DETACH, &mut attributes) };
    }
    fs::remove_file(pin)
}
