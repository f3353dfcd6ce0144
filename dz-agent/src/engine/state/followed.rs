//! The followed routes: those of other daemons that meet `--follow`, as last read or notified.

use std::collections::BTreeMap;

use dz_common::map::Peer;

use super::keys::RouteKey;
use super::mirror::Mirror;
use super::unfollowed::{Noted, Unfollowed};
use crate::net::hosts::{HostChange, HostRoute};
use crate::reason::PassedOver;
use crate::settings::{Conditions, Follow};

/// The followed routes, and those that meet the conditions and cannot be followed.
#[derive(Debug)]
pub(crate) struct Followed {
    conditions: Conditions,
    mirror: Mirror,
    unfollowed: Unfollowed,
    /// Whether the mirror is what the kernel has, but for notifications that are still to be read. Unless it
    /// is, no followed peer is made or given up: a table that could not be read is not an empty one.
    known: bool,
}

/// What the followed routes to a destination ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    /// This peer, because of this route.
    Peer(Peer, HostRoute),
    /// No peer: there is this route, but no address of ours that its packets would have as their source.
    NoSource(HostRoute),
    /// No peer: there is no route.
    Nothing,
    /// Nobody knows: the routes could not be read.
    Unknown,
}

impl Followed {
    pub(crate) fn new(conditions: Conditions) -> Self {
        Self {
            // Without conditions there is nothing to read.
            known: conditions.is_empty(),
            conditions,
            mirror: Mirror::default(),
            unfollowed: Unfollowed::default(),
        }
    }

    /// Says whether any routes are followed at all.
    pub(crate) fn is_on(&self) -> bool {
        !self.conditions.is_empty()
    }

    /// Says whether the routes are known, but for notifications that are still to be read.
    pub(crate) const fn is_known(&self) -> bool {
        self.known
    }

    /// Notes that notifications were lost, or that the table could not be read: the routes are not known
    /// until they have been read again.
    pub(crate) fn doubt(&mut self) {
        self.known = !self.is_on();
    }

    /// Says whether a route meets the conditions.
    pub(crate) fn matches(&self, route: &HostRoute) -> bool {
        self.conditions.matches(route.table, route.protocol)
    }

    /// Returns the dumps that together list every route that meets the conditions.
    pub(crate) fn dumps(&self) -> Vec<Follow> {
        self.conditions.dumps()
    }

    /// Returns every destination and interface with a followed route.
    pub(crate) fn keys(&self) -> impl Iterator<Item = RouteKey> {
        self.mirror.keys()
    }

    /// Returns the followed route to a destination by an interface that counts ([`Mirror::best`]).
    pub(crate) fn best(&self, key: RouteKey) -> Option<&HostRoute> {
        self.mirror.best(key)
    }

    /// Applies a notification to the followed routes; `tracked`: its route is one of them. Returns the
    /// destinations whose best route may have changed.
    pub(crate) fn apply(
        &mut self,
        change: &HostChange,
        tracked: bool,
    ) -> impl IntoIterator<Item = RouteKey> + use<> {
        self.mirror.apply(change, tracked)
    }

    /// Applies a notification to the routes that cannot be followed; `why`: the reason, if its route is one
    /// of them.
    pub(crate) fn note_unfollowed(
        &mut self,
        change: &HostChange,
        why: Option<PassedOver>,
    ) -> Noted {
        self.unfollowed.apply(change, why)
    }

    /// Says whether a route is known as one that cannot be followed for this reason.
    pub(crate) fn is_unfollowed(&self, route: &HostRoute, why: PassedOver) -> bool {
        self.unfollowed.contains(route, why)
    }

    /// Counts the routes that cannot be followed, by the reason.
    pub(crate) const fn unfollowed(&self) -> &BTreeMap<PassedOver, u64> {
        self.unfollowed.counts()
    }

    /// Replaces all routes by those that were read. Returns how many there was no room for.
    pub(crate) fn replace(
        &mut self,
        followed: Vec<HostRoute>,
        mut unfollowed: Unfollowed,
    ) -> usize {
        let (mirror, left_out) = Mirror::of(followed);
        if self.known {
            // Routes that lead nowhere are read only while the routes are not known.
            unfollowed.insert_nowhere_of(&self.unfollowed);
        }
        self.mirror = mirror;
        self.unfollowed = unfollowed;
        self.known = true;
        left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::hosts::route;
    use crate::settings::Follows;

    fn followed(conditions: &str) -> Followed {
        let follows: Vec<Follows> = conditions.parse().into_iter().collect();
        Followed::new(Conditions::new(&follows, 144).unwrap())
    }

    #[test]
    fn who_follows_nothing_has_nothing_to_read() {
        let mut followed = followed("");
        assert!(!followed.is_on() && followed.is_known());
        followed.doubt();
        assert!(followed.is_known());
    }

    #[test]
    fn a_table_in_doubt_is_known_again_when_it_has_been_read() {
        let mut followed = followed("proto=bgp");
        assert!(followed.is_on() && !followed.is_known());
        assert_eq!(followed.replace(vec![route()], Unfollowed::default()), 0);
        assert!(followed.is_known());
        assert_eq!(followed.keys().count(), 1);
        followed.doubt();
        assert!(!followed.is_known());
    }

    #[test]
    fn what_leads_nowhere_is_kept_only_while_the_table_is_known() {
        let mut followed = followed("proto=bgp");
        let nowhere = HostRoute {
            path: None,
            unfit: Some(PassedOver::NotUnicast),
            interfaces: Default::default(),
            ..route()
        };
        let why = PassedOver::NotUnicast;
        let mut unfollowed = Unfollowed::default();
        unfollowed.insert(&nowhere, why);
        followed.replace(Vec::new(), unfollowed);
        followed.replace(Vec::new(), Unfollowed::default());
        assert!(followed.is_unfollowed(&nowhere, why));
        followed.doubt();
        followed.replace(Vec::new(), Unfollowed::default());
        assert!(!followed.is_unfollowed(&nowhere, why));
    }
}
