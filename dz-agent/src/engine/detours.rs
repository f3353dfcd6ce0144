//! Ways around gated interfaces: for each peer and local address the interface with the best route,
//! kept current by notifications, and by a look at some of them every second that needs none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::Bound;
use std::sync::Arc;

use foldhash::HashSet;
use futures_util::FutureExt;
use futures_util::stream::FuturesUnordered;
use tracing::{info, warn};

use super::hands::{Answer, Hands};
use crate::net::NetlinkError;
use crate::net::detours::{Flow, Way};

/// Destinations that are looked up at the same time.
const AT_ONCE: usize = 8;
/// Destinations looked at again every second, whatever was notified.
const EVERY_SECOND: usize = 32;

/// Before every other flow.
const FIRST: Flow = Flow {
    dst: Ipv4Addr::UNSPECIFIED,
    src: Ipv4Addr::UNSPECIFIED,
};

/// What a look-up found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) flow: Flow,
    way: Result<Way, NetlinkError>,
}

/// The interfaces that hold an address, in ascending order.
pub(super) type Holders = BTreeMap<Ipv4Addr, Vec<u32>>;

/// The ways around, by destination and source.
pub(super) struct Detours {
    /// Interfaces that may be used.
    candidates: Arc<[u32]>,
    /// Which interfaces hold the sources.
    holders: Holders,
    /// Those that were looked up; 0 = there is none.
    known: BTreeMap<Flow, u32>,
    /// How many of these are 0.
    without: usize,
    /// Sources that their routes named: with such an address the route goes.
    named: HashSet<Ipv4Addr>,
    wanted: BTreeSet<Flow>,
    underway: BTreeSet<Flow>,
    pub(super) running: FuturesUnordered<Answer<Found>>,
    /// Where the look of the last second ended.
    cursor: Flow,
    /// Whether to say that destinations are without one, and whether that was said.
    warn: bool,
    warned: bool,
}

impl Detours {
    /// `warn`: packets are to be rerouted, so that a destination without a way around matters.
    pub(super) fn new(warn: bool) -> Self {
        Self {
            candidates: Arc::default(),
            holders: Holders::new(),
            known: BTreeMap::new(),
            without: 0,
            named: HashSet::default(),
            wanted: BTreeSet::new(),
            underway: BTreeSet::new(),
            running: FuturesUnordered::new(),
            cursor: FIRST,
            warn,
            warned: false,
        }
    }

    /// Everything that was looked up.
    pub(super) const fn known(&self) -> &BTreeMap<Flow, u32> {
        &self.known
    }

    /// The way around for a flow, 0 if there is none; none if it has not been looked up.
    pub(super) fn of(&self, flow: Flow) -> Option<u32> {
        self.known.get(&flow).copied()
    }

    /// Looks a flow up unless that has been done.
    pub(super) fn look(&mut self, hands: &impl Hands, flow: Flow) {
        if !self.known.contains_key(&flow) && !self.underway.contains(&flow) {
            self.wanted.insert(flow);
            self.start(hands);
        }
    }

    /// A flow that no session has any more.
    pub(super) fn forget(&mut self, flow: Flow) {
        let known = self.known.remove(&flow);
        self.without -= usize::from(known == Some(0));
        self.wanted.remove(&flow);
    }

    /// Uses these interfaces from now on.
    pub(super) fn use_candidates(&mut self, hands: &impl Hands, candidates: Vec<u32>) {
        if *self.candidates != *candidates {
            self.candidates = candidates.into();
            self.look_at_all(hands);
        }
    }

    /// Takes note of which interfaces hold the sources, and looks up again what that changes.
    pub(super) fn use_holders(&mut self, hands: &impl Hands, holders: Holders) {
        if self.holders == holders {
            return;
        }
        let before = std::mem::replace(&mut self.holders, holders);
        let changed = |flow: &&Flow| before.get(&flow.src) != self.holders.get(&flow.src);
        self.wanted.extend(self.known.keys().filter(changed));
        self.wanted.extend(self.underway.iter().filter(changed));
        self.start(hands);
    }

