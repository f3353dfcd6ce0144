//! Ways around, as the gate is told of them: each session has its own.

use std::net::Ipv4Addr;

use dz_common::control::{OP_SET_DETOUR, Request};
use dz_common::counters::Counter;
use tracing::warn;

use super::Engine;
use super::detours::Found;
use super::reconcile::RouteKey;

impl Engine {
    /// Tells the gate the way around a session's peer, once it has been looked up.
    pub(super) fn divert(&self, key: RouteKey) {
        let Some(detour) = self.detours.of(key.dst) else {
            return;
        };
        let Some(session) = self.owners.get(&key) else {
            return;
        };
        let Some(live) = self.sessions.get(session) else {
            return;
        };
        let request = Request {
            op: OP_SET_DETOUR,
            index: detour,
            key: *session,
            generation: live.generation,
            ..Request::NONE
        };
        let outcome = self.datapath.control(&request);
        if !matches!(
            outcome,
            Ok(Counter::ControlDone | Counter::ControlNoSession)
        ) {
            warn!(dst = %key.dst, ?outcome, "way around not changed; retried");
        }
    }

    /// Whether a session of ours has this peer.
    pub(super) fn is_peer(&self, dst: Ipv4Addr) -> bool {
        let ours = |ifindex| self.owners.contains_key(&RouteKey { ifindex, dst });
        self.interfaces
            .iter()
            .filter_map(super::Interface::ifindex)
            .any(ours)
    }

    /// The way around a destination has been looked up.
    pub(super) fn detour_found(&mut self, found: Found) {
        let dst = found.dst;
        if !self.detours.done(found) {
            return;
        }
        if !self.is_peer(dst) {
            self.detours.forget(dst);
            return;
        }
        let interfaces = self.interfaces.iter();
        for ifindex in interfaces.filter_map(super::Interface::ifindex) {
            self.divert(RouteKey { ifindex, dst });
        }
    }
}
