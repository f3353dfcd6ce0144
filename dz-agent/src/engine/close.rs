//! Giving sessions up: on request, or because nobody wants them any more.
//!
//! The steps, and what a crash right after each of them leaves, are in ARCHITECTURE.md, "The
//! transaction, step by step". The next start closes every session without a peer, from the first.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use dz_common::control::{OP_ADMIN_DOWN, OP_DISCONNECT, Request};
use dz_common::counters::Counter;
use dz_common::map::{Origin, PeerKey, SessionKey};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::Engine;
use super::reconcile::{RouteKey, ifname, route_key};
use crate::command::{Disconnected, Refusal, RefusalKind, Selector};
use crate::net::routes::RouteError;

/// A session on its way out, between steps 1 and 4.
#[derive(Debug)]
pub(super) struct Closing {
    /// Who waits for it.
    batch: Option<u64>,
}

type Reply = oneshot::Sender<Result<Vec<Disconnected>, Refusal>>;

/// A disconnect that is waiting for its last step.
#[derive(Debug)]
pub(super) struct Batch {
    waiting: usize,
    done: Vec<Disconnected>,
    faults: Vec<String>,
    reply: Reply,
}

impl Engine {
    /// Starts a disconnect; the reply comes after the last step of the last session.
    pub(super) fn disconnect(&mut self, selector: &Selector, reply: Reply) {
        let keys = match self.select(selector) {
            Ok(keys) => keys,
            Err(refusal) => {
                // Whoever asked and went away does not need the answer.
                let _ = reply.send(Err(refusal));
                return;
            }
        };
        self.disconnect_keys(keys, reply);
    }

    pub(super) fn disconnect_keys(&mut self, keys: Vec<PeerKey>, reply: Reply) {
        let id = self.batches.keys().next_back().map_or(0, |last| last + 1);
        let batch = Batch {
            waiting: keys.len(),
            done: Vec::new(),
            faults: Vec::new(),
            reply,
        };
        self.batches.insert(id, batch);
        for key in keys {
            self.disconnect_one(key, id);
        }
        self.reply_if_done(id);
    }

    fn disconnect_one(&mut self, key: PeerKey, batch: u64) {
        let Some(peer) = self.peers.get(&key).copied() else {
            return;
        };
        let interface = ifname(&key).to_owned();
        let ifindex = self
            .interfaces
            .iter()
            .find(|i| i.name == interface)
            .and_then(|i| i.ifindex());
        let session = ifindex.map(|ifindex| SessionKey {
            ifindex,
            local: peer.local,
            peer: key.peer,
        });
        let live = session.filter(|session| self.sessions.contains_key(session));
        let generation = live.and_then(|key| Some(self.sessions.get(&key)?.generation));
        let request = Request {
            op: OP_DISCONNECT,
            key: session.unwrap_or(Request::NONE.key),
            generation: generation.unwrap_or(0),
            peer: key,
            ..Request::NONE
        };
        let outcome = self.datapath.control(&request);
        if !matches!(
            outcome,
            Ok(Counter::ControlDone | Counter::ControlNoSession)
        ) {
            let fault = format!(
                "peer {}: the kernel refused: {outcome:?}",
                Ipv4Addr::from(key.peer)
            );
            self.finish_one(batch, Err(fault));
            return;
        }
        self.peers.remove(&key);
        let gone = Disconnected {
            interface,
            local: peer.local.into(),
            peer: key.peer.into(),
        };
        info!(interface = gone.interface, local = %gone.local, peer = %gone.peer, "disconnected");
        match live {
            Some(session) => {
                self.farewell(session);
                self.closing.insert(session, Closing { batch: Some(batch) });
                self.follow(route_key(&session));
            }
            None => self.finish_one(batch, Ok(gone)),
        }
    }

    /// Gives a session up that nobody wants any more, or whose address is gone.
    pub(super) fn close(&mut self, key: SessionKey, announce: bool) {
        if self.closing.contains_key(&key) {
            return;
        }
        let Some(live) = self.sessions.get(&key) else {
            return;
        };
        let request = Request {
            op: OP_ADMIN_DOWN,
            key,
            generation: live.generation,
            ..Request::NONE
        };
        if let Err(error) = self.datapath.control(&request) {
            warn!(peer = %Ipv4Addr::from(key.peer), %error, "session not closed; retried");
            return;
        }
        if announce {
            self.farewell(key);
        }
        self.clock.forget(&key);
        self.closing.insert(key, Closing { batch: None });
        self.follow(route_key(&key));
    }

    /// Gives every session up, whoever wanted it.
    pub(super) fn disconnect_all(&mut self) {
        let (reply, _) = oneshot::channel();
        let keys: Vec<_> = self.peers.keys().copied().collect();
        self.disconnect_keys(keys, reply);
        let left: Vec<_> = self.sessions.keys().copied().collect();
        for key in left {
            self.close(key, true);
        }
    }

