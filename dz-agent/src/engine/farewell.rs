//! Telling peers that their session is over: AdminDown, three times.
//!
//! The first one leaves at once, or as soon as the next hop is resolved, and the route does not go before
//! it. The other two follow within a tenth of the transmit interval, so that what loses one packet need not lose
//! all three; the route does not wait for them, the session's deletion does.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use dz_common::counters::Counter;
use dz_common::map::SessionKey;
use tracing::warn;

use super::parts::Engine;
use super::state::clock::gathered_ns;
use crate::datapath::{Order, now_ns};

/// AdminDown packets at a disconnect: one may be lost, two, too.
pub(super) const FAREWELLS: u64 = 3;
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
pub(super) enum Untold {
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
pub(super) struct Farewell {
    stage: Stage,
    /// When it goes on. What [`Farewells`] has of it for other times is out of date.
    due_ns: u64,
}

impl Farewell {
    /// Makes a farewell that is to be said.
    fn begun(now_ns: u64) -> Self {
        let until_ns = now_ns + nanos(RESOLVED_WITHIN);
        Self {
            stage: Stage::Begun { until_ns },
            due_ns: now_ns,
        }
    }

    /// Makes a farewell that is over: nothing may be sent with the session's address.
    pub(super) fn silent(key: &SessionKey) -> Self {
        Self {
            stage: Stage::Over(Err(Untold::Address(key.local.into()))),
            due_ns: 0,
        }
    }

    /// Says whether the first packet is still to leave.
    pub(super) const fn is_unsaid(&self) -> bool {
        matches!(self.stage, Stage::Begun { .. })
    }

    /// Says whether nothing more will be sent.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over(_))
    }

    /// Returns why the peer does not know, if it could not be told.
    pub(super) const fn untold(&self) -> Option<Untold> {
        match self.stage {
            Stage::Over(Err(why)) => Some(why),
            _ => None,
        }
    }

    /// Ends it. A peer to which one packet has left counts as told.
    fn end(&mut self, why: Untold) {
        self.stage = match self.stage {
            Stage::Saying { told: true, .. } => Stage::Over(Ok(())),
            Stage::Over(result) => Stage::Over(result),
            Stage::Begun { .. } | Stage::Saying { .. } => Stage::Over(Err(why)),
        };
    }

