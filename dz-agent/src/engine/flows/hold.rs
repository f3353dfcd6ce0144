//! Holds sessions that go Down too often, and lets them go ([`Damping`](crate::engine::state::damping) decides).
//! What the session's entry says comes first, where the gate reads it; then the route follows.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use dz_common::control::{OP_HOLD, Request};
use dz_common::counters::Counter;
use dz_common::map::{HELD_QUIET, Origin, SessionEntry, SessionKey};
use tracing::{info, warn};

use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::keys::{RouteKey, route_key};
use crate::reason::Reason;

impl<H: Hands> Engine<H> {
    /// Reviews the sessions whose time has come: some are let go.
    pub(crate) fn review_due(&mut self) {
        let now_ns = self.hands.now_ns();
        while let Some(key) = self.sessions.damping_mut().take_due(now_ns) {
            self.review(key);
        }
    }

    /// Notes that others have taken a route of ours, which has been put back.
    pub(crate) fn route_taken(&mut self, route: RouteKey) {
        let now_ns = self.hands.now_ns();
        if let Some(owner) = self.sessions.owner_of(route)
            && self.sessions.damping_mut().route_taken(&owner, now_ns)
        {
            self.review(owner);
        }
    }

    /// Decides anew whether a session is held and whether its changes are told, and has its route follow. If its
    /// entry cannot be read or changed, the next full check does this.
    pub(crate) fn review(&mut self, key: SessionKey) {
        // One that is being closed counts as Up no more.
        if self.closings.contains(&key) {
            return;
        }
        let Some(generation) = self.sessions.get(&key).map(|live| live.generation()) else {
            return;
        };
        let entry = match self.hands.session(&key) {
            Ok(Some(entry)) if entry.generation == generation => entry,
            _ => return,
        };
        let now_ns = self.hands.now_ns();
        let held = self.sessions.damping_mut().review(&entry, now_ns);
        let request = Request {
            op: OP_HOLD,
            index: held.into(),
            key,
            generation,
            ..Request::NONE
        };
        if held != entry.held {
            let outcome = self.hands.control(&request);
            if !matches!(outcome, Ok(Counter::ControlDone)) {
                warn!(peer = %Ipv4Addr::from(key.peer), ?outcome, "session neither held nor let go; retried");
            }
        }
        self.tell_of_hold(&entry, held);
        self.show_hold(&key);
        // After the entry was read and before it was changed, packets may have changed the state untold: what
        // follows reads the session again.
        self.sessions.look_by(key, now_ns);
        let route = route_key(&key);
        let peer = self.peer_of(route);
        if peer.is_none_or(|peer| peer.origin != Origin::Follow) {
            self.adjust_route(route);
        }
    }

    /// Logs and counts that a session is held from now on, or not any more, unless that is shown already.
    fn tell_of_hold(&self, entry: &SessionEntry, held: u8) {
        let key = &entry.key;
        let before = self.shared.holds().get(key).copied();
        let interface = self.name_over(key);
        let (local, peer) = (Ipv4Addr::from(key.local), Ipv4Addr::from(key.peer));
        if held & !entry.held & HELD_QUIET != 0 {
            info!(
                interface = &*interface, %local, %peer,
                "session changes its state too fast: its changes are counted and not logged for a while"
            );
        }
        match self.sessions.damping().hold_of(key) {
            Some(hold) if Some(hold) != before => {
                let (why, until_ns) = hold;
                let pause_ns = until_ns.saturating_sub(self.hands.now_ns());
                let pause = Duration::from_millis(pause_ns.div_ceil(1_000_000));
                let reason = why.text();
                warn!(
                    interface = &*interface, %local, %peer, ?pause, reason,
                    "session held: it does not count as up"
                );
                let shared = Arc::clone(&self.shared);
                shared.count(&interface, local, |counts| counts.holds += 1);
            }
            _ if entry.is_held() && !dz_common::entry::is_held(held) => {
                info!(interface = &*interface, %local, %peer, "session not held any more");
            }
            _ => {}
        }
    }

    /// Shows whether damping holds a session.
    pub(crate) fn show_hold(&self, key: &SessionKey) {
        let mut holds = self.shared.holds();
        match self.sessions.damping().hold_of(key) {
            Some(hold) => {
                holds.insert(*key, hold);
            }
            None => {
                holds.remove(key);
            }
        }
    }
}
