//! Route changes: those that the kernel has not answered yet, those that wait for their turn, and those to
//! be tried again.
//!
//! A destination has one change at a time under way. If something else is wanted meanwhile, that is decided
//! anew when the kernel has answered. All destinations together have at most [`MAX_CHANGES`] under way.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use dz_common::map::Event;
use dz_common::packet::State;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};

use super::backoff::{backoff, nanos};
use super::keys::RouteKey;
use crate::engine::hands::Answer;
use crate::hash::HashMap;
use crate::net::routes::{Added, Deleted, RouteError};

/// Most changes under way at the same time: enough to keep the kernel busy, and no more acknowledgements
/// than a netlink socket's buffer takes by default (some 270 in 208 KiB).
const MAX_CHANGES: usize = 256;

/// Most routes that are put right one by one within a second because somebody else has changed them. The next
/// full check puts the others right, all at once.
const CORRECTIONS: u32 = 1_000;
/// The time in which corrections are counted, ns.
const CORRECTIONS_NS: u64 = 1_000_000_000;

/// A kind of change, each with a queue of its own. Withdrawals are asked for before installations: a route
/// to a peer that is gone does harm, one that comes a moment later does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The route is deleted.
    Withdraw,
    /// The route is added, or replaced.
    Install,
}

/// The kernel's answer to a change.
#[derive(Debug)]
pub(crate) enum ChangeResult {
    /// The answer to an addition.
    Install(Result<Added, RouteError>),
    /// The answer to a deletion.
    Withdraw(Result<Deleted, RouteError>),
}

/// A change that the kernel has acknowledged or refused.
pub(crate) type Finished = (RouteKey, ChangeResult);

/// The state change that a route has to follow: whether to Up or away from it, and its time, ns.
pub(crate) type Converging = (bool, u64);

/// When the kernel is to be asked for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenToAsk {
    /// Now; the caller passes the answer to come to [`RouteJobs::ask`].
    Now,
    /// When an earlier change has ended, of this destination or of another one.
    Later,
    /// Never: no change is wanted.
    Never,
}

/// A change that has succeeded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Success {
    /// Whether the route is to be decided about anew: that was asked for while the change was under way.
    pub(crate) again: bool,
    /// Whether it was a repair: somebody else had deleted or changed the route.
    pub(crate) repair: bool,
    /// How often the destination's changes had failed before, in a row.
    pub(crate) failures: u32,
}

/// A change that has failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setback {
    /// Whether the route is to be decided about anew: that was asked for while the change was under way.
    pub(crate) again: bool,
    /// The pause before the next try.
    pub(crate) pause: Duration,
    /// Whether the destination's last failure had another error.
    pub(crate) is_news: bool,
}

/// The changes of one destination's route.
#[derive(Debug, Default)]
struct Job {
    /// Whether the kernel has been asked for a change that it has not answered.
    under_way: bool,
    /// The queue that the destination waits in, if it does.
    waiting: Option<Change>,
    /// Whether the route is to be decided about anew when the change under way has ended.
    again: bool,
    /// How many changes have failed in a row.
    failures: u32,
    /// When the next try is due, ns.
    retry_ns: Option<u64>,
    /// The error of the last failure.
    last_error: Option<String>,
    /// Whether somebody else has deleted or changed our route, so that putting it back is a repair.
    repair: bool,
    converging: Option<Converging>,
}

/// The destinations with route changes under way, waiting, or to be tried again.
#[derive(Default)]
pub(crate) struct RouteJobs {
    jobs: HashMap<RouteKey, Job>,
    /// The answers to the changes under way.
    answers: FuturesUnordered<Answer<Finished>>,
    retries: BTreeSet<(u64, RouteKey)>,
    /// The queues, by [`Change`]. An entry is stale unless its job waits in this queue.
    waiting: [VecDeque<RouteKey>; 2],
    /// When corrections began to be counted, ns, and their number.
    corrections: (u64, u32),
}

impl RouteJobs {
    /// Notes which change a destination's route needs, if any, and returns when to ask the kernel for it.
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

    /// Keeps the answer to come to a change for which [`Self::begin`] has returned [`WhenToAsk::Now`].
    pub(crate) fn ask(&mut self, answer: Answer<Finished>) {
        self.answers.push(answer);
    }

