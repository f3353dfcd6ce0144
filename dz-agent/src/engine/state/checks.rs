//! The full check under way, and the failures of earlier ones.

use std::time::Duration;

use super::backoff::backoff;
use crate::engine::hands::Answer;
use crate::hash::HashSet;
use crate::net::routes::{Route, RouteError};

/// Our routes as the kernel has them, or why they could not be read.
pub(crate) type OurRoutes = Result<Vec<Route>, RouteError>;

/// The full check under way, and the failures since the last one that read everything.
#[derive(Default)]
pub(crate) struct Checks {
    /// How many full checks have failed in a row.
    failures: u32,
    /// Their errors, each once.
    errors: HashSet<String>,
    /// The reading of our routes, with which a full check begins. A large table takes long to read; the
    /// loop goes on meanwhile.
    reading: Option<Answer<OurRoutes>>,
}

impl Checks {
    /// Begins a full check with a new reading of our routes; one that is under way is dropped.
    pub(crate) fn begin(&mut self, reading: Answer<OurRoutes>) {
        self.reading = Some(reading);
    }

    /// Says whether our routes are being read.
    pub(crate) const fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// Waits for our routes; for ever if they are not being read. Cancel safe.
    pub(crate) async fn routes_read(&mut self) -> OurRoutes {
        let Some(reading) = &mut self.reading else {
            return std::future::pending().await;
        };
        let routes = reading.await;
        self.reading = None;
        routes
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
    fn success_is_told_once_and_ends_the_row() {
        let mut checks = Checks::default();
        let (first, _) = checks.failed("a");
        checks.failed("a");
        assert_eq!(checks.succeeded(), Some(2));
        assert_eq!(checks.succeeded(), None);
        assert_eq!(checks.failed("a"), (first, true));
    }
}
