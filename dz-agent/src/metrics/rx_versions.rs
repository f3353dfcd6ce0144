//! Counts packets received by the version that the peer announces.
//!
//! The kernel counts per session. Packets since the last look are attributed to the version that the
//! session's peer announces now: off by at most one look when a peer is upgraded.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dz_common::map::{SessionEntry, SessionKey};

use crate::view::SessionView;

/// Versions told apart per interface and local address. A peer chooses what it announces: without
/// a bound one peer could fill our memory and the metrics with series.
const MAX_VERSIONS: usize = 64;
/// Label for the versions beyond.
const OTHERS: &str = "others";

/// Packets received by version.
type Versions = BTreeMap<String, u64>;

/// Totals by version, which only grow. Shared by the engine, which reports removals, and the metrics.
#[derive(Debug, Default)]
pub struct RxVersions {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// `received` at the last look, per session that existed then.
    seen: HashMap<(SessionKey, u32), u64>,
    /// By interface, local address and version.
    totals: BTreeMap<Arc<str>, BTreeMap<[u8; 4], Versions>>,
    removals: u64,
}

impl RxVersions {
    /// Notes a session that is gone, with its last entry.
    pub fn removed(&self, interface: &Arc<str>, entry: &SessionEntry) {
        let mut inner = self.lock();
        inner.attribute(interface, entry);
        inner.seen.remove(&(entry.key, entry.generation));
        inner.removals += 1;
    }

    /// Returns the number of removals so far, of which [`RxVersions::look`] wants that before the snapshot.
    pub fn removals(&self) -> u64 {
        self.lock().removals
    }

    /// Notes all sessions and calls `row` for each total: interface, local address,
    /// version, packets. Looks must come in the order of their snapshots.
    ///
    /// # Errors
    /// An error of `row`.
    pub fn look<E>(
        &self,
        sessions: &[SessionView],
        removals_before: u64,
        mut row: impl FnMut(&str, [u8; 4], &str, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut inner = self.lock();
        // A session removed after the snapshot was taken is still in it. It is not among the seen
        // any more: counting it as new would count all its packets twice. New ones can wait.
        let settled = inner.removals == removals_before;
        for SessionView {
            interface, entry, ..
        } in sessions
        {
            if settled || inner.seen.contains_key(&(entry.key, entry.generation)) {
                inner.attribute(interface, entry);
            }
        }
        // A session that went without `removed` must not stay here for ever.
        if inner.seen.len() > sessions.len() {
            let live: HashSet<_> = sessions
                .iter()
                .map(|s| (s.entry.key, s.entry.generation))
                .collect();
            inner.seen.retain(|session, _| live.contains(session));
        }
        for (interface, locals) in &inner.totals {
            for (&local, versions) in locals {
                for (version, &total) in versions {
                    row(interface, local, version, total)?;
                }
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn attribute(&mut self, interface: &Arc<str>, entry: &SessionEntry) {
        let seen = self.seen.entry((entry.key, entry.generation)).or_default();
        let gained = entry.received.saturating_sub(*seen);
        if gained == 0 {
            return;
        }
        *seen = entry.received;
        let versions = self
            .totals
            .entry(Arc::clone(interface))
            .or_default()
            .entry(entry.key.local)
            .or_default();
        let mut version = entry.session.peer_version.to_string();
        if versions.len() >= MAX_VERSIONS && !versions.contains_key(&version) {
            version = OTHERS.to_owned();
        }
        *versions.entry(version).or_default() += gained;
    }
}
