//! Sends packets that answer nothing: to peers not heard yet, to silent ones, and AdminDown.
//!
//! The agent's clock fills `dz_due` and runs this program over a dummy packet; the program asks
//! each session under its lock whether and what to transmit ([`dz_common::transmit`]), and sends a clone
//! by the session's interface. There is no socket whose send could fail for want of a route.

use core::ffi::c_void;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::cty::c_long;
use aya_ebpf::helpers::{bpf_clone_redirect, bpf_ktime_get_ns, bpf_loop};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use dz_common::counters::Counter;
use dz_common::headers::{self, Marks, UdpChecksum};
use dz_common::ingress::Link;
use dz_common::map::{Config, Due};
use dz_common::packet::Packet;
use dz_common::transmit::{self, Transmission};

use crate::count::count;
use crate::maps::DUE;
use crate::priority::first_in_queues;
use crate::receive;
use crate::session::{Locked, find, identity};
use crate::skb::{Outgoing, check};

/// Runs over the first `cb[0]` entries of `dz_due`. The packet given is overwritten; it must be as
/// long as a frame with a liveness packet and say EtherType IPv4, for the kernel takes the
/// protocol of the clones from it.
#[classifier]
pub fn dz_transmit(ctx: TcContext) -> i32 {
    let entries = transmit::entries(ctx.cb()[0]);
    let mut run = Run { skb: ctx.skb.skb };
    // SAFETY: the function has the signature that bpf_loop wants.
    unsafe { bpf_loop(entries, visit as *mut c_void, (&raw mut run).cast(), 0) };
    0
}

struct Run {
    skb: *mut __sk_buff,
}

/// Handles one entry of `dz_due`.
///
/// # Safety
/// Called by `bpf_loop` with the [`Run`] it was given.
unsafe extern "C" fn visit(index: u32, run: *mut Run) -> c_long {
    // SAFETY: the run's own stack.
    let skb = unsafe { (*run).skb };
    let Some(due) = DUE.get_ptr_mut(index) else {
        return 1;
    };
    let Some(config) = receive::config() else {
        return 1;
    };
    // SAFETY: a live map value that the agent does not touch while the program runs.
    let due = unsafe { &mut *due };
    let (block, exit) = transmit(skb, config, due);
    due.exit = exit as u32;
    count(block, exit);
    0
}

#[inline(always)]
fn transmit(skb: *mut __sk_buff, config: &Config, due: &mut Due) -> (u32, Counter) {
    due.next_due_ns = 0;
    let Some((block, transmission)) = ask(config, due) else {
        return transmit::NO_SESSION;
    };
    due.next_due_ns = transmission.next_due_ns;
    let Some(packet) = transmission.packet else {
        return (block, transmission.unsent);
    };
    first_in_queues(skb);
    let sent = send(skb, config, due, &packet);
    if let Err(error) = sent {
        let ctx = TcContext::new(skb);
        debug!(&ctx, "transmit to {:i}: error {}", due.key.peer, error);
    }
    (block, transmit::exit(sent.is_ok()))
}

/// Asks the session, if it is still there, whether to transmit; returns its block, too.
#[inline(always)]
fn ask(config: &Config, due: &Due) -> Option<(u32, Transmission)> {
    let key = due.key;
    let entry = find(&key)?;
    let (slot, block) = identity(entry);
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let turn = due.turn();
    let mut session = Locked::new(entry, &key, slot)?;
    let transmission = session.transmit(&turn, config, now_ns)?;
    Some((block, transmission))
}

/// Writes the packet over the dummy and sends a clone of it. The dummy always has room for an
/// Ethernet header, which a layer-3 device strips.
#[inline(always)]
fn send(skb: *mut __sk_buff, config: &Config, due: &Due, packet: &Packet) -> Result<(), i64> {
    let datagram = headers::datagram(
        &due.key.local,
        &due.key.peer,
        Marks::of(config),
        packet,
        UdpChecksum::Full,
    );
    let frame = Outgoing::new(due.destination, due.source, datagram);
    frame.store(skb, Link::Ethernet)?;
    // SAFETY: a helper that looks at its arguments only.
    check(unsafe { bpf_clone_redirect(skb, due.key.ifindex, 0) })
}
