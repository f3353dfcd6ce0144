//! What the engine shares with those who only look: the API and the metrics.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use dz_common::map::PeerKey;
use foldhash::HashMap;
use tokio::sync::watch;

use crate::engine::state::keys::RouteKey;
use crate::metrics::Recorded;
use crate::net::hosts::HostRoute;
use crate::view::{FollowChanges, InterfaceView, MetricsView, PassedOver};

/// Counts of what was done to routes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RouteCounts {
    pub(crate) installs: u64,
    pub(crate) withdraws: u64,
    pub(crate) install_failures: u64,
    pub(crate) uninstall_failures: u64,
    /// Put back after somebody else had deleted or changed them.
    pub(crate) repairs: u64,
}

/// The route that makes a followed peer, or that would if nothing stood against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FollowedRoute {
    /// Its `rtm_protocol`.
    pub(crate) protocol: u8,
    pub(crate) table: u32,
    pub(crate) metric: u32,
    /// Why there is no peer.
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
    /// For people.
    pub(crate) text: String,
    /// The `rtm_protocol` of somebody else's route in its place, if that is it.
    pub(crate) conflict: Option<u8>,
}

/// Shared by engine and inspectors.
pub(crate) struct Shared {
    pub(crate) started_at: SystemTime,
    pub(crate) recorded: Recorded,
    /// Where metrics are served.
    metrics: watch::Receiver<MetricsView>,
    /// Events that did not reach us.
    pub(crate) events_lost: AtomicU64,
    /// How often the kernel had more notifications than we had room for.
    pub(crate) overruns: AtomicU64,
    /// Full checks that could not read everything.
    pub(crate) checks_failed: AtomicU64,
    /// For how long the last full check kept everything else waiting, ns.
    pub(crate) full_check_ns: AtomicU64,
    /// What the last full check could not read.
    check_error: Mutex<Option<String>>,
    troubles: Mutex<HashMap<RouteKey, Trouble>>,
    interfaces: Mutex<Vec<InterfaceView>>,
    /// Peers that cannot be, with the reason.
    refused: Mutex<HashMap<PeerKey, String>>,
    counts: Mutex<BTreeMap<(String, Ipv4Addr), RouteCounts>>,
    follow: Mutex<HashMap<PeerKey, FollowedRoute>>,
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
            interfaces: Mutex::default(),
            refused: Mutex::default(),
            counts: Mutex::default(),
            follow: Mutex::default(),
            follow_changes: Mutex::default(),
            unfollowed: Mutex::default(),
        }
    }

    pub(crate) fn interfaces(&self) -> MutexGuard<'_, Vec<InterfaceView>> {
        lock(&self.interfaces)
    }

    /// Where metrics are served at present.
    pub(crate) fn metrics(&self) -> MetricsView {
        self.metrics.borrow().clone()
    }

    /// The peers whose address cannot be a peer's, with the reason.
    pub(crate) fn refused(&self) -> MutexGuard<'_, HashMap<PeerKey, String>> {
        lock(&self.refused)
    }

    pub(crate) fn check_error(&self) -> MutexGuard<'_, Option<String>> {
        lock(&self.check_error)
    }

    /// The routes that are not what they should be although we have tried.
    pub(crate) fn troubles(&self) -> MutexGuard<'_, HashMap<RouteKey, Trouble>> {
        lock(&self.troubles)
    }

    pub(crate) fn counts(&self) -> MutexGuard<'_, BTreeMap<(String, Ipv4Addr), RouteCounts>> {
        lock(&self.counts)
    }

    /// The routes that are followed, by the peers that they make.
    pub(crate) fn follow(&self) -> MutexGuard<'_, HashMap<PeerKey, FollowedRoute>> {
        lock(&self.follow)
    }

    pub(crate) fn follow_changes(&self) -> MutexGuard<'_, FollowChanges> {
        lock(&self.follow_changes)
    }

    /// How many routes meet the conditions of `--follow` and cannot be followed, by the reason.
    pub(crate) fn unfollowed(&self) -> MutexGuard<'_, BTreeMap<PassedOver, u64>> {
        lock(&self.unfollowed)
    }

    /// Counts something done to a route of an interface and local address.
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
    // Whoever panicked while holding it left whole values behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
