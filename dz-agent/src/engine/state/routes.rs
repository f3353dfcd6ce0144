//! Which destinations have a route change under way, wait for one, or are to be tried again.
//!
//! One change at a time per destination: what changes meanwhile is looked at when the kernel has
//! answered. However many destinations there are, so many are asked for at once.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use dz_common::map::Event;
use dz_common::packet::State;
use foldhash::HashMap;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};

use super::backoff::{backoff, nanos};
use super::keys::RouteKey;
use crate::engine::hands::Answer;
use crate::net::routes::{Added, Deleted, RouteError};

/// Requests under way at the same time: enough to keep the kernel busy, and no more acknowledgements
/// than a netlink socket's buffer takes by default (some 270 in 208 KiB).
const MAX_CHANGES: usize = 256;

/// What is to be done with a route, and where its destination waits for it. Withdrawals have their turn
/// before installations: a route to a peer that is gone does harm, one that comes a moment later does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is deleted.
    Withdraw,
    /// It is added, or replaced.
    Install,
}

/// What the kernel has answered to a change.
#[derive(Debug)]
pub(crate) enum ChangeResult {
    /// To an addition.
    Install(Result<Added, RouteError>),
    /// To a deletion.
    Withdraw(Result<Deleted, RouteError>),
}

/// A change that the kernel has acknowledged or refused.
pub(crate) type Finished = (RouteKey, ChangeResult);

/// The state change that a route follows: to Up or away from it, and since when, ns.
pub(crate) type Converging = (bool, u64);

/// What is to be done about a destination now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenToAsk {
    /// Ask the kernel; then [`RouteJobs::ask`].
    Now,
    /// Nothing: it has a change under way, or waits for one to end, and its turn comes.
    Later,
    /// Nothing: the route is as it should be.
    Never,
}

/// A change has succeeded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Success {
    /// Something changed while it was under way.
    pub(crate) again: bool,
    /// It was a repair: somebody else had deleted or changed the route.
    pub(crate) repair: bool,
    /// How often it had failed before, in a row.
    pub(crate) failures: u32,
}

/// A change has failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setback {
    /// Something changed while it was under way.
    pub(crate) again: bool,
    /// After what pause to try again.
    pub(crate) pause: Duration,
    /// It has not failed so the last time.
    pub(crate) is_news: bool,
}

/// A destination with something going on.
#[derive(Debug, Default)]
struct Job {
    under_way: bool,
    /// Where it waits for one of those that are under way to end.
    waiting: Option<Change>,
    /// Something changed while it was under way.
    again: bool,
    /// In a row.
    failures: u32,
    /// When it is tried again, ns.
    retry_ns: Option<u64>,
    /// How it failed the last time.
    last_error: Option<String>,
    /// Somebody else has deleted or changed our route: putting it back is a repair.
    repair: bool,
    converging: Option<Converging>,
}

/// Every destination with something going on.
#[derive(Default)]
pub(crate) struct RouteJobs {
    jobs: HashMap<RouteKey, Job>,
    answers: FuturesUnordered<Answer<Finished>>,
    retries: BTreeSet<(u64, RouteKey)>,
    /// By [`Change`].
    waiting: [VecDeque<RouteKey>; 2],
}

impl RouteJobs {
    /// Notes what a destination's route is to become (none: what it is), and returns what is to be
    /// done about that now.
    pub(crate) fn begin(&mut self, key: RouteKey, wanted: Option<Change>) -> WhenToAsk {
        let job = self.jobs.entry(key).or_default();
        if job.under_way {
            job.again = true;
            return WhenToAsk::Later;
        }
        let Some(change) = wanted else {
            return WhenToAsk::Never;
        };
        if job.waiting.is_none() && self.answers.len() < MAX_CHANGES {
            job.under_way = true;
            return WhenToAsk::Now;
        }
        if job.waiting != Some(change) {
            job.waiting = Some(change);
            self.waiting[change as usize].push_back(key);
        }
        WhenToAsk::Later
    }

    /// Asks the kernel for a change whose [turn](Self::begin) has come.
    pub(crate) fn ask(&mut self, answer: Answer<Finished>) {
        self.answers.push(answer);
    }

