//! Packets from nothing: frames that the bench has made, sent as often as it says; and their ends.

use core::ffi::c_void;

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::cty::c_long;
use aya_ebpf::helpers::{bpf_clone_redirect, bpf_loop, bpf_redirect, bpf_skb_store_bytes};
use aya_ebpf::macros::{btf_map, classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use dz_common::LIVENESS_PORT;
use dz_common::ingress::{self, Link};
use dz_common::unaligned;

use crate::frame::Linear;
use crate::skb;

/// Most frames that differ from each other.
const MAX_FRAMES: usize = 16_384;

/// One of them: an Ethernet header and a datagram with a liveness packet, sound or not; in the end two
/// bytes that are not sent.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Template {
    words: [u32; FRAME_LEN.div_ceil(4)],
}

const FRAME_LEN: usize = Link::Ethernet.frame_len();

/// What `generate_xdp` sends, on one CPU.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Progress {
    /// Number of the next template.
    next: u32,
    /// How many there are.
    templates: u32,
    /// By which device.
    ifindex: u32,
}

#[btf_map(name = "templates")]
static TEMPLATES: Array<Template, MAX_FRAMES> = Array::new();
#[btf_map(name = "progress")]
static PROGRESS: PerCpuArray<Progress, 1> = PerCpuArray::new();

struct Run {
    skb: *mut __sk_buff,
    first: u32,
    templates: u32,
    ifindex: u32,
}

/// Sends `cb[0]` packets: those from number `cb[1]` on, of `cb[2]` that there are, by the interface
/// `cb[3]`. The packet given is overwritten, as that of `dz_transmit`.
#[classifier]
pub fn generate(ctx: TcContext) -> i32 {
    let [count, first, templates, ifindex, ..] = *ctx.cb() else {
        return TC_ACT_SHOT;
    };
    let mut run = Run {
        skb: ctx.skb.skb,
        first,
        templates,
        ifindex,
    };
    // SAFETY: the function has the signature that bpf_loop wants.
    unsafe { bpf_loop(count, send as *mut c_void, (&raw mut run).cast(), 0) };
    0
}

/// Sends one.
///
/// # Safety
/// Called by `bpf_loop` with the [`Run`] it was given.
unsafe extern "C" fn send(index: u32, run: *mut Run) -> c_long {
    // SAFETY: the run's own stack.
    let run = unsafe { &*run };
    // Checked: for all that the compiler knows there may be none, and a division would panic.
    let number = run.first.wrapping_add(index);
    let number = number.checked_rem(run.templates).unwrap_or(0);
    let Some(template) = TEMPLATES.get_ptr(number) else {
        return 1;
    };
    // SAFETY: a live map value, as long as said, and helpers that take what they are given.
    unsafe {
        let bytes = (&raw const (*template).words).cast();
        if bpf_skb_store_bytes(run.skb, 0, bytes, FRAME_LEN as u32, 0) != 0 {
            return 1;
        }
        // A full queue loses it, as a wire does.
        bpf_clone_redirect(run.skb, run.ifindex, 0);
    }
    0
}

/// Makes of the frame that it is run over the next of those of `progress`, and sends it: for
/// `BPF_PROG_TEST_RUN` with live frames, which are sent as they are, without a socket buffer each.
#[xdp]
pub fn generate_xdp(ctx: XdpContext) -> u32 {
    let (data, data_end) = (ctx.data(), ctx.data_end());
    let frame = Linear::new(data, data_end, data_end - data);
    let (Some(progress), Some(bytes)) = (PROGRESS.get_ptr_mut(0), frame.at::<FRAME_LEN>(0)) else {
        return XDP_ABORTED;
    };
    // SAFETY: this CPU's own map value; test runs are not interrupted by others.
    let progress = unsafe { &mut *progress };
    let number = progress.next;
    progress.next = if number + 1 < progress.templates {
        number + 1
    } else {
        0
    };
    let Some(template) = TEMPLATES.get_ptr(number) else {
        return XDP_ABORTED;
    };
    // SAFETY: within the frame, and a live map value that nobody writes; a helper that looks at its
    // arguments only.
    unsafe {
        let (words, rest) = (*bytes).as_chunks_mut();
        for (to, from) in words.iter_mut().zip(&(*template).words) {
            unaligned::store_u32(to, *from);
        }
        if let ([to_a, to_b], [.., last]) = (rest, &(*template).words) {
            [*to_a, *to_b, ..] = last.to_ne_bytes();
        }
        bpf_redirect(progress.ifindex, 0) as u32
    }
}

/// The end of liveness packets on an Ethernet device, before the stack.
#[xdp]
pub fn sink_xdp(ctx: XdpContext) -> u32 {
    let (data, data_end) = (ctx.data(), ctx.data_end());
    let frame = Linear::new(data, data_end, data_end - data);
    match ingress::classify(&frame, Link::Ethernet, LIVENESS_PORT) {
        Ok(_) => XDP_DROP,
        Err(_) => XDP_PASS,
    }
}

/// The end of liveness packets on an Ethernet device.
#[classifier]
pub fn sink_eth(ctx: TcContext) -> i32 {
    match ingress::classify(&skb::linear(&ctx), Link::Ethernet, LIVENESS_PORT) {
        Ok(_) => TC_ACT_SHOT,
        Err(_) => TC_ACT_UNSPEC,
    }
}
