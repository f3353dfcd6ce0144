//! Asks which programs are at a hook of an interface (`BPF_PROG_QUERY`). By hand, for aya opens each of them by
//! its id, for which the agent's capabilities do not suffice.

use std::io;

use super::call::bpf;
use crate::datapath::hook::Hook;

/// `BPF_PROG_QUERY` (include/uapi/linux/bpf.h).
const PROG_QUERY: libc::c_int = 16;
/// `BPF_TCX_INGRESS`, `BPF_TCX_EGRESS`.
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
/// How many programs a hook has room for (`BPF_MPROG_MAX`).
const MOST: usize = 64;

/// The members of `union bpf_attr` for [`PROG_QUERY`].
#[repr(C)]
#[derive(Default)]
struct ProgQuery {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    reserved: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Reads the kernel ids of the programs that TCX runs at a hook of an interface, in their order. The interface is one
/// of the calling thread's network namespace.
///
/// # Errors
/// There is no such interface, or the kernel has no TCX.
pub(in crate::datapath) fn tcx(ifindex: u32, hook: Hook) -> io::Result<Vec<u32>> {
    let mut programs = [0_u32; MOST];
    let mut query = ProgQuery {
        target_ifindex: ifindex,
        attach_type: match hook {
            Hook::Ingress(_) => TCX_INGRESS,
            Hook::Egress => TCX_EGRESS,
        },
        prog_ids: programs.as_mut_ptr() as u64,
        count: MOST as u32,
        ..ProgQuery::default()
    };
    // SAFETY: the kernel writes at most `count` ids to an array of that length, which outlives the call.
    unsafe { bpf(PROG_QUERY, &mut query) }?;
    let count = usize::try_from(query.count).map_or(MOST, |count| count.min(MOST));
    Ok(programs[..count].to_vec())
}
