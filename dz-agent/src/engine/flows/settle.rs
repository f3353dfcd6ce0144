//! Settles peers that are wanted without a request: those of the file and those of followed routes. To
//! settle a peer is to compare it with what the file and the routes want, and to write, change or give it
//! up only where the two differ.
//!
//! For one interface and peer the file comes first, then a request through the API, then a route.

use std::net::Ipv4Addr;

use anyhow::Context;
use dz_common::ingress::Link;
use dz_common::map::{Origin, Peer, PeerKey};
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::engine::flows::followed::say_unfollowed;
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::show::shared::FollowedRoute;
use crate::engine::state::followed::Says;
use crate::engine::state::interface::Interface;
use crate::engine::state::keys::{RouteKey, ifname, peer_key};
use crate::engine::state::wants::same;
use crate::hash::HashSet;
use crate::view::{FollowChanges, PassedOver};

/// How many peers are settled before the loop looks at anything else.
const PEERS_PER_PORTION: usize = 1_024;

/// The peer that is wanted.
#[derive(Clone, Copy, Debug)]
enum Wish {
    /// Exactly this peer.
    Peer(Peer),
    /// No peer.
    Nobody,
    /// The peer that is there: nobody knows what the routes want, or its interface is not served any more.
    AsIs,
}

/// The numbers of peers that settling has changed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settled {
    pub(crate) added: usize,
    pub(crate) changed: usize,
    pub(crate) removed: usize,
}

impl Settled {
    /// Logs what a full check has settled, if anything.
    pub(crate) fn log(&self) {
        let Self {
            added,
            changed,
            removed,
        } = self;
        if added + changed + removed > 0 {
            info!(added, changed, removed, "peers settled");
        }
    }
}

impl<H: Hands> Engine<H> {
    /// Settles the peers whose time has come: a portion of them, and the others in further turns.
    pub(crate) fn settle_some(&mut self) {
        let portion = self.wants.take_some_dirty(PEERS_PER_PORTION);
        self.settle(portion);
        if self.wants.has_dirty() {
            self.agenda.settle_at(self.hands.now_ns());
        }
        self.tick();
    }

    /// Settles every peer that is there or wanted. It transmits nothing: sessions that it opens are due for the
    /// next [`Self::tick`].
    pub(crate) fn settle_all(&mut self) -> Settled {
        let followed = self.wants.followed().keys().filter_map(|key| {
            let interface = self.interfaces.with_index(key.ifindex)?;
            Some(peer_key(interface.name(), key.dst))
        });
        let mut others: HashSet<PeerKey> = followed.collect();
        others.extend(self.wants.configured().keys());
        others.extend(self.wants.waiting());
        others.extend(self.shared.followed_routes().keys());
        // The peers that are there come in the order of their map, for the processor's cache.
        let mut keys: Vec<PeerKey> = self.peers.keys().copied().collect();
        keys.extend(others.iter().filter(|key| !self.peers.contains_key(*key)));
        self.wants.take_dirty();
        self.settle(keys)
    }

    /// Settles these peers, then those that wait for room, and opens the sessions that can be opened.
    fn settle(&mut self, keys: impl IntoIterator<Item = PeerKey>) -> Settled {
        let mut settled = self.carry_wishes(keys);
        // A peer may have been given up, which has made room.
        let room = self.room();
        let next: Vec<_> = self.wants.waiting().take(room).copied().collect();
        if !next.is_empty() {
            settled.added += self.carry_wishes(next).added;
        }
        self.open_wanted();
        settled
    }

    /// Gives up the peers that are not wanted any more or change, and writes those that are wanted.
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
                    // An earlier session that is being closed already need not be given up.
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
        // The file's peers come before those of routes, should there be too little room.
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

