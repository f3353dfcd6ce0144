//! The ways around that have been looked up, and the warning about destinations without one.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use tracing::{info, warn};

use crate::hash::HashSet;
use crate::net::detours::{Flow, Way};

/// The ways around, by destination and source.
#[derive(Debug)]
pub(crate) struct Ways {
    /// The index of the interface; 0 if there is no way around.
    known: BTreeMap<Flow, u32>,
    /// How many of these are 0.
    without: usize,
    /// The preferred sources of the routes found: a route goes with its source.
    named: HashSet<Ipv4Addr>,
    /// Whether to warn about destinations without a way around.
    warn: bool,
    /// Whether that warning has been logged.
    warned: bool,
}

impl Ways {
    /// Makes an owner that knows no way yet. `warn`: packets are to be rerouted, so that a destination
    /// without a way around matters.
    pub(crate) fn new(warn: bool) -> Self {
        Self {
            known: BTreeMap::new(),
            without: 0,
            named: HashSet::default(),
            warn,
            warned: false,
        }
    }

    /// Returns every way around that has been looked up.
    pub(crate) const fn known(&self) -> &BTreeMap<Flow, u32> {
        &self.known
    }

    /// Returns the interface of the way around for a flow, 0 if there is none; none if it has not been
    /// looked up.
    pub(crate) fn of(&self, flow: Flow) -> Option<u32> {
        self.known.get(&flow).copied()
    }

    /// Notes the way around for a flow. Returns whether it has changed.
    pub(crate) fn note(&mut self, flow: Flow, way: Way) -> bool {
        self.named.extend(way.named);
        let detour = way.ifindex;
        let before = self.known.insert(flow, detour);
        self.without += usize::from(detour == 0);
        self.without -= usize::from(before == Some(0));
        before != Some(detour)
    }

    /// Forgets a flow that no session has any more.
    pub(crate) fn forget(&mut self, flow: Flow) {
        let known = self.known.remove(&flow);
        self.without -= usize::from(known == Some(0));
    }

    /// Says whether the route of a way around names this source.
    pub(crate) fn are_named(&self, source: Ipv4Addr) -> bool {
        self.named.contains(&source)
    }

    /// Forgets which sources routes name, because all ways around are looked up again.
    pub(crate) fn forget_names(&mut self) {
        self.named.clear();
    }

    /// Logs once that destinations are without a way around, and once that none is any more.
    pub(crate) fn say(&mut self) {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(last: u8) -> Flow {
        Flow {
            dst: [10, 0, 0, last].into(),
            src: [10, 0, 0, 1].into(),
        }
    }

    fn by(ifindex: u32) -> Way {
        Way {
            ifindex,
            named: None,
        }
    }

    #[test]
    fn what_is_found_again_is_no_news() {
        let mut ways = Ways::new(true);
        assert_eq!(ways.of(flow(2)), None);
        assert!(ways.note(flow(2), by(7)) && !ways.note(flow(2), by(7)));
        assert!(ways.note(flow(2), by(0)) && !ways.note(flow(2), by(0)));
        assert_eq!(ways.of(flow(2)), Some(0));
    }

    #[test]
    fn who_is_without_one_is_counted_and_said_once() {
        let mut ways = Ways::new(true);
        for last in 2..5 {
            ways.note(flow(last), by(0));
        }
        ways.say();
        assert!(ways.warned && ways.without == 3);
        ways.note(flow(2), by(7));
        ways.forget(flow(3));
        ways.say();
        assert!(ways.warned && ways.without == 1);
        ways.forget(flow(4));
        ways.forget(flow(4));
        ways.say();
        assert!(!ways.warned && ways.without == 0);
    }

    #[test]
    fn sources_that_routes_name_are_kept_until_all_are_looked_up_again() {
        let mut ways = Ways::new(false);
        let source = Ipv4Addr::new(192, 0, 2, 1);
        let named = Some(source);
        ways.note(flow(2), Way { ifindex: 7, named });
        assert!(ways.are_named(source));
        ways.forget_names();
        assert!(!ways.are_named(source));
    }
}
