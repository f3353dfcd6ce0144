//! Access to a socket buffer's packet.

use core::arch::asm;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_skb_load_bytes, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;

use crate::frame::Linear;

/// Overwrites part of the packet. The helper un-shares a cloned packet first; writing through a
/// packet pointer would have the verifier add that to the path of every foreign packet.
#[inline(always)]
pub fn store<const N: usize>(
    skb: *mut __sk_buff,
    offset: usize,
    bytes: &[u8; N],
) -> Result<(), i64> {
    // SAFETY: the buffer is as long as said.
    check(unsafe { bpf_skb_store_bytes(skb, offset as u32, bytes.as_ptr().cast(), N as u32, 0) })
}

/// Swaps the Ethernet addresses.
#[inline(always)]
pub fn swap_ethernet(skb: *mut __sk_buff) -> Result<(), i64> {
    let mut addresses = [0_u8; 12];
    // SAFETY: the buffer is as long as said.
    check(unsafe { bpf_skb_load_bytes(skb.cast(), 0, (&raw mut addresses).cast(), 12) })?;
    let [a, b, c, d, e, f, g, h, i, j, k, l] = addresses;
    store(skb, 0, &[g, h, i, j, k, l, a, b, c, d, e, f])
}

/// Hides from the compiler what a reference points to. It would otherwise keep a buffer that is
/// written byte by byte in as many spilled registers, which the stack has no room for.
#[inline(always)]
pub fn opaque<T>(value: &mut T) -> &mut T {
    let mut pointer = &raw mut *value;
    // SAFETY: a register moved onto itself.
    unsafe { asm!("{0} = {0}", inout(reg) pointer) }
    // SAFETY: what came in, exclusively borrowed.
    unsafe { &mut *pointer }
}

/// What a helper returns, as a result.
#[inline(always)]
pub fn check(result: i64) -> Result<(), i64> {
    if result == 0 { Ok(()) } else { Err(result) }
}

/// What of the packet is directly accessible.
#[inline(always)]
pub fn linear(ctx: &TcContext) -> Linear {
    Linear::new(ctx.data(), ctx.data_end(), frame_len(ctx))
}

/// Length of the whole packet.
#[inline(always)]
pub fn frame_len(ctx: &TcContext) -> usize {
    ctx.len() as usize
}
