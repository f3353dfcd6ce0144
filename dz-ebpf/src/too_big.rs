//! Packets that are larger than the way around: how the gate knows, and what it tells their source.
//!
//! The error goes to the kernel, as if it had come in by the interface that the packet was about to leave
//! by: it finds the socket, or forwards the error to where the packet came from, through its packet
//! filters and address translation. The source then makes smaller packets, as it would for a router.

use aya_ebpf::bindings::bpf_check_mtu_flags::BPF_MTU_CHK_SEGS;
use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS};
use aya_ebpf::helpers::{bpf_check_mtu, bpf_redirect, bpf_skb_change_tail};
use dz_common::headers::ETHERNET_LEN;
use dz_common::ingress::{Frame, Link};
use dz_common::too_big::{self, ERROR_LEN, QUOTE_LEN};
use dz_common::unaligned::word;

use crate::frame::Linear;
use crate::skb::{Outgoing, check};

/// Returns the length of the largest packet that goes by the interface, if this one, or one of the segments
/// that it will be cut into (GSO), does not. An error: there is no such interface.
#[inline(always)]
pub fn exceeded(skb: *mut __sk_buff, ifindex: u32, total_len: u32) -> Result<Option<u32>, i64> {
    // SAFETY: the kernel's own context.
    let segmented = unsafe { (*skb).gso_size } != 0;
    // Of what is cut the kernel knows the lengths; else it takes ours, without a header of the device.
    let (mut len_in_mtu_out, flags) = if segmented {
        (0, BPF_MTU_CHK_SEGS)
    } else {
        (total_len, 0)
    };
    // SAFETY: the length is on the stack, and the helper looks at the rest only.
    let result = unsafe {
        bpf_check_mtu(
            skb.cast(),
            ifindex,
            &raw mut len_in_mtu_out,
            0,
            flags as u64,
        )
    };
    match result {
        0 => Ok(None),
        1.. => Ok(Some(len_in_mtu_out)),
        error => Err(error),
    }
}

/// Turns the packet into the error to its source, and returns the action that has the kernel receive it;
/// none if the source is not to be told, or the packet cannot be rewritten.
#[inline(always)]
pub fn tell(skb: *mut __sk_buff, frame: &Linear, link: Link, mtu: u32) -> Option<i32> {
    let quote = frame.read::<QUOTE_LEN>(link.ip_offset())?;
    let error = too_big::fragmentation_needed(quote, mtu)?;
    let (mut to, mut from) = ([0; 6], [0; 6]);
    if let Link::Ethernet = link {
        let header = frame.read::<ETHERNET_LEN>(0)?;
        let [a, b, c, d] = word::<0, _>(header).to_ne_bytes();
        let [e, f, g, h] = word::<1, _>(header).to_ne_bytes();
        let [i, j, k, l] = word::<2, _>(header).to_ne_bytes();
        // Back: to the device's own address.
        (from, to) = ([a, b, c, d, e, f], [g, h, i, j, k, l]);
    }
    // SAFETY: the kernel's own context.
    let ifindex = unsafe { (*skb).ifindex };
    let len = link.ip_offset() + ERROR_LEN;
    // SAFETY: the kernel's own context. A packet that was to be cut is none any more.
    check(unsafe { bpf_skb_change_tail(skb, len as u32, 0) }).ok()?;
    Outgoing::new(to, from, error).store(skb, link).ok()?;
    // SAFETY: a helper that looks at its arguments only.
    Some(unsafe { bpf_redirect(ifindex, BPF_F_INGRESS as u64) as i32 })
}
