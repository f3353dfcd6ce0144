//! Ways around gated interfaces: for each peer and local address the interface with the best route.
//! Notifications keep them current; some are looked up again every second without any.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::Bound;
use std::sync::Arc;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tracing::warn;

use super::ways::Ways;
use crate::engine::hands::Answer;
use crate::net::NetlinkError;
use crate::net::coverage::Coverage;
use crate::net::detours::{Flow, Way};

/// Most look-ups under way at the same time.
const MAX_LOOKUPS: usize = 8;
/// Flows that are looked up again every second, whatever was notified.
const EVERY_SECOND: usize = 32;
/// Interfaces without a known route to a flow's destination that are asked for all the same, in turns: not
/// every route is notified.
const SPARE: usize = 2;
/// Most routes for which the tables are read each time we look around.
const FEW_ROUTES: usize = 4_096;
/// How many interfaces may be known that are not there any more.
const MOST_GONE: usize = 1_024;

/// The flow that is sorted before every other.
const FIRST: Flow = Flow {
    dst: Ipv4Addr::UNSPECIFIED,
    src: Ipv4Addr::UNSPECIFIED,
};

/// A question to the kernel: the way around for a flow.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) flow: Flow,
    /// Interfaces that may be used.
    pub(crate) interfaces: Arc<[u32]>,
    /// Interfaces that hold the flow's source.
    pub(crate) holders: Vec<u32>,
}

/// The kernel's answer to a [`Question`].
#[derive(Debug)]
pub(crate) struct WayFound {
    pub(crate) flow: Flow,
    way: Result<Way, NetlinkError>,
}

/// The interfaces that hold an address, in ascending order.
pub(crate) type Holders = BTreeMap<Ipv4Addr, Vec<u32>>;

/// The ways around, by destination and source.
pub(crate) struct Detours {
    /// Interfaces that may be used.
    candidates: Arc<[u32]>,
    /// The interfaces that hold each source.
    holders: Holders,
    /// Which of them have routes to which destinations.
    cover: Cover,
    ways: Ways,
    /// Flows to be looked up.
    wanted: BTreeSet<Flow>,
    /// Flows that are being looked up, by `running`.
    underway: BTreeSet<Flow>,
    running: FuturesUnordered<Answer<WayFound>>,
    /// The last flow that the periodic look-up has come to.
    cursor: Flow,
}

impl Detours {
    /// Makes an owner that knows no way yet. `warn`: packets are to be rerouted, so that a destination
    /// without a way around matters.
    pub(crate) fn new(warn: bool) -> Self {
        Self {
            candidates: Arc::default(),
            holders: Holders::new(),
            cover: Cover::default(),
            ways: Ways::new(warn),
            wanted: BTreeSet::new(),
            underway: BTreeSet::new(),
            running: FuturesUnordered::new(),
            cursor: FIRST,
        }
    }

    /// Returns every way around that has been looked up.
    pub(crate) const fn known(&self) -> &BTreeMap<Flow, u32> {
        self.ways.known()
    }

    /// Returns the interface of the way around for a flow, 0 if there is none; none if it has not been
    /// looked up.
    pub(crate) fn of(&self, flow: Flow) -> Option<u32> {
        self.ways.of(flow)
    }

    /// Has a flow looked up unless that has been done.
    pub(crate) fn look(&mut self, flow: Flow) {
        if self.ways.of(flow).is_none() && !self.underway.contains(&flow) {
            self.wanted.insert(flow);
        }
    }

    /// Forgets a flow that no session has any more.
    pub(crate) fn forget(&mut self, flow: Flow) {
        self.ways.forget(flow);
        self.wanted.remove(&flow);
    }

    /// Replaces the interfaces that may be used, and has everything looked up again if they have changed.
    pub(crate) fn use_candidates(&mut self, candidates: Vec<u32>) {
        if *self.candidates != *candidates {
            self.candidates = candidates.into();
            self.look_at_all();
        }
    }

    /// Says whether the routes of all interfaces should be read before the next question.
    pub(crate) fn wants_coverage(&self) -> bool {
        self.cover.wanted(self.candidates.len())
    }

