//! The filter of the socket of notifications.

use libc::{BPF_ABS, BPF_H, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use socket2::SockFilter;

/// Offsets in `struct nlmsghdr`.
const NLMSG_TYPE: u32 = 4;
const NLMSG_PID: u32 = 12;

/// Makes a filter (classic BPF) that passes everything but news of routes that two sockets have caused.
/// Loads are big-endian, and the header's fields are not.
pub(super) fn all_routes_but([one, other]: [u32; 2]) -> [SockFilter; 8] {
    let load = |size, offset| SockFilter::new(code(BPF_LD | size | BPF_ABS), 0, 0, offset);
    let compare =
        |with, equal, other| SockFilter::new(code(BPF_JMP | BPF_JEQ | BPF_K), equal, other, with);
    let end = |bytes| SockFilter::new(code(BPF_RET | BPF_K), 0, 0, bytes);
    let kind = |kind: u16| u32::from(kind.to_be());
    [
        load(BPF_H, NLMSG_TYPE),
        compare(kind(libc::RTM_NEWROUTE), 1, 0),
        compare(kind(libc::RTM_DELROUTE), 0, 3),
        load(BPF_W, NLMSG_PID),
        compare(one.to_be(), 2, 0),
        compare(other.to_be(), 1, 0),
        end(u32::MAX),
        end(0),
    ]
}

/// Shortens an instruction's code to the 16 bits that it has in classic BPF.
const fn code(code: u32) -> u16 {
    code as u16
}
