//! Our clock: the times at which the transmit program (`dz_transmit`) is to be asked for each session.
//!
//! These times are hints. The program decides whether a session is due, and returns when to ask again.
//! Asking too early costs a few hundred nanoseconds.

use std::collections::BTreeMap;

use dz_common::map::SessionKey;

use super::left::Left;
use crate::hash::HashSet;

/// The coarsest grid that due times are put on, ns: about 4 ms.
const COARSEST_NS: u64 = 1 << 22;
/// A due time is put off by at most one part in `LATE` of the time from now until then.
const LATE: u64 = 64;

/// Puts a due time off to the next point of a grid that other sessions' due times are on, too, so that
/// one wake-up serves many: a wake-up costs more than a session. It is put off by less than 1/64 of the
/// time from now until then; jitter is ten times as much.
pub(crate) fn gathered_ns(at_ns: u64, now_ns: u64) -> u64 {
    let slack_ns = (at_ns.saturating_sub(now_ns) / LATE).min(COARSEST_NS);
    let grid_ns = slack_ns.checked_ilog2().map_or(1, |log| 1 << log);
    at_ns.checked_next_multiple_of(grid_ns).unwrap_or(at_ns)
}

/// Due times of sessions, by deadline slot: an index, so that no hash is taken for each session several
/// times a second.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// The slots that are due at each time. An entry is stale unless `due` has the same time for its slot.
    times: BTreeMap<u64, Vec<u32>>,
    /// The number of entries in `times`, stale ones included.
    noted: usize,
    /// The session of each slot and its due time.
    due: Vec<Option<(SessionKey, u64)>>,
    /// The number of sessions in `due`.
    set: usize,
    /// Sessions of peers that have left: our clock asks for them once a minute only.
    left: Left,
}

impl Clock {
    /// Sets the due time of a session, instead of whatever was set for its slot before.
    pub(crate) fn set(&mut self, slot: u32, key: SessionKey, at_ns: u64) {
        let index = slot as usize;
        if index >= self.due.len() {
            self.due.resize(index + 1, None);
        }
        match self.due[index].replace((key, at_ns)) {
            Some((_, before_ns)) if before_ns == at_ns => return,
            Some(_) => {}
            None => self.set += 1,
        }
        self.note(slot, at_ns);
        // Each change of a due time leaves a stale entry: with too many of them, all entries are made anew.
        if self.noted > 64 + 4 * self.set {
            self.times.clear();
            self.noted = 0;
            for slot in 0..self.due.len() {
                if let Some((_, at_ns)) = self.due[slot] {
                    self.note(slot as u32, at_ns);
                }
            }
        }
    }

    fn note(&mut self, slot: u32, at_ns: u64) {
        self.times.entry(at_ns).or_default().push(slot);
        self.noted += 1;
    }

    /// Sets the due time of a session unless an earlier one is set.
    pub(crate) fn set_earlier(&mut self, slot: u32, key: SessionKey, at_ns: u64) {
        if self.due_ns(slot).is_none_or(|due_ns| at_ns < due_ns) {
            self.set(slot, key, at_ns);
        }
    }

    fn due_ns(&self, slot: u32) -> Option<u64> {
        let due = self.due.get(slot as usize)?.as_ref();
        due.map(|(_, due_ns)| *due_ns)
    }

    /// Sets the due time of a session to when the transmit program wants to be asked again, or later if the peer
    /// has left.
    pub(crate) fn set_again(&mut self, slot: u32, key: SessionKey, next_due_ns: u64, now_ns: u64) {
        let due_ns = self.left.due_ns(&key, next_due_ns, now_ns);
        self.set(slot, key, gathered_ns(due_ns, now_ns));
    }

    /// Notes that a session's peer has not left: its state has changed, or the session is gone.
    pub(crate) fn has_not_left(&mut self, key: &SessionKey) {
        self.left.forget(key);
    }

    /// Replaces the sessions whose peers have left. Returns those whose peers are back.
    pub(crate) fn have_left(&mut self, left: HashSet<SessionKey>) -> Vec<SessionKey> {
        self.left.replace(left)
    }

    /// Forgets the session of a slot.
    pub(crate) fn forget(&mut self, slot: u32) {
        let due = self.due.get_mut(slot as usize).and_then(Option::take);
        self.set -= usize::from(due.is_some());
    }

