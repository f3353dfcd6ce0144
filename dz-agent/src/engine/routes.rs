//! Carrying out route changes: one at a time per destination, the latest wanted state wins, a
//! failure is retried with back-off. A slow netlink socket delays nothing else. However many change at
//! once, so many at a time are asked for.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use dz_common::packet::State;
use tracing::{debug, info, warn};

use super::parts::Engine;
use super::reconcile::{Wanted, wanted_route};
use super::shared::Trouble;
use super::state::keys::RouteKey;
use super::state::routes::{Change, Finished, Step, Turn};
use crate::datapath::now_ns;
use crate::net::monitor::RouteSlot;
use crate::net::routes::{Added, Deleted};
use crate::settings::PeerPassive;

/// Answers that are taken note of before anything else has its turn.
const ANSWERS: usize = 64;
/// When a route is looked at again whose session could not be read.
const UNREAD: Duration = Duration::from_secs(1);

impl Engine {
    /// Makes a route what it should be.
    pub(super) fn follow(&mut self, key: RouteKey) {
        let Some(wanted) = self.wanted(key) else {
            return;
        };
        let change = match &wanted {
            Wanted::Present(_) => Some(Change::Install),
            Wanted::Absent => Some(Change::Withdraw),
            Wanted::AsIs => None,
        };
        match self.jobs.begin(key, change) {
            Turn::Now => self.ask_for(key, wanted),
            Turn::Later => {}
            Turn::Done => self.converged(key, None),
        }
    }

    /// Asks the kernel for a change of a route.
    fn ask_for(&mut self, key: RouteKey, wanted: Wanted) {
        let asking = self.connections.ask();
        match wanted {
            Wanted::AsIs => {}
            Wanted::Present(route) => self.jobs.ask(Box::pin(async move {
                (key, Step::Install(asking.routes().add(&route).await))
            })),
            Wanted::Absent => self.jobs.ask(Box::pin(async move {
                let deleted = asking.routes().delete(key.dst, key.ifindex).await;
                (key, Step::Withdraw(deleted))
            })),
        }
    }

    /// What a route should be, by what the kernel has now. None if its session cannot be read: the
    /// route is looked at again soon.
    fn wanted(&mut self, key: RouteKey) -> Option<Wanted> {
        let owner = self.sessions.owner_of(key);
        let Some(owner) = owner.filter(|owner| !self.closings.contains(owner)) else {
            return Some(Wanted::Absent);
        };
        // With the address went the route, of which the kernel tells us, and it refuses one without. The full
        // check that its notification asks for ends the session.
        if !self.may_speak(&owner) {
            return Some(Wanted::Absent);
        }
        let Some(peer) = self.peer_of(key).filter(|peer| peer.local == owner.local) else {
            return Some(Wanted::Absent);
        };
        match self.datapath.maps().reader().session(&owner) {
            Ok(Some(entry)) if entry.session.state != State::AdminDown => Some(wanted_route(
                &entry,
                peer,
                self.options.peer_passive == PeerPassive::Ignore,
            )),
            Ok(_) => Some(Wanted::Absent),
            Err(error) => {
                warn!(%error, "session not read; its route is looked at again");
                self.jobs.retry(key, UNREAD, now_ns());
                None
            }
        }
    }

    /// The kernel has answered, and others of its answers may be there, too.
    pub(super) fn route_done(&mut self, finished: Finished) {
        self.finished(finished);
        self.advance_routes();
    }

    /// Takes note of what the kernel has answered by now, and asks for what can be asked for.
    pub(super) fn advance_routes(&mut self) {
        for _ in 0..ANSWERS {
            // The loop looks before it sleeps for those that are not there yet.
            let Some(finished) = self.jobs.answered_by_now() else {
                break;
            };
            self.finished(finished);
        }
        while let Some(key) = self.jobs.next_waiting() {
            self.follow(key);
        }
    }