    /// Notes which interfaces have routes to which destinations.
    pub(crate) fn use_coverage(&mut self, coverage: Coverage) {
        self.cover.known = Some(coverage);
    }

    /// Notes a route that has come or gone.
    pub(crate) fn cover(&mut self, prefix: Ipv4Addr, prefix_len: u8, ifindex: Option<u32>) {
        if let Some(known) = &mut self.cover.known {
            known.note(prefix, prefix_len, ifindex);
        }
    }

    /// Forgets which interfaces have routes, for some may have come without a word.
    pub(crate) fn doubt_coverage(&mut self) {
        self.cover.known = None;
    }

    /// Replaces the interfaces that hold each source, and has the flows looked up again whose source they
    /// have changed for.
    pub(crate) fn use_holders(&mut self, holders: Holders) {
        if self.holders == holders {
            return;
        }
        let before = std::mem::replace(&mut self.holders, holders);
        let changed = |flow: &&Flow| before.get(&flow.src) != self.holders.get(&flow.src);
        self.wanted.extend(self.ways.known().keys().filter(changed));
        self.wanted.extend(self.underway.iter().filter(changed));
    }

    /// Says whether packets may be diverted to an interface.
    pub(crate) fn is_candidate(&self, ifindex: u32) -> bool {
        self.candidates.contains(&ifindex)
    }

    /// Says whether routes of ways around may have gone with an address of an interface; `has_others`: the
    /// interface still has another address.
    pub(crate) fn leans_on(&self, ifindex: u32, address: Ipv4Addr, has_others: bool) -> bool {
        self.ways.are_named(address) || !has_others && self.is_candidate(ifindex)
    }

    /// Has everything looked up again.
    pub(crate) fn look_at_all(&mut self) {
        self.ways.forget_names();
        self.wanted.extend(self.ways.known().keys());
        self.wanted.extend(&self.underway);
    }

    /// Has the flows looked up again whose destination is within a prefix.
    pub(crate) fn look_within(&mut self, prefix: Ipv4Addr, prefix_len: u8) {
        let host_bits = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
        let first = Flow {
            dst: Ipv4Addr::from(u32::from(prefix) & !host_bits),
            ..FIRST
        };
        let last = Flow {
            dst: Ipv4Addr::from(u32::from(prefix) | host_bits),
            src: Ipv4Addr::BROADCAST,
        };
        let known = self.ways.known().range(first..=last).map(|(flow, _)| *flow);
        self.wanted.extend(known);
        self.wanted.extend(self.underway.range(first..=last));
    }

    /// Has the next [`EVERY_SECOND`] flows looked up again.
    pub(crate) fn look_at_some(&mut self) {
        let behind = (Bound::Excluded(self.cursor), Bound::Unbounded);
        let next = self.ways.known().range(behind).take(EVERY_SECOND);
        let next: Vec<Flow> = next.map(|(flow, _)| *flow).collect();
        self.cursor = match next.last() {
            Some(last) if next.len() == EVERY_SECOND => *last,
            _ => FIRST,
        };
        self.wanted.extend(next);
    }

    /// Waits for the next look-up to end; none if none is under way.
    pub(crate) async fn answered(&mut self) -> Option<WayFound> {
        self.running.next().await
    }

    /// Notes the end of a look-up. Returns whether the way around has changed.
    pub(crate) fn done(&mut self, found: WayFound) -> bool {
        let WayFound { flow, way } = found;
        self.underway.remove(&flow);
        let changed = match way {
            Ok(way) => {
                if way.ifindex != 0 {
                    // It may have been one of the spare ones.
                    self.cover(flow.dst, 32, Some(way.ifindex));
                }
                self.ways.note(flow, way)
            }
            // The periodic look-up comes to it again; until then the last known way stays.
            Err(error) => {
                warn!(dst = %flow.dst, %error, "way around not looked up; repeated");
                if self.ways.of(flow).is_none() {
                    self.ways.note(flow, Way::default());
                }
                false
            }
        };
        if self.running.is_empty() && self.wanted.is_empty() {
            self.ways.say();
        }
        changed
    }

