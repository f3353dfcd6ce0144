//! Every interleaving of a receipt with a scan or another receipt, and those of all three with up to three
//! preemptions: whatever the order, the timer is armed for the earliest
//! deadline in the end. Weak memory included (loom); time stands still, for the protocol does not
//! depend on it.

use dz_common::detection::{GroupTimer, begin, begin_scan, finish_scan, stored};
use dz_common::map::{MIN_SCAN_DELAY_NS, NEVER_NS};
use loom::sync::Arc;
use loom::sync::atomic::Ordering::{Relaxed, SeqCst};
use loom::sync::atomic::{AtomicU64, fence};
use loom::thread;

/// Milliseconds, between the shortest and the longest delay of a timer.
const MS: u64 = 1_000_000;

/// A group of two slots with its timer.
struct Group {
    slots: [AtomicU64; 2],
    next_ns: AtomicU64,
    /// When the timer really fires.
    armed_ns: AtomicU64,
}

impl Group {
    /// Armed for a deadline in the second slot.
    fn armed(at_ns: u64) -> Arc<Self> {
        Arc::new(Self {
            slots: [AtomicU64::new(NEVER_NS), AtomicU64::new(at_ns)],
            next_ns: AtomicU64::new(at_ns),
            armed_ns: AtomicU64::new(at_ns),
        })
    }

    /// What a packet does.
    fn receive(&self, slot: usize, deadline_ns: u64) {
        // Under the session's lock in the kernel.
        let before_ns = self.slots[slot].load(Relaxed);
        self.slots[slot].store(deadline_ns, Relaxed);
        assert!(stored(self, before_ns, deadline_ns, 0));
    }

    /// What the timer's callback does, nothing being due.
    fn scan(&self) {
        self.armed_ns.store(NEVER_NS, SeqCst);
        begin_scan(self);
        let read = self.slots.each_ref().map(|slot| slot.load(Relaxed));
        let earliest_ns = read.into_iter().min().unwrap_or(NEVER_NS);
        assert!(finish_scan(self, earliest_ns, 0));
    }

    fn assert_armed(&self) {
        let slots = self.slots.each_ref().map(|slot| slot.load(SeqCst));
        let earliest_ns = slots.into_iter().min().unwrap_or(NEVER_NS);
        let armed_ns = self.armed_ns.load(SeqCst);
        assert!(
            armed_ns <= earliest_ns,
            "armed for {armed_ns}, deadlines {slots:?}"
        );
    }
}

/// In the kernel every exchange is a full barrier; in this memory model the fences make it one.
impl GroupTimer for Group {
    fn barrier(&self) {
        fence(SeqCst);
    }

    fn next_ns(&self) -> u64 {
        self.next_ns.load(Relaxed)
    }

    fn exchange_next(&self, to_ns: u64) {
        fence(SeqCst);
        self.next_ns.swap(to_ns, SeqCst);
        fence(SeqCst);
    }

    fn compare_exchange_next(&self, expected_ns: u64, to_ns: u64) -> u64 {
        fence(SeqCst);
        let found = self
            .next_ns
            .compare_exchange(expected_ns, to_ns, SeqCst, SeqCst);
        fence(SeqCst);
        found.unwrap_or_else(|found_ns| found_ns)
    }

    fn min_delay_ns(&self) -> u64 {
        MIN_SCAN_DELAY_NS
    }

    fn start(&self, delay_ns: u64) -> bool {
        // The timer's own lock orders starts, and what was written before them.
        fence(SeqCst);
        self.armed_ns.store(delay_ns, SeqCst);
        fence(SeqCst);
        true
    }
}

/// `preemptions`: the most in one order, for three threads that could be interrupted at every step would
/// take hours; none = every order there is.
fn in_every_order(preemptions: Option<usize>, run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.check(run);
}

#[test]
fn an_earlier_deadline_in_a_slot_that_the_scan_has_passed() {
    in_every_order(None, || {
        let group = Group::armed(200 * MS);
        let scanning = {
            let group = Arc::clone(&group);
            thread::spawn(move || group.scan())
        };
        group.receive(0, 50 * MS);
        scanning.join().expect("scan");
        group.assert_armed();
    });
}

