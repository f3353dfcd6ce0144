//! Disconnects peers: it selects them, and takes D1, the commit point. [`super::close`] has the further
//! steps.

use std::net::Ipv4Addr;

use dz_common::control::{OP_DISCONNECT, Request};
use dz_common::counters::Counter;
use dz_common::map::{MAX_DUE, PeerKey, SessionKey};
use tokio::sync::oneshot;
use tracing::info;

use crate::command::{Disconnected, Selector};
use crate::engine::decide::select::select;
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::batches::Reply;
use crate::engine::state::farewell::FAREWELLS;
use crate::engine::state::interface::Interface;
use crate::engine::state::keys::{RouteKey, ifname, peer_key};
use crate::engine::state::sessions::Live;
use crate::hash::HashMap;

/// The number of peers that go through D1 together, before any of their routes is deleted: their farewell
/// packets fit into one run of the transmit program, and the first route does not wait long.
const PEERS_PER_ROUND: usize = (MAX_DUE as u64 / FAREWELLS) as usize;

/// Sessions over a kernel index that their interface no longer has, by peer.
type Strays = HashMap<PeerKey, SessionKey>;

impl<H: Hands> Engine<H> {
    /// Begins a requested disconnect. The reply is sent when every session has been closed.
    pub(crate) fn disconnect(&mut self, selector: &Selector, reply: Reply) {
        let interfaces: Vec<_> = self.interfaces.iter().map(Interface::name).collect();
        let file = self.options.peers.as_deref();
        let keys = match select(&self.peers, &interfaces, file, selector) {
            Ok(keys) => keys,
            Err(refusal) => {
                // Fails if the client is gone.
                let _ = reply.send(Err(refusal));
                return;
            }
        };
        // A followed route may want the peer from now on.
        self.settle_soon(keys.iter().copied());
        self.disconnect_keys(keys, reply);
    }

    /// Disconnects these peers. The reply is sent when every session has been closed.
    pub(crate) fn disconnect_keys(&mut self, keys: Vec<PeerKey>, reply: Reply) {
        let id = self.closings.batches_mut().begin(keys.len(), reply);
        let mut strays = None;
        for some in keys.chunks(PEERS_PER_ROUND) {
            let mut told = Vec::with_capacity(some.len());
            for key in some {
                told.extend(self.disconnect_one(*key, id, &mut strays));
            }
            self.begin_closing(&told);
            for session in told {
                self.closings.wait_for(&session, id);
                self.go_on(session);
            }
            // Routes of these are deleted while the next peers are told, and other sessions do not wait for
            // the whole request.
            self.advance_routes();
            self.tick();
            self.say_farewells();
        }
        self.reply_if_done(id);
    }

    /// Disconnects every peer, and closes every session without one.
    pub(crate) fn disconnect_all(&mut self) {
        let (reply, _) = oneshot::channel();
        let keys: Vec<_> = self.peers.keys().copied().collect();
        if !keys.is_empty() {
            self.disconnect_keys(keys, reply);
        }
        let left = self
            .sessions
            .keys()
            .filter(|key| !self.closings.contains(key));
        for key in left.collect::<Vec<_>>() {
            self.close(key, true);
        }
    }

    /// Returns the sessions over a kernel index that their interface no longer has. They are being closed, and
    /// a disconnect of their peer waits for that.
    fn strays(&self) -> Strays {
        let indices: HashMap<_, _> = self
            .interfaces
            .iter()
            .map(|interface| (interface.name(), interface.ifindex()))
            .collect();
        let stray = |(key, live): &(&SessionKey, &Live)| {
            indices.get(&**live.interface()).copied().flatten() != Some(key.ifindex)
        };
        let strays = self.sessions.iter().filter(stray);
        strays
            .map(|(key, live)| (peer_key(live.interface(), key.peer.into()), *key))
            .collect()
    }

    /// D1: deletes a peer and ends its session. Returns the session that the further steps close, if there is
    /// one. `strays`: looked for once per request, and only if a peer has no session over its interface.
    fn disconnect_one(
        &mut self,
        key: PeerKey,
        batch: u64,
        strays: &mut Option<Strays>,
    ) -> Option<SessionKey> {
        let Some(peer) = self.peers.get(&key).copied() else {
            let fault = format!("peer {}: not connected", Ipv4Addr::from(key.peer));
            self.closings.batches_mut().finish_one(batch, Err(fault));
            return None;
        };
        let interface = self.interfaces.kept_name(ifname(&key));
        let ifindex = self.interfaces.index_of(&interface);
        let dst = key.peer.into();
        // Also an earlier session from another address: the answer promises that there is none any more.
        let live = ifindex
            .and_then(|ifindex| self.sessions.owner_of(RouteKey { ifindex, dst }))
            .or_else(|| {
                let strays = strays.get_or_insert_with(|| self.strays());
                strays.get(&key).copied()
            });
        let generation = live.and_then(|key| Some(self.sessions.get(&key)?.generation()));
        let request = Request {
            op: OP_DISCONNECT,
            key: live.unwrap_or(Request::NONE.key),
            generation: generation.unwrap_or(0),
            peer: key,
            ..Request::NONE
        };
        let outcome = self.hands.control(&request);
        if !matches!(
            outcome,
            Ok(Counter::ControlDone | Counter::ControlNoSession)
        ) {
            let fault = format!(
                "peer {}: the kernel refused: {outcome:?}",
                Ipv4Addr::from(key.peer)
            );
            self.closings.batches_mut().finish_one(batch, Err(fault));
            return None;
        }
        self.peers.remove(&key);
        let gone = Disconnected {
            interface,
            local: peer.local.into(),
            peer: key.peer.into(),
            warnings: Vec::new(),
        };
        info!(interface = &*gone.interface, local = %gone.local, peer = %gone.peer, "disconnected");
        if live.is_none() {
            self.closings.batches_mut().finish_one(batch, Ok(gone));
        }
        live
    }
}
