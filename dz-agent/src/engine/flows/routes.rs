//! Changes routes: one change at a time per destination, and what is wanted last wins. A failed change is
//! retried with back-off. The engine does not wait for any change.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use dz_common::packet::State;
use futures_util::FutureExt;
use tracing::warn;

use crate::engine::decide::reconcile::{Wanted, wanted_route};
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::backoff::nanos;
use crate::engine::state::keys::RouteKey;
use crate::engine::state::routes::{Change, ChangeResult, WhenToAsk};
use crate::net::monitor::RouteSlot;
use crate::settings::PeerPassive;

/// The pause before a route is decided about again whose session could not be read.
const UNREAD: Duration = Duration::from_secs(1);
/// The pause before a route is put right again that others change all the time.
const CONTESTED: Duration = Duration::from_secs(1);

impl<H: Hands> Engine<H> {
    /// Decides which route is wanted to a destination, and begins the change that it needs, if any.
    pub(crate) fn adjust_route(&mut self, key: RouteKey) {
        let Some(wanted) = self.wanted(key) else {
            return;
        };
        let change = match &wanted {
            Wanted::Present(_) => Some(Change::Install),
            Wanted::Absent => Some(Change::Withdraw),
            Wanted::AsIs => None,
        };
        match self.jobs.begin(key, change) {
            WhenToAsk::Now => self.ask_for(key, wanted),
            WhenToAsk::Later => {}
            WhenToAsk::Never => self.converged(key, None),
        }
    }

    /// Asks the kernel for the wanted route.
    fn ask_for(&mut self, key: RouteKey, wanted: Wanted) {
        match wanted {
            Wanted::AsIs => {}
            Wanted::Present(route) => {
                let added = self.hands.add_route(route);
                self.jobs.ask(
                    added
                        .map(move |added| (key, ChangeResult::Install(added)))
                        .boxed_local(),
                );
            }
            Wanted::Absent => {
                let deleted = self.hands.delete_route(key.dst, key.ifindex);
                self.jobs.ask(
                    deleted
                        .map(move |deleted| (key, ChangeResult::Withdraw(deleted)))
                        .boxed_local(),
                );
            }
        }
    }

    /// Returns the wanted route to a destination, for which it reads the session. None if that cannot be read:
    /// the route is decided about again soon.
    fn wanted(&mut self, key: RouteKey) -> Option<Wanted> {
        let owner = self.sessions.owner_of(key);
        let Some(owner) = owner.filter(|owner| !self.closings.contains(owner)) else {
            return Some(Wanted::Absent);
        };
        // The address is gone: the kernel has deleted the route with it, and would refuse a new one. The full
        // check that the address's notification asks for closes the session.
        if !self.may_speak(&owner) {
            return Some(Wanted::Absent);
        }
        let Some(peer) = self.peer_of(key).filter(|peer| peer.local == owner.local) else {
            return Some(Wanted::Absent);
        };
        match self.hands.session(&owner) {
            Ok(Some(entry)) if entry.session.state != State::AdminDown => Some(wanted_route(
                &entry,
                peer,
                self.options.peer_passive == PeerPassive::Ignore,
            )),
            Ok(_) => Some(Wanted::Absent),
            Err(error) => {
                warn!(%error, "session not read; its route is looked at again");
                self.jobs.retry(key, UNREAD, self.hands.now_ns());
                None
            }
        }
    }

    /// Returns the keys of our sessions' routes to an address, one for each interface with such a session.
    pub(crate) fn ways_to(&self, dst: Ipv4Addr) -> impl Iterator<Item = RouteKey> {
        self.interfaces
            .indices()
            .map(move |ifindex| RouteKey { ifindex, dst })
            .filter(|key| self.sessions.owner_of(*key).is_some())
    }

    /// Reacts to a change of a route of ours that we did not ask for; `place`: the slot in the kernel's table.
    pub(crate) fn route_changed(&mut self, key: RouteKey, gone: bool, place: &RouteSlot) {
        match self.wanted(key) {
            Some(Wanted::Present(route)) => {
                if place.ours && (gone || place.route != Some(route)) {
                    self.put_back(key, place);
                }
            }
            Some(Wanted::Absent) if !gone && self.may_correct(key) => self.adjust_route(key),
            Some(Wanted::Absent | Wanted::AsIs) | None => {}
        }
    }

    /// Reacts to a change of another daemon's route: it may have replaced ours, or made room for ours.
    pub(crate) fn foreign_route_changed(&mut self, dst: Ipv4Addr, gone: bool, place: &RouteSlot) {
        let keys: Vec<_> = self.ways_to(dst).collect();
        for key in keys {
            if place.ours && gone && self.jobs.is_failing(key) {
                if self.may_correct(key) {
                    self.adjust_route(key);
                }
            } else if place.ours
                && place.replaced
                && matches!(self.wanted(key), Some(Wanted::Present(_)))
            {
                self.put_back(key, place);
            }
        }
    }

    /// Puts a route of ours back that was deleted or changed.
    fn put_back(&mut self, key: RouteKey, place: &RouteSlot) {
        self.jobs.taken(key, place.by != 0);
        if self.may_correct(key) {
            self.adjust_route(key);
        }
    }

    /// Says whether a route that somebody else has changed may be put right now. If not, that is done later: nobody
    /// who changes routes in a loop keeps us busy.
    fn may_correct(&mut self, key: RouteKey) -> bool {
        let now_ns = self.hands.now_ns();
        let owner = self.sessions.owner_of(key);
        if owner.is_some_and(|owner| self.sessions.damping().is_contested(&owner, now_ns)) {
            self.jobs.try_later(key, CONTESTED, now_ns);
            return false;
        }
        let may = self.jobs.may_correct(now_ns);
        if !may {
            self.agenda
                .check_by(now_ns.saturating_add(nanos(CONTESTED)));
        }
        may
    }

    /// Tries the changes again whose next try is due.
    pub(crate) fn retry_routes(&mut self) {
        while let Some(key) = self.jobs.due_retry(self.hands.now_ns()) {
            self.adjust_route(key);
        }
    }

    /// Notes that the route is the wanted one, by a change or without any, and records how long that took
    /// since the session's state changed.
    pub(crate) fn converged(&mut self, key: RouteKey, by: Option<Change>) {
        let Some((failures, converging)) = self.jobs.converged(key, by) else {
            return;
        };
        if failures > 0 {
            self.shared.troubles().remove(&key);
        }
        let (interface, local) = self.route_labels(key);
        if let (Some((up, since_ns)), Some(local)) = (converging, local) {
            let took = Duration::from_nanos(self.hands.now_ns().saturating_sub(since_ns));
            if up {
                self.shared
                    .recorded
                    .convergence
                    .observe_up(&interface, local, took);
            } else {
                self.shared
                    .recorded
                    .convergence
                    .observe_down(&interface, local, took);
            }
        }
    }

    /// Returns the labels of a route's metrics: the name of its interface, and its session's local address.
    pub(crate) fn route_labels(&self, key: RouteKey) -> (Arc<str>, Option<Ipv4Addr>) {
        let owner = self.sessions.owner_of(key);
        let local = owner.map(|owner| owner.local.into());
        let name = owner.map(|owner| self.name_over(&owner));
        (
            name.unwrap_or_else(|| self.interfaces.name_of(key.ifindex)),
            local,
        )
    }
}
