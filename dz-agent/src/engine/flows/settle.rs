//! Peers that nobody has to ask for: those of the configuration file and those that followed routes
//! make. One engine for both: a source says what it wants of a peer, and only what differs from
//! what is there is touched.
//!
//! For one interface and peer the file comes first, then a request through the API, then a route.

use std::net::Ipv4Addr;

use anyhow::Context;
use dz_common::ingress::Link;
use dz_common::map::{Origin, Peer, PeerKey};
use foldhash::HashSet;
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::engine::flows::followed::say_unfollowed;
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::show::shared::FollowedRoute;
use crate::engine::state::followed::Says;
use crate::engine::state::keys::{RouteKey, ifname, peer_key};
use crate::engine::state::wants::same;
use crate::view::{FollowChanges, PassedOver};

/// What should become of a peer.
#[derive(Clone, Copy, Debug)]
enum Wish {
    /// It is to be just so.
    Peer(Peer),
    /// It is not to be.
    Nobody,
    /// It is as it is: a request's, or not known.
    AsIs,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settled {
    pub(crate) added: usize,
    pub(crate) changed: usize,
    pub(crate) removed: usize,
}

impl<H: Hands> Engine<H> {
    /// Looks at what is to be looked at by now.
    pub(crate) fn settle_some(&mut self) {
        let dirty = self.wants.take_dirty();
        self.settle(dirty);
        self.tick();
    }

    /// Looks at every peer, there or wanted. Nothing is sent: what is opened is due at once.
    pub(crate) fn settle_all(&mut self) -> Settled {
        let followed = self.wants.followed().keys().filter_map(|key| {
            let interface = self.interfaces.with_index(key.ifindex)?;
            Some(peer_key(interface.name(), key.dst))
        });
        let mut others: HashSet<PeerKey> = followed.collect();
        others.extend(self.wants.configured().keys());
        others.extend(self.wants.waiting());
        others.extend(self.shared.follow().keys());
        // Peers in the order in which their map has them, so that it is walked through and not
        // jumped about in.
        let mut keys: Vec<PeerKey> = self.peers.keys().copied().collect();
        keys.extend(others.iter().filter(|key| !self.peers.contains_key(*key)));
        self.wants.take_dirty();
        self.settle(keys)
    }

    /// Makes peers what the sources want, and opens what can be opened.
    fn settle(&mut self, keys: impl IntoIterator<Item = PeerKey>) -> Settled {
        let mut settled = self.carry_wishes(keys);
        // Whoever waits gets what room there is, in whatever order it came.
        let room = self.room();
        let next: Vec<_> = self.wants.waiting().take(room).copied().collect();
        if !next.is_empty() {
            settled.added += self.carry_wishes(next).added;
        }
        self.open_wanted();
        settled
    }

    fn carry_wishes(&mut self, keys: impl IntoIterator<Item = PeerKey>) -> Settled {
        let mut settled = Settled::default();
        let mut changes = FollowChanges::default();
        let (mut stale, mut wanted) = (Vec::new(), Vec::new());
        for key in keys {
            self.wants.wait_no_longer(&key);
            let found = self.peers.get(&key).copied();
            match (self.wish(&key), found) {
                (Wish::Nobody, Some(found)) => {
                    settled.removed += 1;
                    changes.disappeared += u64::from(found.origin == Origin::Follow);
                    stale.push(key);
                }
                (Wish::Peer(peer), found) if found != Some(peer) => {
                    let changed = found.is_some_and(|found| !same(&found, &peer));
                    let goes_on = found.is_none_or(|found| self.goes_on(&key, &found, &peer));
                    // An earlier session that is going already need not be given up.
                    if !goes_on && !self.is_closing(&key) {
                        stale.push(key);
                    }
                    settled.changed += usize::from(changed);
                    changes.changed += u64::from(changed && peer.origin == Origin::Follow);
                    wanted.push((key, peer, found.is_some()));
                }
                (Wish::Nobody | Wish::AsIs | Wish::Peer(_), _) => {}
            }
        }
        self.give_up(&stale);
        // The file before routes, should there be too little room.
        wanted.sort_unstable_by_key(|(key, peer, _)| (peer.origin == Origin::Follow, *key));
        for (key, peer, known) in wanted {
            if self.want(key, peer) && !known {
                settled.added += 1;
                changes.appeared += u64::from(peer.origin == Origin::Follow);
            }
        }
        self.shared.follow_changes().add(&changes);
        settled
    }

    /// What the sources want of a peer; who says so is shown.
    fn wish(&self, key: &PeerKey) -> Wish {
        let dst = Ipv4Addr::from(key.peer);
        let says = self.followed_peer(key);
        let mut shown = None;
        let wish = if self.wants.policy().excluded(dst).is_some() {
            if let Says::Peer(_, route) | Says::NoSource(route) = says {
                shown = Some(FollowedRoute::passed_over(&route, PassedOver::Excluded));
            }
            Wish::Nobody
        } else if let Some(peer) = self.wants.configured().get(key) {
            Wish::Peer(self.with_ends(key, *peer))
        } else {
            let origin = self.peers.get(key).map(|peer| peer.origin);
            match says {
                _ if origin == Some(Origin::Api) => Wish::AsIs,
                Says::Unknown if origin == Some(Origin::Follow) => return Wish::AsIs,
                Says::Peer(peer, route) => {
                    shown = Some(FollowedRoute::of(&route));
                    Wish::Peer(peer)
                }
                Says::NoSource(route) => {
                    shown = Some(FollowedRoute::passed_over(&route, PassedOver::NoSource));
                    Wish::Nobody
                }
                Says::Nothing | Says::Unknown => Wish::Nobody,
            }
        };
        let before = match shown {
            Some(route) => self.shared.follow().insert(*key, route),
            None => self.shared.follow().remove(key),
        };
        // Once; an excluded one is as its owner wants it.
        if let Says::NoSource(route) = says
            && shown == Some(FollowedRoute::passed_over(&route, PassedOver::NoSource))
            && shown != before
        {
            say_unfollowed(&route, PassedOver::NoSource);
        }
        wish
    }

