//! Which destinations have a route change under way, wait for one, or are to be tried again.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use dz_common::map::Event;
use dz_common::packet::State;
use foldhash::HashMap;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::reconcile::Wanted;
use super::routes::Finished;
use super::state::keys::RouteKey;
use crate::datapath::now_ns;

/// Requests under way at the same time: enough to keep the kernel busy, and no more acknowledgements
/// than a netlink socket's buffer takes by default (some 270 in 208 KiB).
const AT_ONCE: usize = 256;

/// Where destinations wait. Withdrawals have their turn before installations: a route to a peer that
/// is gone does harm, one that comes a moment later does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    Withdraw,
    Install,
}

impl Queue {
    const fn of(wanted: &Wanted) -> Self {
        match wanted {
            Wanted::Present(_) => Self::Install,
            Wanted::Absent | Wanted::AsIs => Self::Withdraw,
        }
    }
}

/// A destination with something going on.
#[derive(Debug, Default)]
pub(super) struct Job {
    pub(super) running: bool,
    /// Where it waits for one of those that are running to end.
    waiting: Option<Queue>,
    /// Something changed while it was running.
    pub(super) again: bool,
    /// In a row.
    pub(super) failures: u32,
    /// When it is tried again, ns.
    pub(super) retry_ns: Option<u64>,
    /// Logged once, however often it is met.
    pub(super) last_error: Option<String>,
    /// Somebody else has deleted or changed our route: putting it back is a repair.
    pub(super) repair: bool,
    /// The state change that is being followed: to Up or away from it, and since when, ns.
    pub(super) converging: Option<(bool, u64)>,
}

/// Every destination with something going on.
#[derive(Default)]
pub(super) struct RouteJobs {
    pub(super) jobs: HashMap<RouteKey, Job>,
    pub(super) running: FuturesUnordered<BoxFuture<'static, Finished>>,
    retries: BTreeSet<(u64, RouteKey)>,
    /// By [`Queue`].
    waiting: [VecDeque<RouteKey>; 2],
}

impl RouteJobs {
    /// Whether one more can be asked for now; if not, it waits, and what it should be is asked again
    /// when its turn comes.
    pub(super) fn may_run(&mut self, key: RouteKey, wanted: &Wanted) -> bool {
        let job = self.jobs.entry(key).or_default();
        let queue = Queue::of(wanted);
        if job.waiting.is_none() && self.running.len() < AT_ONCE {
            job.running = true;
        } else if job.waiting != Some(queue) {
            job.waiting = Some(queue);
            self.waiting[queue as usize].push_back(key);
        }
        job.running
    }

    /// The next that waits, if there is room for it.
    pub(super) fn next_waiting(&mut self) -> Option<RouteKey> {
        if self.running.len() >= AT_ONCE {
            return None;
        }
        for queue in [Queue::Withdraw, Queue::Install] {
            while let Some(key) = self.waiting[queue as usize].pop_front() {
                // Others have changed their queue since.
                if let Some(job) = self.jobs.get_mut(&key)
                    && job.waiting == Some(queue)
                {
                    job.waiting = None;
                    return Some(key);
                }
            }
        }
        None
    }

    /// Notes where the convergence of a route starts.
    pub(super) fn converging(&mut self, key: RouteKey, event: &Event) {
        if event.to == State::Up || event.from == State::Up {
            let up = event.to == State::Up;
            self.jobs.entry(key).or_default().converging = Some((up, event.since_ns));
        }
    }

    /// When something is to be tried again.
    pub(super) fn next_retry_ns(&self) -> Option<u64> {
        self.retries.first().map(|(at_ns, _)| *at_ns)
    }

    pub(super) fn due_retry(&mut self, now_ns: u64) -> Option<RouteKey> {
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

    /// Has a destination tried again after a pause, in place of whatever was set for it before.
    pub(super) fn retry(&mut self, key: RouteKey, pause: Duration) {
        let at_ns = now_ns() + u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        let job = self.jobs.entry(key).or_default();
        if let Some(before_ns) = job.retry_ns.replace(at_ns) {
            self.retries.remove(&(before_ns, key));
        }
        self.retries.insert((at_ns, key));
    }

    pub(super) fn remove(&mut self, key: RouteKey) -> Option<Job> {
        let job = self.jobs.remove(&key)?;
        if let Some(at_ns) = job.retry_ns {
            self.retries.remove(&(at_ns, key));
        }
        Some(job)
    }

    pub(super) fn is_failing(&self, key: RouteKey) -> bool {
        self.jobs.get(&key).is_some_and(|job| job.failures > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::net::routes::Route;

    fn key(number: u32) -> RouteKey {
        RouteKey {
            ifindex: 1,
            dst: Ipv4Addr::from(number),
        }
    }

    fn present(number: u32) -> Wanted {
        Wanted::Present(Route {
            dst: Ipv4Addr::from(number),
            ifindex: 1,
            src: None,
            via: None,
        })
    }

    /// As many as may be are under way, and never end.
    fn busy() -> RouteJobs {
        let mut jobs = RouteJobs::default();
        for number in 0..AT_ONCE as u32 {
            assert!(jobs.may_run(key(number), &Wanted::Absent));
            jobs.running.push(Box::pin(std::future::pending()));
        }
        jobs
    }

    #[test]
    fn withdrawals_have_their_turn_first_and_each_has_one() {
        let mut jobs = busy();
        let [a, b, c] = [1_000, 1_001, 1_002];
        assert!(!jobs.may_run(key(a), &present(a)));
        assert!(!jobs.may_run(key(b), &present(b)));
        assert!(!jobs.may_run(key(c), &Wanted::Absent));
        // Told twice, and then the contrary.
        assert!(!jobs.may_run(key(b), &present(b)));
        assert!(!jobs.may_run(key(b), &Wanted::Absent));
        assert_eq!(jobs.next_waiting(), None, "there is no room");
        jobs.running.clear();
        let turns = std::iter::from_fn(|| jobs.next_waiting());
        assert_eq!(turns.collect::<Vec<_>>(), [key(c), key(b), key(a)]);
        assert!(jobs.may_run(key(b), &present(b)), "it waits no longer");
    }

    #[test]
    fn what_has_nothing_to_do_any_more_has_no_turn() {
        let mut jobs = busy();
        assert!(!jobs.may_run(key(1_000), &Wanted::Absent));
        jobs.remove(key(1_000));
        jobs.running.clear();
        assert_eq!(jobs.next_waiting(), None);
    }
}