    /// Takes the next flow to be looked up, unless too many are. The caller asks the kernel, and then calls
    /// [`Self::asked`].
    pub(crate) fn next_to_ask(&mut self) -> Option<Question> {
        if self.running.len() >= MAX_LOOKUPS {
            return None;
        }
        let mut next = self.wanted.iter();
        let flow = *next.find(|flow| !self.underway.contains(flow))?;
        self.wanted.remove(&flow);
        self.underway.insert(flow);
        Some(Question {
            flow,
            interfaces: self.cover.worth_asking(flow.dst, &self.candidates),
            holders: self.holders.get(&flow.src).cloned().unwrap_or_default(),
        })
    }

    /// Keeps the answer to come about a flow.
    pub(crate) fn asked(&mut self, flow: Flow, way: Answer<Result<Way, NetlinkError>>) {
        self.running
            .push(way.map(move |way| WayFound { flow, way }).boxed_local());
    }
}

/// Which interfaces have routes to which destinations, as far as it is known.
#[derive(Debug, Default)]
struct Cover {
    known: Option<Coverage>,
    /// Where the spare interfaces go on.
    next: usize,
}

impl Cover {
    /// Says whether the routes should be read: they are not known, or few, or too many interfaces are known
    /// for what there is.
    fn wanted(&self, candidates: usize) -> bool {
        self.known.as_ref().is_none_or(|known| {
            known.routes() <= FEW_ROUTES || known.interfaces() > candidates + MOST_GONE
        })
    }