    /// Notes that one more has left, or that the kernel did not take it. Returns when the next one is due.
    fn said(&mut self, spread_ns: impl FnOnce() -> u64, taken: bool, now_ns: u64) -> Option<u64> {
        let (first_ns, spread_ns, said, told) = match self.stage {
            Stage::Begun { .. } => (now_ns, spread_ns(), 1, taken),
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

/// When farewells go on.
#[derive(Default)]
pub(super) struct Farewells {
    due: BTreeMap<u64, Vec<SessionKey>>,
}

impl Farewells {
    /// Returns when the next one goes on.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.due.keys().next().copied()
    }

    fn set(&mut self, key: SessionKey, due_ns: u64) {
        self.due.entry(due_ns).or_default().push(key);
    }

    /// Takes those that are due, with the times that were set for them.
    fn take(&mut self, now_ns: u64) -> Vec<(u64, SessionKey)> {
        let mut taken = Vec::new();
        while let Some(first) = self.due.first_entry()
            && *first.key() <= now_ns
        {
            let (due_ns, keys) = first.remove_entry();
            taken.extend(keys.into_iter().map(|key| (due_ns, key)));
        }
        taken
    }

    /// Gives a farewell that has waited for its next hop its turn.
    pub(super) fn resolved(&mut self, key: SessionKey, farewell: &mut Farewell, now_ns: u64) {
        if farewell.is_unsaid() {
            farewell.due_ns = now_ns;
            self.set(key, now_ns);
        }
    }
}

impl Engine {
    /// Begins the farewell of a session, to be [said](Self::say). Our clock has no business with it any more.
    pub(super) fn begin_farewell(&mut self, key: &SessionKey) -> Farewell {
        self.sessions.look_no_more(key);
        Farewell::begun(now_ns())
    }

    /// Takes the closing sessions whose peers are to be told something by now.
    pub(super) fn take_farewells(&mut self) -> Vec<SessionKey> {
        let taken = self.farewells.take(now_ns()).into_iter();
        let due = |(due_ns, key): &(u64, SessionKey)| {
            let closing = self.closing.get(key);
            closing.is_some_and(|closing| closing.farewell.due_ns == *due_ns)
        };
        taken.filter(due).map(|(_, key)| key).collect()
    }

    /// Says AdminDown to the peers of closing sessions, once, in as few runs of the kernel program as there
    /// can be. A peer whose next hop is not known is told when it is resolved, or never.
    pub(super) fn say(&mut self, keys: &[SessionKey]) {
        let now_ns = now_ns();
        let mut orders = Vec::with_capacity(keys.len());
        for key in keys {
            match self.farewell_order(key) {
                Ok(order) => orders.push(order),
                Err(why) => self.not_said(*key, why, now_ns),
            }
        }
        let mut taken = vec![false; orders.len()];
        let mut outcomes = taken.iter_mut();
        let run = self.datapath.transmit(&orders, |_, outcome| {
            if let Some(taken) = outcomes.next() {
                *taken = outcome.exit == Some(Counter::TxOriginated);
            }
        });
        if let Err(error) = run {
            warn!(%error, "transmit program not run for farewells");
        }
        for (order, taken) in orders.iter().zip(taken) {
            self.said(order.key, taken, now_ns);
        }
    }

    fn farewell_order(&self, key: &SessionKey) -> Result<Order, Untold> {
        let live = self.sessions.get(key);
        let live = live.filter(|_| self.may_speak(key));
        let live = live.ok_or_else(|| Untold::Address(key.local.into()))?;
        match live.next_hop() {
            Some(next_hop)
                if self
                    .sessions
                    .next_hops()
                    .mac(&(key.ifindex, next_hop))
                    .is_none() =>
            {
                Err(Untold::NextHop(next_hop))
            }
            _ => Ok(self.order(*key, live, true)),
        }
    }

    fn said(&mut self, key: SessionKey, taken: bool, now_ns: u64) {
        let Some(closing) = self.closing.get_mut(&key) else {
            return;
        };
        let reader = self.datapath.maps().reader();
        let spread_ns = || {
            let entry = reader.session(&key).ok().flatten();
            let interval_us = entry.map_or(0, |entry| entry.session.tx_interval_us());
            spread_ns(interval_us)
        };
        if let Some(due_ns) = closing.farewell.said(spread_ns, taken, now_ns) {
            self.farewells.set(key, due_ns);
        }
        self.log_untold(&key);
    }

    /// Puts a farewell that could not be sent off, for as long as it may still become possible, or ends it.
    fn not_said(&mut self, key: SessionKey, why: Untold, now_ns: u64) {
        let Some(closing) = self.closing.get_mut(&key) else {
            return;
        };
        if let (Untold::NextHop(next_hop), Stage::Begun { until_ns }) =
            (why, closing.farewell.stage)
            && now_ns < until_ns
        {
            let due_ns = until_ns.min(now_ns + nanos(ASKED_EVERY));
            closing.farewell.due_ns = due_ns;
            self.farewells.set(key, due_ns);
            let (netlink, hop) = (self.connections.netlink(), (key.ifindex, next_hop));
            self.sessions
                .next_hops_mut()
                .resolve(netlink, hop, key, now_ns);
        } else {
            self.end_farewell(&key, why);
        }
    }

    /// Ends the farewell of a closing session: nothing more is sent.
    pub(super) fn end_farewell(&mut self, key: &SessionKey, why: Untold) {
        let closing = self.closing.get_mut(key);
        if let Some(closing) = closing.filter(|closing| !closing.farewell.is_over()) {
            closing.farewell.end(why);
            self.log_untold(key);
        }
    }

    fn log_untold(&self, key: &SessionKey) {
        let closing = self.closing.get(key);
        if let Some(why) = closing.and_then(|closing| closing.farewell.untold()) {
            let (local, peer) = (Ipv4Addr::from(key.local), Ipv4Addr::from(key.peer));
            let interface = self.name_over(key);
            warn!(interface, %local, %peer, "peer {why}");
        }
    }
}

/// From the first farewell to the last: less than a tenth of the interval, although due times are put on a
/// grid. In ns, of an interval in µs.
fn spread_ns(interval_us: u32) -> u64 {
    let tenth_ns = u64::from(interval_us) * 1_000 / PART;
    tenth_ns.min(nanos(LONGEST)) / 16 * 15
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_NS: u64 = 77_777_777_777;

    fn spread_over(interval_us: u32) -> Vec<u64> {
        let mut farewell = Farewell::begun(NOW_NS);
        assert!(farewell.is_unsaid());
        let mut times = vec![NOW_NS];
        while let Some(due_ns) =
            farewell.said(|| spread_ns(interval_us), true, times[times.len() - 1])
        {
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
        farewell.said(|| spread_ns, true, NOW_NS);
        let late_ns = NOW_NS + 3 * spread_ns;
        let third_ns = farewell.said(|| spread_ns, true, late_ns).unwrap();
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
    fn those_of_one_time_go_together() {
        let key = |peer| SessionKey {
            ifindex: 1,
            local: [10, 0, 0, 1],
            peer: [10, 0, 0, peer],
        };
        let mut farewells = Farewells::default();
        farewells.set(key(1), 20);
        farewells.set(key(2), 10);
        farewells.set(key(3), 10);
        assert_eq!(farewells.next_ns(), Some(10));
        assert_eq!(farewells.take(9), []);
        assert_eq!(farewells.take(19), [(10, key(2)), (10, key(3))]);
        assert_eq!(farewells.take(20), [(20, key(1))]);
        assert_eq!(farewells.next_ns(), None);
    }
}
