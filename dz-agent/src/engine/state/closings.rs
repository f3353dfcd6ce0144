//! The sessions that are being closed, between the steps D1 and D4 of a disconnect (ARCHITECTURE.md): the
//! steps each has behind it, its farewell, and the requests that wait for it.

use std::collections::BTreeMap;

use dz_common::map::SessionKey;

use super::batches::Batches;
use super::farewell::{Farewell, Untold};

use crate::hash::HashMap;

/// A session that is being closed.
#[derive(Debug)]
struct Closing {
    /// The requests that wait for it ([`Batches`]).
    batches: Vec<u64>,
    /// D2.
    farewell: Farewell,
    /// D3 has begun.
    route_given_up: bool,
    /// D3 is done.
    route_gone: bool,
    /// How often D4 has failed.
    failures: u32,
}

/// The next step of a closing session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// D3: its peer has been told for the first time, or cannot be told.
    GiveRouteUp,
    /// D4: no more farewell is to be sent, and the route is gone.
    Delete,
}

/// A session that has been closed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    /// The requests that wait for it.
    pub(crate) batches: Vec<u64>,
    /// Why its peer could not be told, if it could not.
    pub(crate) untold: Option<Untold>,
}

/// The sessions that are being closed.
#[derive(Debug, Default)]
pub(crate) struct Closings {
    closing: HashMap<SessionKey, Closing>,
    /// When the next packet of each farewell is due. An entry is stale unless its farewell has this time.
    due: BTreeMap<u64, Vec<SessionKey>>,
    batches: Batches,
}

impl Closings {
    /// Says whether a session is being closed.
    pub(crate) fn contains(&self, key: &SessionKey) -> bool {
        self.closing.contains_key(key)
    }

    /// Says whether no session is being closed.
    pub(crate) fn is_empty(&self) -> bool {
        self.closing.is_empty()
    }

    /// Returns how many sessions are being closed.
    pub(crate) fn len(&self) -> usize {
        self.closing.len()
    }

    /// Returns the sessions that are being closed.
    pub(crate) fn keys(&self) -> impl Iterator<Item = SessionKey> {
        self.closing.keys().copied()
    }

    /// Returns the requests that wait for closing sessions.
    pub(crate) const fn batches_mut(&mut self) -> &mut Batches {
        &mut self.batches
    }

    /// Begins to close a session and tell its peer. Returns false if it is being closed already.
    pub(crate) fn begin(&mut self, key: SessionKey, now_ns: u64) -> bool {
        self.insert(key, Farewell::begun(now_ns))
    }

    /// Begins to close a session without telling its peer: nothing may be sent with its address.
    pub(crate) fn begin_silent(&mut self, key: SessionKey) {
        self.insert(key, Farewell::silent(&key));
    }

    fn insert(&mut self, key: SessionKey, farewell: Farewell) -> bool {
        let is_new = !self.contains(&key);
        self.closing.entry(key).or_insert(Closing {
            batches: Vec::new(),
            farewell,
            route_given_up: false,
            route_gone: false,
            failures: 0,
        });
        is_new
    }

    /// Has a request wait for a session.
    pub(crate) fn wait_for(&mut self, key: &SessionKey, batch: u64) {
        if let Some(closing) = self.closing.get_mut(key) {
            closing.batches.push(batch);
        }
    }

    /// Takes the requests that wait for a session, which takes too long.
    pub(crate) fn take_waiting(&mut self, key: &SessionKey) -> Vec<u64> {
        let closing = self.closing.get_mut(key);
        closing.map_or_else(Vec::new, |closing| std::mem::take(&mut closing.batches))
    }

