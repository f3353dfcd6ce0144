//! The engine's appointments: work that notifications ask for, ahead of the periodic full check.

/// How long the engine waits for further notifications of a group before it acts on all of them. Changes
/// of links, addresses and routes come in groups.
pub(crate) const SETTLE_NS: u64 = 5_000_000;

/// The engine's appointments, in ns of `CLOCK_MONOTONIC`; at most one of each kind.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    check_at_ns: Option<u64>,
    retry_at_ns: Option<u64>,
    look_around_at_ns: Option<u64>,
    settle_at_ns: Option<u64>,
    /// Before this no full check is run, however many are asked for.
    rests_until_ns: u64,
}

/// After a full check of some length there is none for so many times that length: where notifications and events
/// are lost all the time, full checks take a fifth of the thread's time at most.
const REST: u64 = 4;
/// The longest rest between full checks, ns.
const LONGEST_REST_NS: u64 = 2_000_000_000;

impl Agenda {
    /// Schedules a full check for `at_ns`, or leaves an earlier one as it is.
    pub(crate) fn check_by(&mut self, at_ns: u64) {
        self.check_at_ns = Some(
            self.check_at_ns
                .map_or(at_ns, |before_ns| before_ns.min(at_ns)),
        );
    }

    /// Schedules the begin of another full check after one that has failed.
    pub(crate) const fn retry_at(&mut self, at_ns: u64) {
        self.retry_at_ns = Some(at_ns);
    }

    /// Takes that begin off the agenda if its time has come, and returns whether it has.
    pub(crate) fn take_retry(&mut self, now_ns: u64) -> bool {
        take_due(&mut self.retry_at_ns, now_ns)
    }

    /// Schedules a full check for the end of the present group of notifications.
    pub(crate) fn check_soon(&mut self, now_ns: u64) {
        self.check_by(now_ns + SETTLE_NS);
    }

    /// Schedules a look at all interfaces and addresses for the end of the present group of
    /// notifications. Further ones do not put it off.
    pub(crate) fn look_around_soon(&mut self, now_ns: u64) {
        self.look_around_at_ns.get_or_insert(now_ns + SETTLE_NS);
    }

    /// Schedules the settling of peers for the end of the present group of notifications. Further
    /// ones do not put it off.
    pub(crate) fn settle_soon(&mut self, now_ns: u64) {
        self.settle_at_ns.get_or_insert(now_ns + SETTLE_NS);
    }

    /// Schedules the settling of further peers: the group of notifications is over.
    pub(crate) const fn settle_at(&mut self, at_ns: u64) {
        self.settle_at_ns = Some(at_ns);
    }

    /// Says whether a full check is scheduled.
    pub(crate) const fn has_check(&self) -> bool {
        self.check_at_ns.is_some()
    }

    /// Takes the full check off the agenda if its time has come, and returns whether it has.
    pub(crate) fn take_check(&mut self, now_ns: u64) -> bool {
        !self.is_resting(now_ns) && take_due(&mut self.check_at_ns, now_ns)
    }

    /// Notes that a full check has ended that took so long.
    pub(crate) fn checked(&mut self, now_ns: u64, took_ns: u64) {
        self.rests_until_ns = now_ns + took_ns.saturating_mul(REST).min(LONGEST_REST_NS);
    }

    /// Says whether it is too soon for the next full check.
    pub(crate) const fn is_resting(&self, now_ns: u64) -> bool {
        now_ns < self.rests_until_ns
    }

    /// Returns the time of the scheduled full check, ns.
    pub(crate) fn next_check_ns(&self) -> Option<u64> {
        self.check_at_ns.map(|at_ns| at_ns.max(self.rests_until_ns))
    }

    /// Says whether it is time to look around. [`Self::looked_around`] takes the appointment off.
    pub(crate) fn is_time_to_look_around(&self, now_ns: u64) -> bool {
        self.look_around_at_ns.is_some_and(|at_ns| at_ns <= now_ns)
    }

    /// Takes the look around off the agenda, because it happens now.
    pub(crate) const fn looked_around(&mut self) {
        self.look_around_at_ns = None;
    }

    /// Takes the settling of peers off the agenda if its time has come, and returns whether it has.
    pub(crate) fn take_settling(&mut self, now_ns: u64) -> bool {
        take_due(&mut self.settle_at_ns, now_ns)
    }

    /// Returns the time of the first appointment, ns.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        let at_ns = [
            self.next_check_ns(),
            self.retry_at_ns,
            self.look_around_at_ns,
            self.settle_at_ns,
        ];
        at_ns.into_iter().flatten().min()
    }

    /// Takes everything off the agenda, because the engine stops.
    pub(crate) const fn clear(&mut self) {
        *self = Self {
            check_at_ns: None,
            retry_at_ns: None,
            look_around_at_ns: None,
            settle_at_ns: None,
            rests_until_ns: 0,
        };
    }
}

fn take_due(at_ns: &mut Option<u64>, now_ns: u64) -> bool {
    at_ns.take_if(|at_ns| *at_ns <= now_ns).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_earlier_of_two_checks_counts() {
        let (mut agenda, now) = (Agenda::default(), 7 * SECOND);
        agenda.check_by(now + 2 * SECOND);
        agenda.check_by(now + SECOND);
        agenda.check_by(now + 3 * SECOND);
        assert!(agenda.has_check() && !agenda.take_check(now));
        assert_eq!(agenda.next_ns(), Some(now + SECOND));
        assert!(agenda.take_check(now + SECOND));
        assert!(!agenda.has_check() && !agenda.take_check(now + SECOND));
    }

    #[test]
    fn a_flood_of_news_puts_nothing_off() {
        let (mut agenda, now) = (Agenda::default(), 7 * SECOND);
        for news in 0..3 {
            agenda.look_around_soon(now + news * SETTLE_NS);
            agenda.settle_soon(now + news * SETTLE_NS);
            agenda.check_soon(now + news * SETTLE_NS);
        }
        let then = now + SETTLE_NS;
        assert_eq!(agenda.next_ns(), Some(then));
        assert!(agenda.is_time_to_look_around(then) && !agenda.is_time_to_look_around(now));
        agenda.looked_around();
        assert!(!agenda.is_time_to_look_around(then));
        assert!(agenda.take_settling(then) && agenda.take_check(then));
        assert_eq!(agenda.next_ns(), None);
    }

    #[test]
    fn full_checks_do_not_run_back_to_back() {
        let (mut agenda, now) = (Agenda::default(), 7 * SECOND);
        agenda.checked(now, SECOND / 10);
        agenda.check_soon(now);
        let rested = now + REST * SECOND / 10;
        assert!(agenda.is_resting(rested - 1) && !agenda.take_check(rested - 1));
        assert_eq!(agenda.next_ns(), Some(rested));
        assert!(agenda.take_check(rested));
        // One that took long is not waited for in proportion.
        agenda.checked(now, 9 * SECOND);
        assert!(!agenda.is_resting(now + LONGEST_REST_NS));
    }

    #[test]
    fn a_stopping_engine_has_nothing_to_look_at() {
        let (mut agenda, now) = (Agenda::default(), 7 * SECOND);
        agenda.check_soon(now);
        agenda.look_around_soon(now);
        agenda.settle_soon(now);
        agenda.retry_at(now);
        agenda.clear();
        assert_eq!(agenda.next_ns(), None);
    }
}