    /// Returns the peer that the file and the followed routes want, and shares the route that decides.
    fn wish(&self, key: &PeerKey) -> Wish {
        let dst = Ipv4Addr::from(key.peer);
        let says = self.followed_peer(key);
        let mut shown = None;
        let interface = self.interfaces.named(ifname(key));
        let wish = if interface.is_some_and(Interface::is_leaving) {
            // One of a request stays, without a session, until its interface is named again.
            match self.peers.get(key).map(|peer| peer.origin) {
                Some(Origin::Api) => Wish::AsIs,
                _ => Wish::Nobody,
            }
        } else if self.wants.policy().excluded(dst).is_some() {
            if let Says::Peer(_, route) | Says::NoSource(route) = says {
                shown = Some(FollowedRoute::passed_over(&route, PassedOver::Excluded));
            }
            Wish::Nobody
        } else if let Some(peer) = self.wants.configured().get(key) {
            Wish::Peer(self.with_ends(key, *peer))
        } else {
            let found = self.peers.get(key);
            let origin = found.map(|peer| peer.origin);
            match says {
                _ if origin == Some(Origin::Api) => {
                    let policy = self.wants.policy();
                    let timers = self.options.timers();
                    found.map_or(Wish::AsIs, |found| {
                        Wish::Peer(policy.renewed(dst, found, timers))
                    })
                }
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
            Some(route) => self.shared.followed_routes().insert(*key, route),
            None => self.shared.followed_routes().remove(key),
        };
        // Logged once. An excluded route is not logged: its owner wants it so.
        if let Says::NoSource(route) = says
            && shown == Some(FollowedRoute::passed_over(&route, PassedOver::NoSource))
            && shown != before
        {
            say_unfollowed(&route, PassedOver::NoSource);
        }
        wish
    }

    /// Disconnects peers, for which nobody waits.
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
        // A refused D1 is logged here alone: nothing has begun then. The next full check tries it again.
        for key in keys.iter().filter(|key| self.peers.contains_key(key)) {
            warn!(peer = %Ipv4Addr::from(key.peer), "not given up, the kernel refused; tried again in some seconds");
        }
    }

    /// Says whether a peer is changed in its place, and not disconnected first: it is if it keeps its local address
    /// and, where packets have a next hop, its gateway. Its session then follows ([`Self::retime`]).
    fn goes_on(&self, key: &PeerKey, found: &Peer, wanted: &Peer) -> bool {
        let interface = self.interfaces.named(ifname(key));
        let link = interface.and_then(|interface| Some(interface.ends()?.link));
        let via = if link == Some(Link::Layer3) {
            wanted.via
        } else {
            found.via
        };
        let timers = wanted.timers;
        same(
            &Peer {
                via,
                timers,
                ..*found
            },
            wanted,
        )
    }

    /// Writes a peer, and has its session opened when its address is there and an earlier session with the peer
    /// is closed. Returns whether the peer has been written.
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
            if let Some(route) = self.shared.followed_routes().get_mut(&key) {
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
            if found.is_some_and(|found| found.timers != peer.timers)
                && let Some(session) = self.owner_of(&key)
            {
                self.retime(session);
            }
            // Another route may be wanted: by another gateway, or none, beside the followed one.
            let route = |peer: &Peer| (peer.origin, peer.via, peer.timers.mode);
            if found.is_some_and(|found| route(&found) != route(&peer))
                && let Some(ifindex) = self.interfaces.index_of(ifname(&key))
            {
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

    /// Opens the sessions of peers that are new or have waited for the end of an earlier session. A peer whose
    /// interface or address is missing is parked: later full checks open its session.
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
                // Another interface of this host may hold it: the full check asks the kernel.
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

    /// Returns the session of a peer, or an earlier one that is being closed.
    fn owner_of(&self, key: &PeerKey) -> Option<dz_common::map::SessionKey> {
        let (ifindex, dst) = (self.interfaces.index_of(ifname(key))?, key.peer.into());
        self.sessions.owner_of(RouteKey { ifindex, dst })
    }

    fn is_closing(&self, key: &PeerKey) -> bool {
        let owner = self.owner_of(key);
        owner.is_some_and(|owner| self.closings.contains(&owner))
    }
}