    /// Returns when the next packet of a farewell is due, ns.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        self.due.keys().next().copied()
    }

    /// Takes the sessions of which a packet of the farewell is due by now.
    pub(crate) fn take_due(&mut self, now_ns: u64) -> Vec<SessionKey> {
        let mut taken = Vec::new();
        while let Some(first) = self.due.first_entry()
            && *first.key() <= now_ns
        {
            let (due_ns, keys) = first.remove_entry();
            let current = |key: &SessionKey| {
                let closing = self.closing.get(key);
                closing.is_some_and(|closing| closing.farewell.due_ns() == due_ns)
            };
            taken.extend(keys.into_iter().filter(current));
        }
        taken
    }

    fn set_due(&mut self, key: SessionKey, due_ns: u64) {
        self.due.entry(due_ns).or_default().push(key);
    }

    /// Makes a farewell due now that has waited for its next hop. Returns false if the session is not being
    /// closed.
    pub(crate) fn resolved(&mut self, key: SessionKey, now_ns: u64) -> bool {
        let Some(closing) = self.closing.get_mut(&key) else {
            return false;
        };
        if closing.farewell.resolved(now_ns) {
            self.set_due(key, now_ns);
        }
        true
    }

    /// Notes that a packet of a farewell was tried; `taken`: the kernel has sent it. `interval_us` returns
    /// the session's transmit interval, and is called for the first packet only.
    pub(crate) fn said(
        &mut self,
        key: SessionKey,
        interval_us: impl FnOnce() -> u32,
        taken: bool,
        now_ns: u64,
    ) {
        let closing = self.closing.get_mut(&key);
        let due_ns = closing.and_then(|closing| closing.farewell.said(interval_us, taken, now_ns));
        if let Some(due_ns) = due_ns {
            self.set_due(key, due_ns);
        }
    }

    /// Puts a farewell off whose next hop is not resolved. Returns false if it has waited long enough, or
    /// the session is not being closed.
    pub(crate) fn wait_for_next_hop(&mut self, key: SessionKey, now_ns: u64) -> bool {
        let closing = self.closing.get_mut(&key);
        let due_ns = closing.and_then(|closing| closing.farewell.wait(now_ns));
        if let Some(due_ns) = due_ns {
            self.set_due(key, due_ns);
        }
        due_ns.is_some()
    }

    /// Ends a farewell: no more packet of it is sent. Returns false if it was over already.
    pub(crate) fn end_farewell(&mut self, key: &SessionKey, why: Untold) -> bool {
        let closing = self.closing.get_mut(key);
        let Some(closing) = closing.filter(|closing| !closing.farewell.is_over()) else {
            return false;
        };
        closing.farewell.end(why);
        true
    }

    /// Returns why a session's peer could not be told, if it could not.
    pub(crate) fn untold(&self, key: &SessionKey) -> Option<Untold> {
        self.closing.get(key)?.farewell.untold()
    }

    /// Returns the next step of a session, if its time has come. D3 is returned once.
    pub(crate) fn next_step(&mut self, key: &SessionKey) -> Option<Step> {
        let closing = self.closing.get_mut(key)?;
        if closing.farewell.is_unsaid() {
            return None;
        }
        if !closing.route_given_up {
            closing.route_given_up = true;
            return Some(Step::GiveRouteUp);
        }
        let deletes = closing.route_gone && closing.farewell.is_over();
        deletes.then_some(Step::Delete)
    }

    /// Says whether a session's D3 has begun and is not done.
    pub(crate) fn waits_for_route(&self, key: &SessionKey) -> bool {
        let closing = self.closing.get(key);
        closing.is_some_and(|closing| closing.route_given_up && !closing.route_gone)
    }

    /// Notes that D3 of a session is done: its route is gone, or belongs to another session.
    pub(crate) fn route_gone(&mut self, key: &SessionKey) {
        if let Some(closing) = self.closing.get_mut(key) {
            closing.route_gone = true;
        }
    }

    /// Notes that D4 of a session has failed. Returns how often it has; none if the session is not being closed.
    pub(crate) fn not_deleted(&mut self, key: &SessionKey) -> Option<u32> {
        let closing = self.closing.get_mut(key)?;
        closing.failures = closing.failures.saturating_add(1);
        Some(closing.failures)
    }

    /// Forgets a session after D4.
    pub(crate) fn finish(&mut self, key: &SessionKey) -> Option<Closed> {
        let closing = self.closing.remove(key)?;
        Some(Closed {
            batches: closing.batches,
            untold: closing.farewell.untold(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const NOW_NS: u64 = 77_777_777_777;
    const INTERVAL_US: u32 = 1_000_000;

    fn key(peer: u8) -> SessionKey {
        SessionKey {
            ifindex: 1,
            local: [10, 0, 0, 1],
            peer: [10, 0, 0, peer],
        }
    }

    fn said(closings: &mut Closings, key: SessionKey, now_ns: u64) {
        closings.said(key, || INTERVAL_US, true, now_ns);
    }

    #[test]
    fn the_steps_come_in_their_order_and_each_once() {
        let mut closings = Closings::default();
        assert!(closings.begin(key(1), NOW_NS));
        assert!(!closings.begin(key(1), NOW_NS), "it is on its way out");
        assert_eq!(closings.next_step(&key(1)), None, "nothing has been said");
        said(&mut closings, key(1), NOW_NS);
        assert_eq!(closings.next_step(&key(1)), Some(Step::GiveRouteUp));
        assert!(closings.waits_for_route(&key(1)));
        assert_eq!(closings.next_step(&key(1)), None);
        closings.route_gone(&key(1));
        assert_eq!(closings.next_step(&key(1)), None, "more is to be said");
        for _ in 0..2 {
            let due_ns = closings.due_ns().expect("one more");
            assert_eq!(closings.take_due(due_ns), [key(1)]);
            said(&mut closings, key(1), due_ns);
        }
        assert_eq!(closings.due_ns(), None);
        assert_eq!(closings.next_step(&key(1)), Some(Step::Delete));
        let closed = closings.finish(&key(1)).expect("it was being closed");
        assert_eq!((closed.untold, closings.is_empty()), (None, true));
    }

    #[test]
    fn an_address_that_goes_ends_what_is_being_said() {
        let mut closings = Closings::default();
        let why = Untold::Address(Ipv4Addr::new(10, 0, 0, 1));
        closings.begin(key(1), NOW_NS);
        assert!(closings.end_farewell(&key(1), why));
        assert!(!closings.end_farewell(&key(1), Untold::Refused));
        assert_eq!(closings.untold(&key(1)), Some(why));
        assert_eq!(closings.next_step(&key(1)), Some(Step::GiveRouteUp));
        closings.begin_silent(key(2));
        assert_eq!(closings.untold(&key(2)), Some(why));
        assert_eq!(closings.next_step(&key(2)), Some(Step::GiveRouteUp));
    }

    #[test]
    fn those_of_one_time_go_together_and_what_is_out_of_date_does_not() {
        let mut closings = Closings::default();
        for peer in 1..=3 {
            closings.begin(key(peer), NOW_NS);
            assert!(closings.wait_for_next_hop(key(peer), NOW_NS));
        }
        let due_ns = closings.due_ns().expect("they wait");
        assert_eq!(closings.take_due(due_ns - 1), []);
        // Resolved before that: its turn comes now, and not a second time.
        assert!(closings.resolved(key(2), NOW_NS + 1));
        assert_eq!(closings.take_due(NOW_NS + 1), [key(2)]);
        said(&mut closings, key(2), NOW_NS + 1);
        let its_second_ns = closings.due_ns().expect("one more");
        assert!(its_second_ns < due_ns);
        assert_eq!(closings.take_due(due_ns), [key(2), key(1), key(3)]);
        assert!(!closings.resolved(key(9), NOW_NS), "not being closed");
    }

    #[test]
    fn who_waits_is_told_once() {
        let mut closings = Closings::default();
        closings.begin(key(1), NOW_NS);
        closings.wait_for(&key(1), 7);
        closings.wait_for(&key(1), 8);
        closings.wait_for(&key(9), 9);
        assert_eq!(closings.take_waiting(&key(1)), [7, 8]);
        closings.wait_for(&key(1), 9);
        assert_eq!(closings.not_deleted(&key(1)), Some(1));
        assert_eq!(closings.not_deleted(&key(1)), Some(2));
        let closed = closings.finish(&key(1)).map(|closed| closed.batches);
        assert_eq!(closed, Some(vec![9]));
        assert_eq!(closings.not_deleted(&key(1)), None);
    }
}
