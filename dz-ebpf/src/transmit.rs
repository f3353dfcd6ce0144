//! Sending what nobody asked for: first contact, a silent peer, AdminDown.
//!
//! The agent's clock fills `dz_due` and runs this program over a dummy packet; the program asks
//! each session under its lock whether and what to transmit, and sends a clone by the session's
//! interface. There is no socket whose send could fail for want of a route.

use core::ffi::c_void;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::cty::c_long;
use aya_ebpf::helpers::{bpf_clone_redirect, bpf_ktime_get_ns, bpf_loop};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use dz_common::counters::{Counter, NO_BLOCK};
use dz_common::headers::{self, Marks, UdpChecksum};
use dz_common::ingress::Link;
use dz_common::map::{Config, DUE_ETHERNET, DUE_FORCE, Due, MAX_DUE, SessionEntry};
use dz_common::pacing::Tick;
use dz_common::packet::Packet;

use crate::count::count;
use crate::maps::DUE;
use crate::mark;
use crate::receive;
use crate::session::{Locked, find, identity};
use crate::skb::{Outgoing, check};

/// Runs over the first `cb[0]` entries of `dz_due`. The packet given is overwritten; it must be as
/// long as a frame with a liveness packet and say EtherType IPv4, for the kernel takes the
/// protocol of the clones from it.
#[classifier]
pub fn dz_transmit(ctx: TcContext) -> i32 {
    let wanted = ctx.cb()[0];
    let entries = if wanted < MAX_DUE { wanted } else { MAX_DUE };
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
    let key = due.key;
    due.next_due_ns = 0;
    let Some(entry) = find(&key) else {
        return (NO_BLOCK, Counter::TxNoSession);
    };
    let (slot, block) = identity(entry);
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let (generation, flags) = (due.generation, due.flags);
    // A value of our own: from one map into another the compiler copies it by `memmove`, a function, and
    // before Linux 6.9 the verifier refuses those under a lock.
    let destination = due.destination;
    // On Ethernet a session whose next hop is not resolved keeps its turn.
    let reachable = flags & DUE_ETHERNET == 0 || destination != [0; 6];
    let Some(mut session) = Locked::new(entry, &key, slot) else {
        return (NO_BLOCK, Counter::TxNoSession);
    };
    if session.generation != generation {
        return (NO_BLOCK, Counter::TxNoSession);
    }
    let (packet, next_due_ns) = decide(&mut session, config, flags, reachable, now_ns);
    if packet.is_some() && flags & DUE_ETHERNET != 0 {
        session.neighbour = destination;
    }
    drop(session);

    due.next_due_ns = next_due_ns;
    let Some(packet) = packet else {
        return (
            block,
            if reachable {
                Counter::TxNotDue
            } else {
                Counter::TxNoNeighbour
            },
        );
    };
    mark::liveness(skb, block);
    match send(skb, config, due, &packet) {
        Ok(()) => (block, Counter::TxOriginated),
        Err(error) => {
            let ctx = TcContext::new(skb);
            debug!(&ctx, "transmit to {:i}: error {}", key.peer, error);
            (block, Counter::TxFailed)
        }
    }
}

#[inline(always)]
fn decide(
    entry: &mut SessionEntry,
    config: &Config,
    flags: u32,
    reachable: bool,
    now_ns: u64,
) -> (Option<Packet>, u64) {
    if !reachable {
        let retry_ns = now_ns + entry.session.tx_interval_us() as u64 * 1_000;
        return (None, retry_ns);
    }
    let random = entry.draw();
    let send = if flags & DUE_FORCE != 0 {
        entry.session.transmitted(now_ns, random);
        true
    } else {
        matches!(entry.session.tick(now_ns, random), (Tick::Send, _))
    };
    let packet = if send {
        entry.originated += 1;
        Some(entry.session.packet(config.version))
    } else {
        None
    };
    (packet, entry.session.next_due_ns(now_ns))
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
