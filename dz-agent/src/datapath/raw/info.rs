//! Reads the kernel's facts about its objects (`BPF_OBJ_GET_INFO_BY_FD`).

use std::io;
use std::os::fd::BorrowedFd;

use super::call::{bpf, number};

const OBJ_GET_INFO_BY_FD: libc::c_int = 15;

/// The member of `union bpf_attr` for [`OBJ_GET_INFO_BY_FD`].
#[repr(C)]
struct GetInfo {
    fd: u32,
    len: u32,
    info: u64,
}

/// Reads the facts of an object into a struct of numbers, see [`get_info`].
pub(super) fn info<T: Default>(object: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::default();
    get_info(object, &mut info)?;
    Ok(info)
}

/// Reads the facts of an object. `info`: the kernel's struct for this sort of object, or the start of it,
/// all numbers and without padding.
pub(super) fn get_info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut request = GetInfo {
        fd: number(object),
        len: size_of::<T>() as u32,
        info: &raw mut *info as u64,
    };
    // SAFETY: the kernel writes no more than the length given, and every caller in `raw` passes a struct
    // of numbers, whatever they are.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut request) }.map(|_| ())
}