    fn finished(&mut self, (key, step): Finished) {
        let (interface, local) = self.route_labels(key);
        let (interface, dst) = (&*interface, key.dst);
        let shared = Arc::clone(&self.shared);
        let count = |what: fn(&mut super::shared::RouteCounts)| {
            if let Some(local) = local {
                shared.count(interface, local, what);
            }
        };
        let withdrawal = matches!(step, Step::Withdraw(_));
        let elsewhere = self.held_elsewhere(&step);
        let result = match step {
            Step::Install(Ok(added)) => {
                if added != Added::AlreadyThere {
                    info!(interface, %dst, "route installed");
                    count(|counts| counts.installs += 1);
                }
                Ok(false)
            }
            Step::Withdraw(Ok(deleted)) => {
                if deleted == Deleted::Deleted {
                    info!(interface, %dst, "route withdrawn");
                    count(|counts| counts.withdraws += 1);
                    self.next_in_line(key);
                }
                Ok(true)
            }
            Step::Install(Err(error)) => {
                count(|counts| counts.install_failures += 1);
                Err(error)
            }
            Step::Withdraw(Err(error)) => {
                count(|counts| counts.uninstall_failures += 1);
                Err(error)
            }
        };
        match result {
            Ok(gone) => {
                let Some(success) = self.jobs.succeeded(key, gone) else {
                    return;
                };
                if success.repair {
                    warn!(interface, %dst, "route put back: somebody else had deleted or changed it");
                    count(|counts| counts.repairs += 1);
                }
                if success.failures > 0 {
                    let failures = success.failures;
                    info!(interface, %dst, failures, "route: the kernel agrees again");
                    self.shared.troubles().remove(&key);
                }
                if success.again {
                    self.follow(key);
                } else {
                    let by = if gone {
                        Change::Withdraw
                    } else {
                        Change::Install
                    };
                    self.converged(key, Some(by));
                }
                if gone {
                    self.route_gone(key);
                }
            }
            Err(error) => {
                let text = elsewhere.unwrap_or_else(|| error.to_string());
                let Some(setback) = self.jobs.failed(key, &text) else {
                    return;
                };
                let pause = setback.pause;
                if setback.is_news {
                    warn!(interface, %error, retry = ?pause, "route");
                    let conflict = error.conflict().map(|foreign| foreign.protocol);
                    let trouble = Trouble { text, conflict };
                    self.shared.troubles().insert(key, trouble);
                } else {
                    debug!(interface, %error, retry = ?pause, "route, again");
                }
                // An addition that was under way when the session began to close is not what its
                // disconnect waits for: the deletion comes next.
                if withdrawal {
                    self.route_stuck(key, &error);
                }
                if setback.again {
                    // Something else may be wanted by now, which need not wait.
                    self.follow(key);
                } else {
                    self.jobs.retry(key, pause, now_ns());
                }
            }
        }
    }

    /// What is in the way of an addition, if that is our own route on another interface: two
    /// interfaces can lead to the same address, and the table has room for one of them.
    fn held_elsewhere(&self, step: &Step) -> Option<String> {
        let Step::Install(Err(error)) = step else {
            return None;
        };
        let foreign = error.conflict()?;
        let other = foreign
            .ifindex
            .filter(|_| foreign.protocol == self.options.route_protocol)
            .and_then(|ifindex| self.interfaces.with_index(ifindex))?;
        Some(format!(
            "the route to it is by {} at present; this one takes its place when that goes",
            other.name()
        ))
    }

    /// A route of ours is gone: one to the same address by another interface that could not be added
    /// need not wait for its next try.
    fn next_in_line(&mut self, gone: RouteKey) {
        let waiting: Vec<_> = self
            .ways_to(gone.dst)
            .filter(|key| *key != gone && self.jobs.is_failing(*key))
            .collect();
        for key in waiting {
            self.follow(key);
        }
    }

    /// Where our sessions with an address are, by interface.
    fn ways_to(&self, dst: Ipv4Addr) -> impl Iterator<Item = RouteKey> {
        self.interfaces
            .indices()
            .map(move |ifindex| RouteKey { ifindex, dst })
            .filter(|key| self.sessions.owner_of(*key).is_some())
    }

    /// Somebody else changed a route where ours are.
    pub(super) fn route_changed(&mut self, key: RouteKey, gone: bool, place: &RouteSlot) {
        match self.wanted(key) {
            Some(Wanted::Present(route)) => {
                if place.ours && (gone || place.route != Some(route)) {
                    self.put_back(key, place);
                }
            }
            Some(Wanted::Absent) if !gone => self.follow(key),
            Some(Wanted::Absent | Wanted::AsIs) | None => {}
        }
    }

    /// Somebody changed a route of theirs, which may have taken our route's place, or left it.
    pub(super) fn foreign_route_changed(&mut self, dst: Ipv4Addr, gone: bool, place: &RouteSlot) {
        let keys: Vec<_> = self.ways_to(dst).collect();
        for key in keys {
            if place.ours && gone && self.jobs.is_failing(key) {
                self.follow(key);
            } else if place.ours
                && place.replaced
                && matches!(self.wanted(key), Some(Wanted::Present(_)))
            {
                self.put_back(key, place);
            }
        }
    }

    /// A route that should be there was taken away or changed.
    fn put_back(&mut self, key: RouteKey, place: &RouteSlot) {
        self.jobs.taken(key, place.by != 0);
        self.follow(key);
    }

    /// Tries again what is due to be tried again.
    pub(super) fn retry_routes(&mut self) {
        while let Some(key) = self.jobs.due_retry(now_ns()) {
            self.follow(key);
        }
    }

    /// The route is what it should be, by this change or without any: measures how long that took, and
    /// forgets about it.
    fn converged(&mut self, key: RouteKey, by: Option<Change>) {
        let Some((failures, converging)) = self.jobs.converged(key, by) else {
            return;
        };
        if failures > 0 {
            self.shared.troubles().remove(&key);
        }
        let (interface, local) = self.route_labels(key);
        if let (Some((up, since_ns)), Some(local)) = (converging, local) {
            let took = Duration::from_nanos(now_ns().saturating_sub(since_ns));
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

    /// Interface name, and the local address of the session that the route belongs to.
    fn route_labels(&self, key: RouteKey) -> (Arc<str>, Option<Ipv4Addr>) {
        let owner = self.sessions.owner_of(key);
        let local = owner.map(|owner| owner.local.into());
        let name = owner.map(|owner| self.name_over(&owner));
        (
            name.unwrap_or_else(|| self.interfaces.name_of(key.ifindex)),
            local,
        )
    }
}
