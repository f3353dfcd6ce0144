//! Who has which Ethernet address.

use std::net::Ipv4Addr;

use super::beside::Mac;
use super::daemon::GATEWAYS;
use super::machine::node_of;

/// The router's, which has each gateway's address.
const ROUTER: Mac = [2, 2, 0, 0, 0, 0];

/// The Ethernet address of each node. That of one behind a tunnel is its router's.
pub(super) struct Segment(Vec<u8>);

impl Segment {
    pub(super) fn new(nodes: usize) -> Self {
        Self(vec![0; nodes])
    }

    /// Returns a node's.
    pub(super) fn mac(&self, node: usize) -> Mac {
        [2, 1, 0, 0, self.0[node], node as u8]
    }

    /// Returns who has an address, a router for gateways; none if nobody does.
    pub(super) fn of(&self, address: Ipv4Addr) -> Option<Mac> {
        if GATEWAYS.contains(&address) {
            return Some(ROUTER);
        }
        node_of(address, self.0.len()).map(|node| self.mac(node))
    }

    /// Gives a node another one.
    pub(super) fn renew(&mut self, node: usize) {
        self.0[node] = self.0[node].wrapping_add(1);
    }

    /// Returns with which Ethernet addresses a frame gets to a node, if it does.
    pub(super) fn carried(&self, (to, from): (Mac, Mac), node: usize) -> Option<(Mac, Mac)> {
        let own = self.mac(node);
        match to {
            ROUTER => Some((own, ROUTER)),
            to => (to == own).then_some((own, from)),
        }
    }
}