    /// Says whether any change is under way.
    pub(crate) fn is_asking(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Waits for the kernel's next answer; none if no change is under way.
    pub(crate) async fn answered(&mut self) -> Option<Finished> {
        self.answers.next().await
    }

    /// Returns an answer that the kernel has given already, if there is one. It registers no waker for the
    /// other answers.
    pub(crate) fn answered_by_now(&mut self) -> Option<Finished> {
        self.answers.next().now_or_never().flatten()
    }

    /// Takes the first destination that waits, unless too many changes are under way. The caller decides
    /// anew about its route.
    pub(crate) fn next_waiting(&mut self) -> Option<RouteKey> {
        if self.answers.len() >= MAX_CHANGES {
            return None;
        }
        for change in [Change::Withdraw, Change::Install] {
            while let Some(key) = self.waiting[change as usize].pop_front() {
                // Otherwise the entry is stale.
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

    /// Notes that a destination's change has succeeded; `gone`: it was a deletion. None if the destination
    /// has no job.
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

    /// Notes that a destination's change has failed with an error. None if the destination has no job.
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

    /// Notes that a route that should be there was deleted or changed; `by_others`: by another process.
    pub(crate) fn taken(&mut self, key: RouteKey, by_others: bool) {
        let job = self.jobs.entry(key).or_default();
        job.repair |= by_others && job.failures == 0;
    }

    /// Counts a correction: a route that somebody else has changed is to be put right. Returns whether that may be
    /// done now; else a full check does it.
    pub(crate) const fn may_correct(&mut self, now_ns: u64) -> bool {
        if now_ns.saturating_sub(self.corrections.0) >= CORRECTIONS_NS {
            self.corrections = (now_ns, 0);
        }
        self.corrections.1 = self.corrections.1.saturating_add(1);
        self.corrections.1 <= CORRECTIONS
    }

    /// Notes a state change to Up or away from it, from which the convergence of the route is measured.
    pub(crate) fn converging(&mut self, key: RouteKey, event: &Event) {
        if event.to == State::Up || event.from == State::Up {
            let up = event.to == State::Up;
            self.jobs.entry(key).or_default().converging = Some((up, event.since_ns));
        }
    }

    /// Forgets a destination whose route is what it should be; `by`: the change that made it so, if any.
    /// Returns how often its changes had failed, and the state change that the route has followed with this
    /// change: none for a passive session's, whose route stays at a Down. None if the destination has no
    /// job.
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

    /// Says whether a destination's last change has failed.
    pub(crate) fn is_failing(&self, key: RouteKey) -> bool {
        self.jobs.get(&key).is_some_and(|job| job.failures > 0)
    }

    /// Has a destination tried again after a pause, instead of at the time set for it before.
    pub(crate) fn retry(&mut self, key: RouteKey, pause: Duration, now_ns: u64) {
        let at_ns = now_ns.saturating_add(nanos(pause));
        let job = self.jobs.entry(key).or_default();
        if let Some(before_ns) = job.retry_ns.replace(at_ns) {
            self.retries.remove(&(before_ns, key));
        }
        self.retries.insert((at_ns, key));
    }

    /// Has a destination tried after a pause, unless a time is set for it already.
    pub(crate) fn try_later(&mut self, key: RouteKey, pause: Duration, now_ns: u64) {
        if self.jobs.get(&key).is_none_or(|job| job.retry_ns.is_none()) {
            self.retry(key, pause, now_ns);
        }
    }

    /// Returns when the next try is due, ns.
    pub(crate) fn next_retry_ns(&self) -> Option<u64> {
        self.retries.first().map(|(at_ns, _)| *at_ns)
    }

    /// Takes a destination whose next try is due by now.
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
    fn corrections_are_so_many_a_second_at_most() {
        let mut jobs = RouteJobs::default();
        let allowed = (0..2 * CORRECTIONS).filter(|_| jobs.may_correct(NOW_NS));
        assert_eq!(allowed.count(), CORRECTIONS as usize);
        assert!(jobs.may_correct(NOW_NS + CORRECTIONS_NS));
    }

    #[test]
    fn a_try_that_is_due_is_not_put_off() {
        let mut jobs = RouteJobs::default();
        jobs.try_later(key(1), PAUSE, NOW_NS);
        jobs.try_later(key(1), 2 * PAUSE, NOW_NS + 1);
        assert_eq!(jobs.next_retry_ns(), Some(NOW_NS + nanos(PAUSE)));
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
