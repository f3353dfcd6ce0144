//! Requests to disconnect: which peers they are about, and the replies, which come after the last step of the
//! last session.

use std::net::Ipv4Addr;

use dz_common::map::{Origin, PeerKey};
use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use tokio::sync::oneshot;
use tracing::warn;

use super::parts::Engine;
use super::state::keys::ifname;
use crate::command::{Disconnected, Named, Refusal, RefusalKind, Selector};

pub(super) type Reply = oneshot::Sender<Result<Vec<Disconnected>, Refusal>>;

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

    /// Begins to wait for so many peers; returns the batch's number.
    pub(super) fn begin_batch(&mut self, waiting: usize, reply: Reply) -> u64 {
        let id = self.batches.keys().next_back().map_or(0, |last| last + 1);
        let batch = Batch {
            waiting,
            done: Vec::new(),
            faults: Vec::new(),
            reply,
        };
        self.batches.insert(id, batch);
        id
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

    /// Notes what has become of one peer of a batch.
    pub(super) fn finish_one(&mut self, batch: u64, result: Result<Disconnected, String>) {
        let Some(batch) = self.batches.get_mut(&batch) else {
            return;
        };
        batch.waiting = batch.waiting.saturating_sub(1);
        match result {
            Ok(done) => batch.done.push(done),
            Err(fault) => batch.faults.push(fault),
        }
    }

    /// Replies if all peers of a batch are done with.
    pub(super) fn reply_if_done(&mut self, id: u64) {
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