    /// Returns the first due time, ns.
    pub(crate) fn next_ns(&mut self) -> Option<u64> {
        while let Some(mut first) = self.times.first_entry() {
            let at_ns = *first.key();
            while let Some(slot) = first.get().last() {
                let due = self.due[*slot as usize];
                if due.is_some_and(|(_, due_ns)| due_ns == at_ns) {
                    return Some(at_ns);
                }
                first.get_mut().pop();
                self.noted -= 1;
            }
            first.remove();
        }
        None
    }

    /// Takes up to `most` sessions that are due, with their slots. None is taken before its time: the
    /// program would say "not yet", and the loop would spin until then.
    pub(crate) fn take(&mut self, now_ns: u64, most: usize) -> Vec<(u32, SessionKey)> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(mut first) = self.times.first_entry()
            && *first.key() <= now_ns
        {
            let at_ns = *first.key();
            match first.get_mut().pop() {
                Some(slot) => {
                    self.noted -= 1;
                    let due = &mut self.due[slot as usize];
                    if let Some((key, _)) = due.take_if(|(_, due_ns)| *due_ns == at_ns) {
                        self.set -= 1;
                        taken.push((slot, key));
                    }
                }
                None => drop(first.remove()),
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(peer: u8) -> SessionKey {
        SessionKey {
            ifindex: 1,
            local: [10, 0, 0, 1],
            peer: [10, 0, 0, peer],
        }
    }

    fn set(clock: &mut Clock, peer: u8, at_ns: u64) {
        clock.set(peer.into(), key(peer), at_ns);
    }

    #[test]
    fn the_last_time_set_counts() {
        let mut clock = Clock::default();
        set(&mut clock, 1, 10_000_000);
        set(&mut clock, 2, 20_000_000);
        set(&mut clock, 1, 30_000_000);
        assert_eq!(clock.next_ns(), Some(20_000_000));
        assert_eq!(clock.take(20_000_000, 9), [(2, key(2))]);
        assert_eq!(clock.take(30_000_000, 9), [(1, key(1))]);
        assert_eq!(clock.next_ns(), None);
    }

    #[test]
    fn nobody_is_taken_ahead_of_time() {
        let mut clock = Clock::default();
        set(&mut clock, 1, 1_000_001);
        assert_eq!(clock.take(1_000_000, 9), []);
        assert_eq!(clock.take(1_000_001, 9), [(1, key(1))]);
    }

    #[test]
    fn due_times_gather() {
        let (now_ns, interval_ns) = (7_777_777_777, 300_000_000);
        let due = |later_ns| gathered_ns(now_ns + interval_ns + later_ns, now_ns);
        let together: std::collections::BTreeSet<_> = (0..1_000).map(|n| due(n * 30_000)).collect();
        assert!(together.len() <= 9, "{} times in 30 ms", together.len());
        for wait_ns in [0, 1, 63, 64, 1_000, 50_000_000, interval_ns, 60_000_000_000] {
            let late_ns = gathered_ns(now_ns + wait_ns, now_ns) - now_ns - wait_ns;
            assert!(
                late_ns <= wait_ns / LATE && late_ns < COARSEST_NS,
                "{wait_ns}: {late_ns}"
            );
        }
        assert_eq!(gathered_ns(u64::MAX, now_ns), u64::MAX);
    }

    #[test]
    fn a_slot_is_the_session_s_that_was_set_last() {
        let mut clock = Clock::default();
        set(&mut clock, 1, 10);
        clock.forget(1);
        clock.forget(1);
        clock.forget(7);
        assert_eq!(clock.next_ns(), None);
        set(&mut clock, 1, 10);
        clock.set(1, key(9), 10);
        assert_eq!(clock.take(10, 9), [(1, key(9))]);
        assert_eq!(clock.take(10, 9), []);
    }

    #[test]
    fn earlier_only() {
        let mut clock = Clock::default();
        set(&mut clock, 1, 10);
        clock.set_earlier(1, key(1), 20);
        assert_eq!(clock.next_ns(), Some(10));
        clock.set_earlier(1, key(1), 5);
        assert_eq!(clock.next_ns(), Some(5));
        clock.forget(1);
        assert_eq!(clock.next_ns(), None);
    }

    #[test]
    fn stale_entries_stay_bounded() {
        let mut clock = Clock::default();
        for at_ns in 0..100_000 {
            set(&mut clock, 1, at_ns);
        }
        assert!(clock.noted < 100 && clock.times.len() < 100);
        assert_eq!(clock.next_ns(), Some(99_999));
    }
}
