//! Adds to counters, and emits an event for each state change.

use core::arch::asm;

use dz_common::counters::{Counter, NO_BLOCK};
use dz_common::map::Event;

use crate::atomic;
use crate::maps::{COUNTERS, EVENTS};

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(block: u32, counter: Counter) {
    let mut index = counter as u64;
    // Hides from the compiler that the index is in range, so that the check below survives for the
    // verifier, which does not know.
    // A move, not nothing: an empty asm leaves two line records for one instruction, which the
    // kernel refuses.
    // SAFETY: a register moved onto itself.
    unsafe { asm!("{0} = {0}", inout(reg) index) }
    if index >= Counter::COUNT as u64 {
        return;
    }
    let Some(counters) = COUNTERS.get_ptr_mut(block) else {
        return;
    };
    // Atomic, for the transmit and control programs run in a process that packets interrupt.
    // SAFETY: index is within the block, whose fields are all u64.
    unsafe { atomic::add(counters.cast::<u64>().add(index as usize), 1) }
}

/// Counts a state change.
#[inline(always)]
pub fn changed(block: u32, event: &Event) {
    if let Some(counter) = Counter::transition(event.from, event.to, event.reason) {
        count(block, counter);
    }
}

/// Counts a state change and tells the agent.
#[inline(always)]
pub fn transition(block: u32, event: &Event) {
    changed(block, event);
    tell(event);
}

/// Tells the agent of a state change. The agent compares what it read with `event_emitted`, so nothing
/// depends on this arriving.
#[inline(always)]
pub fn tell(event: &Event) {
    let emitted = match EVENTS.output(event, 0) {
        Ok(()) => Counter::EventEmitted,
        Err(_) => Counter::EventLost,
    };
    count(NO_BLOCK, emitted);
}
