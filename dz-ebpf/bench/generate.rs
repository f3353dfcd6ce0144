//! Packets from nothing: frames that the bench has made, sent as often as it says; and their end.

use core::ffi::c_void;

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::btf_maps::Array;
use aya_ebpf::cty::c_long;
use aya_ebpf::helpers::{bpf_clone_redirect, bpf_loop, bpf_skb_store_bytes};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use dz_common::LIVENESS_PORT;
use dz_common::ingress::{self, Link};

use crate::skb;

/// Most frames that differ from each other.
const MAX_FRAMES: usize = 16_384;

/// One of them: an Ethernet header and a datagram with a liveness packet, sound or not.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Template {
    bytes: [u8; Link::Ethernet.frame_len()],
    padding: [u8; 6],
}

#[btf_map(name = "templates")]
static TEMPLATES: Array<Template, MAX_FRAMES> = Array::new();

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
    let number = run.first.wrapping_add(index) % run.templates;
    let Some(template) = TEMPLATES.get_ptr(number) else {
        return 1;
    };
    // SAFETY: a live map value, as long as said, and helpers that take what they are given.
    unsafe {
        let bytes = (&raw const (*template).bytes).cast();
        let len = Link::Ethernet.frame_len() as u32;
        if bpf_skb_store_bytes(run.skb, 0, bytes, len, 0) != 0 {
            return 1;
        }
        // A full queue loses it, as a wire does.
        bpf_clone_redirect(run.skb, run.ifindex, 0);
    }
    0
}

/// The end of liveness packets on an Ethernet device.
#[classifier]
pub fn sink_eth(ctx: TcContext) -> i32 {
    match ingress::classify(&skb::linear(&ctx), Link::Ethernet, LIVENESS_PORT) {
        Ok(_) => TC_ACT_SHOT,
        Err(_) => TC_ACT_UNSPEC,
    }
}
