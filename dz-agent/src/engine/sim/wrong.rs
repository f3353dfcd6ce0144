//! What may be other than it should be for a while, for an agent needs its time.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use dz_common::map::{Origin, Peer, SessionEntry};
use dz_common::packet::State;

use super::machine::Machine;
use super::seen::{peer_of, peers, sessions};
use crate::net::routes::Route;

/// Something is wrong with a peer.
pub(super) type Wrong = (Ipv4Addr, &'static str);

/// Returns what is wrong at present. `routes`: ours, in the order of their destinations.
pub(super) fn wrong(machine: &Machine, routes: &[Route]) -> BTreeSet<Wrong> {
    let mut wrong = BTreeSet::new();
    let (sessions, peers) = (sessions(machine), peers(machine));
    let has_tunnel = machine.has_tunnel();
    let peer = |entry: &SessionEntry| Ipv4Addr::from(entry.key.peer);
    for entry in &sessions {
        let (peer, state) = (peer(entry), entry.session.state);
        let has_route = routes
            .binary_search_by_key(&peer, |route| route.dst)
            .is_ok();
        if has_route && !entry.counts_as_up() {
            wrong.insert((peer, "a route without Up, or of a session that is held"));
        }
        if state == State::AdminDown {
            wrong.insert((peer, "a session that does not end"));
        }
        let is_home = has_tunnel && machine.holds(entry.key.local.into());
        if !is_home {
            wrong.insert((peer, "a session that cannot speak"));
        }
        let Some(wanted) = peer_of(&peers, peer) else {
            continue;
        };
        if wanted.local != entry.key.local {
            wrong.insert((peer, "a session from another address than its peer's"));
        }
        let is_followed = wanted.origin == Origin::Follow;
        if has_route && is_followed {
            wrong.insert((peer, "a route of ours beside one that is followed"));
        }
        let is_missing = !has_route && !is_followed && entry.counts_as_up();
        if is_missing && is_home && !machine.has_in_place(peer) {
            wrong.insert((peer, "Up without a route"));
        }
    }
    let mut with: Vec<_> = sessions.iter().map(peer).collect();
    with.sort_unstable();
    for (peer, wanted) in &peers {
        let is_home = has_tunnel && machine.holds(wanted.local.into());
        if is_home && with.binary_search(peer).is_err() {
            wrong.insert((*peer, "a peer without a session"));
        }
    }
    if machine.follows {
        wrong.extend(unlike_routes(machine, &peers));
    }
    wrong
}

/// Returns where peers are not what the followed routes say.
fn unlike_routes(machine: &Machine, peers: &[(Ipv4Addr, Peer)]) -> Vec<Wrong> {
    let mut unlike = Vec::new();
    let followed = machine.followed();
    for entry in followed.iter() {
        // Where no address of ours can be meant, nobody is followed.
        let Some(local) = machine.source_of(entry) else {
            continue;
        };
        let via = entry.via.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let said = (local.octets(), via.octets());
        match peer_of(peers, entry.dst) {
            None => unlike.push((entry.dst, "a followed route without a peer")),
            Some(peer) if peer.origin != Origin::Follow => {}
            Some(peer) if (peer.local, peer.via) == said => {}
            Some(_) => unlike.push((entry.dst, "a followed peer that is not as its route")),
        }
    }
    for (dst, peer) in peers {
        let route = || followed.binary_search_by_key(dst, |entry| entry.dst);
        let has_route = || route().is_ok_and(|at| machine.source_of(&followed[at]).is_some());
        if peer.origin == Origin::Follow && !has_route() {
            unlike.push((*dst, "a followed peer without a route"));
        }
    }
    unlike
}
