//! Telling peers that their session is over: AdminDown, three times.
//!
//! The first one leaves at once, or as soon as the next hop is resolved, and the route does not go before
//! it. The other two follow within a tenth of the transmit interval, so that what loses one packet need not lose
//! all three; the route does not wait for them, the session's deletion does.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use dz_common::map::SessionKey;

use super::backoff::nanos;
use super::clock::gathered_ns;

/// AdminDown packets at a disconnect: one may be lost, two, too.
pub(crate) const FAREWELLS: u64 = 3;
/// The part of the transmit interval within which all of them are sent.
const PART: u64 = 10;
/// However long the interval is, they are sent within this: somebody waits for the disconnect.
const LONGEST: Duration = Duration::from_millis(100);
/// How long a disconnect waits for its next hop: a neighbour that is there answers in some milliseconds, and
/// the kernel asks once a second.
const RESOLVED_WITHIN: Duration = Duration::from_secs(1);
/// How often the next hop is asked about meanwhile: a notification can be lost.
const ASKED_EVERY: Duration = Duration::from_millis(200);

/// Why a peer could not be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Untold {
    /// The next hop's Ethernet address is not known.
    NextHop(Ipv4Addr),
    /// The session's address, or its interface, is gone or down: nothing may be sent with it.
    Address(Ipv4Addr),
    /// The kernel did not take any of the packets.
    Refused,
}

impl fmt::Display for Untold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("could not be told: ")?;
        match self {
            Self::NextHop(next_hop) => {
                let within = RESOLVED_WITHIN.as_secs();
                write!(
                    f,
                    "next hop {next_hop} has not answered ARP within {within} s"
                )
            }
            Self::Address(local) => {
                write!(
                    f,
                    "its interface is down or gone, or does not hold {local} any more"
                )
            }
            Self::Refused => f.write_str("the kernel did not send the packets"),
        }?;
        f.write_str("; it learns by timeout")
    }
}

/// How far the telling of one peer is.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Nothing is sent yet: the next hop is not resolved, or its turn has only come.
    Begun {
        until_ns: u64,
    },
    /// So many have left, the first at `first_ns`; `told`: the kernel took at least one.
    Saying {
        first_ns: u64,
        spread_ns: u64,
        said: u64,
        told: bool,
    },
    Over(Result<(), Untold>),
}

/// The farewell of one session that is being closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Farewell {
    stage: Stage,
    /// When it goes on.
    due_ns: u64,
}

impl Farewell {
    /// Makes a farewell that is to be said.
    pub(crate) fn begun(now_ns: u64) -> Self {
        let until_ns = now_ns + nanos(RESOLVED_WITHIN);
        Self {
            stage: Stage::Begun { until_ns },
            due_ns: now_ns,
        }
    }

    /// Makes a farewell that is over: nothing may be sent with the session's address.
    pub(crate) fn silent(key: &SessionKey) -> Self {
        Self {
            stage: Stage::Over(Err(Untold::Address(key.local.into()))),
            due_ns: 0,
        }
    }

    /// Says whether the first packet is still to leave.
    pub(crate) const fn is_unsaid(&self) -> bool {
        matches!(self.stage, Stage::Begun { .. })
    }

    /// Says whether nothing more will be sent.
    pub(crate) const fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over(_))
    }

    /// Returns why the peer does not know, if it could not be told.
    pub(crate) const fn untold(&self) -> Option<Untold> {
        match self.stage {
            Stage::Over(Err(why)) => Some(why),
            _ => None,
        }
    }

    /// Returns when it goes on, ns.
    pub(crate) const fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// Has it go on at once if the first packet is still to leave. Returns whether it is.
    pub(crate) const fn resolved(&mut self, now_ns: u64) -> bool {
        if self.is_unsaid() {
            self.due_ns = now_ns;
        }
        self.is_unsaid()
    }

    /// Puts the first packet off while the next hop may still be resolved. Returns until when, ns; none
    /// if it has been waited for long enough.
    pub(crate) fn wait(&mut self, now_ns: u64) -> Option<u64> {
        let Stage::Begun { until_ns } = self.stage else {
            return None;
        };
        if now_ns >= until_ns {
            return None;
        }
        self.due_ns = until_ns.min(now_ns + nanos(ASKED_EVERY));
        Some(self.due_ns)
    }

    /// Ends it. A peer to which one packet has left counts as told.
    pub(crate) fn end(&mut self, why: Untold) {
        self.stage = match self.stage {
            Stage::Saying { told: true, .. } => Stage::Over(Ok(())),
            Stage::Over(result) => Stage::Over(result),
            Stage::Begun { .. } | Stage::Saying { .. } => Stage::Over(Err(why)),
        };
    }

    /// Notes that one more has left, or that the kernel did not take it, while the transmit interval is
    /// `interval_us`. Returns when the next one is due, ns.
    pub(crate) fn said(
        &mut self,
        interval_us: impl FnOnce() -> u32,
        taken: bool,
        now_ns: u64,
    ) -> Option<u64> {
        let (first_ns, spread_ns, said, told) = match self.stage {
            Stage::Begun { .. } => (now_ns, spread_ns(interval_us()), 1, taken),
            Stage::Saying {
                first_ns,
                spread_ns,
                said,
                told,
            } => (first_ns, spread_ns, said + 1, told || taken),
            Stage::Over(_) => return None,
        };
        self.stage = Stage::Saying {
            first_ns,
            spread_ns,
            said,
            told,
        };
        if said == FAREWELLS {
            self.end(Untold::Refused);
            return None;
        }
        let apart_ns = spread_ns / (FAREWELLS - 1);
        // Where this one was late, the next one is, too: close together both could be lost.
        let due_ns = (first_ns + apart_ns * said).max(now_ns + apart_ns / 2);
        self.due_ns = gathered_ns(due_ns, now_ns);
        Some(self.due_ns)
    }
}

