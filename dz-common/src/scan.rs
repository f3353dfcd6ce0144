//! A scan walks through the slots of its group, and expires the sessions whose deadlines have passed.
//! [`crate::detection`] decides when the next scan comes.

use crate::entry::Effect;
use crate::map::{NEVER_NS, SessionEntry};

/// The deadline in a slot of a new map, which no session has had yet. (A slot that a session has left
/// says never.)
const UNUSED: u64 = 0;

/// A scan under way, with the earliest deadline that it has left in a slot so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    now_ns: u64,
    earliest_ns: u64,
}

/// The step of a scan at one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Goes on to the next one.
    Pass,
    /// Finds the slot's session, expires it by [`SessionEntry::expire_slot`] and keeps the deadline that
    /// this leaves. A session that is not found is left alone: the agent may be writing the slot, and a
    /// key read halfway leads nowhere.
    Expire,
}

impl Scan {
    /// Begins a scan.
    #[inline(always)]
    pub const fn new(now_ns: u64) -> Self {
        Self {
            now_ns,
            earliest_ns: NEVER_NS,
        }
    }

    /// Returns when the scan began: deadlines until then are due.
    #[inline(always)]
    pub const fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Returns the earliest deadline left, for [`crate::detection::finish_scan`]; [`NEVER_NS`] = none.
    #[inline(always)]
    pub const fn earliest_ns(&self) -> u64 {
        self.earliest_ns
    }

    /// Decides about a slot with this deadline.
    #[inline(always)]
    pub const fn look(&mut self, deadline_ns: u64) -> Look {
        if deadline_ns == UNUSED {
            return Look::Pass;
        }
        if deadline_ns <= self.now_ns {
            return Look::Expire;
        }
        self.keep(deadline_ns);
        Look::Pass
    }

    /// Notes a deadline that stays in a slot.
    #[inline(always)]
    pub const fn keep(&mut self, deadline_ns: u64) {
        if deadline_ns < self.earliest_ns {
            self.earliest_ns = deadline_ns;
        }
    }
}

impl SessionEntry {
    /// Takes the session Down if its deadline really has passed, to be called under the lock: a packet may
    /// have come since the scan read the slot.
    #[inline(always)]
    pub fn expire_slot(&mut self, now_ns: u64) -> Effect {
        let transition = self.expire(now_ns);
        Effect {
            deadline_ns: self.scan_deadline_ns(),
            next_due: self.due_stamp(false, transition.is_some(), now_ns),
            transition,
            generation: self.generation,
            block: self.block,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{NOW_NS, entry};
    use crate::pacing::due_stamp;
    use crate::packet::State;
    use crate::session::DownReason;

    #[test]
    fn a_slot_never_used_is_passed() {
        let mut scan = Scan::new(NOW_NS);
        assert_eq!(scan.look(UNUSED), Look::Pass);
        assert_eq!(scan.earliest_ns(), NEVER_NS);
    }

    #[test]
    fn a_slot_whose_session_left_it_is_passed() {
        let mut scan = Scan::new(NOW_NS);
        assert_eq!(scan.look(NEVER_NS), Look::Pass);
        assert_eq!(scan.earliest_ns(), NEVER_NS);
    }

    #[test]
    fn a_deadline_is_due_from_its_nanosecond_on() {
        for (deadline_ns, look, earliest_ns) in [
            (1, Look::Expire, NEVER_NS),
            (NOW_NS - 1, Look::Expire, NEVER_NS),
            (NOW_NS, Look::Expire, NEVER_NS),
            (NOW_NS + 1, Look::Pass, NOW_NS + 1),
        ] {
            let mut scan = Scan::new(NOW_NS);
            assert_eq!(scan.look(deadline_ns), look, "{deadline_ns}");
            assert_eq!(scan.earliest_ns(), earliest_ns, "{deadline_ns}");
        }
    }

    #[test]
    fn the_earliest_deadline_left_counts() {
        let mut scan = Scan::new(NOW_NS);
        for ahead_ns in [7, 5, 9] {
            assert_eq!(scan.look(NOW_NS + ahead_ns), Look::Pass);
        }
        assert_eq!(scan.earliest_ns(), NOW_NS + 5);
        scan.keep(NOW_NS + 6);
        assert_eq!(scan.earliest_ns(), NOW_NS + 5);
        scan.keep(NOW_NS + 4);
        assert_eq!(scan.earliest_ns(), NOW_NS + 4);
        scan.keep(NEVER_NS);
        assert_eq!(scan.earliest_ns(), NOW_NS + 4);
    }

    #[test]
    fn a_silent_session_goes_down() {
        let mut entry = entry(State::Up);
        entry.session.detect_deadline_ns = NOW_NS;
        let effect = entry.expire_slot(NOW_NS);
        assert_eq!(entry.session.state, State::Down);
        assert_eq!(effect.deadline_ns, NEVER_NS);
        let next_due_ns = entry.session.next_due_ns(NOW_NS);
        assert_eq!(effect.next_due, Some(due_stamp(next_due_ns)));
        let event = effect.event(entry.key, NOW_NS).expect("a change");
        assert_eq!((event.from, event.to), (State::Up, State::Down));
        assert_eq!(event.reason, DownReason::Timeout);
        assert_eq!((event.generation, event.at_ns), (entry.generation, NOW_NS));
        assert_eq!(effect.block, entry.block);
    }

    /// A packet came between the scan's look at the slot and the lock.
    #[test]
    fn a_session_that_was_heard_meanwhile_stays() {
        let mut entry = entry(State::Up);
        entry.session.detect_deadline_ns = NOW_NS + 1;
        let before = entry;
        let effect = entry.expire_slot(NOW_NS);
        assert_eq!(entry, before);
        assert_eq!(effect.deadline_ns, NOW_NS + 1);
        assert_eq!(effect.next_due, None);
        assert_eq!(effect.event(entry.key, NOW_NS), None);
    }

    /// A command, or the packet of a peer that is Down, came meanwhile.
    #[test]
    fn a_session_without_a_deadline_leaves_its_slot_at_never() {
        for state in [State::Down, State::AdminDown] {
            let mut entry = entry(state);
            let before = entry;
            let effect = entry.expire_slot(NOW_NS);
            assert_eq!(entry, before, "{state:?}");
            assert_eq!(effect.deadline_ns, NEVER_NS, "{state:?}");
            assert_eq!((effect.next_due, effect.transition), (None, None));
        }
    }
}
