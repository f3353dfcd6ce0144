//! Schedules peers to be settled, when the present group of changes is over.

use dz_common::map::PeerKey;

use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::keys::{RouteKey, peer_key};

impl<H: Hands> Engine<H> {
    /// Schedules these peers to be settled once the present group of notifications is over.
    pub(crate) fn settle_soon(&mut self, keys: impl IntoIterator<Item = PeerKey>) {
        self.wants.settle_later(keys);
        self.agenda.settle_soon(self.hands.now_ns());
    }

    /// Notes that the session of a route is gone: the peer's next session can be opened, and so can that of a
    /// peer that waits for room.
    pub(crate) fn room_came(&mut self, route: RouteKey) {
        let name = self
            .interfaces
            .with_index(route.ifindex)
            .map(|i| i.name().to_owned());
        let key = name.map(|name| peer_key(&name, route.dst));
        if let Some(key) = key.filter(|key| self.peers.contains_key(key)) {
            self.wants.open_later(key);
        }
        if self.wants.has_waiting() {
            self.agenda.settle_soon(self.hands.now_ns());
        }
    }
}
