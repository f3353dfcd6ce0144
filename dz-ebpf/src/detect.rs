//! Detection by deadline groups: one timer watches the deadlines of 2,048 sessions.
//!
//! [`dz_common::detection`] decides when the timer fires, [`dz_common::scan`] what a scan does with a slot;
//! here are the timer, the loop over the slots, and the way from a slot to its session.

use core::ffi::c_void;

use aya_ebpf::cty::c_long;
use aya_ebpf::helpers::{
    bpf_ktime_get_ns, bpf_loop, bpf_timer_init, bpf_timer_set_callback, bpf_timer_start,
};
use dz_common::counters::{Counter, NO_BLOCK};
use dz_common::detection::{self, GroupTimer};
use dz_common::entry::Effect;
use dz_common::map::{Deadline, Group, MIN_SCAN_DELAY_OF_MANY_NS, SLOTS_PER_GROUP};
use dz_common::scan::{Look, Scan};

use crate::atomic;
use crate::count::{count, transition};
use crate::maps::{CONFIG, DEADLINES, GROUPS};
use crate::session::{Locked, find};

const CLOCK_MONOTONIC: u64 = 1;
const EBUSY: c_long = 16;

/// Returns the deadline of a slot.
#[inline(always)]
pub fn slot(index: u32) -> Option<*mut Deadline> {
    DEADLINES.get_ptr_mut(index)
}

/// Stores a deadline into a session's slot, under the session's lock.
#[inline(always)]
pub fn store(slot: *mut Deadline, deadline_ns: u64) {
    // SAFETY: a live map value; scans read it without the lock, hence volatile.
    unsafe { (&raw mut (*slot).deadline_ns).write_volatile(deadline_ns) }
}

/// Stores into a session's slot when our clock is to ask for it, under the session's lock.
#[inline(always)]
pub fn store_due(slot: *mut Deadline, next_due: u32) {
    // SAFETY: a live map value; the agent reads it without the lock, hence volatile.
    unsafe { (&raw mut (*slot).next_due).write_volatile(next_due) }
}

/// Stores the effect of a deadline or a command into the session's slot, under the session's lock.
#[inline(always)]
pub fn update(slot: *mut Deadline, effect: &Effect) {
    store(slot, effect.deadline_ns);
    if let Some(next_due) = effect.next_due {
        store_due(slot, next_due);
    }
}

/// A group's timer. The second field is the value that barriers work on: a slot's deadline, or the next
/// firing itself.
struct Timer {
    group: *mut Group,
    at_hand: *mut u64,
}

impl Timer {
    #[inline(always)]
    fn of(group: *mut Group) -> Self {
        // SAFETY: a live map value.
        let at_hand = unsafe { &raw mut (*group).next_firing_ns };
        Self { group, at_hand }
    }

    #[inline(always)]
    fn next(&self) -> *mut u64 {
        // SAFETY: a live map value.
        unsafe { &raw mut (*self.group).next_firing_ns }
    }
}

impl GroupTimer for Timer {
    #[inline(always)]
    fn barrier(&self) {
        // SAFETY: a live map value, which the barrier leaves as it is.
        unsafe { atomic::barrier(self.at_hand) }
    }

    #[inline(always)]
    fn next_ns(&self) -> u64 {
        // SAFETY: a live map value, changed by other CPUs, hence volatile.
        unsafe { self.next().read_volatile() }
    }

    #[inline(always)]
    fn exchange_next(&self, to_ns: u64) {
        // SAFETY: a live map value.
        unsafe { atomic::exchange(self.next(), to_ns) };
    }

    #[inline(always)]
    fn compare_exchange_next(&self, expected_ns: u64, to_ns: u64) -> u64 {
        // SAFETY: a live map value.
        unsafe { atomic::compare_exchange(self.next(), expected_ns, to_ns) }
    }

    #[inline(always)]
    fn min_delay_ns(&self) -> u64 {
        CONFIG.get(0).map_or(MIN_SCAN_DELAY_OF_MANY_NS, |config| {
            detection::min_scan_delay_ns(config.groups)
        })
    }

    #[inline(always)]
    fn start(&self, delay_ns: u64) -> bool {
        // SAFETY: a live map value, whose timer the agent had initialised before attaching.
        unsafe { bpf_timer_start((&raw mut (*self.group).timer).cast(), delay_ns, 0) == 0 }
    }
}

