//! Deadline slots, and the rule for using memory again.
//!
//! A kernel program may still hold a slot or a hash element of a session that was just deleted. It
//! checks under the lock that the memory still is that session's; what it cannot see is the memory
//! being written for another session at that very moment. So memory that sessions left behind is
//! given out only after a grace period: every program that was running when the session was
//! deleted has ended.

use std::collections::BTreeSet;

/// Which slots are free.
#[derive(Debug)]
pub(crate) struct Slots {
    /// Lowest first, so that as few timers as possible have something to watch.
    free: BTreeSet<u32>,
    resting: Vec<u32>,
}

impl Slots {
    /// All slots but those in use.
    pub(crate) fn new(slots: u32, used: impl IntoIterator<Item = u32>) -> Self {
        let mut free: BTreeSet<_> = (0..slots).collect();
        for slot in used {
            free.remove(&slot);
        }
        Self {
            free,
            resting: Vec::new(),
        }
    }

    /// How many sessions there is room for.
    pub(crate) fn room(&self) -> usize {
        self.free.len() + self.resting.len()
    }

    /// Takes a free slot; those that sessions have left are not free before [`Slots::settle`].
    pub(crate) fn take(&mut self) -> Option<u32> {
        self.free.pop_first()
    }

    /// Takes a slot that a session has which we have not given it to.
    pub(crate) fn claim(&mut self, slot: u32) {
        self.free.remove(&slot);
        self.resting.retain(|resting| *resting != slot);
    }

    /// A session has left its slot and its hash element.
    pub(crate) fn release(&mut self, slot: u32) {
        self.resting.push(slot);
    }

    /// Says whether a program may still hold what sessions left behind.
    pub(crate) const fn has_resting(&self) -> bool {
        !self.resting.is_empty()
    }

    /// Notes that every program has ended that was running when it was called last.
    pub(crate) fn settle(&mut self) {
        self.free.extend(self.resting.drain(..));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_slot_rests_until_settled() {
        let mut slots = Slots::new(2, [1]);
        assert_eq!(slots.take(), Some(0));
        slots.release(0);
        assert_eq!(slots.take(), None);
        assert_eq!(slots.room(), 1);
        slots.settle();
        assert_eq!(slots.take(), Some(0));
    }
}
