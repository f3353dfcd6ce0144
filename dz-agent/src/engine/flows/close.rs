//! Giving sessions up: on request, or because nobody wants them any more.
//!
//! The steps, and what a crash right after each of them leaves, are in ARCHITECTURE.md, "The
//! transaction, step by step". The next start closes every session without a peer, from the first.

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
    /// Gives a session up that nobody wants any more, or whose address is gone.
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

    /// Begins D2: tells the peers of sessions that are not being closed already, all together, in as few runs of
    /// the kernel program as there can be.
    pub(crate) fn begin_closing(&mut self, keys: &[SessionKey]) {
        let now_ns = self.hands.now_ns();
        let mut begun = Vec::with_capacity(keys.len());
        for key in keys {
            if self.closings.begin(*key, now_ns) {
                // Our clock has no business with it any more.
                self.sessions.look_no_more(key);
                begun.push(*key);
            }
        }
        self.say(&begun);
    }

    /// Goes on with D2: tells the peers whose turn has come.
    pub(crate) fn say_farewells(&mut self) {
        let keys = self.closings.take_due(self.hands.now_ns());
        self.say(&keys);
        for key in keys {
            self.go_on(key);
        }
    }

    /// Ends the farewells of closing sessions with an address, which is not held any more: nothing may
    /// be sent with it from this moment on.
    pub(crate) fn address_gone(&mut self, local: Ipv4Addr) {
        self.fall_silent(|key| Ipv4Addr::from(key.local) == local);
    }

    /// Ends the farewells of closing sessions over an interface, which is down or gone.
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

    /// Goes on with a closing session: D3 when the peer has been told for the first time, or cannot be, D4 when
    /// nothing more is to be said and the route is gone.
    pub(crate) fn go_on(&mut self, key: SessionKey) {
        match self.closings.next_step(&key) {
            Some(Step::GiveRouteUp) => self.give_route_up(key),
            Some(Step::Delete) => self.finish_closing(key),
            None => {}
        }
    }

    /// D3.
    fn give_route_up(&mut self, key: SessionKey) {
        let route = route_key(&key);
        if self.sessions.owns_route(&key) {
            self.adjust_route(route);
        } else {
            // The route is another session's.
            self.route_is_gone(key);
        }
    }

    /// The kernel has acknowledged that a route is gone.
    pub(crate) fn route_gone(&mut self, route: RouteKey) {
        if let Some(key) = self.sessions.owner_of(route) {
            self.route_is_gone(key);
        }
    }

    fn route_is_gone(&mut self, key: SessionKey) {
        self.closings.route_gone(&key);
        self.go_on(key);
    }

    /// D4.
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
        // Wanted again, or still: by another address, say. Its place is free now.
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

    /// The route of a closing session could not be deleted. It is retried; whoever waits is told.
    pub(crate) fn route_stuck(&mut self, route: RouteKey, error: &RouteError) {
        if let Some(key) = self.sessions.owner_of(route) {
            self.stuck(key, &error.to_string());
        }
    }

    /// A closing session is not gone yet. Whoever waits need not wait any longer to know.
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

    /// Replies if all peers of a batch are done with.
    pub(crate) fn reply_if_done(&mut self, id: u64) {
        let Some((reply, answer)) = self.closings.batches_mut().take_done(id) else {
            return;
        };
        if let Err(Err(refusal)) = reply.send(answer) {
            // Nobody waits: an undone connect, a line of the configuration, a client that is gone.
            warn!(faults = refusal.faults.join("; "), "disconnect");
        }
    }
}