    /// Says whether the kernel has been asked something that it has not answered.
    pub(crate) fn is_asking(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Waits for the kernel's next answer; none if it has not been asked anything.
    pub(crate) async fn answered(&mut self) -> Option<Finished> {
        self.answers.next().await
    }

    /// Returns an answer that is there by now. Nobody is woken up for those that are not.
    pub(crate) fn answered_by_now(&mut self) -> Option<Finished> {
        self.answers.next().now_or_never().flatten()
    }

    /// Returns the next destination that waits, if there is room for it: what its route should be is
    /// asked again.
    pub(crate) fn next_waiting(&mut self) -> Option<RouteKey> {
        if self.answers.len() >= MAX_CHANGES {
            return None;
        }
        for change in [Change::Withdraw, Change::Install] {
            while let Some(key) = self.waiting[change as usize].pop_front() {
                // Others wait elsewhere by now.
                if let Some(job) = self.jobs.get_mut(&key)
                    && job.waiting == Some(change)
                {
                    job.waiting = None;
                    return Some(key);
                }
            }
        }
        None
    }

    /// Notes that a change has succeeded; `gone`: it was a deletion. None if nothing is going on at
    /// the destination.
    pub(crate) fn succeeded(&mut self, key: RouteKey, gone: bool) -> Option<Success> {
        let job = self.jobs.get_mut(&key)?;
        job.under_way = false;
        job.last_error = None;
        Some(Success {
            again: std::mem::take(&mut job.again),
            repair: std::mem::take(&mut job.repair) && !gone,
            failures: std::mem::take(&mut job.failures),
        })
    }

    /// Notes that a change has failed, and how. None if nothing is going on at the destination.
    pub(crate) fn failed(&mut self, key: RouteKey, error: &str) -> Option<Setback> {
        let job = self.jobs.get_mut(&key)?;
        job.under_way = false;
        job.failures = job.failures.saturating_add(1);
        let is_news = job.last_error.as_deref() != Some(error);
        if is_news {
            job.last_error = Some(error.to_owned());
        }
        Some(Setback {
            again: std::mem::take(&mut job.again),
            pause: backoff(job.failures),
            is_news,
        })
    }

    /// Notes that a route was taken away or changed. `by_others`: not by us.
    pub(crate) fn taken(&mut self, key: RouteKey, by_others: bool) {
        let job = self.jobs.entry(key).or_default();
        job.repair |= by_others && job.failures == 0;
    }

    /// Notes where the convergence of a route starts.
    pub(crate) fn converging(&mut self, key: RouteKey, event: &Event) {
        if event.to == State::Up || event.from == State::Up {
            let up = event.to == State::Up;
            self.jobs.entry(key).or_default().converging = Some((up, event.since_ns));
        }
    }

    /// Forgets a destination: its route is what it should be, by this change or without any. Returns
    /// how often it had failed, and what it followed, if that is what the change did: a passive
    /// session's route stays at a Down, which is no convergence. None if nothing was going on there.
    pub(crate) fn converged(
        &mut self,
        key: RouteKey,
        by: Option<Change>,
    ) -> Option<(u32, Option<Converging>)> {
        let job = self.jobs.remove(&key)?;
        if let Some(at_ns) = job.retry_ns {
            self.retries.remove(&(at_ns, key));
        }
        let followed = job.converging.filter(|(up, _)| match by {
            Some(Change::Install) => *up,
            Some(Change::Withdraw) => !*up,
            None => false,
        });
        Some((job.failures, followed))
    }

    /// Says whether the last change has failed.
    pub(crate) fn is_failing(&self, key: RouteKey) -> bool {
        self.jobs.get(&key).is_some_and(|job| job.failures > 0)
    }

    /// Has a destination tried again after a pause, in place of whatever was set for it before.
    pub(crate) fn retry(&mut self, key: RouteKey, pause: Duration, now_ns: u64) {
        let at_ns = now_ns.saturating_add(nanos(pause));
        let job = self.jobs.entry(key).or_default();
        if let Some(before_ns) = job.retry_ns.replace(at_ns) {
            self.retries.remove(&(before_ns, key));
        }
        self.retries.insert((at_ns, key));
    }

    /// Returns when something is to be tried again, ns.
    pub(crate) fn next_retry_ns(&self) -> Option<u64> {
        self.retries.first().map(|(at_ns, _)| *at_ns)
    }

    /// Takes a destination that is to be tried again by now.
    pub(crate) fn due_retry(&mut self, now_ns: u64) -> Option<RouteKey> {
        let &(at_ns, key) = self.retries.first()?;
        if at_ns > now_ns {
            return None;
        }
        self.retries.pop_first();
        if let Some(job) = self.jobs.get_mut(&key) {
            job.retry_ns = None;
        }
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const NOW_NS: u64 = 5_000_000_000;
    const PAUSE: Duration = Duration::from_secs(1);

    fn key(number: u32) -> RouteKey {
        RouteKey {
            ifindex: 1,
            dst: Ipv4Addr::from(number),
        }
    }

    /// As many as may be are under way, and never answered.
    fn busy() -> RouteJobs {
        let mut jobs = RouteJobs::default();
        for number in 0..MAX_CHANGES as u32 {
            assert_eq!(
                jobs.begin(key(number), Some(Change::Withdraw)),
                WhenToAsk::Now
            );
            jobs.ask(Box::pin(std::future::pending()));
        }
        jobs
    }

    #[test]
    fn withdrawals_have_their_turn_first_and_each_has_one() {
        let mut jobs = busy();
        let [a, b, c] = [1_000, 1_001, 1_002].map(key);
        for (key, change) in [
            (a, Change::Install),
            (b, Change::Install),
            (c, Change::Withdraw),
            // Told twice, and then the contrary.
            (b, Change::Install),
            (b, Change::Withdraw),
        ] {
            assert_eq!(jobs.begin(key, Some(change)), WhenToAsk::Later);
        }
        assert_eq!(jobs.next_waiting(), None, "there is no room");
        jobs.answers.clear();
        let turns = std::iter::from_fn(|| jobs.next_waiting());
        assert_eq!(turns.collect::<Vec<_>>(), [c, b, a]);
        assert_eq!(jobs.begin(b, Some(Change::Install)), WhenToAsk::Now);
    }

    #[test]
    fn what_has_nothing_to_do_any_more_has_no_turn() {
        let mut jobs = busy();
        assert_eq!(
            jobs.begin(key(1_000), Some(Change::Withdraw)),
            WhenToAsk::Later
        );
        jobs.converged(key(1_000), None);
        jobs.answers.clear();
        assert_eq!(jobs.next_waiting(), None);
    }

    #[test]
    fn what_changes_meanwhile_is_looked_at_again() {
        let mut jobs = RouteJobs::default();
        assert_eq!(jobs.begin(key(1), None), WhenToAsk::Never);
        assert_eq!(jobs.begin(key(1), Some(Change::Install)), WhenToAsk::Now);
        assert_eq!(jobs.begin(key(1), None), WhenToAsk::Later);
        let success = jobs.succeeded(key(1), false).expect("a job");
        assert!(success.again && !success.repair && success.failures == 0);
        assert_eq!(jobs.begin(key(1), Some(Change::Withdraw)), WhenToAsk::Now);
        assert!(!jobs.succeeded(key(1), true).expect("a job").again);
        assert_eq!(jobs.succeeded(key(2), true), None, "nothing going on");
    }

    #[test]
    fn failures_are_news_once_each_and_pause_longer() {
        let mut jobs = RouteJobs::default();
        let mut failed = |error| {
            jobs.begin(key(1), Some(Change::Install));
            jobs.failed(key(1), error).expect("a job")
        };
        let [first, same, other] = ["a", "a", "b"].map(&mut failed);
        assert!(first.is_news && !same.is_news && other.is_news);
        assert!(first.pause < same.pause && same.pause < other.pause);
        assert!(jobs.is_failing(key(1)));
        jobs.begin(key(1), Some(Change::Install));
        assert_eq!(jobs.succeeded(key(1), false).map(|it| it.failures), Some(3));
        assert!(!jobs.is_failing(key(1)));
    }

    #[test]
    fn putting_back_what_others_took_is_a_repair_unless_it_never_worked() {
        let mut jobs = RouteJobs::default();
        let mut repaired = |by_others, gone| {
            jobs.taken(key(1), by_others);
            jobs.begin(key(1), Some(Change::Install));
            jobs.succeeded(key(1), gone).expect("a job").repair
        };
        assert!(repaired(true, false) && !repaired(false, false));
        assert!(!repaired(true, true), "it was deleted instead");
        jobs.begin(key(1), Some(Change::Install));
        jobs.failed(key(1), "refused");
        jobs.taken(key(1), true);
        jobs.begin(key(1), Some(Change::Install));
        assert!(!jobs.succeeded(key(1), false).expect("a job").repair);
    }

    #[test]
    fn only_the_change_that_was_followed_is_convergence() {
        for (up, by, counts) in [
            (true, Some(Change::Install), true),
            (false, Some(Change::Withdraw), true),
            // A passive session: its route was there, and stays.
            (false, Some(Change::Install), false),
            // Up again before the kernel had withdrawn it: the addition is still to come.
            (true, Some(Change::Withdraw), false),
            (false, None, false),
            (true, None, false),
        ] {
            let mut jobs = RouteJobs::default();
            jobs.jobs.entry(key(1)).or_default().converging = Some((up, NOW_NS));
            let (_, followed) = jobs.converged(key(1), by).expect("a job");
            assert_eq!(followed.is_some(), counts, "{up} {by:?}");
        }
    }

    #[test]
    fn the_last_pause_counts_and_ends_with_convergence() {
        let mut jobs = RouteJobs::default();
        jobs.retry(key(1), PAUSE, NOW_NS);
        jobs.retry(key(1), PAUSE, NOW_NS + 1);
        jobs.retry(key(2), PAUSE * 2, NOW_NS);
        assert_eq!(jobs.next_retry_ns(), Some(NOW_NS + 1_000_000_001));
        assert_eq!(jobs.due_retry(NOW_NS + 1_000_000_000), None);
        assert_eq!(jobs.due_retry(NOW_NS + 1_000_000_001), Some(key(1)));
        jobs.converged(key(2), None);
        assert_eq!(
            (jobs.next_retry_ns(), jobs.converged(key(2), None)),
            (None, None)
        );
    }
}
