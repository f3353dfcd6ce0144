//! Commands of the agent to live sessions. A plain map update of a live entry would replace it and
//! lose what packets did to it meanwhile; these run under the entry's lock instead. Their effects are
//! decided in [`dz_common::control`].

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_skb_load_bytes};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use dz_common::control::{self, Command, NO_SESSION, REFUSED, REQUEST_OFFSET, Request};
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
        // SAFETY: filled by the helper with a request of the agent's, who alone has the program.
        carry_out(&ctx, unsafe { request.assume_init_ref() })
    } else {
        REFUSED
    };
    count(block, exit);
    exit as i32
}

#[inline(always)]
fn carry_out(ctx: &TcContext, request: &Request) -> (u32, Counter) {
    match request.command() {
        Some(Command::StartGroup) => start_group(ctx, request.index),
        Some(Command::AdminDown) => admin_down(request).unwrap_or(NO_SESSION),
        Some(Command::Disconnect) => {
            // The commit point: no kill can fall between the two, for a program run is not
            // interrupted by the end of the process that asked for it.
            let deleted = PEERS.remove(request.peer).is_ok();
            control::disconnected(deleted, admin_down(request).unwrap_or(NO_SESSION))
        }
        Some(Command::SetDetour) => set_detour(request).unwrap_or(NO_SESSION),
        Some(Command::SetTimers) => set_timers(request).unwrap_or(NO_SESSION),
        Some(Command::Hold) => hold(request).unwrap_or(NO_SESSION),
        None => REFUSED,
    }
}

#[inline(always)]
fn start_group(ctx: &TcContext, index: u32) -> (u32, Counter) {
    let started = detect::start_group(index);
    if let Err(error) = started {
        debug!(ctx, "timer of group {}: error {}", index, error);
    }
    let (end, besides) = control::group_started(started.is_ok());
    if let Some(counter) = besides {
        count(NO_BLOCK, counter);
    }
    end
}

#[inline(always)]
fn set_detour(request: &Request) -> Option<(u32, Counter)> {
    let entry = find(&request.key)?;
    let (slot, _) = identity(entry);
    Locked::new(entry, &request.key, slot)?.set_detour(request)
}

#[inline(always)]
fn set_timers(request: &Request) -> Option<(u32, Counter)> {
    let entry = find(&request.key)?;
    let (slot, _) = identity(entry);
    Locked::new(entry, &request.key, slot)?.set_timers(request)
}

#[inline(always)]
fn hold(request: &Request) -> Option<(u32, Counter)> {
    let entry = find(&request.key)?;
    let (slot, _) = identity(entry);
    Locked::new(entry, &request.key, slot)?.hold(request)
}

#[inline(always)]
fn admin_down(request: &Request) -> Option<(u32, Counter)> {
    let entry = find(&request.key)?;
    let (slot, block) = identity(entry);
    let Some(deadline) = detect::slot(slot) else {
        return Some((block, Counter::Fault));
    };
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let mut session = Locked::new(entry, &request.key, slot)?;
    let effect = session.close(request, now_ns)?;
    detect::update(deadline, &effect);
    drop(session);

    if let Some(event) = effect.event(request.key, now_ns) {
        transition(effect.block, &event);
    }
    Some(control::done(effect.block))
}
