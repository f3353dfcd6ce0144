//! The full check: everything is read, compared and put right, whatever events came or did not come.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;

use dz_common::map::{SessionEntry, SessionKey};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::reconcile::{self, Facts, Op, route_key};
use super::{Engine, Live, backoff};
use crate::cli::PeerPassive;
use crate::datapath::now_ns;

/// What is to be done, and what could not be read.
type Decided = (Vec<Op>, Option<anyhow::Error>);

impl Engine {
    /// Reads everything and carries out what is missing. What could not be read is read again soon.
    pub(super) async fn full_check(&mut self) {
        let begun_ns = now_ns();
        let (ops, failed) = self
            .read_and_decide()
            .await
            .unwrap_or_else(|error| (Vec::new(), Some(error)));
        if !ops.is_empty() {
            debug!(steps = ops.len(), "full check");
        }
        // Room first, so that what is opened finds it.
        for op in ops.iter().filter(|op| matches!(op, Op::Close { .. })) {
            self.carry_out(*op);
        }
        for op in ops.iter().filter(|op| !matches!(op, Op::Close { .. })) {
            self.carry_out(*op);
        }
        match failed {
            Some(error) => self.check_failed(&error),
            None if self.check_failures > 0 => {
                info!(
                    failures = self.check_failures,
                    "full check: everything read again"
                );
                self.check_failures = 0;
                *self.shared.check_error() = None;
            }
            None => {}
        }
        let took_ns = now_ns().saturating_sub(begun_ns);
        self.shared.full_check_ns.store(took_ns, Ordering::Relaxed);
    }

    pub(super) fn check_failed(&mut self, error: &anyhow::Error) {
        self.check_failures = self.check_failures.saturating_add(1);
        self.shared.checks_failed.fetch_add(1, Ordering::Relaxed);
        let pause = backoff(self.check_failures);
        self.check_by(Instant::now() + pause);
        let text = format!("{error:#}");
        let mut last = self.shared.check_error();
        if last.as_ref() == Some(&text) {
            debug!(error = text, retry = ?pause, "full check, again");
        } else {
            warn!(error = text, retry = ?pause, "full check");
            *last = Some(text);
        }
    }

    /// Routes are read first: between the reading of the sessions and the decision, nothing waits,
    /// so that nothing of ours changes.
    async fn read_and_decide(&mut self) -> anyhow::Result<Decided> {
        let unread = self.refresh_interfaces().await;
        let unseen = self.look_around().await;
        let unfollowed = self.read_followed().await;
        let routes = self.connections.routes.list(None).await;
        self.peers = self.datapath.maps.reader().peers()?.into_iter().collect();
        self.settle_all();
        let sessions = self.datapath.maps.reader().sessions()?;
        self.forget_missing(&sessions);
        for entry in &sessions {
            self.adopt(entry);
        }
        let mut ops = reconcile::decide(&Facts {
            peers: &self.peers,
            carriers: &self.carriers(),
            sessions: &sessions,
            routes: routes.as_deref().unwrap_or_default(),
            detours: self.detours.known(),
            ignore_peer_passive: self.options.peer_passive == PeerPassive::Ignore,
        });
        if routes.is_err() {
            // Sessions need not wait for a table that cannot be read.
            ops.retain(|op| !matches!(op, Op::Follow(_)));
        }
        let failed = unread
            .or(unseen)
            .or(unfollowed)
            .or(routes.err().map(anyhow::Error::from));
        Ok((ops, failed))
    }

    /// Forgets sessions that somebody else has deleted. Those on their way out go that way.
    fn forget_missing(&mut self, read: &[SessionEntry]) {
        let there: HashSet<_> = read.iter().map(|entry| entry.key).collect();
        let missing = |key: &&SessionKey| !there.contains(*key) && !self.closing.contains_key(*key);
        let missing: Vec<_> = self.sessions.keys().filter(missing).copied().collect();
        for key in missing {
            // A list read while somebody deletes may lack what is there.
            if !matches!(self.datapath.maps.reader().session(&key), Ok(None)) {
                continue;
            }
            let peer = Ipv4Addr::from(key.peer);
            warn!(%peer, "somebody else has deleted the session");
            self.forget(&key);
        }
    }

    /// Takes note that a session is not there any more.
    pub(super) fn forget(&mut self, key: &SessionKey) {
        let route = route_key(key);
        if self.owners.get(&route) == Some(key) {
            self.owners.remove(&route);
        }
        if !self.is_peer(route.dst) {
            self.detours.forget(route.dst);
        }
        if let Some(live) = self.sessions.remove(key) {
            self.clock.forget(live.slot);
            self.give_up_resolving(key, &live);
            self.slots.release(live.slot);
        }
    }

    /// Takes note of a session that the map has and we do not know: that of an earlier agent.
    fn adopt(&mut self, entry: &SessionEntry) {
        let owner = self.owners.entry(route_key(&entry.key));
        owner.or_insert(entry.key);
        match self.sessions.get(&entry.key) {
            Some(live) if live.generation == entry.generation => return,
            // Deleted and inserted again by somebody else.
            Some(live) if live.slot != entry.slot => {
                self.clock.forget(live.slot);
                self.slots.release(live.slot);
            }
            _ => {}
        }
        self.slots.claim(entry.slot);
        let interface = self.interface_name(entry.key.ifindex);
        let key = reconcile::peer_key(&interface, entry.key.peer.into());
        let next_hop = self.next_hop(entry.key.ifindex, entry.key.peer, self.peers.get(&key));
        let live = Live {
            generation: entry.generation,
            slot: entry.slot,
            interface: interface.into(),
            next_hop,
        };
        self.sessions.insert(entry.key, live);
        self.detours.look(entry.key.peer.into());
        self.clock.set(entry.slot, entry.key, now_ns());
    }

    fn carry_out(&mut self, op: Op) {
        match op {
            Op::Open(key) => {
                if let Err(error) = self.open(&key) {
                    warn!(peer = %Ipv4Addr::from(key.peer), %error, "session not opened; retried");
                }
            }
            Op::Close { key, announce } => self.close(key, announce),
            Op::Follow(key) => self.follow(key),
            Op::Divert(key) => self.divert(key),
        }
    }
}
