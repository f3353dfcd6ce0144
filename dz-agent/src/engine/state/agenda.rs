//! When the engine looks at something ahead of the periodic full check.

use std::time::Duration;

use tokio::time::Instant;

/// Changes of links, addresses and routes come in groups: one look serves all of a group.
pub(crate) const SETTLE: Duration = Duration::from_millis(5);

/// The engine's appointments. Each is kept once, however often it was asked for.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    check_at: Option<Instant>,
    look_around_at: Option<Instant>,
    settle_at: Option<Instant>,
}

impl Agenda {
    /// Schedules a full check for `at`, or leaves an earlier one as it is.
    pub(crate) fn check_by(&mut self, at: Instant) {
        self.check_at = Some(self.check_at.map_or(at, |before| before.min(at)));
    }

    /// Schedules a full check for the end of the present group of notifications.
    pub(crate) fn check_soon(&mut self, now: Instant) {
        self.check_by(now + SETTLE);
    }

    /// Schedules a look at all interfaces and addresses for the end of the present group of
    /// notifications. Further ones do not put it off.
    pub(crate) fn look_around_soon(&mut self, now: Instant) {
        self.look_around_at.get_or_insert(now + SETTLE);
    }

    /// Schedules the settling of peers for the end of the present group of notifications. Further
    /// ones do not put it off.
    pub(crate) fn settle_soon(&mut self, now: Instant) {
        self.settle_at.get_or_insert(now + SETTLE);
    }

    /// Says whether a full check is scheduled.
    pub(crate) const fn has_check(&self) -> bool {
        self.check_at.is_some()
    }

    /// Takes the full check off the agenda if its time has come, and returns whether it has.
    pub(crate) fn take_check(&mut self, now: Instant) -> bool {
        take_due(&mut self.check_at, now)
    }

    /// Says whether it is time to look around. The look itself takes it off ([`Self::looked_around`]).
    pub(crate) fn is_time_to_look_around(&self, now: Instant) -> bool {
        self.look_around_at.is_some_and(|at| at <= now)
    }

    /// Takes the look around off the agenda: it happens now.
    pub(crate) const fn looked_around(&mut self) {
        self.look_around_at = None;
    }

    /// Takes the settling of peers off the agenda if its time has come, and returns whether it has.
    pub(crate) fn take_settling(&mut self, now: Instant) -> bool {
        take_due(&mut self.settle_at, now)
    }

    /// Returns when the first appointment is.
    pub(crate) fn next(&self) -> Option<Instant> {
        let at = [self.check_at, self.look_around_at, self.settle_at];
        at.into_iter().flatten().min()
    }

    /// Takes everything off the agenda: the engine stops.
    pub(crate) const fn clear(&mut self) {
        (self.check_at, self.look_around_at, self.settle_at) = (None, None, None);
    }
}

fn take_due(at: &mut Option<Instant>, now: Instant) -> bool {
    at.take_if(|at| *at <= now).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_earlier_of_two_checks_counts() {
        let (mut agenda, now) = (Agenda::default(), Instant::now());
        agenda.check_by(now + 2 * SECOND);
        agenda.check_by(now + SECOND);
        agenda.check_by(now + 3 * SECOND);
        assert!(agenda.has_check() && !agenda.take_check(now));
        assert_eq!(agenda.next(), Some(now + SECOND));
        assert!(agenda.take_check(now + SECOND));
        assert!(!agenda.has_check() && !agenda.take_check(now + SECOND));
    }

    #[test]
    fn a_flood_of_news_puts_nothing_off() {
        let (mut agenda, now) = (Agenda::default(), Instant::now());
        for news in 0..3 {
            agenda.look_around_soon(now + news * SETTLE);
            agenda.settle_soon(now + news * SETTLE);
            agenda.check_soon(now + news * SETTLE);
        }
        let then = now + SETTLE;
        assert_eq!(agenda.next(), Some(then));
        assert!(agenda.is_time_to_look_around(then) && !agenda.is_time_to_look_around(now));
        agenda.looked_around();
        assert!(!agenda.is_time_to_look_around(then));
        assert!(agenda.take_settling(then) && agenda.take_check(then));
        assert_eq!(agenda.next(), None);
    }

    #[test]
    fn a_stopping_engine_has_nothing_to_look_at() {
        let (mut agenda, now) = (Agenda::default(), Instant::now());
        agenda.check_soon(now);
        agenda.look_around_soon(now);
        agenda.settle_soon(now);
        agenda.clear();
        assert_eq!(agenda.next(), None);
    }
}
