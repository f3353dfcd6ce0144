//! Looks up ways around, and stores each in its session, where the gate reads it.

use dz_common::control::{OP_SET_DETOUR, Request};
use dz_common::counters::Counter;
use dz_common::map::SessionKey;

use tracing::warn;

use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::detours::{Question, WayFound};
use crate::engine::state::keys::{RouteKey, flow};
use crate::net::detours::Flow;

impl<H: Hands> Engine<H> {
    /// Asks the kernel about ways around, as many as may be under way at a time.
    pub(crate) fn look_up_ways(&mut self) {
        while let Some(question) = self.detours.next_to_ask() {
            let Question {
                flow,
                interfaces,
                holders,
            } = question;
            let way = self.hands.way_around(flow, interfaces, holders);
            self.detours.asked(flow, way);
        }
    }

    /// Stores the way around in the session that a route belongs to, if it has been looked up.
    pub(crate) fn divert(&self, key: RouteKey) {
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

    /// Says whether a session of ours has these ends.
    pub(crate) fn has_flow(&self, flow: Flow) -> bool {
        let Flow { dst, src } = flow;
        let ours = |ifindex| {
            let owner = self.sessions.owner_of(RouteKey { ifindex, dst });
            owner.is_some_and(|owner| owner.local == src.octets())
        };
        self.interfaces.indices().any(ours)
    }

    /// Notes the end of a look-up, and stores the way around in the sessions with these ends if it has changed.
    pub(crate) fn detour_found(&mut self, found: WayFound) {
        let flow = found.flow;
        let is_new = self.detours.done(found);
        self.look_up_ways();
        if !is_new {
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

    /// Forgets a session that is gone, and its way around if no other session has these ends.
    pub(crate) fn forget(&mut self, key: &SessionKey) {
        self.sessions.forget(key);
        self.shared.holds().remove(key);
        if !self.has_flow(flow(key)) {
            self.detours.forget(flow(key));
        }
    }
}
