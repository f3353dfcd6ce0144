//! What should be, as pure decisions: peers → sessions → routes, from what was read.
//!
//! | session | active | passive: our own mode, or the peer's |
//! |---|---|---|
//! | registered | – | own passive: installed |
//! | Up | installed | installed if absent |
//! | Init, Down | withdrawn | left as it is |
//! | AdminDown | withdrawn | left as it is |
//! | disconnected | removed | removed, if it is ours |
//!
//! A followed peer has a route of its daemon; one of ours is removed, whatever its session says.
//!
//! A session knows the way around its peer that was looked up last.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;

use dz_common::gate::is_passive;
use dz_common::map::{Origin, Peer, PeerKey, SessionEntry, SessionKey};
use dz_common::packet::State;
use dz_common::session::Mode;

use crate::net::routes::Route;

/// An interface that sessions can run over at present: it exists and is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Carrier {
    /// Its index.
    pub(super) ifindex: u32,
    /// Its addresses.
    pub(super) locals: HashSet<Ipv4Addr>,
}

/// Destination and interface of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RouteKey {
    pub(super) ifindex: u32,
    pub(super) dst: Ipv4Addr,
}

/// What should become of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// It should be there, just so.
    Present(Route),
    /// It should not be there.
    Absent,
    /// Whatever is there stays.
    AsIs,
}

/// One step towards what should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// Give the session up: nobody wants it, or its address is gone. `announce`: tell the peer.
    Close {
        /// The session.
        key: SessionKey,
        /// Whether the address is still ours to speak from.
        announce: bool,
    },
    /// Insert a session for the peer.
    Open(PeerKey),
    /// Make the route what it should be.
    Follow(RouteKey),
    /// Tell the gate the way around a session's peer.
    Divert(RouteKey),
}

/// Everything that was read.
pub(super) struct Facts<'a> {
    pub(super) peers: &'a HashMap<PeerKey, Peer>,
    pub(super) carriers: &'a HashMap<String, Carrier>,
    pub(super) sessions: &'a [SessionEntry],
    pub(super) routes: &'a [Route],
    /// The way around for destinations that were looked up, 0 = there is none.
    pub(super) detours: &'a BTreeMap<Ipv4Addr, u32>,
    /// `--peer-passive ignore`.
    pub(super) ignore_peer_passive: bool,
}

/// The steps from what is to what should be. Empty if all is well.
pub(super) fn decide(facts: &Facts<'_>) -> Vec<Op> {
    let names: HashMap<u32, &str> = facts
        .carriers
        .iter()
        .map(|(name, carrier)| (carrier.ifindex, name.as_str()))
        .collect();
    let mut ops = Vec::new();
    let mut open = HashSet::new();
    let mut wanted = HashMap::new();
    for entry in facts.sessions {
        let carrier = names
            .get(&entry.key.ifindex)
            .map(|&name| (name, &facts.carriers[name]));
        let here = carrier
            .filter(|(_, carrier)| carrier.locals.contains(&Ipv4Addr::from(entry.key.local)));
        let peer = here.and_then(|(name, _)| {
            let key = peer_key(name, entry.key.peer.into());
            let peer = facts.peers.get(&key)?;
            (peer.local == entry.key.local).then_some((key, peer))
        });
        match peer {
            Some((key, peer)) if entry.session.state != State::AdminDown => {
                open.insert(key);
                let route = wanted_route(entry, peer, facts.ignore_peer_passive);
                wanted.insert(route_key(&entry.key), route);
            }
            _ => ops.push(Op::Close {
                key: entry.key,
                announce: here.is_some(),
            }),
        }
    }
    for (key, peer) in facts.peers {
        let carrier = facts.carriers.get(ifname(key));
        if carrier.is_some_and(|carrier| carrier.locals.contains(&peer.local.into()))
            && !open.contains(key)
        {
            ops.push(Op::Open(*key));
        }
    }
    follow(facts, &names, &wanted, &mut ops);
    let lost = facts.sessions.iter().filter(|entry| {
        let detour = facts.detours.get(&Ipv4Addr::from(entry.key.peer));
        detour.is_some_and(|detour| *detour != entry.detour)
    });
    ops.extend(lost.map(|entry| Op::Divert(route_key(&entry.key))));
    ops
}

/// Routes that are not what they should be.
fn follow(
    facts: &Facts<'_>,
    names: &HashMap<u32, &str>,
    wanted: &HashMap<RouteKey, Wanted>,
    ops: &mut Vec<Op>,
) {
    let present: HashMap<_, _> = facts
        .routes
        .iter()
        .filter(|route| names.contains_key(&route.ifindex))
        .map(|route| {
            (
                RouteKey {
                    ifindex: route.ifindex,
                    dst: route.dst,
                },
                route,
            )
        })
        .collect();
    for (key, wanted) in wanted {
        let right = match (wanted, present.get(key)) {
            (Wanted::Present(route), Some(found)) => route == *found,
            (Wanted::Present(_), None) | (Wanted::Absent, Some(_)) => false,
            (Wanted::Absent, None) | (Wanted::AsIs, _) => true,
        };
        if !right {
            ops.push(Op::Follow(*key));
        }
    }
    for key in present.keys() {
        if !wanted.contains_key(key) {
            ops.push(Op::Follow(*key));
        }
    }
}

/// What a session wants of its peer's route.
pub(super) fn wanted_route(entry: &SessionEntry, peer: &Peer, ignore_peer_passive: bool) -> Wanted {
    if peer.origin == Origin::Follow {
        return Wanted::Absent; // it has one, which is not ours
    }
    let session = &entry.session;
    let route = Route {
        dst: entry.key.peer.into(),
        ifindex: entry.key.ifindex,
        src: Some(entry.key.local.into()),
        via: (peer.via != [0; 4]).then(|| peer.via.into()),
    };
    let own = session.timers.mode;
    match session.state {
        State::Up => Wanted::Present(route),
        _ if own == Mode::Passive => Wanted::Present(route),
        _ if is_passive(own, session.peer_mode, ignore_peer_passive) => Wanted::AsIs,
        _ => Wanted::Absent,
    }
}

/// The key of a session's route.
pub(super) fn route_key(key: &SessionKey) -> RouteKey {
    RouteKey {
        ifindex: key.ifindex,
        dst: key.peer.into(),
    }
}

/// The key of a peer.
pub(super) fn peer_key(interface: &str, peer: Ipv4Addr) -> PeerKey {
    let mut ifname = [0; 16];
    for (to, from) in ifname.iter_mut().zip(interface.bytes()) {
        *to = from;
    }
    PeerKey {
        ifname,
        peer: peer.octets(),
    }
}

/// The interface of a peer.
pub(super) fn ifname(key: &PeerKey) -> &str {
    let len = key
        .ifname
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(key.ifname.len());
    // Written by `peer_key` from a string; anything else names no interface.
    std::str::from_utf8(&key.ifname[..len]).unwrap_or_default()
}

#[cfg(test)]
mod tests;
