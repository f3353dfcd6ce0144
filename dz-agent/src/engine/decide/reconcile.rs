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

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dz_common::gate::is_passive;
use dz_common::map::{Origin, Peer, PeerKey, SessionEntry, SessionKey};
use dz_common::packet::State;
use dz_common::session::Mode;
use foldhash::{HashMap, HashSet};

use crate::engine::state::interfaces::Carrier;
use crate::engine::state::keys::{RouteKey, ifname, peer_key, route_key};
use crate::net::detours::Flow;
use crate::net::routes::Route;

/// What should become of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// It should be there, just so.
    Present(Route),
    /// It should not be there.
    Absent,
    /// Whatever is there stays.
    AsIs,
}

impl Wanted {
    /// Whether this is what is there.
    fn is(&self, there: Option<&Route>) -> bool {
        match (self, there) {
            (Self::Present(route), Some(there)) => route == there,
            (Self::Present(_), None) | (Self::Absent, Some(_)) => false,
            (Self::Absent, None) | (Self::AsIs, _) => true,
        }
    }
}

/// One step towards what should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
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
    AdjustRoute(RouteKey),
    /// Tell the gate the way around a session's peer.
    Divert(RouteKey),
}

/// Everything that was read.
pub(crate) struct Facts<'a> {
    pub(crate) peers: &'a HashMap<PeerKey, Peer>,
    pub(crate) carriers: &'a HashMap<String, Carrier>,
    pub(crate) sessions: &'a [SessionEntry],
    /// The routes of sessions on their way out, in the map or no longer.
    pub(crate) closing: &'a HashSet<RouteKey>,
    pub(crate) routes: &'a [Route],
    /// Peers whose address cannot be a peer's.
    pub(crate) refused: &'a HashSet<PeerKey>,
    /// The ways around that were looked up, 0 = there is none.
    pub(crate) detours: &'a BTreeMap<Flow, u32>,
    /// `--peer-passive ignore`.
    pub(crate) ignore_peer_passive: bool,
}

/// The steps from what is to what should be. Empty if all is well.
pub(crate) fn decide(facts: &Facts<'_>) -> Vec<Op> {
    let carriers: HashMap<u32, (&str, &Carrier)> = facts
        .carriers
        .iter()
        .map(|(name, carrier)| (carrier.ifindex, (name.as_str(), carrier)))
        .collect();
    let mut ops = Vec::new();
    let mut ends = Vec::with_capacity(facts.sessions.len());
    let mut open = 0;
    for entry in facts.sessions {
        let found = find(facts, &carriers, entry);
        let wanted = found
            .peer
            .map(|(_, peer)| wanted_route(entry, peer, facts.ignore_peer_passive));
        match wanted {
            Some(_) => open += 1,
            None => ops.push(Op::Close {
                key: entry.key,
                announce: found.here,
            }),
        }
        ends.push(End {
            key: route_key(&entry.key),
            src: entry.key.local.into(),
            wanted,
            detour: entry.detour,
        });
    }
    let can_open = |(key, peer): &(&PeerKey, &Peer)| {
        let carrier = facts.carriers.get(ifname(key));
        carrier.is_some_and(|carrier| carrier.locals.contains(&peer.local.into()))
            && !facts.refused.contains(*key)
    };
    // Each peer has one session at most, so that nearly always the numbers tell.
    if facts.peers.iter().filter(can_open).count() != open {
        // An interface has one session with a peer: where an earlier one is on its way out, the next is
        // opened when that is gone (`Engine::room_came`).
        let taken: HashSet<_> = ends.iter().map(|end| end.key).collect();
        let is_free = |(key, _): &(&PeerKey, &Peer)| {
            let carrier = facts.carriers.get(ifname(key));
            carrier.is_some_and(|carrier| {
                let (dst, ifindex) = (key.peer.into(), carrier.ifindex);
                let route = RouteKey { dst, ifindex };
                !taken.contains(&route) && !facts.closing.contains(&route)
            })
        };
        let missing = facts.peers.iter().filter(can_open).filter(is_free);
        ops.extend(missing.map(|(key, _)| Op::Open(*key)));
    }
    ops.extend(differences(ends, present(facts, &carriers), facts.detours));
    ops
}