    /// Step 4, once the kernel has acknowledged that the route is gone.
    pub(super) fn route_gone(&mut self, route: RouteKey) {
        let Some(key) = self.owners.get(&route).copied() else {
            return;
        };
        let Some(closing) = self.closing.get(&key) else {
            return;
        };
        let batch = closing.batch;
        let last = self.datapath.maps.reader().session(&key);
        let deleted = self
            .remove_gate(route)
            .and_then(|()| self.datapath.maps.delete_session(&key));
        if let Err(error) = deleted {
            warn!(peer = %Ipv4Addr::from(key.peer), %error, "session not deleted; retried");
            self.closing.remove(&key);
            return;
        }
        self.closing.remove(&key);
        self.owners.remove(&route);
        let interface = self.interface_name(key.ifindex);
        if let Ok(Some(entry)) = last {
            self.shared.recorded.rx_versions.removed(&interface, &entry);
        }
        if let Some(live) = self.sessions.remove(&key) {
            self.give_up_resolving(&key, &live);
            self.slots.release(live.slot);
        }
        if self.peer_of(route).is_some() {
            // Wanted again, or still: by another address, say. Its place is free now.
            self.check_soon();
        }
        if let Some(batch) = batch {
            let (local, peer) = (key.local.into(), key.peer.into());
            self.finish_one(
                batch,
                Ok(Disconnected {
                    interface,
                    local,
                    peer,
                }),
            );
            self.reply_if_done(batch);
        }
    }

    /// The route of a closing session could not be deleted. It is retried; whoever waits is told.
    pub(super) fn route_stuck(&mut self, route: RouteKey, error: &RouteError) {
        let closing = self
            .owners
            .get(&route)
            .and_then(|key| self.closing.get_mut(key));
        if let Some(batch) = closing.and_then(|closing| closing.batch.take()) {
            let fault = format!("{error}; the session stays AdminDown, and this is retried");
            self.finish_one(batch, Err(fault));
            self.reply_if_done(batch);
        }
    }

    /// Why a peer that the API did not connect is not disconnected by it, and what to do.
    fn not_by_request(&self, peer: Ipv4Addr) -> String {
        let file = self.options.peers.as_deref();
        let file = file.map_or_else(
            || "the file of peers".into(),
            std::path::Path::to_string_lossy,
        );
        format!("peer {peer}: configured: remove its line from {file} and send SIGHUP")
    }

    fn finish_one(&mut self, batch: u64, result: Result<Disconnected, String>) {
        let Some(batch) = self.batches.get_mut(&batch) else {
            return;
        };
        batch.waiting = batch.waiting.saturating_sub(1);
        match result {
            Ok(done) => batch.done.push(done),
            Err(fault) => batch.faults.push(fault),
        }
    }

    fn reply_if_done(&mut self, id: u64) {
        if self.batches.get(&id).is_none_or(|batch| batch.waiting > 0) {
            return;
        }
        let Some(batch) = self.batches.remove(&id) else {
            return;
        };
        let result = if batch.faults.is_empty() {
            Ok(batch.done)
        } else {
            Err(Refusal {
                kind: RefusalKind::Internal,
                faults: batch.faults,
            })
        };
        // Whoever asked and went away does not need the answer.
        let _ = batch.reply.send(result);
    }

    fn select(&self, selector: &Selector) -> Result<Vec<PeerKey>, Refusal> {
        let (interface, wanted) = match selector {
            Selector::All { interface } => (interface, None),
            Selector::Peers { interface, peers } => (interface, Some(peers)),
        };
        let here = |key: &PeerKey| interface.as_deref().is_none_or(|name| name == ifname(key));
        let mut keys = Vec::new();
        let mut faults = Vec::new();
        let Some(wanted) = wanted else {
            let ours = |(key, peer): &(&PeerKey, &dz_common::map::Peer)| {
                here(key) && peer.origin == Origin::Api
            };
            return Ok(self
                .peers
                .iter()
                .filter(ours)
                .map(|(key, _)| *key)
                .collect());
        };
        // One pass over the peers, however many are wanted.
        let mut at: HashMap<[u8; 4], Vec<&PeerKey>> = HashMap::new();
        for key in self.peers.keys().filter(|key| here(key)) {
            at.entry(key.peer).or_default().push(key);
        }
        let mut named = HashSet::new();
        for peer in wanted {
            let found = at.get(&peer.octets()).map_or(&[][..], Vec::as_slice);
            match *found {
                [] => faults.push(format!("peer {peer}: not connected")),
                [key] if self.peers.get(key).is_some_and(|p| p.origin != Origin::Api) => {
                    faults.push(self.not_by_request(*peer));
                }
                [key] if !named.insert(*key) => faults.push(format!("peer {peer}: named twice")),
                [key] => keys.push(*key),
                _ => faults.push(format!("peer {peer}: on several interfaces; name one")),
            }
        }
        if faults.is_empty() {
            return Ok(keys);
        }
        Err(Refusal {
            kind: RefusalKind::NotFound,
            faults,
        })
    }
}
