//! Reads and detaches links.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use super::call::{bpf, number, open_pin};
use super::info::info;

/// `BPF_LINK_DETACH` (include/uapi/linux/bpf.h).
const LINK_DETACH: libc::c_int = 34;

/// The member of `union bpf_attr` for [`LINK_DETACH`].
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// `struct bpf_link_info` of a TCX or XDP link.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    link_type: u32,
    id: u32,
    prog_id: u32,
    reserved: u32,
    ifindex: u32,
    attach_type: u32,
}

/// Reads the interface that a pinned link is attached to (0: to none any more) and the kernel id of the
/// program in it. By hand, for aya's links do not show their interface.
pub(in crate::datapath) fn attached_to(pin: &Path) -> io::Result<(u32, u32)> {
    let link = open_pin(pin)?;
    let info: LinkInfo = info(link.as_fd())?;
    Ok((info.ifindex, info.prog_id))
}

/// Takes the program of a pinned link off its device.
///
/// # Errors
/// There is no such pin, its device is gone, or the kernel detaches no such link.
pub(in crate::datapath) fn detach(pin: &Path) -> io::Result<()> {
    let link = open_pin(pin)?;
    let mut attributes = LinkDetach {
        link_fd: number(link.as_fd()),
    };
    // SAFETY: a number, and no pointer.
    unsafe { bpf(LINK_DETACH, &mut attributes) }.map(|_| ())
}