/// From the first farewell to the last: less than a tenth of the interval, although due times are put on a
/// grid. In ns, of an interval in µs.
fn spread_ns(interval_us: u32) -> u64 {
    let tenth_ns = u64::from(interval_us) * 1_000 / PART;
    tenth_ns.min(nanos(LONGEST)) / 16 * 15
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_NS: u64 = 77_777_777_777;

    fn spread_over(interval_us: u32) -> Vec<u64> {
        let mut farewell = Farewell::begun(NOW_NS);
        assert!(farewell.is_unsaid());
        let mut times = vec![NOW_NS];
        while let Some(due_ns) = farewell.said(|| interval_us, true, times[times.len() - 1]) {
            assert!(!farewell.is_unsaid() && !farewell.is_over());
            times.push(due_ns);
        }
        assert!(farewell.is_over() && farewell.untold().is_none());
        times
    }

    #[test]
    fn three_within_a_tenth_of_the_interval() {
        for interval_us in [1_000, 300_000, 1_000_000, 60_000_000, u32::MAX] {
            let times = spread_over(interval_us);
            assert_eq!(times.len() as u64, FAREWELLS);
            let [second, third] = [times[1] - NOW_NS, times[2] - NOW_NS];
            let tenth = (u64::from(interval_us) * 100).min(100_000_000);
            assert!(
                third <= tenth && third * 10 > tenth * 9,
                "{third} of {tenth}"
            );
            assert!(second * 5 > third * 2 && second * 5 < third * 3, "{second}");
        }
    }

    #[test]
    fn what_is_late_stays_apart() {
        let spread_ns = spread_ns(1_000_000);
        let mut farewell = Farewell::begun(NOW_NS);
        farewell.said(|| 1_000_000, true, NOW_NS);
        let late_ns = NOW_NS + 3 * spread_ns;
        let third_ns = farewell.said(|| 1_000_000, true, late_ns).unwrap();
        assert!(
            third_ns - late_ns >= spread_ns / 4,
            "{}",
            third_ns - late_ns
        );
    }

    #[test]
    fn one_that_was_taken_is_enough() {
        let mut farewell = Farewell::begun(NOW_NS);
        farewell.said(|| 0, false, NOW_NS);
        farewell.said(|| 0, true, NOW_NS);
        farewell.end(Untold::Address(Ipv4Addr::LOCALHOST));
        assert!(farewell.is_over() && farewell.untold().is_none());
        let mut farewell = Farewell::begun(NOW_NS);
        for _ in 0..FAREWELLS {
            farewell.said(|| 0, false, NOW_NS);
        }
        assert_eq!(farewell.untold(), Some(Untold::Refused));
    }

    #[test]
    fn a_next_hop_is_waited_for_a_second() {
        let mut farewell = Farewell::begun(NOW_NS);
        let (mut now_ns, mut asked) = (NOW_NS, 0);
        while let Some(due_ns) = farewell.wait(now_ns) {
            assert!(due_ns > now_ns && due_ns == farewell.due_ns());
            (now_ns, asked) = (due_ns, asked + 1);
        }
        assert_eq!((now_ns - NOW_NS, asked), (1_000_000_000, 5));
        assert!(farewell.resolved(now_ns) && farewell.due_ns() == now_ns);
        farewell.said(|| 1_000_000, true, now_ns);
        assert_eq!(farewell.wait(now_ns), None, "it has been resolved");
        assert!(!farewell.resolved(now_ns + 1) && farewell.due_ns() > now_ns + 1);
    }
}
