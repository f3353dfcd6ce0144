//! Detection by deadline groups: one timer watches the deadlines of 2,048 sessions.
//!
//! A receipt stores its session's new deadline into the session's slot and touches no timer, unless
//! the new deadline is earlier than the group's next firing. The two sides meet like this:
//!
//! | receipt | scan |
//! |---|---|
//! | store the slot's deadline, under the session's lock | exchange `next_firing_ns` to never |
//! | full barrier (the exchange is one, too) | read every slot, expire what is due |
//! | lower `next_firing_ns` by compare-and-swap | lower `next_firing_ns` by compare-and-swap |
//! | if that was us: start the timer, look again | start the timer, look again |
//!
//! Either the scan sees the slot's deadline, or the receipt sees a `next_firing_ns` that the scan
//! has already reset and lowers it. "Look again": whoever started the timer for a firing that is
//! no longer the earliest starts it again.

use core::ffi::c_void;

use aya_ebpf::cty::c_long;
use aya_ebpf::helpers::{
    bpf_ktime_get_ns, bpf_loop, bpf_timer_init, bpf_timer_set_callback, bpf_timer_start,
};
use dz_common::counters::Counter;
use dz_common::map::{
    Deadline, Group, MAX_SCAN_DELAY_NS, MIN_SCAN_DELAY_NS, NEVER_NS, SLOTS_PER_GROUP,
};

use crate::atomic;
use crate::count::{NO_BLOCK, count, transition};
use crate::maps::{DEADLINES, GROUPS, SESSIONS};
use crate::session::Locked;

const CLOCK_MONOTONIC: u64 = 1;
const EBUSY: c_long = 16;
/// How often a compare-and-swap or a restart is tried before the timer is started regardless,
/// which costs an early scan and nothing else.
const TRIES: u32 = 4;

/// The deadline of a slot.
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