    /// Returns the interfaces by which a destination is to be asked for, in ascending order.
    fn worth_asking(&mut self, dst: Ipv4Addr, candidates: &Arc<[u32]>) -> Arc<[u32]> {
        let Some(known) = &self.known else {
            return Arc::clone(candidates);
        };
        let mut worth = known.covering(dst, candidates);
        for _ in 0..SPARE.min(candidates.len()) {
            self.next = (self.next + 1) % candidates.len();
            worth.extend(candidates.get(self.next));
        }
        worth.sort_unstable();
        worth.dedup();
        worth.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn flow(n: u32) -> Flow {
        Flow {
            dst: (0x0a00_0100 + n).into(),
            src: SOURCE,
        }
    }

    fn answer(way: Result<Way, NetlinkError>) -> Answer<Result<Way, NetlinkError>> {
        std::future::ready(way).boxed_local()
    }

    /// Answers everything that is asked, each with this interface; returns which flows those were.
    fn answer_all(detours: &mut Detours, ifindex: u32) -> Vec<Flow> {
        let mut asked = Vec::new();
        loop {
            while let Some(question) = detours.next_to_ask() {
                asked.push(question.flow);
                let named = None;
                detours.asked(question.flow, answer(Ok(Way { ifindex, named })));
            }
            let Some(found) = detours.answered().now_or_never().flatten() else {
                return asked;
            };
            detours.done(found);
        }
    }

    fn looked_up(flows: u32) -> Detours {
        let mut detours = Detours::new(false);
        detours.use_candidates(vec![7]);
        (0..flows).for_each(|n| detours.look(flow(n)));
        answer_all(&mut detours, 7);
        detours
    }

    /// Counts the questions to the kernel, each by one interface, about 100 peers on a host with so many
    /// containers.
    fn questions(containers: u32) -> usize {
        let mut detours = Detours::new(false);
        let mut coverage = Coverage::default();
        coverage.note(Ipv4Addr::UNSPECIFIED, 0, Some(2));
        for n in 0..containers {
            coverage.note((0xac11_0000 + n).into(), 32, Some(10 + n));
        }
        detours.use_coverage(coverage);
        detours.use_candidates([2].into_iter().chain(10..10 + containers).collect());
        (0..100).for_each(|n| detours.look(flow(n)));
        let mut asked = 0;
        loop {
            while let Some(question) = detours.next_to_ask() {
                assert!(question.interfaces.contains(&2), "{question:?}");
                asked += question.interfaces.len();
                let way = Way {
                    ifindex: 2,
                    named: None,
                };
                detours.asked(question.flow, answer(Ok(way)));
            }
            let Some(found) = detours.answered().now_or_never().flatten() else {
                return asked;
            };
            detours.done(found);
        }
    }

    #[test]
    fn containers_cost_no_questions() {
        let bound = 100 * (1 + SPARE);
        let [none, some, many] = [0, 100, 300].map(questions);
        assert_eq!(none, 100);
        assert!(some <= bound && many <= bound, "{some}, {many} questions");
    }

    #[test]
    fn a_route_that_nobody_has_notified_is_found_in_time() {
        let mut detours = looked_up(1);
        detours.use_coverage(Coverage::default());
        detours.use_candidates((1..=300).collect());
        let mut asked = BTreeSet::new();
        for _ in 0..150 {
            detours.look_at_all();
            let question = detours.next_to_ask().unwrap();
            asked.extend(question.interfaces.iter().copied());
            let none = Way::default();
            detours.asked(question.flow, answer(Ok(none)));
            let found = detours.answered().now_or_never().flatten().unwrap();
            detours.done(found);
        }
        assert_eq!(asked.len(), 300);
    }

    #[test]
    fn a_few_are_asked_about_at_a_time() {
        let mut detours = Detours::new(false);
        (0..MAX_LOOKUPS as u32 + 1).for_each(|n| detours.look(flow(n)));
        let mut asked = 0;
        while let Some(question) = detours.next_to_ask() {
            asked += 1;
            let never = std::future::pending().boxed_local();
            detours.asked(question.flow, never);
        }
        assert_eq!(asked, MAX_LOOKUPS);
    }

    #[test]
    fn what_is_known_is_not_looked_up_again_unless_something_changed() {
        let mut detours = looked_up(3);
        detours.look(flow(1));
        assert_eq!(detours.next_to_ask(), None);
        detours.use_candidates(vec![7]);
        assert_eq!(detours.next_to_ask(), None, "the same as before");
        detours.use_candidates(vec![8]);
        assert_eq!(answer_all(&mut detours, 8).len(), 3);
        assert_eq!(detours.of(flow(1)), Some(8));
        let holders = Holders::from([(SOURCE, vec![8])]);
        detours.use_holders(holders.clone());
        assert_eq!(answer_all(&mut detours, 8).len(), 3);
        detours.use_holders(holders);
        assert_eq!(detours.next_to_ask(), None);
    }

    #[test]
    fn a_prefix_concerns_the_flows_in_it() {
        let mut detours = looked_up(6);
        detours.look_within(Ipv4Addr::new(10, 0, 1, 2), 31);
        assert_eq!(answer_all(&mut detours, 7), [flow(2), flow(3)]);
        detours.look_within(Ipv4Addr::UNSPECIFIED, 0);
        assert_eq!(answer_all(&mut detours, 7).len(), 6);
    }

    #[test]
    fn a_change_while_the_kernel_is_asked_is_asked_about_again() {
        let mut detours = Detours::new(false);
        detours.look(flow(1));
        let question = detours.next_to_ask().unwrap();
        detours.look_at_all();
        assert_eq!(detours.next_to_ask(), None, "one at a time for a flow");
        detours.asked(question.flow, answer(Ok(Way::default())));
        let found = detours.answered().now_or_never().flatten().unwrap();
        assert!(detours.done(found), "something new");
        assert_eq!(answer_all(&mut detours, 9), [flow(1)]);
        assert_eq!(detours.of(flow(1)), Some(9));
    }

    #[test]
    fn every_flow_is_looked_at_again_in_turn() {
        let flows = EVERY_SECOND as u32 + 5;
        let mut detours = looked_up(flows);
        detours.look_at_some();
        let mut asked = answer_all(&mut detours, 7);
        detours.look_at_some();
        asked.extend(answer_all(&mut detours, 7));
        asked.sort_unstable();
        assert!(asked.into_iter().eq((0..flows).map(flow)));
    }

    #[test]
    fn a_look_up_that_fails_keeps_what_is_known() {
        let mut detours = looked_up(1);
        detours.look_at_all();
        let question = detours.next_to_ask().unwrap();
        detours.asked(question.flow, answer(Err(NetlinkError::Timeout)));
        let found = detours.answered().now_or_never().flatten().unwrap();
        assert!(!detours.done(found));
        assert_eq!(detours.of(flow(0)), Some(7));
        detours.forget(flow(0));
        assert_eq!(detours.of(flow(0)), None);
    }
}
