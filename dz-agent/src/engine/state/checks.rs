//! How full checks go: what they could not read, and how often in a row.

use std::time::Duration;

use foldhash::HashSet;

use super::backoff::backoff;
use crate::engine::hands::Answer;
use crate::net::routes::{Route, RouteError};

/// Our routes, as the kernel has them.
pub(crate) type OurRoutes = Result<Vec<Route>, RouteError>;

/// The failures of the full checks since the last one that read everything.
#[derive(Default)]
pub(crate) struct Checks {
    /// In a row.
    failures: u32,
    /// What could not be read, each once.
    errors: HashSet<String>,
    /// The reading of our routes that a full check begins with. A large table takes its time, which is
    /// others' time, too.
    reading: Option<Answer<OurRoutes>>,
}

impl Checks {
    /// Begins a full check with the reading of our routes, instead of any that runs.
    pub(crate) fn begin(&mut self, reading: Answer<OurRoutes>) {
        self.reading = Some(reading);
    }

    /// Says whether our routes are being read.
    pub(crate) const fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// Waits for our routes; for ever if they are not being read. Can be given up and called again.
    pub(crate) async fn routes_read(&mut self) -> OurRoutes {
        let Some(reading) = &mut self.reading else {
            return std::future::pending().await;
        };
        let routes = reading.await;
        self.reading = None;
        routes
    }

    /// Notes that something could not be read. Returns after what pause to try again, and whether it
    /// is the first time in this row: two errors that take turns are news once each.
    pub(crate) fn failed(&mut self, error: &str) -> (Duration, bool) {
        self.failures = self.failures.saturating_add(1);
        let is_news = self.errors.insert(error.to_owned());
        (backoff(self.failures), is_news)
    }

    /// Notes that everything could be read. Returns how many checks had failed before, if any.
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
