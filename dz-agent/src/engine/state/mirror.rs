//! A copy of the followed routes, made from a dump and kept current by notifications. It decides which of
//! several routes to a destination counts.

use std::net::Ipv4Addr;

use crate::engine::state::keys::RouteKey;
use crate::hash::HashMap;
use crate::net::hosts::{HostChange, HostRoute};

/// Most routes in the copy: four times as many as there can be sessions.
const MAX_ROUTES: usize = 1 << 19;

/// The routes, by destination; those with the same table, metric and tos in the kernel's order.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    routes: HashMap<Ipv4Addr, Vec<HostRoute>>,
    len: usize,
}

impl Mirror {
    /// Makes a copy of the routes of a dump. Returns how many there was no room for, too.
    pub(crate) fn of(routes: impl IntoIterator<Item = HostRoute>) -> (Self, usize) {
        let mut mirror = Self::default();
        let mut left_out = 0;
        for route in routes {
            left_out += usize::from(!mirror.insert(route, None));
        }
        (mirror, left_out)
    }

    /// Applies a notification. `tracked`: its route is followed; another route matters only if it has
    /// replaced one that is. Returns the destinations whose best route may have changed.
    pub(crate) fn apply(&mut self, change: &HostChange, tracked: bool) -> Vec<RouteKey> {
        let route = &change.route;
        let mut touched = Vec::new();
        let mut index = None;
        if change.gone {
            touched.extend(
                self.remove(route.dst, |known| known == route)
                    .map(|(key, _)| key),
            );
        } else if change.replaced {
            let removed = self.remove(route.dst, |known| same_table_key(known, route));
            index = removed.map(|(_, at)| at);
            touched.extend(removed.map(|(key, _)| key));
        }
        if tracked && !change.gone {
            let known = self.routes.get(&route.dst).map_or(&[][..], Vec::as_slice);
            if !known.contains(route) {
                let first = || known.iter().position(|known| same_table_key(known, route));
                let index = index.or_else(|| first().filter(|_| !change.appended));
                self.insert(*route, index);
            }
            touched.extend(key(route));
        }
        touched.dedup();
        touched
    }

    /// Returns the route to a destination by an interface that counts: the one with the lowest metric, then
    /// with the lowest table, then the one that the kernel uses.
    pub(crate) fn best(&self, key: RouteKey) -> Option<&HostRoute> {
        let routes = self.routes.get(&key.dst)?.iter();
        let here = |route: &&HostRoute| route.path.is_some_and(|path| path.ifindex == key.ifindex);
        routes
            .filter(here)
            .min_by_key(|route| (route.metric, route.table))
    }

    /// Returns every destination and interface with a route.
    pub(crate) fn keys(&self) -> impl Iterator<Item = RouteKey> {
        self.routes.values().flatten().filter_map(key)
    }

    fn insert(&mut self, route: HostRoute, index: Option<usize>) -> bool {
        if self.len >= MAX_ROUTES {
            return false;
        }
        let routes = self.routes.entry(route.dst).or_default();
        routes.insert(index.unwrap_or(routes.len()), route);
        self.len += 1;
        true
    }

    fn remove(
        &mut self,
        dst: Ipv4Addr,
        which: impl Fn(&HostRoute) -> bool,
    ) -> Option<(RouteKey, usize)> {
        let routes = self.routes.get_mut(&dst)?;
        let at = routes.iter().position(which)?;
        let removed = routes.remove(at);
        self.len -= 1;
        if routes.is_empty() {
            self.routes.remove(&dst);
        }
        Some((key(&removed)?, at))
    }
}

fn key(route: &HostRoute) -> Option<RouteKey> {
    let ifindex = route.path?.ifindex;
    Some(RouteKey {
        ifindex,
        dst: route.dst,
    })
}

