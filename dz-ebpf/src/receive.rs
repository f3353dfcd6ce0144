//! Handles a datagram to our port: the part that TC and XDP share.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use dz_common::counters::{Counter, NO_BLOCK};
use dz_common::entry::{PacketEffect, Transition, tells_of_packets};
use dz_common::headers::ETHERNET_LEN;
use dz_common::ingress::{Fence, Flow, Frame, Link, Received};
use dz_common::map::{Config, LocalKey, SessionEntry, SessionKey};
use dz_common::packet::Packet;
use dz_common::session::Receipt;
use dz_common::unaligned::word;

use crate::count::{changed, count, tell};
use crate::detect;
use crate::maps::{CONFIG, HEARTBEAT, LOCALS};
use crate::session::{self, Locked, held, identity, local, min_ttl};
use crate::verifier::forget;

/// The verdict on a frame that is not answered.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// On to the stack, untouched.
    Pass,
    /// Ours, and dropped.
    Drop,
}

/// A datagram on its way through its session.
pub struct Work {
    pub config: &'static Config,
    pub entry: *mut SessionEntry,
    pub packet: Packet,
    /// Whether it is too long to be answered where it came in.
    pub unanswerable: bool,
    pub key: SessionKey,
    pub block: u32,
    /// Whether frames have an Ethernet header.
    pub ethernet: bool,
}

/// The answer on its way back.
///
/// Passed by reference, and to a function that is not inlined, because 512 bytes of stack have to do;
/// so it has nothing but what that function needs. Only C-like types may appear in it: the kernel's
/// BTF has no Rust enums with data.
#[repr(C)]
pub struct Reply {
    /// The packet to answer with, once [`handle`] has filled it in.
    pub packet: Packet,
    pub local: [u8; 4],
    pub peer: [u8; 4],
    /// On Ethernet, our address in the frame.
    pub source: [u8; 6],
    /// On Ethernet, where the frame came from; once [`handle`] says so, where the answer goes.
    pub destination: [u8; 6],
    /// See `dz_common::ingress::Received`.
    pub maybe_partial: bool,
}

/// Returns the configuration; none while the agent has not stored it.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// Counts a frame that is not ours.
#[inline(always)]
pub fn pass(exit: Counter) -> Verdict {
    count(NO_BLOCK, exit);
    Verdict::Pass
}

/// Begins the answer to a frame: to where the frame came from, with its packet until [`handle`] has made another.
#[inline(always)]
pub fn back(frame: &impl Frame, link: Link, flow: &Flow, received: &Received) -> Reply {
    let mut reply = Reply {
        packet: received.packet,
        local: flow.dst,
        peer: flow.src,
        source: [0; 6],
        destination: [0; 6],
        maybe_partial: received.maybe_partial,
    };
    // Readable, for what comes after it was.
    if let Link::Ethernet = link
        && let Some(header) = frame.read::<ETHERNET_LEN>(0)
    {
        let [a, b, c, d] = word::<0, _>(header).to_ne_bytes();
        let [e, f, g, h] = word::<1, _>(header).to_ne_bytes();
        let [i, j, k, l] = word::<2, _>(header).to_ne_bytes();
        reply.source = [a, b, c, d, e, f];
        reply.destination = [g, h, i, j, k, l];
    }
    reply
}

/// Returns the conditions on port and hops for packets of a session's peer.
#[inline(always)]
pub fn fence(config: &Config, entry: *mut SessionEntry) -> Fence {
    Fence {
        port: config.port,
        min_ttl: min_ttl(entry),
    }
}

/// Finds the session of a flow, or the verdict on a datagram without one.
#[inline(always)]
pub fn find(config: &Config, key: &SessionKey) -> Result<*mut SessionEntry, Verdict> {
    // To another address of ours it is nobody's.
    if let Some(entry) = session::find(key)
        && local(entry) == key.local
    {
        return Ok(entry);
    }
    let own = LocalKey {
        ifindex: key.ifindex,
        addr: key.local,
    };
    // SAFETY: a u32 that the agent replaces as a whole.
    Err(match unsafe { LOCALS.get(&own) } {
        None => pass(Counter::PassNotLocal),
        Some(&block) if config.unknown_pass != 0 => {
            count(block, Counter::PassUnknownPeer);
            Verdict::Pass
        }
        Some(&block) => {
            count(block, Counter::DropUnknownPeer);
            Verdict::Drop
        }
    })
}

