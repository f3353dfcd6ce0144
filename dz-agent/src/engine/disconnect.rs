//! Requests to disconnect: which peers they are about, and why others are not theirs to disconnect.

use std::net::Ipv4Addr;

use dz_common::map::{Origin, PeerKey};
use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};

use super::hands::Hands;
use super::parts::Engine;
use super::state::batches::Reply;
use super::state::keys::ifname;
use crate::command::{Named, Refusal, RefusalKind, Selector};

impl<H: Hands> Engine<H> {
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