/// Makes sure that the group's timer fires by `deadline_ns`, which has been stored into the slot with
/// this index in place of `before_ns`.
#[inline(always)]
pub fn arm(index: u32, slot: *mut Deadline, (before_ns, deadline_ns): (u64, u64), now_ns: u64) {
    let Some(group) = GROUPS.get_ptr_mut(index / SLOTS_PER_GROUP) else {
        return;
    };
    // The barrier works on the session's own slot, for the group belongs to many CPUs.
    // SAFETY: a live map value.
    let at_hand = unsafe { &raw mut (*slot).deadline_ns };
    let timer = Timer { group, at_hand };
    if !detection::stored(&timer, before_ns, deadline_ns, now_ns) {
        count(NO_BLOCK, Counter::TimerFailed);
    }
}

/// Initialises a group's timer. Called once per load: a new program brings a new callback.
#[inline(always)]
pub fn start_group(index: u32) -> Result<(), c_long> {
    let Some(group) = GROUPS.get_ptr_mut(index) else {
        return Err(-1);
    };
    // SAFETY: a live map value with its timer first; the map pointer is the timer's own map.
    let result = unsafe {
        let timer = (&raw mut (*group).timer).cast();
        match bpf_timer_init(
            timer,
            (&raw const GROUPS).cast_mut().cast(),
            CLOCK_MONOTONIC,
        ) {
            error if error != 0 && error != -EBUSY => Err(error),
            _ => match bpf_timer_set_callback(timer, scan as *mut c_void) {
                0 => Ok(()),
                error => Err(error),
            },
        }
    };
    result?;
    // Look at every slot soon: on takeover there may be deadlines that nobody watches.
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if detection::begin(&Timer::of(group), now_ns) {
        Ok(())
    } else {
        Err(-1)
    }
}

/// The context that the timer's callback hands to [`look`].
struct Walk {
    first_slot: u32,
    scan: Scan,
}

/// Expires the sessions of a group whose deadlines have passed, and arms the timer again: its callback.
///
/// # Safety
/// Called by the kernel with a value of `dz_groups`.
unsafe extern "C" fn scan(_map: *mut c_void, index: *mut u32, group: *mut Group) -> i32 {
    // SAFETY: the kernel passes a live pointer.
    let index = unsafe { *index };
    let timer = Timer::of(group);
    detection::begin_scan(&timer);
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: a live map value that only this callback writes.
    unsafe { (*group).last_firing_ns = now_ns };
    let mut walk = Walk {
        first_slot: index * SLOTS_PER_GROUP,
        scan: Scan::new(now_ns),
    };
    // SAFETY: the function has the signature that bpf_loop wants.
    unsafe {
        bpf_loop(
            SLOTS_PER_GROUP,
            look as *mut c_void,
            (&raw mut walk).cast(),
            0,
        );
    }
    count(NO_BLOCK, Counter::ScanDone);
    // SAFETY: a helper without arguments. Asked again: the scan took its time.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if !detection::finish_scan(&timer, walk.scan.earliest_ns(), now_ns) {
        count(NO_BLOCK, Counter::TimerFailed);
    }
    0
}

/// Takes a scan past one slot.
///
/// # Safety
/// Called by `bpf_loop` with the [`Walk`] it was given.
unsafe extern "C" fn look(offset: u32, walk: *mut Walk) -> c_long {
    // SAFETY: the callback's own stack.
    let Walk { first_slot, scan } = unsafe { &mut *walk };
    let index = *first_slot + offset;
    let Some(slot) = slot(index) else { return 1 };
    // SAFETY: a live map value, written by receipts meanwhile, hence volatile.
    let deadline_ns = unsafe { (&raw const (*slot).deadline_ns).read_volatile() };
    if let Look::Expire = scan.look(deadline_ns)
        && let Some(deadline_ns) = expire(index, slot, scan.now_ns())
    {
        scan.keep(deadline_ns);
    }
    0
}

/// Expires the session of a slot, if there is one; returns the slot's deadline from now on.
#[inline(always)]
fn expire(index: u32, slot: *mut Deadline, now_ns: u64) -> Option<u64> {
    // SAFETY: a live map value; a torn key is found out below.
    let key = unsafe { (&raw const (*slot).key).read_volatile() };
    let entry = find(&key)?;
    let mut session = Locked::new(entry, &key, index)?;
    let effect = session.expire_slot(now_ns);
    update(slot, &effect);
    drop(session);

    if let Some(event) = effect.event(key, now_ns) {
        transition(effect.block, &event);
    }
    Some(effect.deadline_ns)
}
