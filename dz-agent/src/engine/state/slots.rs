//! The free deadline slots, and those that deleted sessions have left and that rest for a grace period.
//!
//! A kernel program may still hold the slot or the map element of a session that was just deleted. It
//! checks under the lock that the memory still is that session's, but does not see another session being
//! written there at that moment. So both are given out again only after every program has ended that was
//! running when the session was deleted.

use std::collections::BTreeSet;

/// The slots that are free or resting.
#[derive(Debug)]
pub(crate) struct Slots {
    /// Given out lowest first, so that as few timers as possible have something to watch.
    free: BTreeSet<u32>,
    /// Left by deleted sessions since the last [`Slots::settle`].
    resting: Vec<u32>,
}

impl Slots {
    /// Makes `slots` slots, of which all but the used ones are free.
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

    /// Returns how many sessions there is room for, resting slots included.
    pub(crate) fn room(&self) -> usize {
        self.free.len() + self.resting.len()
    }

    /// Takes a free slot. Resting ones are not free before [`Slots::settle`].
    pub(crate) fn take(&mut self) -> Option<u32> {
        self.free.pop_first()
    }

    /// Takes the slot of a session that another agent has inserted.
    pub(crate) fn claim(&mut self, slot: u32) {
        self.free.remove(&slot);
        self.resting.retain(|resting| *resting != slot);
    }

    /// Has the slot of a deleted session rest, and with it the session's map element.
    pub(crate) fn release(&mut self, slot: u32) {
        self.resting.push(slot);
    }

    /// Says whether any slots rest.
    pub(crate) const fn has_resting(&self) -> bool {
        !self.resting.is_empty()
    }

    /// Makes all resting slots free: every program that may have held one has ended.
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
