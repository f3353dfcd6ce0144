//! The keys that all owners share. A peer's has the name of its interface, for it outlives the interface; a
//! session's and a route's have the interface's index; a way around's has the two ends of a session.

use std::net::Ipv4Addr;

use dz_common::map::{PeerKey, SessionKey};

use crate::net::detours::Flow;

/// The key of a route of ours: there is one by each interface to each destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RouteKey {
    pub(crate) dst: Ipv4Addr,
    pub(crate) ifindex: u32,
}

/// Returns the key of a session's route.
pub(crate) fn route_key(key: &SessionKey) -> RouteKey {
    RouteKey {
        ifindex: key.ifindex,
        dst: key.peer.into(),
    }
}

/// Returns the key of a peer.
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

/// Returns the name of a peer's interface.
pub(crate) fn ifname(key: &PeerKey) -> &str {
    let len = key
        .ifname
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(key.ifname.len());
    // Not UTF-8: `peer_key` has not made it, and no interface of ours has that name.
    std::str::from_utf8(&key.ifname[..len]).unwrap_or_default()
}

/// Returns the ends of a session, which are the key of its way around.
pub(crate) fn flow(key: &SessionKey) -> Flow {
    Flow {
        dst: key.peer.into(),
        src: key.local.into(),
    }
}
