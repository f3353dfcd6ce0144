//! A farewell: three AdminDown packets that tell a peer that its session is over.
//!
//! The first packet leaves immediately, or as soon as the next hop is resolved; the route is deleted after
//! it. The other two follow within a tenth of the transmit interval, spread so that a short loss does not
//! take all three. The route's deletion does not wait for them, the session's does.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use dz_common::map::SessionKey;

use super::backoff::nanos;
use super::clock::gathered_ns;

/// The packets of a farewell: two of them may be lost.
pub(crate) const FAREWELLS: u64 = 3;
/// The packets leave within one part in `PART` of the transmit interval.
const PART: u64 = 10;
/// The longest time from the first packet to the last, however long the interval is: a client waits for
/// the disconnect.
const LONGEST: Duration = Duration::from_millis(100);
/// How long the first packet waits for its next hop. A neighbour that is there answers within milliseconds;
/// the kernel repeats its ARP request once a second.
const RESOLVED_WITHIN: Duration = Duration::from_secs(1);
/// How often the kernel is asked about the next hop meanwhile, for its notification can be lost.
const ASKED_EVERY: Duration = Duration::from_millis(200);

/// Why a peer could not be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Untold {
    /// The next hop's Ethernet address is not known.
    NextHop(Ipv4Addr),
    /// The session's local address is gone, or its interface is gone or down: nothing may be sent with it.
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

/// The stage of a farewell.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The first packet has not been tried: it may wait for its next hop until `until_ns`.
    Begun {
        until_ns: u64,
    },
    /// `said` packets have been tried, the first at `first_ns`, the last is to be `spread_ns` later;
    /// `told`: the kernel has sent at least one.
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
    /// When its next packet is due.
    due_ns: u64,
}

impl Farewell {
    /// Makes a farewell whose first packet is due now.
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

    /// Says whether the first packet has not been tried yet.
    pub(crate) const fn is_unsaid(&self) -> bool {
        matches!(self.stage, Stage::Begun { .. })
    }

    /// Says whether no more packet will be sent.
    pub(crate) const fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over(_))
    }

    /// Returns why the peer could not be told, if it could not.
    pub(crate) const fn untold(&self) -> Option<Untold> {
        match self.stage {
            Stage::Over(Err(why)) => Some(why),
            _ => None,
        }
    }

    /// Returns when its next packet is due, ns.
    pub(crate) const fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// Makes the first packet due now that its next hop is resolved. Returns false if that was tried already.
    pub(crate) const fn resolved(&mut self, now_ns: u64) -> bool {
        if self.is_unsaid() {
            self.due_ns = now_ns;
        }
        self.is_unsaid()
    }

    /// Puts the first packet off, for its next hop may still be resolved. Returns until when, ns; none if it
    /// has waited long enough.
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

    /// Ends the farewell. A peer counts as told if one packet has been sent.
    pub(crate) fn end(&mut self, why: Untold) {
        self.stage = match self.stage {
            Stage::Saying { told: true, .. } => Stage::Over(Ok(())),
            Stage::Over(result) => Stage::Over(result),
            Stage::Begun { .. } | Stage::Saying { .. } => Stage::Over(Err(why)),
        };
    }

    /// Notes that one more packet was tried; `taken`: the kernel has sent it. `interval_us` returns the
    /// session's transmit interval, and is called for the first packet only. Returns when the next packet
    /// is due, ns.
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
        // Packets close together may be lost together: where this one was late, the next one is put off, too.
        let due_ns = (first_ns + apart_ns * said).max(now_ns + apart_ns / 2);
        self.due_ns = gathered_ns(due_ns, now_ns);
        Some(self.due_ns)
    }
}

/// Returns the time from the first packet to the last, ns: less than a tenth of the interval, for due
/// times on a grid make it longer.
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
