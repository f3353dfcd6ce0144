//! Closes sessions: on request, because no peer wants them any more, or because their address is gone.
//!
//! The steps D1 to D4, and what a crash right after each of them leaves, are in ARCHITECTURE.md, "The
//! transaction, step by step". The next start takes every session without a peer through all of them.

use std::net::Ipv4Addr;
use std::sync::Arc;

use dz_common::control::{OP_ADMIN_DOWN, Request};
use dz_common::map::SessionKey;
use tracing::warn;

use crate::command::Disconnected;
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::backoff::backoff;
use crate::engine::state::closings::Step;
use crate::engine::state::farewell::Untold;
use crate::engine::state::keys::{RouteKey, route_key};
use crate::net::routes::RouteError;

impl<H: Hands> Engine<H> {
    /// Closes a session that no peer wants any more, or whose address is gone; `announce`: tell its peer. A
    /// session that is being closed already goes on with its next step.
    pub(crate) fn close(&mut self, key: SessionKey, announce: bool) {
        if self.closings.contains(&key) {
            let again = self.closings.waits_for_route(&key);
            if !announce {
                self.end_farewell(&key, Untold::Address(key.local.into()));
            }
            self.go_on(key);
            if again {
                self.give_route_up(key);
            }
            return;
        }
        let Some(live) = self.sessions.get(&key) else {
            return;
        };
        let request = Request {
            op: OP_ADMIN_DOWN,
            key,
            generation: live.generation(),
            ..Request::NONE
        };
        if let Err(error) = self.hands.control(&request) {
            warn!(peer = %Ipv4Addr::from(key.peer), %error, "session not closed; retried");
            return;
        }
        if announce {
            self.begin_closing(&[key]);
        } else {
            self.sessions.look_no_more(&key);
            self.closings.begin_silent(key);
        }
        self.go_on(key);
    }

    /// Begins D2 of sessions that are not being closed already: tells their peers, all in as few runs of the
    /// transmit program as possible.
    pub(crate) fn begin_closing(&mut self, keys: &[SessionKey]) {
        let now_ns = self.hands.now_ns();
        let mut begun = Vec::with_capacity(keys.len());
        for key in keys {
            if self.closings.begin(*key, now_ns) {
                self.sessions.look_no_more(key);
                begun.push(*key);
            }
        }
        self.say(&begun);
    }

    /// Goes on with D2: sends the packets of farewells that are due by now.
    pub(crate) fn say_farewells(&mut self) {
        let keys = self.closings.take_due(self.hands.now_ns());
        self.say(&keys);
        for key in keys {
            self.go_on(key);
        }
    }

    /// Ends the farewells of closing sessions with an address that this host does not hold any more, for
    /// nothing may be sent with it.
    pub(crate) fn address_gone(&mut self, local: Ipv4Addr) {
        self.fall_silent(|key| Ipv4Addr::from(key.local) == local);
    }

    /// Ends the farewells of closing sessions over an interface that is down or gone.
    pub(crate) fn interface_down(&mut self, ifindex: u32) {
        self.fall_silent(|key| key.ifindex == ifindex);
    }

    fn fall_silent(&mut self, concerns: impl Fn(&SessionKey) -> bool) {
        let closing = self.closings.keys().filter(|key| concerns(key));
        for key in closing.collect::<Vec<_>>() {
            self.end_farewell(&key, Untold::Address(key.local.into()));
            self.go_on(key);
        }
    }

    /// Takes the next step of a closing session if its time has come ([`Step`]).
    pub(crate) fn go_on(&mut self, key: SessionKey) {
        match self.closings.next_step(&key) {
            Some(Step::GiveRouteUp) => self.give_route_up(key),
            Some(Step::Delete) => self.finish_closing(key),
            None => {}
        }
    }

    /// D3: deletes the route.
    fn give_route_up(&mut self, key: SessionKey) {
        let route = route_key(&key);
        if self.sessions.owns_route(&key) {
            self.adjust_route(route);
        } else {
            // The route is another session's.
            self.route_is_gone(key);
        }
    }

    /// Goes on with the closing session that has waited for its route to go, if there is one.
    pub(crate) fn route_gone(&mut self, route: RouteKey) {
        if let Some(key) = self.sessions.owner_of(route) {
            self.route_is_gone(key);
        }
    }

    fn route_is_gone(&mut self, key: SessionKey) {
        self.closings.route_gone(&key);
        self.go_on(key);
    }

    /// D4: deletes the session, and replies to the requests that wait for it alone.
    fn finish_closing(&mut self, key: SessionKey) {
        let route = route_key(&key);
        let last = self.hands.session(&key);
        if let Err(error) = self.hands.delete_session(&key) {
            self.stuck(key, &format!("its session is not deleted: {error}"));
            let Some(failures) = self.closings.not_deleted(&key) else {
                return;
            };
            let pause = backoff(failures);
            if failures == 1 {
                warn!(peer = %Ipv4Addr::from(key.peer), %error, "session not deleted; retried");
            }
            self.jobs.retry(route, pause, self.hands.now_ns());
            return;
        }
        let Some(closed) = self.closings.finish(&key) else {
            return;
        };
        let interface = self.name_over(&key);
        if let Ok(Some(entry)) = last {
            self.shared.recorded.rx_versions.removed(&interface, &entry);
        }
        self.forget(&key);
        if self.interfaces.has_leaving() {
            self.agenda.check_soon(self.hands.now_ns());
        }
        // A peer may want its next session here, from another address, say.
        self.room_came(route);
        for batch in closed.batches {
            let done = Disconnected {
                interface: Arc::clone(&interface),
                local: key.local.into(),
                peer: key.peer.into(),
                warnings: closed.untold.iter().map(Untold::to_string).collect(),
            };
            self.closings.batches_mut().finish_one(batch, Ok(done));
            self.reply_if_done(batch);
        }
    }

    /// Tells the requests that wait for a closing session that its route could not be deleted. The deletion
    /// is retried.
    pub(crate) fn route_stuck(&mut self, route: RouteKey, error: &RouteError) {
        if let Some(key) = self.sessions.owner_of(route) {
            self.stuck(key, &error.to_string());
        }
    }

    /// Replies to the requests that wait for a closing session: the kernel refuses a step, which is retried.
    fn stuck(&mut self, key: SessionKey, why: &str) {
        for batch in self.closings.take_waiting(&key) {
            let fault = format!(
                "peer {}: disconnected, and nothing is sent or answered any more, but {why}; \
                 retried until the kernel agrees",
                Ipv4Addr::from(key.peer)
            );
            self.closings.batches_mut().finish_one(batch, Err(fault));
            self.reply_if_done(batch);
        }
    }

    /// Replies to a request to disconnect if all of its peers are done with.
    pub(crate) fn reply_if_done(&mut self, id: u64) {
        let Some((reply, answer)) = self.closings.batches_mut().take_done(id) else {
            return;
        };
        if let Err(Err(refusal)) = reply.send(answer) {
            // Nobody reads the reply: a connect was undone, the file has changed, or the client is gone.
            warn!(faults = refusal.faults.join("; "), "disconnect");
        }
    }
}
