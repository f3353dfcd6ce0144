//! The routes that meet the conditions of `--follow`, by a served interface or by none, and cannot be
//! followed. They are kept so that they can be counted by reason, and logged once each.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::hash::HashMap;
use crate::net::hosts::{HostChange, HostRoute};
use crate::reason::PassedOver;

/// Most routes that are kept. Further ones are neither counted nor logged.
const MAX_ROUTES: usize = 1 << 16;

/// The kernel's key of a route in its tables. Routes with the same key have been appended to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct TableKey {
    dst: Ipv4Addr,
    prefix_len: u8,
    table: u32,
    metric: u32,
    tos: u8,
}

impl TableKey {
    const fn of(route: &HostRoute) -> Self {
        Self {
            dst: route.dst,
            prefix_len: route.prefix_len,
            table: route.table,
            metric: route.metric,
            tos: route.tos,
        }
    }
}

/// A route that cannot be followed, without its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    protocol: u8,
    why: PassedOver,
    /// Whether it is by no interface (a blackhole and the like).
    nowhere: bool,
}

impl Known {
    fn of(route: &HostRoute, why: PassedOver) -> Self {
        Self {
            protocol: route.protocol,
            why,
            nowhere: route.leads_nowhere(),
        }
    }
}

/// The effect of a notification on the routes that cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// It has none.
    Nothing,
    /// A route has gone, or has been replaced by one that differs in nothing that is kept.
    Changed,
    /// A route has come that was not there before.
    New,
}

/// The routes that cannot be followed. Those with the same key, protocol and reason count as one.
#[derive(Debug, Default)]
pub(crate) struct Unfollowed {
    routes: HashMap<TableKey, Vec<Known>>,
    counts: BTreeMap<PassedOver, u64>,
    len: usize,
}

impl Unfollowed {
    /// Applies a notification; `why`: the reason why its route cannot be followed, if it belongs here.
    pub(crate) fn apply(&mut self, change: &HostChange, why: Option<PassedOver>) -> Noted {
        let route = &change.route;
        let mut ended = None;
        if change.gone || change.replaced {
            let ends = |known: &Known| change.replaced || known.protocol == route.protocol;
            ended = self.remove(&TableKey::of(route), ends);
        }
        let why = why.filter(|_| !change.gone);
        let came = why.filter(|why| self.insert(route, *why));
        match (ended, came) {
            (None, None) => Noted::Nothing,
            (ended, Some(why)) if ended != Some(Known::of(route, why)) => Noted::New,
            _ => Noted::Changed,
        }
    }

    /// Adds a route. Returns whether there is room for it and it was not there before.
    pub(crate) fn insert(&mut self, route: &HostRoute, why: PassedOver) -> bool {
        self.insert_at(TableKey::of(route), Known::of(route, why))
    }

    /// Takes over the routes that lead nowhere. They do not vanish without a notification, so that they need
    /// not be read again.
    pub(crate) fn insert_nowhere_of(&mut self, before: &Self) {
        for (key, here) in &before.routes {
            for known in here.iter().filter(|known| known.nowhere) {
                self.insert_at(*key, *known);
            }
        }
    }

    fn insert_at(&mut self, key: TableKey, known: Known) -> bool {
        if self.len >= MAX_ROUTES {
            return false;
        }
        let here = self.routes.entry(key).or_default();
        if here.contains(&known) {
            return false;
        }
        here.push(known);
        self.len += 1;
        *self.counts.entry(known.why).or_default() += 1;
        true
    }

    /// Says whether a route that cannot be followed for this reason is known.
    pub(crate) fn contains(&self, route: &HostRoute, why: PassedOver) -> bool {
        let here = self.routes.get(&TableKey::of(route));
        here.is_some_and(|here| here.contains(&Known::of(route, why)))
    }

    /// Returns how many routes there are for each reason.
    pub(crate) const fn counts(&self) -> &BTreeMap<PassedOver, u64> {
        &self.counts
    }