/// The receipt must not rely on a firing that is happening already: what the barrier is for.
#[test]
fn a_deadline_later_than_the_firing_that_is_under_way() {
    in_every_order(None, || {
        let group = Group::armed(200 * MS);
        group.next_ns.store(40 * MS, SeqCst);
        group.armed_ns.store(40 * MS, SeqCst);
        let scanning = {
            let group = Arc::clone(&group);
            thread::spawn(move || group.scan())
        };
        group.receive(0, 50 * MS);
        scanning.join().expect("scan");
        group.assert_armed();
    });
}

#[test]
fn two_receipts_at_once() {
    in_every_order(None, || {
        let group = Group::armed(200 * MS);
        let other = {
            let group = Arc::clone(&group);
            thread::spawn(move || group.receive(1, 80 * MS))
        };
        group.receive(0, 50 * MS);
        other.join().expect("receipt");
        group.assert_armed();
    });
}

#[test]
fn two_receipts_and_a_scan() {
    in_every_order(Some(3), || {
        let group = Group::armed(200 * MS);
        let scanning = {
            let group = Arc::clone(&group);
            thread::spawn(move || group.scan())
        };
        let other = {
            let group = Arc::clone(&group);
            thread::spawn(move || group.receive(1, 80 * MS))
        };
        group.receive(0, 50 * MS);
        scanning.join().expect("scan");
        other.join().expect("receipt");
        group.assert_armed();
    });
}

/// What a packet of a session that is Up does: without a barrier.
#[test]
fn a_deadline_put_off_while_the_scan_looks() {
    in_every_order(None, || {
        let group = Group::armed(50 * MS);
        let scanning = {
            let group = Arc::clone(&group);
            thread::spawn(move || group.scan())
        };
        group.receive(1, 100 * MS);
        scanning.join().expect("scan");
        group.assert_armed();
    });
}

#[test]
fn one_put_off_beside_a_new_one_and_a_scan() {
    in_every_order(Some(3), || {
        let group = Group::armed(50 * MS);
        let scanning = {
            let group = Arc::clone(&group);
            thread::spawn(move || group.scan())
        };
        let other = {
            let group = Arc::clone(&group);
            thread::spawn(move || group.receive(0, 80 * MS))
        };
        group.receive(1, 100 * MS);
        scanning.join().expect("scan");
        other.join().expect("receipt");
        group.assert_armed();
    });
}

/// The timer could not be started when the deadline was set.
#[test]
fn one_put_off_without_a_timer() {
    in_every_order(None, || {
        let group = Group::armed(50 * MS);
        group.next_ns.store(NEVER_NS, SeqCst);
        group.armed_ns.store(NEVER_NS, SeqCst);
        group.receive(1, 100 * MS);
        group.assert_armed();
    });
}

/// The first load: the map is all zeros, and no timer is armed.
#[test]
fn a_new_map() {
    in_every_order(None, || {
        let group = Group::armed(NEVER_NS);
        group.next_ns.store(0, SeqCst);
        assert!(begin(&*group, MS));
        assert_ne!(group.armed_ns.load(SeqCst), NEVER_NS, "not armed");
    });
}

/// A takeover, while the earlier program goes on receiving.
#[test]
fn a_map_of_an_earlier_program() {
    in_every_order(None, || {
        let group = Group::armed(NEVER_NS);
        group.next_ns.store(MS / 2, SeqCst);
        let receiving = {
            let group = Arc::clone(&group);
            thread::spawn(move || group.receive(0, 50 * MS))
        };
        assert!(begin(&*group, 40 * MS));
        receiving.join().expect("receipt");
        group.assert_armed();
    });
}

#[test]
fn a_session_that_leaves_down_in_an_idle_group() {
    in_every_order(None, || {
        let group = Group::armed(NEVER_NS);
        let scanning = {
            let group = Arc::clone(&group);
            thread::spawn(move || group.scan())
        };
        group.receive(0, 150 * MS);
        scanning.join().expect("scan");
        group.assert_armed();
    });
}
