//! What the test knows to be wanted: what was asked for, and what was answered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use dz_common::map::{Origin, Peer, PeerKey};
use dz_common::session::Mode;
use dz_tests::ask::Reply;
use dz_tests::bed::INTERFACE;
use dz_tests::rng::Rng;
use serde_json::{Value, json};

use crate::world::{GATEWAY, LOCALS};

/// A peer as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) local: Ipv4Addr,
    pub(crate) via: Option<Ipv4Addr>,
    pub(crate) passive: bool,
}

impl Wanted {
    /// Some peer.
    pub(crate) fn draw(rng: &Rng) -> Self {
        Self {
            local: rng.pick(&LOCALS),
            via: rng.chance(25).then_some(GATEWAY),
            passive: rng.chance(30),
        }
    }

    fn json(&self, peer: Ipv4Addr) -> Value {
        let mut json = json!({ "peer": peer, "local": self.local });
        if let Some(via) = self.via {
            json["via"] = json!(via);
        }
        if self.passive {
            json["passive"] = json!(true);
        }
        json
    }

    fn of(peer: &Peer) -> Self {
        Self {
            local: peer.local.into(),
            via: (peer.via != [0; 4]).then(|| peer.via.into()),
            passive: peer.timers.mode == Mode::Passive,
        }
    }
}

/// A request, of peers that no other request of the same round names.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Connect(BTreeMap<Ipv4Addr, Wanted>),
    Disconnect(BTreeSet<Ipv4Addr>),
    /// A batch with a fault in it: nothing of it is to happen.
    Faulty(BTreeMap<Ipv4Addr, Wanted>),
}

impl Request {
    pub(crate) fn method(&self) -> &'static str {
        match self {
            Self::Connect(_) | Self::Faulty(_) => "POST",
            Self::Disconnect(_) => "DELETE",
        }
    }

    pub(crate) fn body(&self) -> String {
        let batch = |peers: &BTreeMap<Ipv4Addr, Wanted>| -> Vec<Value> {
            peers
                .iter()
                .map(|(peer, wanted)| wanted.json(*peer))
                .collect()
        };
        match self {
            Self::Connect(peers) => json!(batch(peers)),
            Self::Disconnect(peers) => json!({ "peers": peers }),
            Self::Faulty(peers) => {
                let mut batch = batch(peers);
                batch.push(json!({ "peer": "10.96.0.1", "local": "192.0.2.1" }));
                json!(batch)
            }
        }
        .to_string()
    }

    pub(crate) fn peers(&self) -> BTreeSet<Ipv4Addr> {
        match self {
            Self::Connect(peers) | Self::Faulty(peers) => peers.keys().copied().collect(),
            Self::Disconnect(peers) => peers.clone(),
        }
    }
}

/// Everything known.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// What is wanted, of every peer that is not in doubt.
    pub(crate) peers: BTreeMap<Ipv4Addr, Wanted>,
    /// Peers of requests whose answer was cut off, as they are if those were carried out.
    doubts: BTreeMap<Ipv4Addr, Option<Wanted>>,
    /// Peers whose disconnect was answered, until they are connected again.
    pub(crate) gone: BTreeSet<Ipv4Addr>,
    /// Since the last look the agent was told to take everything back.
    withdrawing: bool,
}

impl Model {
    /// Takes note of what became of a request.
    pub(crate) fn note(&mut self, request: &Request, reply: &Reply) -> Result<()> {
        match (request, reply) {
            (Request::Faulty(_), Reply::Done) => {
                anyhow::bail!("a batch with a fault was carried out: {request:?}")
            }
            // Nothing happened, says the agent; the check looks whether that is so.
            (Request::Faulty(_), _) | (_, Reply::Refused(_)) => {}
            (Request::Connect(peers), Reply::Done) => {
                for (peer, wanted) in peers {
                    self.peers.insert(*peer, *wanted);
                    self.gone.remove(peer);
                }
            }
            (Request::Disconnect(peers), Reply::Done) => {
                for peer in peers {
                    self.peers.remove(peer);
                    self.gone.insert(*peer);
                }
            }
            (Request::Connect(peers), Reply::Cut) => {
                let doubts = peers.iter().map(|(peer, wanted)| (*peer, Some(*wanted)));
                self.doubts.extend(doubts);
            }
            (Request::Disconnect(peers), Reply::Cut) => {
                self.doubts.extend(peers.iter().map(|peer| (*peer, None)));
            }
        }
        Ok(())
    }

    /// The agent was told to take everything back, and may have got to any of it.
    pub(crate) fn withdrawn(&mut self) {
        let peers = self.peers.keys().map(|peer| (*peer, None));
        self.doubts.extend(peers);
        self.withdrawing = true;
    }

    /// Whether it may be that there is no peer at all.
    pub(crate) fn may_be_empty(&self) -> bool {
        let stays = |peer| self.doubts.get(peer) != Some(&None);
        !self.peers.keys().any(stays)
    }

    /// Compares with the peers that the kernel has: those in doubt are as they were or as they were
    /// asked to be, and from then on no longer in doubt; everything else is as it was answered.
    pub(crate) fn check(&mut self, found: &[(PeerKey, Peer)]) -> Result<()> {
        let mut present = BTreeMap::new();
        for (key, peer) in found {
            let name = key.ifname.split(|byte| *byte == 0).next();
            ensure!(name == Some(INTERFACE.as_bytes()), "{key:?}");
            ensure!(peer.origin == Origin::Api, "{key:?}: {peer:?}");
            present.insert(Ipv4Addr::from(key.peer), Wanted::of(peer));
        }
        let withdrawing = std::mem::take(&mut self.withdrawing);
        for (peer, after) in std::mem::take(&mut self.doubts) {
            // Its connect may have been carried out before all was taken back: then its session is
            // on its way out once more.
            if withdrawing && after.is_some() {
                self.gone.remove(&peer);
            }
            let now = present.get(&peer).copied();
            if now == after {
                match after {
                    Some(wanted) => self.peers.insert(peer, wanted),
                    None => self.peers.remove(&peer),
                };
                self.gone.remove(&peer);
            }
        }
        for (peer, wanted) in &self.peers {
            let now = present.get(peer);
            ensure!(
                now == Some(wanted),
                "peer {peer}: {wanted:?} was answered, there is {now:?}"
            );
        }
        for (peer, now) in &present {
            let answered = if self.gone.contains(peer) {
                ", its disconnect was answered"
            } else {
                ""
            };
            ensure!(
                self.peers.contains_key(peer),
                "peer {peer}: not wanted{answered}; there is {now:?}"
            );
        }
        Ok(())
    }
}
