//! What the engine shares with those who only look: the API and the metrics.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::metrics::Recorded;
use crate::view::InterfaceView;

/// Counts of what was done to routes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RouteCounts {
    pub(super) installs: u64,
    pub(super) withdraws: u64,
    pub(super) install_failures: u64,
    pub(super) uninstall_failures: u64,
}

/// Shared by engine and inspectors.
pub(super) struct Shared {
    pub(super) started_at: SystemTime,
    pub(super) recorded: Recorded,
    /// Events that did not reach us.
    pub(super) events_lost: AtomicU64,
    interfaces: Mutex<Vec<InterfaceView>>,
    counts: Mutex<BTreeMap<(String, Ipv4Addr), RouteCounts>>,
}

impl Shared {
    pub(super) fn new(recorded: Recorded) -> Self {
        Self {
            started_at: SystemTime::now(),
            recorded,
            events_lost: AtomicU64::new(0),
            interfaces: Mutex::default(),
            counts: Mutex::default(),
        }
    }

    pub(super) fn interfaces(&self) -> MutexGuard<'_, Vec<InterfaceView>> {
        // Whoever panicked while holding it left whole values behind.
        self.interfaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn counts(&self) -> MutexGuard<'_, BTreeMap<(String, Ipv4Addr), RouteCounts>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts something done to a route of an interface and local address.
    pub(super) fn count(
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