/// Where a session leads, and what it makes of that.
struct End {
    key: RouteKey,
    src: Ipv4Addr,
    /// None if the session is given up.
    wanted: Option<Wanted>,
    detour: u32,
}

/// Where routes or ways around are not what sessions want. All three are walked through side by side, in the
/// order of their destinations: to look each up would be to wait for memory three times per session.
fn differences(
    mut ends: Vec<End>,
    present: Vec<(RouteKey, &Route)>,
    known: &BTreeMap<Flow, u32>,
) -> Vec<Op> {
    ends.sort_unstable_by_key(|end| end.key);
    let (mut wrong, mut lost) = (Vec::new(), Vec::new());
    let mut present = present.into_iter().peekable();
    let mut detours = known.iter().peekable();
    for End {
        key,
        src,
        wanted,
        detour,
    } in ends
    {
        // Routes of no session.
        while let Some((stray, _)) = present.next_if(|(there, _)| *there < key) {
            wrong.push(Op::AdjustRoute(stray));
        }
        if let Some(wanted) = wanted {
            let there = present.next_if(|(there, _)| *there == key);
            if !wanted.is(there.map(|(_, route)| route)) {
                wrong.push(Op::AdjustRoute(key));
            }
        }
        while detours.next_if(|(flow, _)| flow.dst < key.dst).is_some() {}
        let flow = Flow { dst: key.dst, src };
        let way = match detours.peek() {
            Some((next, way)) if **next == flow => Some(*way),
            // Sessions with the peer by several interfaces, from several addresses.
            Some((next, _)) if next.dst == flow.dst => known.get(&flow),
            _ => None,
        };
        if way.is_some_and(|way| *way != detour) {
            lost.push(Op::Divert(key));
        }
    }
    wrong.extend(present.map(|(stray, _)| Op::AdjustRoute(stray)));
    wrong.extend(lost);
    wrong
}

/// What a session has.
struct Finding<'a> {
    /// Its local address is one that it may have.
    here: bool,
    /// The peer that wants it, as it is.
    peer: Option<(PeerKey, &'a Peer)>,
}

fn find<'a>(
    facts: &Facts<'a>,
    carriers: &HashMap<u32, (&str, &Carrier)>,
    entry: &SessionEntry,
) -> Finding<'a> {
    let carrier = carriers.get(&entry.key.ifindex);
    let here =
        carrier.filter(|(_, carrier)| carrier.locals.contains(&Ipv4Addr::from(entry.key.local)));
    let wanted = here.filter(|_| entry.session.state != State::AdminDown);
    let peer = wanted.and_then(|(name, _)| {
        let key = peer_key(name, entry.key.peer.into());
        let peer = facts.peers.get(&key)?;
        let wanted = peer.local == entry.key.local && !facts.refused.contains(&key);
        wanted.then_some((key, peer))
    });
    Finding {
        here: here.is_some(),
        peer,
    }
}

/// Our routes over the interfaces that are served, by destination; one for each, the last one that was read.
fn present<'a>(
    facts: &Facts<'a>,
    carriers: &HashMap<u32, (&str, &Carrier)>,
) -> Vec<(RouteKey, &'a Route)> {
    let ours = facts.routes.iter();
    let ours = ours.filter(|route| carriers.contains_key(&route.ifindex));
    let key = |route: &Route| RouteKey {
        dst: route.dst,
        ifindex: route.ifindex,
    };
    let mut present: Vec<_> = ours.map(|route| (key(route), route)).collect();
    // Nearly so already: the kernel's table is sorted by destination.
    present.sort_by_key(|(key, _)| *key);
    present.dedup_by(|later, kept| {
        let same = later.0 == kept.0;
        if same {
            *kept = *later;
        }
        same
    });
    present
}

/// What a session wants of its peer's route.
pub(crate) fn wanted_route(entry: &SessionEntry, peer: &Peer, ignore_peer_passive: bool) -> Wanted {
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

#[cfg(test)]
mod tests;
