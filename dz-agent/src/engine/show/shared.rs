//! The state that the engine shares with the thread of API and metrics, which only reads it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use dz_common::map::{PeerKey, SessionKey};
use tokio::sync::watch;

use crate::engine::state::keys::RouteKey;
use crate::hash::HashMap;
use crate::metrics::Recorded;
use crate::net::hosts::HostRoute;
use crate::reason::Held;
use crate::view::{FollowChanges, InterfaceView, MetricsView, PassedOver};

/// The numbers of changes of routes, for one interface and local address.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RouteCounts {
    pub(crate) installs: u64,
    pub(crate) withdraws: u64,
    pub(crate) install_failures: u64,
    pub(crate) uninstall_failures: u64,
    /// Routes put back after somebody else had deleted or changed them.
    pub(crate) repairs: u64,
    /// How often damping has begun to hold a session.
    pub(crate) holds: u64,
}

/// The route that makes a followed peer, or would make one if nothing spoke against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FollowedRoute {
    /// Its `rtm_protocol`.
    pub(crate) protocol: u8,
    pub(crate) table: u32,
    pub(crate) metric: u32,
    /// Why it makes no peer, if it does not.
    pub(crate) passed_over: Option<PassedOver>,
}

impl FollowedRoute {
    pub(crate) const fn of(route: &HostRoute) -> Self {
        Self {
            protocol: route.protocol,
            table: route.table,
            metric: route.metric,
            passed_over: None,
        }
    }

    pub(crate) const fn passed_over(route: &HostRoute, why: PassedOver) -> Self {
        Self {
            passed_over: Some(why),
            ..Self::of(route)
        }
    }
}

/// Why a route is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// The reason, for people.
    pub(crate) text: String,
    /// The `rtm_protocol` of another daemon's route in its place, if that is the reason.
    pub(crate) conflict: Option<u8>,
}

/// The state that engine and inspectors share.
pub(crate) struct Shared {
    pub(crate) started_at: SystemTime,
    pub(crate) recorded: Recorded,
    /// Where metrics are served over TCP, or why they are not.
    metrics: watch::Receiver<MetricsView>,
    /// State changes that found no room in `dz_events`.
    pub(crate) events_lost: AtomicU64,
    /// How often netlink notifications have been lost.
    pub(crate) overruns: AtomicU64,
    /// Full checks that could not read everything.
    pub(crate) checks_failed: AtomicU64,
    /// For how long the last full check kept the loop waiting, ns.
    pub(crate) full_check_ns: AtomicU64,
    /// The error of the last full check, if it has failed.
    check_error: Mutex<Option<String>>,
    troubles: Mutex<HashMap<RouteKey, Trouble>>,
    /// The sessions that damping holds: why, and until when, ns.
    holds: Mutex<HashMap<SessionKey, (Held, u64)>>,
    interfaces: Mutex<Vec<InterfaceView>>,
    /// Peers with an address that no peer may have, with the reason.
    refused: Mutex<HashMap<PeerKey, String>>,
    counts: Mutex<BTreeMap<(String, Ipv4Addr), RouteCounts>>,
    followed_routes: Mutex<HashMap<PeerKey, FollowedRoute>>,
    follow_changes: Mutex<FollowChanges>,
    unfollowed: Mutex<BTreeMap<PassedOver, u64>>,
}

impl Shared {
    pub(crate) fn new(recorded: Recorded, metrics: watch::Receiver<MetricsView>) -> Self {
        Self {
            started_at: SystemTime::now(),
            recorded,
            metrics,
            events_lost: AtomicU64::new(0),
            overruns: AtomicU64::new(0),
            checks_failed: AtomicU64::new(0),
            full_check_ns: AtomicU64::new(0),
            check_error: Mutex::default(),
            troubles: Mutex::default(),
            holds: Mutex::default(),
            interfaces: Mutex::default(),
            refused: Mutex::default(),
            counts: Mutex::default(),
            followed_routes: Mutex::default(),
            follow_changes: Mutex::default(),
            unfollowed: Mutex::default(),
        }
    }

    pub(crate) fn interfaces(&self) -> MutexGuard<'_, Vec<InterfaceView>> {
        lock(&self.interfaces)
    }

    /// Returns where metrics are served over TCP at present, or why they are not.
    pub(crate) fn metrics(&self) -> MetricsView {
        self.metrics.borrow().clone()
    }

    /// Returns the peers with an address that no peer may have, with the reason.
    pub(crate) fn refused(&self) -> MutexGuard<'_, HashMap<PeerKey, String>> {
        lock(&self.refused)
    }

    pub(crate) fn check_error(&self) -> MutexGuard<'_, Option<String>> {
        lock(&self.check_error)
    }

    /// Returns the routes whose last change has failed.
    pub(crate) fn troubles(&self) -> MutexGuard<'_, HashMap<RouteKey, Trouble>> {
        lock(&self.troubles)
    }

    /// Returns the sessions that damping holds, with the reason and the end of the hold, ns.
    pub(crate) fn holds(&self) -> MutexGuard<'_, HashMap<SessionKey, (Held, u64)>> {
        lock(&self.holds)
    }

    pub(crate) fn counts(&self) -> MutexGuard<'_, BTreeMap<(String, Ipv4Addr), RouteCounts>> {
        lock(&self.counts)
    }

    /// Returns the routes that make followed peers, or would if nothing spoke against it, by peer.
    pub(crate) fn followed_routes(&self) -> MutexGuard<'_, HashMap<PeerKey, FollowedRoute>> {
        lock(&self.followed_routes)
    }

    pub(crate) fn follow_changes(&self) -> MutexGuard<'_, FollowChanges> {
        lock(&self.follow_changes)
    }

    /// Returns how many routes meet the conditions of `--follow` and cannot be followed, by reason.
    pub(crate) fn unfollowed(&self) -> MutexGuard<'_, BTreeMap<PassedOver, u64>> {
        lock(&self.unfollowed)
    }

    /// Counts a change of a route of an interface and local address; `what` adds to the right number.
    pub(crate) fn count(
        &self,
        interface: &str,
        local: Ipv4Addr,
        what: impl FnOnce(&mut RouteCounts),
    ) {
        what(
            self.counts()
                .entry((interface.to_owned(), local))
                .or_default(),
        );
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock is no harm: every writer replaces whole values.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
