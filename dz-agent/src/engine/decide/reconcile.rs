//! The full check's decision: which sessions, routes and ways around differ from what peers and sessions
//! want, as pure functions of what was read. The route that a session wants ([`wanted_route`]):
//!
//! | session | active | passive: our own mode, or the peer's |
//! |---|---|---|
//! | registered | – | own passive: installed |
//! | Up | installed | installed if absent |
//! | Init, Down; Up, but held | withdrawn | left as it is |
//! | AdminDown | withdrawn | left as it is |
//! | disconnected | removed | removed, if it is ours |
//!
//! A followed peer has its daemon's route; a route of ours to it is removed, whatever the session's state.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dz_common::gate::is_passive;
use dz_common::map::{Origin, Peer, PeerKey, SessionEntry, SessionKey};
use dz_common::packet::State;
use dz_common::session::Mode;

use crate::engine::state::interfaces::Carrier;
use crate::engine::state::keys::{RouteKey, ifname, peer_key, route_key};
use crate::hash::{HashMap, HashSet};
use crate::net::detours::Flow;
use crate::net::routes::Route;

/// The route that is wanted to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Exactly this route.
    Present(Route),
    /// No route of ours.
    Absent,
    /// The route that is there, or none if there is none.
    AsIs,
}

impl Wanted {
    /// Says whether the route that is there, if any, is the wanted one.
    fn is(&self, there: Option<&Route>) -> bool {
        match (self, there) {
            (Self::Present(route), Some(there)) => route == there,
            (Self::Present(_), None) | (Self::Absent, Some(_)) => false,
            (Self::Absent, None) | (Self::AsIs, _) => true,
        }
    }
}

/// One step of a full check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Close the session: no peer wants it, or its address is gone.
    Close {
        key: SessionKey,
        /// Whether to tell the peer: the address is still ours to speak from.
        announce: bool,
    },
    /// Insert a session for the peer.
    Open(PeerKey),
    /// Give the session the timers of its peer.
    Retime(SessionKey),
    /// Have the route decided about anew, and changed accordingly.
    AdjustRoute(RouteKey),
    /// Store the way around in the session, where the gate reads it.
    Divert(RouteKey),
    /// Have the session reviewed: it is held and should not be, or the other way round. Time tells, so that
    /// [`decide`] never returns this.
    Review(SessionKey),
}

/// Everything that a full check has read.
pub(crate) struct Facts<'a> {
    pub(crate) peers: &'a HashMap<PeerKey, Peer>,
    pub(crate) carriers: &'a HashMap<String, Carrier>,
    pub(crate) sessions: &'a [SessionEntry],
    /// The routes of sessions that are being closed, whether these are still in their map or not.
    pub(crate) closing: &'a HashSet<RouteKey>,
    pub(crate) routes: &'a [Route],
    /// Peers with an address that no peer may have.
    pub(crate) refused: &'a HashSet<PeerKey>,
    /// The ways around that have been looked up; 0: there is none.
    pub(crate) detours: &'a BTreeMap<Flow, u32>,
    /// `--peer-passive ignore`.
    pub(crate) ignore_peer_passive: bool,
}

/// Returns the steps that make sessions, routes and ways around as they are wanted; none if they are.
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
            Some(_) => {
                open += 1;
                if found
                    .peer
                    .is_some_and(|(_, peer)| peer.timers != entry.session.timers)
                {
                    ops.push(Op::Retime(entry.key));
                }
            }
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
        carrier
            .is_some_and(|carrier| !carrier.leaving && carrier.locals.contains(&peer.local.into()))
            && !facts.refused.contains(*key)
    };
    // Spares the search below: a peer has one session at most, so that equal numbers mean that none is
    // missing.
    if facts.peers.iter().filter(can_open).count() != open {
        // An interface has one session with a peer. Where an earlier one is being closed, the next one is
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

/// A session as its route and way around are compared with what is there.
struct End {
    key: RouteKey,
    src: Ipv4Addr,
    /// The route that it wants; none if the session is to be closed.
    wanted: Option<Wanted>,
    /// The way around that is stored in it.
    detour: u32,
}

/// Returns the steps for routes and ways around that are not as sessions want them. It walks through sessions,
/// routes and ways side by side, in the order of their destinations: look-ups would wait for memory three
/// times per session.
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
        // Routes that belong to no session.
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

/// A session's local address and peer, as they are now.
struct Finding<'a> {
    /// Whether sessions over its interface may have its local address.
    here: bool,
    /// The peer that wants exactly this session, if there is one.
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
    let peer = wanted.filter(|(_, carrier)| !carrier.leaving);
    let peer = peer.and_then(|(name, _)| {
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

/// Returns our routes by the served interfaces, sorted by key; of several with one key, the last that was
/// read.
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
    // Cheap: the kernel's table is sorted by destination already.
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

/// Returns the route to its peer that a session wants.
pub(crate) fn wanted_route(entry: &SessionEntry, peer: &Peer, ignore_peer_passive: bool) -> Wanted {
    if peer.origin == Origin::Follow {
        return Wanted::Absent; // its daemon has one
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
        State::Up if !entry.is_held() => Wanted::Present(route),
        _ if own == Mode::Passive => Wanted::Present(route),
        _ if is_passive(own, session.peer_mode, ignore_peer_passive) => Wanted::AsIs,
        _ => Wanted::Absent,
    }
}

#[cfg(test)]
mod tests;