/// Makes sure that the group's timer fires by `deadline_ns`, which has been stored before.
#[inline(always)]
pub fn arm(slot: u32, deadline_ns: u64, now_ns: u64) {
    if deadline_ns == NEVER_NS {
        return;
    }
    let Some(deadline) = self::slot(slot) else {
        return;
    };
    let Some(group) = GROUPS.get_ptr_mut(slot / SLOTS_PER_GROUP) else {
        return;
    };
    // SAFETY: a live map value; the slot's first field, which the barrier leaves as it is.
    unsafe { atomic::barrier(&raw mut (*deadline).deadline_ns) };
    // SAFETY: a live map value, changed by other CPUs, hence volatile.
    let next_ns = unsafe { (&raw const (*group).next_firing_ns).read_volatile() };
    if deadline_ns < next_ns && lower(group, deadline_ns) {
        start(group, deadline_ns, now_ns);
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
    lower(group, now_ns);
    // SAFETY: initialised above.
    match unsafe { bpf_timer_start((&raw mut (*group).timer).cast(), MIN_SCAN_DELAY_NS, 0) } {
        0 => Ok(()),
        error => Err(error),
    }
}

/// Lowers a group's next firing. Returns whether it was later before.
#[inline(always)]
fn lower(group: *mut Group, to_ns: u64) -> bool {
    // SAFETY: a live map value.
    let next = unsafe { &raw mut (*group).next_firing_ns };
    // SAFETY: as above, changed by other CPUs, hence volatile.
    let mut expected = unsafe { next.read_volatile() };
    for _ in 0..TRIES {
        if expected <= to_ns {
            return false;
        }
        // SAFETY: as above.
        let found = unsafe { atomic::compare_exchange(next, expected, to_ns) };
        if found == expected {
            return true;
        }
        expected = found;
    }
    true
}

/// Starts the timer for `at_ns`, and again for as long as somebody wants it earlier.
#[inline(always)]
fn start(group: *mut Group, mut at_ns: u64, now_ns: u64) {
    for _ in 0..TRIES {
        let delay_ns = at_ns
            .saturating_sub(now_ns)
            .clamp(MIN_SCAN_DELAY_NS, MAX_SCAN_DELAY_NS);
        // SAFETY: a live map value whose timer the agent had initialised before attaching.
        if unsafe { bpf_timer_start((&raw mut (*group).timer).cast(), delay_ns, 0) } != 0 {
            count(NO_BLOCK, Counter::TimerFailed);
            return;
        }
        // SAFETY: as above, changed by other CPUs, hence volatile.
        let next_ns = unsafe { (&raw const (*group).next_firing_ns).read_volatile() };
        if next_ns >= at_ns {
            return;
        }
        at_ns = next_ns;
    }
}

/// What a scan hands to the function that looks at one slot.
struct Scan {
    first_slot: u32,
    now_ns: u64,
    earliest_ns: u64,
}

/// The timer's callback: expires what is due in a group and arms the timer again.
///
/// # Safety
/// Called by the kernel with a value of `dz_groups`.
unsafe extern "C" fn scan(_map: *mut c_void, index: *mut u32, group: *mut Group) -> i32 {
    // SAFETY: the kernel passes live pointers.
    let (index, next) = unsafe { (*index, &raw mut (*group).next_firing_ns) };
    // SAFETY: a live map value.
    unsafe { atomic::exchange(next, NEVER_NS) };
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: a live map value that only this callback writes.
    unsafe { (*group).last_firing_ns = now_ns };
    let mut scan = Scan {
        first_slot: index * SLOTS_PER_GROUP,
        now_ns,
        earliest_ns: NEVER_NS,
    };
    // SAFETY: the function has the signature that bpf_loop wants.
    unsafe {
        bpf_loop(
            SLOTS_PER_GROUP,
            look as *mut c_void,
            (&raw mut scan).cast(),
            0,
        );
    }
    count(NO_BLOCK, Counter::ScanDone);
    if scan.earliest_ns != NEVER_NS {
        let latest_ns = now_ns + MAX_SCAN_DELAY_NS;
        let earliest_ns = if scan.earliest_ns < latest_ns {
            scan.earliest_ns
        } else {
            latest_ns
        };
        lower(group, earliest_ns);
    }
    // SAFETY: as above, changed by other CPUs, hence volatile.
    let next_ns = unsafe { next.read_volatile() };
    if next_ns != NEVER_NS {
        // SAFETY: a helper without arguments. Read again: the scan took its time.
        start(group, next_ns, unsafe { bpf_ktime_get_ns() });
    }
    0
}

/// Looks at one slot of a scan.
///
/// # Safety
/// Called by `bpf_loop` with the [`Scan`] it was given.
unsafe extern "C" fn look(offset: u32, scan: *mut Scan) -> c_long {
    // SAFETY: the scan's own stack.
    let scan = unsafe { &mut *scan };
    let index = scan.first_slot + offset;
    let Some(slot) = slot(index) else { return 1 };
    // SAFETY: a live map value, written by receipts meanwhile, hence volatile.
    let mut deadline_ns = unsafe { (&raw const (*slot).deadline_ns).read_volatile() };
    if deadline_ns <= scan.now_ns {
        deadline_ns = expire(index, slot, scan.now_ns);
    }
    if deadline_ns < scan.earliest_ns {
        scan.earliest_ns = deadline_ns;
    }
    0
}

/// Expires the session of a slot if it really is due; returns the slot's deadline from now on.
///
/// A slot whose session is not found is not cleared: the agent may be writing it, and a key read
/// halfway leads nowhere. It just does not count.
#[inline(always)]
fn expire(index: u32, slot: *mut Deadline, now_ns: u64) -> u64 {
    // SAFETY: a live map value; a torn key is found out below.
    let key = unsafe { (&raw const (*slot).key).read_volatile() };
    let Some(entry) = SESSIONS.get_ptr_mut(&key) else {
        return NEVER_NS;
    };
    let Some(mut session) = Locked::new(entry, &key, index) else {
        return NEVER_NS;
    };
    let change = session.expire(now_ns);
    let deadline_ns = session.scan_deadline_ns();
    store(slot, deadline_ns);
    let (generation, block) = (session.generation, session.block);
    drop(session);

    if let Some(change) = &change {
        transition(block, &change.event(key, generation, now_ns));
    }
    deadline_ns
}
