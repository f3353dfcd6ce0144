//! The keys by which the engine's owners know the same things: a peer by its interface's name, a session
//! and a route by the interface's index, a way around by its two ends.

use std::net::Ipv4Addr;

use dz_common::map::{PeerKey, SessionKey};

use crate::net::detours::Flow;

/// Destination and interface of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RouteKey {
    pub(crate) dst: Ipv4Addr,
    pub(crate) ifindex: u32,
}

/// The key of a session's route.
pub(crate) fn route_key(key: &SessionKey) -> RouteKey {
    RouteKey {
        ifindex: key.ifindex,
        dst: key.peer.into(),
    }
}

/// The key of a peer.
pub(crate) fn peer_key(interface: &str, peer: Ipv4Addr) -> PeerKey {
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
pub(crate) fn ifname(key: &PeerKey) -> &str {
    let len = key
        .ifname
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(key.ifname.len());
    // Written by `peer_key` from a string; anything else names no interface.
    std::str::from_utf8(&key.ifname[..len]).unwrap_or_default()
}

/// The ends of a session, as a way around is looked up by them.
pub(crate) fn flow(key: &SessionKey) -> Flow {
    Flow {
        dst: key.peer.into(),
        src: key.local.into(),
    }
}
