//! What can be seen of a machine: routes, sessions, peers.

use std::net::Ipv4Addr;

use dz_common::map::{Peer, SessionEntry};

use super::machine::Machine;
use crate::net::routes::{DEFAULT_PROTOCOL, Route};

/// Returns our routes by the tunnel, in the order of their destinations.
pub(super) fn routes(machine: &Machine) -> Vec<Route> {
    let routes = machine.net.borrow().routes(DEFAULT_PROTOCOL);
    let tunnel = machine.tunnel();
    let ours = routes.into_iter();
    ours.filter(|route| Some(route.ifindex) == tunnel).collect()
}

/// Returns the sessions.
pub(super) fn sessions(machine: &Machine) -> Vec<SessionEntry> {
    let kernel = machine.kernel.borrow();
    let maps = kernel.maps();
    maps.map(|maps| maps.sessions().iter().map(|(_, entry)| *entry).collect())
        .unwrap_or_default()
}

/// Returns the peers, in the order of their addresses.
pub(super) fn peers(machine: &Machine) -> Vec<(Ipv4Addr, Peer)> {
    let kernel = machine.kernel.borrow();
    let peers = kernel.maps().into_iter().flat_map(|maps| maps.peers());
    peers
        .map(|(key, peer)| (Ipv4Addr::from(key.peer), *peer))
        .collect()
}

/// Returns a peer of those.
pub(super) fn peer_of(peers: &[(Ipv4Addr, Peer)], address: Ipv4Addr) -> Option<&Peer> {
    let at = peers.binary_search_by_key(&address, |(address, _)| *address);
    Some(&peers[at.ok()?].1)
}
