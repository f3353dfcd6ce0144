//! Ways around gated interfaces: for each destination the interface with the best route, kept
//! current by notifications, and by a look at some of them every second that needs none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::Bound;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tracing::{info, warn};

use crate::net::{Netlink, NetlinkError, detours};

/// Destinations that are looked up at the same time.
const AT_ONCE: usize = 8;
/// Destinations looked at again every second, whatever was notified.
const EVERY_SECOND: usize = 32;

/// What a look-up found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) dst: Ipv4Addr,
    detour: Result<u32, NetlinkError>,
}

/// The ways around, by destination.
pub(super) struct Detours {
    netlink: Netlink,
    /// Interfaces that may be used.
    candidates: Arc<[u32]>,
    /// Those that were looked up; 0 = there is none.
    known: BTreeMap<Ipv4Addr, u32>,
    /// How many of these are 0.
    without: usize,
    wanted: BTreeSet<Ipv4Addr>,
    underway: BTreeSet<Ipv4Addr>,
    pub(super) running: FuturesUnordered<BoxFuture<'static, Found>>,
    /// Where the look of the last second ended.
    cursor: Ipv4Addr,
    /// Whether to say that destinations are without one, and whether that was said.
    warn: bool,
    warned: bool,
}

impl Detours {
    /// `warn`: packets are to be rerouted, so that a destination without a way around matters.
    pub(super) fn new(netlink: Netlink, warn: bool) -> Self {
        Self {
            netlink,
            candidates: Arc::default(),
            known: BTreeMap::new(),
            without: 0,
            wanted: BTreeSet::new(),
            underway: BTreeSet::new(),
            running: FuturesUnordered::new(),
            cursor: Ipv4Addr::UNSPECIFIED,
            warn,
            warned: false,
        }
    }

    /// Everything that was looked up.
    pub(super) const fn known(&self) -> &BTreeMap<Ipv4Addr, u32> {
        &self.known
    }

    /// The way around a destination, 0 if there is none; none if it has not been looked up.
    pub(super) fn of(&self, dst: Ipv4Addr) -> Option<u32> {
        self.known.get(&dst).copied()
    }

    /// Looks a destination up unless that has been done.
    pub(super) fn look(&mut self, dst: Ipv4Addr) {
        if !self.known.contains_key(&dst) && !self.underway.contains(&dst) {
            self.wanted.insert(dst);
            self.start();
        }
    }

    /// A destination that no session has any more.
    pub(super) fn forget(&mut self, dst: Ipv4Addr) {
        let known = self.known.remove(&dst);
        self.without -= usize::from(known == Some(0));
        self.wanted.remove(&dst);
    }

    /// Uses these interfaces from now on.
    pub(super) fn use_candidates(&mut self, candidates: Vec<u32>) {
        if *self.candidates != *candidates {
            self.candidates = candidates.into();
            self.look_at_all();
        }
    }

    /// Whether packets may leave by an interface.
    pub(super) fn is_candidate(&self, ifindex: u32) -> bool {
        self.candidates.contains(&ifindex)
    }

    /// Looks everything up again.
    pub(super) fn look_at_all(&mut self) {
        self.wanted.extend(self.known.keys());
        self.wanted.extend(&self.underway);
        self.start();
    }

    /// Looks those destinations up again that a prefix covers.
    pub(super) fn look_within(&mut self, prefix: Ipv4Addr, prefix_len: u8) {
        let host_bits = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
        let first = Ipv4Addr::from(u32::from(prefix) & !host_bits);
        let last = Ipv4Addr::from(u32::from(prefix) | host_bits);
        let known = self.known.range(first..=last).map(|(dst, _)| *dst);
        self.wanted.extend(known);
        self.wanted.extend(self.underway.range(first..=last));
        self.start();
    }

    /// Looks the next few up again.
    pub(super) fn look_at_some(&mut self) {
        let behind = (Bound::Excluded(self.cursor), Bound::Unbounded);
        let next = self.known.range(behind).take(EVERY_SECOND);
        let next: Vec<Ipv4Addr> = next.map(|(dst, _)| *dst).collect();
        self.cursor = match next.last() {
            Some(last) if next.len() == EVERY_SECOND => *last,
            _ => Ipv4Addr::UNSPECIFIED,
        };
        self.wanted.extend(next);
        self.start();
    }

    /// Takes note of a look-up; returns whether it found something new.
    pub(super) fn done(&mut self, found: Found) -> bool {
        let Found { dst, detour } = found;
        self.underway.remove(&dst);
        let changed = match detour {
            Ok(detour) => self.note(dst, detour),
            // The look of the next seconds comes to it again; what is known stays.
            Err(error) => {
                warn!(%dst, %error, "way around not looked up; repeated");
                if !self.known.contains_key(&dst) {
                    self.note(dst, 0);
                }
                false
            }
        };
        self.start();
        if self.running.is_empty() {
            self.say();
        }
        changed
    }

    /// Takes note of the way around a destination; returns whether that is new.
    fn note(&mut self, dst: Ipv4Addr, detour: u32) -> bool {
        let before = self.known.insert(dst, detour);
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
            if let Some((dst, _)) = without.next() {
                let more = self.without - 1;
                warn!(
                    %dst, more,
                    "no route by another interface: packets for this peer are dropped while it is \
                     down (--when-down reroute)"
                );
            }
        }
    }

    fn start(&mut self) {
        while self.running.len() < AT_ONCE {
            let next = self.wanted.iter().find(|dst| !self.underway.contains(dst));
            let Some(&dst) = next else { return };
            self.wanted.remove(&dst);
            self.underway.insert(dst);
            let (netlink, candidates) = (self.netlink.clone(), Arc::clone(&self.candidates));
            self.running.push(Box::pin(async move {
                let detour = detours::best(&netlink, dst, &candidates).await;
                Found { dst, detour }
            }));
        }
    }
}
