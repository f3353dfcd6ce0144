//! Reads, pins and detaches links.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::call::{bpf, descriptor, number, open_pin};
use super::info::info;

/// `BPF_OBJ_PIN`, `BPF_LINK_GET_FD_BY_ID`, `BPF_LINK_DETACH` (include/uapi/linux/bpf.h).
const OBJ_PIN: libc::c_int = 6;
const LINK_GET_FD_BY_ID: libc::c_int = 30;
const LINK_DETACH: libc::c_int = 34;

/// The members of `union bpf_attr` for [`OBJ_PIN`].
#[repr(C)]
struct ObjPin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The member of `union bpf_attr` for [`LINK_DETACH`].
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// The start of `struct bpf_link_info` of a TCX or XDP link.
#[repr(C)]
#[derive(Default)]
pub(in crate::datapath) struct LinkInfo {
    link_type: u32,
    /// Its kernel id.
    pub(in crate::datapath) id: u32,
    /// The kernel id of the program in it.
    pub(in crate::datapath) program: u32,
    reserved: u32,
    /// The interface that it is attached to, 0 if to none any more.
    pub(in crate::datapath) ifindex: u32,
    attach_type: u32,
}

/// Reads the facts of a link. By hand, for aya's links do not show their interface.
pub(in crate::datapath) fn facts(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    info(link)
}

/// Reads the facts of a pinned link.
pub(in crate::datapath) fn pinned_facts(pin: &Path) -> io::Result<LinkInfo> {
    facts(open_pin(pin)?.as_fd())
}

/// Opens a link by its kernel id.
///
/// # Errors
/// There is no such link; or `EPERM`, without `CAP_SYS_ADMIN`.
pub(in crate::datapath) fn by_id(id: u32) -> io::Result<OwnedFd> {
    // The id, the next id and flags.
    // SAFETY: numbers, and no pointer.
    unsafe { descriptor(LINK_GET_FD_BY_ID, &mut [id, 0, 0]) }
}

/// Pins a link.
///
/// # Errors
/// There is something with that name, or we may not.
pub(in crate::datapath) fn pin(link: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = ObjPin {
        path: path.as_ptr() as u64,
        fd: number(link),
        flags: 0,
    };
    // SAFETY: the kernel reads the path, which ends with a zero and outlives the call.
    unsafe { bpf(OBJ_PIN, &mut attributes) }.map(|_| ())
}

/// Takes the program of a link off its device.
///
/// # Errors
/// Its device is gone, or the kernel detaches no such link.
pub(in crate::datapath) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = LinkDetach {
        link_fd: number(link),
    };
    // SAFETY: a number, and no pointer.
    unsafe { bpf(LINK_DETACH, &mut attributes) }.map(|_| ())
}

/// Takes the program of a pinned link off its device.
///
/// # Errors
/// There is no such pin; or as [`detach`].
pub(in crate::datapath) fn detach_pinned(pin: &Path) -> io::Result<()> {
    detach(open_pin(pin)?.as_fd())
}
