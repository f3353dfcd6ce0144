//! Commands of the agent to live sessions. A plain map update of a live entry would replace it and
//! lose what packets did to it meanwhile; these run under the entry's lock instead.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_skb_load_bytes};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use dz_common::control::{
    OP_ADMIN_DOWN, OP_DISCONNECT, OP_SET_DETOUR, OP_START_GROUP, REQUEST_OFFSET, Request,
};
use dz_common::counters::{Counter, NO_BLOCK};

use crate::count::{count, transition};
use crate::detect;
use crate::maps::PEERS;
use crate::session::{Locked, find, identity};

/// Carries out the request in the packet data; returns its exit.
#[classifier]
pub fn dz_control(ctx: TcContext) -> i32 {
    let mut request = MaybeUninit::<Request>::uninit();
    // SAFETY: the buffer is as long as said.
    let loaded = unsafe {
        bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            REQUEST_OFFSET as u32,
            request.as_mut_ptr().cast(),
            size_of::<Request>() as u32,
        )
    };
    let (block, exit) = if loaded == 0 {
        // SAFETY: filled by the helper; any bytes make a request.
        carry_out(&ctx, unsafe { request.assume_init_ref() })
    } else {
        (NO_BLOCK, Counter::ControlRefused)
    };
    count(block, exit);
    exit as i32
}

#[inline(always)]
fn carry_out(ctx: &TcContext, request: &Request) -> (u32, Counter) {
    match request.op {
        OP_START_GROUP => match detect::start_group(request.index) {
            Ok(()) => (NO_BLOCK, Counter::ControlDone),
            Err(error) => {
                debug!(ctx, "timer of group {}: error {}", request.index, error);
                count(NO_BLOCK, Counter::TimerFailed);
                (NO_BLOCK, Counter::ControlRefused)
            }
        },
        OP_ADMIN_DOWN => admin_down(request),
        OP_DISCONNECT => {
            // The commit point: no kill can fall between the two, for a program run is not
            // interrupted by the end of the process that asked for it.
            let deleted = PEERS.remove(request.peer).is_ok();
            match admin_down(request) {
                (_, Counter::ControlNoSession) if deleted => (NO_BLOCK, Counter::ControlDone),
                result => result,
            }
        }
        OP_SET_DETOUR => set_detour(request),
        _ => (NO_BLOCK, Counter::ControlRefused),
    }
}

#[inline(always)]
fn set_detour(request: &Request) -> (u32, Counter) {
    let Some(entry) = find(&request.key) else {
        return (NO_BLOCK, Counter::ControlNoSession);
    };
    let (slot, block) = identity(entry);
    let Some(mut session) = Locked::new(entry, &request.key, slot) else {
        return (NO_BLOCK, Counter::ControlNoSession);
    };
    if session.generation != request.generation {
        return (NO_BLOCK, Counter::ControlNoSession);
    }
    session.detour = request.index;
    (block, Counter::ControlDone)
}

#[inline(always)]
fn admin_down(request: &Request) -> (u32, Counter) {
    let Some(entry) = find(&request.key) else {
        return (NO_BLOCK, Counter::ControlNoSession);
    };
    let (slot, block) = identity(entry);
    let Some(deadline) = detect::slot(slot) else {
        return (block, Counter::Fault);
    };
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let Some(mut session) = Locked::new(entry, &request.key, slot) else {
        return (NO_BLOCK, Counter::ControlNoSession);
    };
    if session.generation != request.generation {
        return (NO_BLOCK, Counter::ControlNoSession);
    }
    let change = session.admin_down(now_ns);
    detect::store(deadline, session.scan_deadline_ns());
    drop(session);

    if let Some(change) = &change {
        transition(
            block,
            &change.event(request.key, request.generation, now_ns),
        );
    }
    (block, Counter::ControlDone)
}
