//! The account of the events read from `dz_events`, and the events that are still to be logged.

use std::sync::Arc;

use dz_common::map::Event;

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
    unlogged: Vec<(Event, Arc<str>)>,
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

    /// Takes the events to be logged, in the order in which they came.
    pub(crate) fn take_unlogged(&mut self) -> Vec<(Event, Arc<str>)> {
        std::mem::take(&mut self.unlogged)
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