    fn remove(&mut self, key: &TableKey, ends: impl Fn(&Known) -> bool) -> Option<Known> {
        let here = self.routes.get_mut(key)?;
        let at = here.iter().position(ends)?;
        let removed = here.remove(at);
        self.len -= 1;
        if let Some(count) = self.counts.get_mut(&removed.why) {
            *count -= 1;
        }
        if here.is_empty() {
            self.routes.remove(key);
        }
        Some(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::hosts::route;

    const WHY: Option<PassedOver> = Some(PassedOver::SeveralNextHops);

    fn came(route: HostRoute) -> HostChange {
        HostChange {
            route,
            gone: false,
            replaced: false,
            appended: false,
        }
    }

    fn count(unfollowed: &Unfollowed, why: PassedOver) -> u64 {
        unfollowed.counts().get(&why).copied().unwrap_or(0)
    }

    #[test]
    fn each_is_new_once() {
        let mut unfollowed = Unfollowed::default();
        assert_eq!(unfollowed.apply(&came(route()), WHY), Noted::New);
        let twice = unfollowed.apply(&came(route()), WHY);
        assert_eq!(twice, Noted::Nothing, "told twice");
        let again = HostChange {
            replaced: true,
            ..came(route())
        };
        let like = unfollowed.apply(&again, WHY);
        assert_eq!(like, Noted::Changed, "replaced by the like");
        assert_eq!(count(&unfollowed, PassedOver::SeveralNextHops), 1);
        let other = unfollowed.apply(&again, Some(PassedOver::NotUnicast));
        assert_eq!(other, Noted::New);
        assert_eq!(count(&unfollowed, PassedOver::SeveralNextHops), 0);
        assert_eq!(count(&unfollowed, PassedOver::NotUnicast), 1);
    }

    #[test]
    fn whatever_takes_its_place_ends_it() {
        let mut unfollowed = Unfollowed::default();
        unfollowed.apply(&came(route()), WHY);
        let others = HostChange {
            route: HostRoute {
                protocol: 4,
                ..route()
            },
            replaced: true,
            ..came(route())
        };
        assert_eq!(unfollowed.apply(&others, None), Noted::Changed);
        assert_eq!(
            (
                count(&unfollowed, PassedOver::SeveralNextHops),
                unfollowed.len
            ),
            (0, 0)
        );
        assert!(unfollowed.routes.is_empty());
    }

    #[test]
    fn only_the_one_that_goes_is_gone() {
        let mut unfollowed = Unfollowed::default();
        let [wide, far] = [
            HostRoute {
                prefix_len: 24,
                ..route()
            },
            HostRoute {
                metric: 9,
                ..route()
            },
        ];
        for route in [route(), wide, far] {
            unfollowed.apply(&came(route), WHY);
        }
        let gone = |route| HostChange {
            gone: true,
            ..came(route)
        };
        let others = HostRoute {
            protocol: 4,
            ..wide
        };
        let others = unfollowed.apply(&gone(others), None);
        assert_eq!(others, Noted::Nothing, "of another protocol");
        assert_eq!(count(&unfollowed, PassedOver::SeveralNextHops), 3);
        assert_eq!(unfollowed.apply(&gone(wide), WHY), Noted::Changed);
        let again = unfollowed.apply(&gone(wide), WHY);
        assert_eq!(again, Noted::Nothing, "it was not there");
        assert!(unfollowed.contains(&route(), PassedOver::SeveralNextHops));
        assert!(unfollowed.contains(&far, PassedOver::SeveralNextHops));
        assert_eq!(
            (
                count(&unfollowed, PassedOver::SeveralNextHops),
                unfollowed.len
            ),
            (2, 2)
        );
    }

    #[test]
    fn what_leads_nowhere_outlives_a_full_check() {
        let mut before = Unfollowed::default();
        let blackhole = HostRoute {
            path: None,
            unfit: Some(PassedOver::NotUnicast),
            interfaces: [0; 4],
            ..route()
        };
        before.apply(&came(blackhole), Some(PassedOver::NotUnicast));
        before.apply(
            &came(HostRoute {
                metric: 9,
                ..route()
            }),
            WHY,
        );
        let mut after = Unfollowed::default();
        after.insert_nowhere_of(&before);
        assert_eq!(count(&after, PassedOver::NotUnicast), 1);
        assert_eq!(
            count(&after, PassedOver::SeveralNextHops),
            0,
            "it would be in the dump"
        );
    }

    #[test]
    fn memory_is_bounded() {
        let mut unfollowed = Unfollowed::default();
        for metric in 0..=MAX_ROUTES as u32 {
            unfollowed.apply(&came(HostRoute { metric, ..route() }), WHY);
        }
        assert_eq!(unfollowed.len, MAX_ROUTES);
        assert_eq!(
            count(&unfollowed, PassedOver::SeveralNextHops),
            MAX_ROUTES as u64
        );
    }
}
