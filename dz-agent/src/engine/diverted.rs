//! Ways around, as the gate is told of them: each session has its own.

use dz_common::control::{OP_SET_DETOUR, Request};
use dz_common::counters::Counter;

use tracing::warn;

use super::detours::Found;
use super::hands::Hands;
use super::parts::Engine;
use super::state::keys::{RouteKey, flow};
use crate::net::detours::Flow;

impl<H: Hands> Engine<H> {
    /// Tells the gate the way around a session's peer, once it has been looked up.
    pub(super) fn divert(&self, key: RouteKey) {
        let Some(session) = self.sessions.owner_of(key) else {
            return;
        };
        let Some(detour) = self.detours.of(flow(&session)) else {
            return;
        };
        let Some(live) = self.sessions.get(&session) else {
            return;
        };
        let request = Request {
            op: OP_SET_DETOUR,
            index: detour,
            key: session,
            generation: live.generation(),
            ..Request::NONE
        };
        let outcome = self.hands.control(&request);
        if !matches!(
            outcome,
            Ok(Counter::ControlDone | Counter::ControlNoSession)
        ) {
            warn!(dst = %key.dst, ?outcome, "way around not changed; retried");
        }
    }

    /// Whether a session of ours has these ends.
    pub(super) fn has_flow(&self, flow: Flow) -> bool {
        let Flow { dst, src } = flow;
        let ours = |ifindex| {
            let owner = self.sessions.owner_of(RouteKey { ifindex, dst });
            owner.is_some_and(|owner| owner.local == src.octets())
        };
        self.interfaces.indices().any(ours)
    }

    /// A way around has been looked up.
    pub(super) fn detour_found(&mut self, found: Found) {
        let flow = found.flow;
        if !self.detours.done(&self.hands, found) {
            return;
        }
        if !self.has_flow(flow) {
            self.detours.forget(flow);
            return;
        }
        for ifindex in self.interfaces.indices() {
            let dst = flow.dst;
            self.divert(RouteKey { ifindex, dst });
        }
    }
}