/// Runs a datagram through its session, but does not rewrite the frame. Returns the exit to be
/// counted if `reply` is sent; if there is none, another one has been counted.
#[inline(always)]
pub fn handle(work: &Work, reply: &mut Reply) -> Option<Counter> {
    let block = work.block;
    let (slot, _) = identity(work.entry);
    let Some(deadline) = detect::slot(slot) else {
        count(block, Counter::Fault);
        return None;
    };
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let barred = barred(work, now_ns);
    let Some(mut session) = Locked::new(work.entry, &work.key, slot) else {
        count(block, Counter::DropUnknownPeer);
        return None;
    };
    session.last_seen_ns = now_ns;
    let before_ns = session.scan_deadline_ns();
    let taken = session.take(&work.packet, now_ns);
    let taken = forgotten(&taken, now_ns);
    let reachable = !work.ethernet || session.neighbour != [0; 6];
    let exit = session.reply(taken.receipt, taken.changed, barred, reachable, now_ns);
    let exit = forget(exit, now_ns);
    let answered = matches!(exit, Counter::RxAnswered);
    let reserved_set = work.packet.reserved_set;
    // `SessionEntry::answer`, in place: the stack is short.
    let sends = answered || matches!(exit, Counter::RxUnprovenAnswered);
    if sends {
        reply.packet = session.session.packet(work.config.version);
        if !answered {
            reply.packet.introduce(work.packet.my_discr);
        }
    }
    if work.ethernet {
        if taken.receipt.is_proven() {
            session.neighbour = reply.destination;
        } else {
            // Whoever sent this may be anybody, and is told nothing.
            reply.destination = session.neighbour;
        }
    }
    let generation = session.generation;
    let deadline_ns = session.scan_deadline_ns();
    detect::store(deadline, deadline_ns);
    if let Some(next_due) = session.due_stamp(answered, taken.changed, now_ns) {
        detect::store_due(deadline, next_due);
    }
    drop(session);

    detect::arm(slot, deadline, (before_ns, deadline_ns), now_ns);
    note(block, &taken, reserved_set);
    if taken.changed {
        let event = taken.transition.event(work.key, generation, now_ns);
        changed(block, &event);
        // Read here, as under the lock it would take room of the stack until now.
        if tells_of_packets(held(work.entry)) {
            tell(&event);
        }
    }
    if sends {
        return Some(exit);
    }
    count(block, exit);
    None
}

/// Counts the end of an answer with this exit.
#[inline(always)]
pub fn answered(block: u32, exit: Counter, sent: bool) {
    count(block, if sent { exit } else { Counter::RxAnswerFailed });
}

/// Returns the effect as it is, of which the verifier knows no more than if it came from a map.
#[inline(always)]
fn forgotten(taken: &PacketEffect, now_ns: u64) -> PacketEffect {
    let change = &taken.transition;
    PacketEffect {
        receipt: forget(taken.receipt, now_ns),
        changed: forget(taken.changed, now_ns),
        transition: Transition {
            from: forget(change.from, now_ns),
            to: forget(change.to, now_ns),
            reason: forget(change.reason, now_ns),
            since_ns: forget(change.since_ns, now_ns),
            sequence: change.sequence,
        },
    }
}

/// Counts the tallies and the state change of a packet.
#[inline(always)]
fn note(block: u32, taken: &PacketEffect, reserved_set: bool) {
    if reserved_set {
        count(block, Counter::ReservedSet);
    }
    if matches!(taken.receipt, Receipt::StaleDown) {
        count(block, Counter::StaleDown);
    }
}

/// Returns the way out of a packet that is not to be answered, whatever its session says.
#[inline(always)]
fn barred(work: &Work, now_ns: u64) -> Option<Counter> {
    if !attended(work.config, now_ns) {
        Some(Counter::RxUnattended)
    } else if work.unanswerable {
        Some(Counter::RxLong)
    } else {
        None
    }
}

/// Says whether the agent's heartbeat is recent: a host whose control is gone for good must not look
/// healthy for ever.
#[inline(always)]
fn attended(config: &Config, now_ns: u64) -> bool {
    match HEARTBEAT.get_ptr(0) {
        // SAFETY: a map value; the agent stores to it while we read, hence volatile.
        Some(beat) => now_ns.saturating_sub(unsafe { beat.read_volatile() }) <= config.grace_ns,
        None => false,
    }
}

/// Returns the key of a flow's session.
#[inline(always)]
pub fn key(ifindex: u32, flow: &Flow) -> SessionKey {
    SessionKey {
        ifindex,
        local: flow.dst,
        peer: flow.src,
    }
}
