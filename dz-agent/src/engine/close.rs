//! Giving sessions up: on request, or because nobody wants them any more.
//!
//! The steps, and what a crash right after each of them leaves, are in ARCHITECTURE.md, "The
//! transaction, step by step". The next start closes every session without a peer, from the first.

use std::net::Ipv4Addr;

use dz_common::control::{OP_ADMIN_DOWN, OP_DISCONNECT, Request};
use dz_common::counters::Counter;
use dz_common::map::{MAX_DUE, Origin, PeerKey, SessionKey};
use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::reconcile::{RouteKey, ifname, peer_key, route_key};
use super::transmit::FAREWELLS;
use super::{Engine, Live, backoff};
use crate::command::{Disconnected, Named, Refusal, RefusalKind, Selector};
use crate::net::routes::RouteError;

/// Peers that are disconnected before their routes are: what one run of the transmit program says
/// farewell to.
const AT_ONCE: usize = MAX_DUE as usize / FAREWELLS;

/// A session on its way out, between D1 and D4.
#[derive(Debug, Default)]
pub(super) struct Closing {
    /// Who waits for it.
    batches: Vec<u64>,
    /// How often D4 has failed.
    failures: u32,
}

/// Sessions over an index that their interface no longer has.
type Strays = HashMap<PeerKey, SessionKey>;
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
        // A route may want the peer that a request does not want any more.
        self.settle_soon(keys.iter().copied());
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
        let mut strays = None;
        for some in keys.chunks(AT_ONCE) {
            let mut told = Vec::with_capacity(some.len());
            for key in some {
                told.extend(self.disconnect_one(*key, id, &mut strays));
            }
            // Together: so many runs of the kernel program fewer.
            self.farewell(&told);
            for session in told {
                let closing = self.closing.entry(session).or_default();
                closing.batches.push(id);
                self.give_route_up(session);
            }
            // Their routes are deleted while the next ones are told; nor are other sessions to wait.
            self.advance_routes();
            self.tick();
        }
        self.reply_if_done(id);
    }

    /// Sessions over an index that their interface no longer has, by peer: on their way out, and
    /// whoever disconnects the peer waits for that.
    fn strays(&self) -> Strays {
        let indices: HashMap<_, _> = self
            .interfaces
            .iter()
            .map(|interface| (interface.name.as_str(), interface.ifindex()))
            .collect();
        let stray = |(key, live): &(&SessionKey, &Live)| {
            indices.get(&*live.interface).copied().flatten() != Some(key.ifindex)
        };
        let strays = self.sessions.iter().filter(stray);
        strays
            .map(|(key, live)| (peer_key(&live.interface, key.peer.into()), *key))
            .collect()
    }

    /// D1; returns the session that the other steps are about, if there is one.
    /// `strays`: looked for once per request, and only if a peer has no session where it should.
    fn disconnect_one(
        &mut self,
        key: PeerKey,
        batch: u64,
        strays: &mut Option<Strays>,
    ) -> Option<SessionKey> {
        let Some(peer) = self.peers.get(&key).copied() else {
            let fault = format!("peer {}: not connected", Ipv4Addr::from(key.peer));
            self.finish_one(batch, Err(fault));
            return None;
        };
        let interface = ifname(&key).to_owned();
        let here = self.interfaces.iter().find(|i| i.name == interface);
        let ifindex = here.and_then(super::Interface::ifindex);
        let dst = key.peer.into();
        // Whichever it is, an earlier one from another address included: the answer says that
        // there is none any more.
        let live = ifindex
            .and_then(|ifindex| self.owners.get(&RouteKey { ifindex, dst }).copied())
            .or_else(|| {
                let strays = strays.get_or_insert_with(|| self.strays());
                strays.get(&key).copied()
            });
        let generation = live.and_then(|key| Some(self.sessions.get(&key)?.generation));
        let request = Request {
            op: OP_DISCONNECT,
            key: live.unwrap_or(Request::NONE.key),
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
            return None;
        }
        self.peers.remove(&key);
        let gone = Disconnected {
            interface,
            local: peer.local.into(),
            peer: key.peer.into(),
        };
        info!(interface = gone.interface, local = %gone.local, peer = %gone.peer, "disconnected");
        if live.is_none() {
            self.finish_one(batch, Ok(gone));
        }
        live
    }

    /// Gives a session up that nobody wants any more, or whose address is gone.
    pub(super) fn close(&mut self, key: SessionKey, announce: bool) {
        if self.closing.contains_key(&key) {
            self.give_route_up(key);
            return;
        }
        let Some(live) = self.sessions.get(&key) else {
            return;
        };
        let slot = live.slot;
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
            self.farewell(&[key]);
        }
        self.clock.forget(slot);
        self.closing.insert(key, Closing::default());
        self.give_route_up(key);
    }

    /// D3.
    fn give_route_up(&mut self, key: SessionKey) {
        let route = route_key(&key);
        if self.owners.get(&route) == Some(&key) {
            self.follow(route);
        } else {
            // The route is another session's.
            self.finish_closing(key);
        }
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

    /// The kernel has acknowledged that a route is gone.
    pub(super) fn route_gone(&mut self, route: RouteKey) {
        if let Some(key) = self.owners.get(&route).copied() {
            self.finish_closing(key);
        }
    }

    /// D4.
    fn finish_closing(&mut self, key: SessionKey) {
        if !self.closing.contains_key(&key) {
            return;
        }
        let route = route_key(&key);
        let last = self.datapath.maps.reader().session(&key);
        if let Err(error) = self.datapath.maps.delete_session(&key) {
            self.stuck(key, &format!("its session is not deleted: {error}"));
            let closing = self.closing.entry(key).or_default();
            closing.failures = closing.failures.saturating_add(1);
            let (failures, pause) = (closing.failures, backoff(closing.failures));
            if failures == 1 {
                warn!(peer = %Ipv4Addr::from(key.peer), %error, "session not deleted; retried");
            }
            self.jobs.retry(route, pause);
            return;
        }
        let closing = self.closing.remove(&key).unwrap_or_default();
        let live = self.sessions.get(&key);
        let interface = live.map(|live| live.interface.to_string());
        let interface = interface.unwrap_or_else(|| self.interface_name(key.ifindex));
        if let Ok(Some(entry)) = last {
            self.shared.recorded.rx_versions.removed(&interface, &entry);
        }
        self.forget(&key);
        // Wanted again, or still: by another address, say. Its place is free now.
        self.room_came(route);
        for batch in closing.batches {
            let done = Disconnected {
                interface: interface.clone(),
                local: key.local.into(),
                peer: key.peer.into(),
            };
            self.finish_one(batch, Ok(done));
            self.reply_if_done(batch);
        }
    }

    /// The route of a closing session could not be deleted. It is retried; whoever waits is told.
    pub(super) fn route_stuck(&mut self, route: RouteKey, error: &RouteError) {
        if let Some(key) = self.owners.get(&route).copied() {
            self.stuck(key, &error.to_string());
        }
    }

    /// A closing session is not gone yet. Whoever waits need not wait any longer to know.
    fn stuck(&mut self, key: SessionKey, why: &str) {
        let Some(closing) = self.closing.get_mut(&key) else {
            return;
        };
        for batch in std::mem::take(&mut closing.batches) {
            let fault = format!(
                "peer {}: disconnected, and nothing is sent or answered any more, but {why}; \
                 retried until the kernel agrees",
                Ipv4Addr::from(key.peer)
            );
            self.finish_one(batch, Err(fault));
            self.reply_if_done(batch);
        }
    }

    /// Why a peer that the API did not connect is not disconnected by it, and what to do.
    fn not_by_request(&self, peer: Ipv4Addr, origin: Origin) -> String {
        if origin == Origin::Follow {
            return format!(
                "peer {peer}: followed: have its route withdrawn by whoever made it, or exclude the \
                 destination (--exclude {peer})"
            );
        }
        let file = self.options.peers.as_deref();
        let file = file.map_or_else(
            || "the file of peers".into(),
            std::path::Path::to_string_lossy,
        );
        format!("peer {peer}: configured: remove its line from {file} and send SIGHUP")
    }

    fn origin_but_api(&self, key: &PeerKey) -> Option<Origin> {
        let origin = self.peers.get(key)?.origin;
        (origin != Origin::Api).then_some(origin)
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
        if let Err(Err(refusal)) = batch.reply.send(result) {
            // Nobody waits: an undone connect, a line of the configuration, a client that is gone.
            warn!(faults = refusal.faults.join("; "), "disconnect");
        }
    }

    fn select(&self, selector: &Selector) -> Result<Vec<PeerKey>, Refusal> {
        let on = |interface: &Option<String>, key: &PeerKey| {
            interface.as_deref().is_none_or(|name| name == ifname(key))
        };
        let wanted = match selector {
            Selector::Peers(wanted) => wanted,
            Selector::All { interface } => {
                let ours = |(key, peer): &(&PeerKey, &dz_common::map::Peer)| {
                    on(interface, key) && peer.origin == Origin::Api
                };
                let ours = self.peers.iter().filter(ours);
                return Ok(ours.map(|(key, _)| *key).collect());
            }
        };
        let mut keys = Vec::new();
        let mut faults = Vec::new();
        // One pass over the peers, however many are wanted.
        let mut at: HashMap<[u8; 4], Vec<&PeerKey>> = HashMap::new();
        for key in self.peers.keys() {
            at.entry(key.peer).or_default().push(key);
        }
        let mut named = HashSet::new();
        for Named { interface, peer } in wanted {
            let found = at.get(&peer.octets()).map_or(&[][..], Vec::as_slice);
            let found = found.iter().copied().filter(|key| on(interface, key));
            match *found.collect::<Vec<_>>() {
                [] => faults.push(format!("peer {peer}: not connected")),
                [key] if let Some(origin) = self.origin_but_api(key) => {
                    faults.push(self.not_by_request(*peer, origin));
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
