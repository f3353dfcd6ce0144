//! `dz_groups`: the detection timers.

use std::cell::Cell;

use dz_common::detection::{GroupTimer, min_scan_delay_ns};
use dz_common::map::NEVER_NS;

/// A group's timer and its next firing.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// The timer has a callback (`bpf_timer_init`, `bpf_timer_set_callback`).
    set_up: Cell<bool>,
    /// When the kernel calls it; [`NEVER_NS`] = not started.
    fires_ns: Cell<u64>,
    /// [`Group::next_firing_ns`](dz_common::map::Group::next_firing_ns).
    next_firing_ns: Cell<u64>,
}

impl Group {
    /// Makes one as it is in a new map.
    pub(super) const fn new() -> Self {
        Self {
            set_up: Cell::new(false),
            fires_ns: Cell::new(NEVER_NS),
            next_firing_ns: Cell::new(0),
        }
    }

    /// Gives the timer its callback.
    pub(super) fn set_up(&self) {
        self.set_up.set(true);
    }

    /// Returns when the kernel calls the callback; [`NEVER_NS`] = not at all.
    pub(super) const fn fires_ns(&self) -> u64 {
        self.fires_ns.get()
    }

    /// Notes that the kernel calls the callback now.
    pub(super) fn fire(&self) {
        self.fires_ns.set(NEVER_NS);
    }

    /// Returns the timer as the programs use it at this time. `groups`: how many there are.
    pub(super) const fn timer(&self, groups: u32, now_ns: u64) -> Timer<'_> {
        Timer {
            group: self,
            groups,
            now_ns,
        }
    }
}

/// A group's timer as a program uses it at some time. Nothing interleaves: there is one processor.
pub(super) struct Timer<'a> {
    group: &'a Group,
    groups: u32,
    now_ns: u64,
}

impl GroupTimer for Timer<'_> {
    fn barrier(&self) {}

    fn next_ns(&self) -> u64 {
        self.group.next_firing_ns.get()
    }

    fn exchange_next(&self, to_ns: u64) {
        self.group.next_firing_ns.set(to_ns);
    }

    fn compare_exchange_next(&self, expected_ns: u64, to_ns: u64) -> u64 {
        let found_ns = self.group.next_firing_ns.get();
        if found_ns == expected_ns {
            self.group.next_firing_ns.set(to_ns);
        }
        found_ns
    }

    fn min_delay_ns(&self) -> u64 {
        min_scan_delay_ns(self.groups)
    }

    fn start(&self, delay_ns: u64) -> bool {
        if self.group.set_up.get() {
            self.group.fires_ns.set(self.now_ns + delay_ns);
        }
        self.group.set_up.get()
    }
}

#[cfg(test)]
mod tests {
    use dz_common::detection::{begin, begin_scan, finish_scan, stored};
    use dz_common::map::{MAX_SCAN_DELAY_NS, MIN_SCAN_DELAY_NS};

    use super::*;

    const NOW_NS: u64 = 1_000_000_000;

    #[test]
    fn a_timer_without_a_callback_cannot_be_started() {
        let group = Group::new();
        let deadline_ns = NOW_NS + 10_000_000;
        // The next firing of a new map reads like one in time.
        assert!(stored(
            &group.timer(1, NOW_NS),
            NEVER_NS,
            deadline_ns,
            NOW_NS
        ));
        assert!(!begin(&group.timer(1, NOW_NS), NOW_NS));
        assert_eq!(group.fires_ns(), NEVER_NS);
        group.set_up();
        assert!(begin(&group.timer(1, NOW_NS), NOW_NS));
        assert_eq!(group.fires_ns(), NOW_NS + MIN_SCAN_DELAY_NS);
    }

    #[test]
    fn it_fires_for_the_earliest_deadline() {
        let group = Group::new();
        group.set_up();
        group.timer(1, NOW_NS).exchange_next(NEVER_NS);
        for ahead_ns in [30_000_000, 10_000_000, 20_000_000] {
            let timer = group.timer(1, NOW_NS);
            assert!(stored(&timer, NEVER_NS, NOW_NS + ahead_ns, NOW_NS));
        }
        assert_eq!(group.fires_ns(), NOW_NS + 10_000_000);

        let now_ns = group.fires_ns();
        group.fire();
        let timer = group.timer(1, now_ns);
        begin_scan(&timer);
        assert!(finish_scan(&timer, now_ns + 3_000_000_000, now_ns));
        assert_eq!(group.fires_ns(), now_ns + MAX_SCAN_DELAY_NS);
    }
}