    /// Whether packets may leave by an interface.
    pub(super) fn is_candidate(&self, ifindex: u32) -> bool {
        self.candidates.contains(&ifindex)
    }

    /// Whether routes that lead around may have gone with an address of an interface.
    pub(super) fn leans_on(&self, ifindex: u32, address: Ipv4Addr, has_others: bool) -> bool {
        self.named.contains(&address) || !has_others && self.is_candidate(ifindex)
    }

    /// Looks everything up again.
    pub(super) fn look_at_all(&mut self, hands: &impl Hands) {
        self.named.clear();
        self.wanted.extend(self.known.keys());
        self.wanted.extend(&self.underway);
        self.start(hands);
    }

    /// Looks those destinations up again that a prefix covers.
    pub(super) fn look_within(&mut self, hands: &impl Hands, prefix: Ipv4Addr, prefix_len: u8) {
        let host_bits = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
        let first = Flow {
            dst: Ipv4Addr::from(u32::from(prefix) & !host_bits),
            ..FIRST
        };
        let last = Flow {
            dst: Ipv4Addr::from(u32::from(prefix) | host_bits),
            src: Ipv4Addr::BROADCAST,
        };
        let known = self.known.range(first..=last).map(|(flow, _)| *flow);
        self.wanted.extend(known);
        self.wanted.extend(self.underway.range(first..=last));
        self.start(hands);
    }

    /// Looks the next few up again.
    pub(super) fn look_at_some(&mut self, hands: &impl Hands) {
        let behind = (Bound::Excluded(self.cursor), Bound::Unbounded);
        let next = self.known.range(behind).take(EVERY_SECOND);
        let next: Vec<Flow> = next.map(|(flow, _)| *flow).collect();
        self.cursor = match next.last() {
            Some(last) if next.len() == EVERY_SECOND => *last,
            _ => FIRST,
        };
        self.wanted.extend(next);
        self.start(hands);
    }

    /// Takes note of a look-up; returns whether it found something new.
    pub(super) fn done(&mut self, hands: &impl Hands, found: Found) -> bool {
        let Found { flow, way } = found;
        self.underway.remove(&flow);
        let changed = match way {
            Ok(Way { ifindex, named }) => {
                self.named.extend(named);
                self.note(flow, ifindex)
            }
            // The look of the next seconds comes to it again; what is known stays.
            Err(error) => {
                warn!(dst = %flow.dst, %error, "way around not looked up; repeated");
                if !self.known.contains_key(&flow) {
                    self.note(flow, 0);
                }
                false
            }
        };
        self.start(hands);
        if self.running.is_empty() {
            self.say();
        }
        changed
    }

    /// Takes note of the way around for a flow; returns whether that is new.
    fn note(&mut self, flow: Flow, detour: u32) -> bool {
        let before = self.known.insert(flow, detour);
        self.without += usize::from(detour == 0);
        self.without -= usize::from(before == Some(0));
        before != Some(detour)
    }

    /// Says once that destinations are without a way around, and once that none is any more.
    fn say(&mut self) {
        if self.without == 0 {
            if std::mem::take(&mut self.warned) {
                info!("every peer has a route by another interface");
            }
        } else if self.warn && !self.warned {
            self.warned = true;
            let mut without = self.known.iter().filter(|(_, detour)| **detour == 0);
            if let Some((Flow { dst, src }, _)) = without.next() {
                let more = self.without - 1;
                warn!(
                    %dst, %src, more,
                    "no route by another interface: packets for this peer are dropped while it is \
                     down (--when-down reroute)"
                );
            }
        }
    }

    fn start(&mut self, hands: &impl Hands) {
        while self.running.len() < AT_ONCE {
            let next = self.wanted.iter();
            let Some(&flow) = next.clone().find(|flow| !self.underway.contains(flow)) else {
                return;
            };
            self.wanted.remove(&flow);
            self.underway.insert(flow);
            let holders = self.holders.get(&flow.src).cloned().unwrap_or_default();
            let way = hands.way_around(flow, Arc::clone(&self.candidates), holders);
            self.running
                .push(way.map(move |way| Found { flow, way }).boxed_local());
        }
    }
}