    /// Gives peers up; nobody waits for it. Routes that are stuck are logged and retried by
    /// themselves.
    fn give_up(&mut self, keys: &[PeerKey]) {
        if keys.is_empty() {
            return;
        }
        for key in keys {
            let excluded = self.wants.policy().excluded(key.peer.into());
            let origin = self.peers.get(key).map(|peer| peer.origin);
            if let (Some(prefix), Some(Origin::Api)) = (excluded, origin) {
                warn!(peer = %Ipv4Addr::from(key.peer), %prefix, "peer of a request given up: it is excluded now");
            }
        }
        let (reply, _) = oneshot::channel();
        self.disconnect_keys(keys.to_vec(), reply);
        // A refused commit is not, for then nothing has begun.
        for key in keys.iter().filter(|key| self.peers.contains_key(key)) {
            warn!(peer = %Ipv4Addr::from(key.peer), "not given up, the kernel refused; tried again in some seconds");
        }
    }

    /// Whether a peer's session goes on as the peer changes: who wants it is nothing to the session, nor is
    /// the gateway where packets have no next hop.
    fn goes_on(&self, key: &PeerKey, found: &Peer, wanted: &Peer) -> bool {
        let interface = self.interfaces.named(ifname(key));
        let link = interface.and_then(|interface| Some(interface.ends()?.link));
        let via = if link == Some(Link::Layer3) {
            wanted.via
        } else {
            found.via
        };
        same(&Peer { via, ..*found }, wanted)
    }

    /// Writes a peer; its session is opened when its address is there and an earlier session with
    /// the peer is closed. Returns whether the peer is as wanted.
    fn want(&mut self, key: PeerKey, peer: Peer) -> bool {
        let address = Ipv4Addr::from(key.peer);
        let found = self.peers.get(&key).copied();
        let goes_on = found.map(|found| self.goes_on(&key, &found, &peer));
        if goes_on == Some(false) && !self.is_closing(&key) {
            return false; // could not be given up, and must not change under its session
        }
        if found.is_none() && self.room() == 0 {
            if self.wants.wait_for_room(key) {
                warn!(peer = %address, "no room for this peer, and perhaps others: raise --max-sessions");
            }
            if let Some(route) = self.shared.follow().get_mut(&key) {
                route.passed_over = Some(PassedOver::NoRoom);
            }
            return false;
        }
        let written = self.hands.set_peer(&key, &peer);
        if let Err(error) = written.context("dz_peers") {
            warn!(peer = %address, error = format!("{error:#}"), "peer not written; tried again in some seconds");
            return false;
        }
        self.peers.insert(key, peer);
        if goes_on == Some(true) {
            // The session goes on. A route of ours is there for one who wants it, as it is to be now,
            // but not beside the one that is followed.
            if let Some(ifindex) = self.interfaces.index_of(ifname(&key)) {
                let dst = address;
                self.adjust_route(RouteKey { ifindex, dst });
            }
        } else {
            if peer.origin == Origin::Follow {
                info!(interface = ifname(&key), local = %Ipv4Addr::from(peer.local), peer = %address, "followed");
            }
            self.wants.open_later(key);
        }
        true
    }

    /// Opens sessions of peers that were waiting for an earlier session's end, or are new. The
    /// others are parked, and the next full check looks at them again.
    fn open_wanted(&mut self) {
        for key in self.wants.take_to_open() {
            let Some(peer) = self.peers.get(&key) else {
                continue;
            };
            let local = Ipv4Addr::from(peer.local);
            let interface = self.interfaces.named(ifname(&key));
            let interface = interface.filter(|i| i.unavailable().is_none());
            let Some(interface) = interface else {
                continue;
            };
            if !self.interfaces.may_use(interface, local) {
                // Of another interface, perhaps.
                self.interfaces.host_addresses_mut().ask_about(local);
                self.agenda.check_soon(self.hands.now_ns());
                continue;
            }
            let no_peer = self
                .interfaces
                .no_peer(interface, key.peer.into(), local)
                .is_some();
            if no_peer || self.owner_of(&key).is_some() {
                continue;
            }
            if self.sessions.room() == 0 {
                self.wants.open_later(key);
                continue;
            }
            if let Err(error) = self.open(&key) {
                warn!(peer = %Ipv4Addr::from(key.peer), %error, "session not opened; retried");
                self.agenda.check_soon(self.hands.now_ns());
            }
        }
    }

    fn room(&self) -> usize {
        (self.capacity() as usize).saturating_sub(self.peers.len())
    }

    /// The session that a peer has, or an earlier one that is on its way out.
    fn owner_of(&self, key: &PeerKey) -> Option<dz_common::map::SessionKey> {
        let (ifindex, dst) = (self.interfaces.index_of(ifname(key))?, key.peer.into());
        self.sessions.owner_of(RouteKey { ifindex, dst })
    }

    fn is_closing(&self, key: &PeerKey) -> bool {
        let owner = self.owner_of(key);
        owner.is_some_and(|owner| self.closings.contains(&owner))
    }
}