/// Says whether two routes to one host have the same key in the kernel's tables, where one replaces the
/// other.
fn same_table_key(a: &HostRoute, b: &HostRoute) -> bool {
    (a.table, a.metric, a.tos) == (b.table, b.metric, b.tos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::hosts::{Path, route};

    const KEY: RouteKey = RouteKey {
        ifindex: 7,
        dst: Ipv4Addr::new(10, 0, 0, 7),
    };

    fn came(route: HostRoute) -> HostChange {
        HostChange {
            route,
            gone: false,
            replaced: false,
            appended: false,
        }
    }

    fn went(route: HostRoute) -> HostChange {
        HostChange {
            gone: true,
            ..came(route)
        }
    }

    fn replaced(route: HostRoute) -> HostChange {
        HostChange {
            replaced: true,
            ..came(route)
        }
    }

    fn by(ifindex: u32, via: u8) -> Option<Path> {
        let path = route().path.unwrap();
        let via = Some(Ipv4Addr::new(10, 0, 1, via));
        Some(Path {
            ifindex,
            via,
            ..path
        })
    }

    #[test]
    fn the_lowest_metric_then_the_lowest_table_counts() {
        let mut mirror = Mirror::default();
        let (far, near) = (
            HostRoute {
                metric: 20,
                ..route()
            },
            HostRoute {
                metric: 5,
                ..route()
            },
        );
        let other = HostRoute {
            table: 7,
            metric: 5,
            ..route()
        };
        assert_eq!(mirror.apply(&came(far), true), [KEY]);
        assert_eq!(mirror.best(KEY), Some(&far));
        mirror.apply(&came(near), true);
        assert_eq!(mirror.best(KEY), Some(&near));
        mirror.apply(&came(other), true);
        assert_eq!(mirror.best(KEY), Some(&other), "table 7 is lower than main");
        mirror.apply(&went(other), true);
        mirror.apply(&went(near), true);
        assert_eq!(mirror.best(KEY), Some(&far));
        assert_eq!(mirror.apply(&went(far), true), [KEY]);
        assert_eq!((mirror.best(KEY), mirror.len), (None, 0));
        assert_eq!(mirror.apply(&went(far), true), [], "it was not there");
    }

    #[test]
    fn a_replacement_ends_the_one_before_it() {
        let mut mirror = Mirror::default();
        mirror.apply(&came(route()), true);
        let elsewhere = HostRoute {
            path: by(8, 1),
            ..route()
        };
        let there = RouteKey { ifindex: 8, ..KEY };
        assert_eq!(mirror.apply(&replaced(elsewhere), true), [KEY, there]);
        assert_eq!((mirror.best(KEY), mirror.len), (None, 1));
        // By one that is not followed: a blackhole, say.
        let blackhole = HostRoute {
            path: None,
            protocol: 4,
            ..route()
        };
        assert_eq!(mirror.apply(&replaced(blackhole), false), [there]);
        assert_eq!(mirror.len, 0);
        // Another metric is another index.
        mirror.apply(&came(route()), true);
        let backup = HostRoute {
            metric: 9,
            ..route()
        };
        mirror.apply(&replaced(backup), true);
        assert_eq!((mirror.best(KEY), mirror.len), (Some(&route()), 2));
    }

    #[test]
    fn routes_of_one_place_are_in_the_kernels_order() {
        let mut mirror = Mirror::default();
        let [a, b, c] = [1, 2, 3].map(|via| HostRoute {
            path: by(7, via),
            ..route()
        });
        mirror.apply(&came(a), true);
        let appended = HostChange {
            appended: true,
            ..came(b)
        };
        mirror.apply(&appended, true);
        assert_eq!(mirror.best(KEY), Some(&a));
        mirror.apply(&came(c), true);
        assert_eq!(mirror.best(KEY), Some(&c), "put before the others");
        let (dumped, left_out) = Mirror::of([c, a, b]);
        assert_eq!((dumped.routes, left_out), (mirror.routes, 0));
    }

    #[test]
    fn what_is_told_twice_is_there_once() {
        let (mut mirror, _) = Mirror::of([route()]);
        assert_eq!(mirror.apply(&came(route()), true), [KEY]);
        assert_eq!(mirror.len, 1);
        assert_eq!(mirror.keys().collect::<Vec<_>>(), [KEY]);
    }
}
