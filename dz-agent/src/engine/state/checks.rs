//! The full check under way, and the failures of earlier ones.

use std::time::Duration;

use super::backoff::backoff;
use crate::engine::hands::{Answer, Surroundings};
use crate::hash::HashSet;
use crate::net::NetlinkError;
use crate::net::links::Address;
use crate::net::routes::{Route, RouteError};

/// Our routes as the kernel has them, or why they could not be read.
pub(crate) type OurRoutes = Result<Vec<Route>, RouteError>;

/// What the engine reads while it goes on, before it decides.
#[derive(Debug)]
pub(crate) struct Reading {
    /// Links and addresses; none if a full check is to read them itself.
    pub(crate) surroundings: Option<Result<Surroundings, NetlinkError>>,
    /// Our routes; none for a look around, which is no full check.
    pub(crate) routes: Option<OurRoutes>,
}

/// Most notifications of addresses that are kept while a reading is under way. Of further ones the next full check
/// knows; addresses that peers use have a full check of their own.
const MOST_HEARD: usize = 4_096;

/// An address of the interface with an index that came or changed, or is gone (true).
pub(crate) type Heard = (u32, Address, bool);

/// The full check under way, and the failures since the last one that read everything.
#[derive(Default)]
pub(crate) struct Checks {
    /// How many full checks have failed in a row.
    failures: u32,
    /// Their errors, each once.
    errors: HashSet<String>,
    /// The reading with which a full check or a look around begins. It may take long; the loop goes on meanwhile.
    reading: Option<Answer<Reading>>,
    /// Whether the reading is that of a full check.
    is_check: bool,
    /// Notifications of addresses since the reading began, in their order: the addresses may be read before or
    /// after any of these came.
    heard: Vec<Heard>,
}

impl Checks {
    /// Begins a full check with a new reading; one that is under way is dropped.
    pub(crate) fn begin(&mut self, reading: Answer<Reading>) {
        self.read(reading, true);
    }

    /// Begins a look around with a new reading.
    pub(crate) fn look_around(&mut self, reading: Answer<Reading>) {
        self.read(reading, false);
    }

    fn read(&mut self, reading: Answer<Reading>, is_check: bool) {
        (self.reading, self.is_check) = (Some(reading), is_check);
        self.heard.clear();
    }

    /// Says whether a reading is under way.
    pub(crate) const fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// Says whether a full check is under way.
    pub(crate) const fn is_checking(&self) -> bool {
        self.reading.is_some() && self.is_check
    }

    /// Waits for the end of the reading; for ever if there is none. Cancel safe.
    pub(crate) async fn finished(&mut self) -> Reading {
        let Some(reading) = &mut self.reading else {
            return std::future::pending().await;
        };
        let read = reading.await;
        self.reading = None;
        read
    }

    /// Keeps a notification of an address in mind while a reading is under way.
    pub(crate) fn hear(&mut self, heard: Heard) {
        if self.reading.is_some() && self.heard.len() < MOST_HEARD {
            self.heard.push(heard);
        }
    }

    /// Takes the notifications of addresses since the reading began.
    pub(crate) fn take_heard(&mut self) -> Vec<Heard> {
        std::mem::take(&mut self.heard)
    }

    /// Notes that a full check has failed. Returns the pause before the next try, and whether none of the
    /// failures in this row had this error: two errors that take turns are news once each.
    pub(crate) fn failed(&mut self, error: &str) -> (Duration, bool) {
        self.failures = self.failures.saturating_add(1);
        let is_news = self.errors.insert(error.to_owned());
        (backoff(self.failures), is_news)
    }

    /// Notes that a full check has read everything. Returns how many had failed before it in a row, if any.
    pub(crate) fn succeeded(&mut self) -> Option<u32> {
        self.errors.clear();
        let failures = std::mem::take(&mut self.failures);
        (failures > 0).then_some(failures)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn errors_that_take_turns_are_news_once_each() {
        let mut checks = Checks::default();
        let failed: Vec<_> = ["a", "b", "a", "b"]
            .map(|error| checks.failed(error))
            .into();
        assert!(failed.is_sorted_by_key(|(pause, _)| *pause), "{failed:?}");
        let news: Vec<_> = failed.iter().map(|(_, is_news)| *is_news).collect();
        assert_eq!(news, [true, true, false, false]);
    }

    #[test]
    fn what_is_heard_while_nothing_is_read_is_not_kept() {
        let heard = (1, Address::plain([10, 0, 0, 1].into(), 24), true);
        let mut checks = Checks::default();
        checks.hear(heard);
        assert!(checks.take_heard().is_empty());
        checks.look_around(std::future::pending().boxed_local());
        assert!(checks.is_reading() && !checks.is_checking());
        for _ in 0..MOST_HEARD + 1 {
            checks.hear(heard);
        }
        assert_eq!(checks.take_heard().len(), MOST_HEARD);
        checks.hear(heard);
        checks.begin(std::future::pending().boxed_local());
        assert!(checks.is_checking() && checks.take_heard().is_empty());
    }

    #[test]
    fn success_is_told_once_and_ends_the_row() {
        let mut checks = Checks::default();
        let (first, _) = checks.failed("a");
        checks.failed("a");
        assert_eq!(checks.succeeded(), Some(2));
        assert_eq!(checks.succeeded(), None);
        assert_eq!(checks.failed("a"), (first, true));
    }
}
