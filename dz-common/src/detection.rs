//! Decides when a group's timer fires, by a protocol between receipts, which store deadlines, and the
//! scan, which reads them.
//!
//! One timer watches many slots. A receipt stores its session's new deadline into the session's slot
//! and touches no timer, unless the deadline is earlier than the group's next firing:
//!
//! | receipt, [`stored`] | scan, [`begin_scan`] … [`finish_scan`] |
//! |---|---|
//! | store the slot's deadline, under the session's lock | exchange the next firing to never |
//! | full barrier | (the exchange is one) |
//! | lower the next firing by compare-and-swap | read every slot, expire what is due |
//! | if it was later before: start the timer, look again | lower the next firing to the earliest left |
//! | | start the timer for the next firing, look again |
//!
//! A deadline that is only put off, with a next firing in time for it, needs none of the last three.
//! Otherwise either the scan sees the slot's deadline, or the receipt sees a next firing that the scan has
//! reset already and lowers it. "Look again": whoever started the timer for a firing that is no
//! longer the earliest starts it again; so the last start is for the earliest. How two
//! receipts and a scan can interleave is walked through in `tests/detection.rs`.

use crate::map::{MAX_SCAN_DELAY_NS, MIN_SCAN_DELAY_NS, MIN_SCAN_DELAY_OF_MANY_NS, NEVER_NS};

/// How often a compare-and-swap or a start is repeated; each failure means that another CPU lowered
/// the next firing meanwhile. Few, for the verifier walks through every one of them.
const TRIES: u32 = 3;
/// A next firing earlier than any other: while it is set, each start of the timer is for the shortest
/// delay, until a scan resets it. It is set when the tries are used up, at the cost of a scan.
const EARLIEST_FIRING_NS: u64 = 0;
/// The shortest delay grows by this with each group, ns. To look through a group takes some 30 µs: up to 16 groups
/// that is half of a processor at most, however often sessions expire; verdicts, one per session, come on top.
const DELAY_PER_GROUP_NS: u64 = 64_000;

/// Returns the shortest delay that the timers of so many groups are armed with, ns: a deadline that
/// passes soon after a scan waits for as long.
#[inline(always)]
pub const fn min_scan_delay_ns(groups: u32) -> u64 {
    let share_ns = DELAY_PER_GROUP_NS * groups as u64;
    if share_ns < MIN_SCAN_DELAY_NS {
        MIN_SCAN_DELAY_NS
    } else if share_ns > MIN_SCAN_DELAY_OF_MANY_NS {
        MIN_SCAN_DELAY_OF_MANY_NS
    } else {
        share_ns
    }
}

/// A group's timer and its next firing, shared with other CPUs. Every exchange is a full barrier.
pub trait GroupTimer {
    /// Orders everything before against everything after.
    fn barrier(&self);
    /// Returns when the timer fires next; [`NEVER_NS`]: it is not armed.
    fn next_ns(&self) -> u64;
    /// Replaces the next firing.
    fn exchange_next(&self, to_ns: u64);
    /// Replaces the next firing if it is `expected_ns`; returns the one that was there.
    fn compare_exchange_next(&self, expected_ns: u64, to_ns: u64) -> u64;
    /// Returns the shortest delay to start the timer with, ns: see [`min_scan_delay_ns`].
    fn min_delay_ns(&self) -> u64;
    /// Starts the timer, in place of an earlier start. Returns whether that worked.
    fn start(&self, delay_ns: u64) -> bool;
}

/// Makes sure that the timer fires by `deadline_ns`, which has just been stored into a slot in place of
/// `before_ns`. Returns false if the timer could not be started.
#[inline(always)]
pub fn stored<T: GroupTimer>(timer: &T, before_ns: u64, deadline_ns: u64, now_ns: u64) -> bool {
    if deadline_ns == NEVER_NS {
        return true;
    }
    // What nearly every packet does is to put a deadline off. Whoever stored the one before makes sure
    // of a scan by then, which finds this one, or that one and comes back by then: so nothing depends
    // on what is ordered before what. If they have failed to, there is no next firing.
    if before_ns <= deadline_ns && timer.next_ns() <= deadline_ns {
        return true;
    }
    timer.barrier();
    if deadline_ns >= timer.next_ns() || !lower(timer, deadline_ns) {
        return true;
    }
    start(timer, deadline_ns, now_ns)
}

/// Has every slot looked at soon, whatever the group's next firing is: 0 in a new map, which reads
/// like a firing earlier than any, or one that a program before us has left behind. Returns false if
/// the timer could not be started.
#[inline(always)]
pub fn begin<T: GroupTimer>(timer: &T, now_ns: u64) -> bool {
    timer.exchange_next(NEVER_NS);
    stored(timer, NEVER_NS, now_ns, now_ns)
}

/// To be called before the first slot is read.
#[inline(always)]
pub fn begin_scan<T: GroupTimer>(timer: &T) {
    timer.exchange_next(NEVER_NS);
}

/// To be called after the last slot was read. `earliest_ns`: the earliest deadline left, [`NEVER_NS`]
/// = none. Returns false if the timer could not be started.
#[inline(always)]
pub fn finish_scan<T: GroupTimer>(timer: &T, earliest_ns: u64, now_ns: u64) -> bool {
    if earliest_ns != NEVER_NS {
        let latest_ns = now_ns.saturating_add(MAX_SCAN_DELAY_NS);
        lower(
            timer,
            if earliest_ns < latest_ns {
                earliest_ns
            } else {
                latest_ns
            },
        );
    }
    match timer.next_ns() {
        NEVER_NS => true,
        next_ns => start(timer, next_ns, now_ns),
    }
}

/// Lowers the next firing. Returns whether it was later before.
#[inline(always)]
fn lower<T: GroupTimer>(timer: &T, to_ns: u64) -> bool {
    let mut expected_ns = timer.next_ns();
    for _ in 0..TRIES {
        if expected_ns <= to_ns {
            return false;
        }
        let found_ns = timer.compare_exchange_next(expected_ns, to_ns);
        if found_ns == expected_ns {
            return true;
        }
        expected_ns = found_ns;
    }
    timer.exchange_next(EARLIEST_FIRING_NS);
    true
}

/// Starts the timer for `at_ns`, and again for as long as somebody wants it earlier.
#[inline(always)]
fn start<T: GroupTimer>(timer: &T, mut at_ns: u64, now_ns: u64) -> bool {
    let min_ns = timer.min_delay_ns();
    for _ in 0..TRIES {
        let delay_ns = at_ns
            .saturating_sub(now_ns)
            .max(min_ns)
            .min(MAX_SCAN_DELAY_NS);
        if !timer.start(delay_ns) {
            // Not armed after all: the next receipt must not rely on it.
            timer.exchange_next(NEVER_NS);
            return false;
        }
        let next_ns = timer.next_ns();
        if next_ns >= at_ns {
            return true;
        }
        at_ns = next_ns;
    }
    timer.exchange_next(EARLIEST_FIRING_NS);
    timer.start(min_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_groups_are_scanned_more_often_than_many() {
        let delays = [1, 3, 4, 8, 16, 64, u32::MAX].map(min_scan_delay_ns);
        let us = delays.map(|ns| ns / 1_000);
        assert_eq!(us, [250, 250, 256, 512, 1_000, 1_000, 1_000]);
    }
}
