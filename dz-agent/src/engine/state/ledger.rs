//! The account of the events read from `dz_events`, and the events that are still to be logged.

use std::collections::VecDeque;
use std::sync::Arc;

use dz_common::map::Event;

/// Most events within [`LINES_NS`] that have a line each in the log; the others are put into lists.
pub(crate) const LINES: usize = crate::host::logging::BURST as usize;
/// The time in which lines are counted, ns: a little longer than the log's own flood limit counts, so that every
/// line is let through.
const LINES_NS: u64 = 1_100_000_000;
/// Most events that wait to be listed. Further ones are only counted.
const UNLISTED: usize = 1 << 17;

/// A state change to be logged, with the name of its session's interface.
pub(crate) type Logged = (Event, Arc<str>);

/// The account of ring events, to be compared with the kernel's own count.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Events that reached the ring before we began to read.
    before: u64,
    /// Events that were read, and events that have been reported as missing.
    read: u64,
    /// Events without room in the ring that have been reported.
    lost: u64,
    /// Events to be logged, with the session's interface. They are logged after they have been acted upon,
    /// for writing a line takes as long as changing a route.
    unlogged: Vec<Logged>,
    /// When lines began to be counted, ns, and their number.
    lines: (u64, usize),
    /// Events without a line of their own, to be listed.
    unlisted: VecDeque<Logged>,
    /// Events that found no room among these.
    left_out: u64,
}

/// The numbers of events that the kernel emitted and nobody read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// Events that were put into the ring and have not been read, although it is empty.
    pub(crate) unread: u64,
    /// Events that found no room in the ring, since the maps were made.
    pub(crate) lost: u64,
}

impl Ledger {
    /// Opens the account when the kernel has tried to emit `emitted` events, of which `lost` found no room.
    pub(crate) fn new(emitted: u64, lost: u64) -> Self {
        Self {
            before: emitted.saturating_sub(lost),
            lost,
            ..Self::default()
        }
    }

    /// Counts an event that was read, also one that this version cannot decode.
    pub(crate) const fn count_read(&mut self) {
        self.read += 1;
    }

    /// Keeps an event to be logged later.
    pub(crate) fn log_later(&mut self, event: Event, interface: Arc<str>) {
        self.unlogged.push((event, interface));
    }

    /// Takes the events that have a line each in the log, in the order in which they came.
    pub(crate) fn take_lines(&mut self, now_ns: u64) -> Vec<Logged> {
        let mut events = std::mem::take(&mut self.unlogged);
        if now_ns.saturating_sub(self.lines.0) >= LINES_NS && self.unlisted.is_empty() {
            self.lines = (now_ns, 0);
        }
        // What came first is logged first.
        let room = match self.unlisted.is_empty() {
            true => LINES.saturating_sub(self.lines.1),
            false => 0,
        };
        let rest = events.split_off(room.min(events.len()));
        self.lines.1 += events.len();
        for event in rest {
            if self.unlisted.len() < UNLISTED {
                self.unlisted.push_back(event);
            } else {
                self.left_out += 1;
            }
        }
        events
    }

    /// Takes up to `most` of the events to be listed, and the number of those that found no room.
    pub(crate) fn take_listed(&mut self, most: usize) -> (Vec<Logged>, u64) {
        let most = most.min(self.unlisted.len());
        let events = self.unlisted.drain(..most).collect();
        (events, std::mem::take(&mut self.left_out))
    }

    /// Compares the account with the kernel's count; the ring has to be empty. Each missing event is
    /// returned once.
    pub(crate) fn balance(&mut self, emitted: u64, lost: u64) -> Option<Missing> {
        let reached = emitted.saturating_sub(lost);
        let unread = reached.saturating_sub(self.before + self.read);
        if unread == 0 && lost <= self.lost {
            return None;
        }
        self.read += unread;
        self.lost = lost;
        Some(Missing { unread, lost })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_line_is_listed() {
        let event = crate::fixture::event(1);
        let name: Arc<str> = "doublezero0".into();
        let mut ledger = Ledger::default();
        let now_ns = 5 * LINES_NS;
        let note = |ledger: &mut Ledger, count| {
            for _ in 0..count {
                ledger.log_later(event, Arc::clone(&name));
            }
        };
        note(&mut ledger, LINES + 30);
        assert_eq!(ledger.take_lines(now_ns).len(), LINES);
        // Those that come later wait behind the others, also when there could be lines again.
        note(&mut ledger, 7);
        assert_eq!(ledger.take_lines(now_ns + LINES_NS).len(), 0);
        let (listed, left_out) = ledger.take_listed(30);
        assert_eq!((listed.len(), left_out), (30, 0));
        assert_eq!(ledger.take_listed(30).0.len(), 7);
        note(&mut ledger, 1);
        assert_eq!(ledger.take_lines(now_ns + LINES_NS).len(), 1);
        note(&mut ledger, LINES + UNLISTED + 2);
        ledger.take_lines(now_ns + LINES_NS);
        assert_eq!(ledger.take_listed(0).1, 3);
    }

    #[test]
    fn what_was_there_before_us_is_not_missing() {
        let mut ledger = Ledger::new(10, 3);
        assert_eq!(ledger.balance(10, 3), None);
        ledger.count_read();
        assert_eq!(ledger.balance(11, 3), None);
    }

    #[test]
    fn an_event_that_nobody_read_is_missed_once() {
        let mut ledger = Ledger::new(0, 0);
        ledger.count_read();
        let missing = Missing { unread: 2, lost: 0 };
        assert_eq!(ledger.balance(3, 0), Some(missing));
        assert_eq!(ledger.balance(3, 0), None);
    }

    #[test]
    fn an_event_without_room_is_missed_once_although_all_others_were_read() {
        let mut ledger = Ledger::new(0, 0);
        ledger.count_read();
        let missing = Missing { unread: 0, lost: 1 };
        assert_eq!(ledger.balance(2, 1), Some(missing));
        assert_eq!(ledger.balance(2, 1), None);
    }

    #[test]
    fn more_read_than_counted_is_not_missing() {
        // Emitted between the kernel's count and the reading.
        let mut ledger = Ledger::new(0, 0);
        ledger.count_read();
        assert_eq!(ledger.balance(0, 0), None);
    }
}
