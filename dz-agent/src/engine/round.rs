//! The rounds of the loop: each reason to wake up has a share of the turns of a round, so that one which always
//! has something starves no other.

/// A reason to wake up that may always have something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// State changes from kernel programs.
    Events,
    /// Answers of the kernel.
    Answers,
    /// Netlink notifications.
    Notifications,
    /// Requests of clients.
    Requests,
}

/// How many turns of a round each source may have. Whichever comes first in the loop is dealt with first, as
/// long as it has turns left.
const SHARES: [u32; 4] = [4, 64, 64, 4];

/// The turns that each source has left in the present round.
#[derive(Debug)]
pub(super) struct Round {
    left: [u32; 4],
}

impl Round {
    /// Begins a round.
    pub(super) const fn new() -> Self {
        Self { left: SHARES }
    }

    /// Says whether a source has turns left.
    pub(super) const fn has(&self, source: Source) -> bool {
        self.left[source as usize] > 0
    }

    /// Notes that a source has had a turn.
    pub(super) const fn took(&mut self, source: Source) {
        let left = &mut self.left[source as usize];
        *left = left.saturating_sub(1);
    }

    /// Says whether a source waits for the next round. It begins when no other source has anything.
    pub(super) fn is_over(&self) -> bool {
        self.left.contains(&0)
    }
}

#[cfg(test)]
mod tests {
    use super::Source::{Answers, Events, Notifications, Requests};
    use super::*;

    /// Gives turns in the order of the loop, where each of these sources always has something. Returns how many
    /// each had, and how many rounds there were.
    fn turns(busy: &[Source], turns: u32) -> ([u32; 4], u32) {
        let (mut round, mut had, mut rounds) = (Round::new(), [0; 4], 0);
        for _ in 0..turns {
            let order = [Events, Answers, Notifications, Requests].into_iter();
            let mut order = order.filter(|source| busy.contains(source));
            if let Some(source) = order.find(|source| round.has(*source)) {
                round.took(source);
                had[source as usize] += 1;
            } else {
                assert!(round.is_over());
                round = Round::new();
                rounds += 1;
            }
        }
        (had, rounds)
    }

    #[test]
    fn a_flood_leaves_each_other_source_its_share() {
        for flood in [Events, Answers, Notifications, Requests] {
            for other in [Events, Answers, Notifications, Requests] {
                let (had, _) = turns(&[flood, other], 1_000);
                assert!(had[other as usize] >= 50, "{flood:?}, {other:?}: {had:?}");
            }
        }
        let (had, _) = turns(&[Events, Answers, Notifications, Requests], 10_000);
        assert!(had.iter().all(|had| *had > 250), "{had:?}");
    }

    #[test]
    fn a_source_that_is_alone_goes_on() {
        let (had, rounds) = turns(&[Notifications], 6_500);
        assert_eq!((had[Notifications as usize], rounds), (6_400, 100));
    }

    #[test]
    fn a_round_is_not_over_before_a_share_is_used_up() {
        let mut round = Round::new();
        assert!(!round.is_over());
        for _ in 0..SHARES[Requests as usize] {
            assert!(round.has(Requests) && !round.is_over());
            round.took(Requests);
        }
        assert!(round.is_over() && !round.has(Requests) && round.has(Events));
    }
}
