//! Acts on the state changes that the kernel programs report.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dz_common::map::{Event, Origin};
use dz_common::packet::State;
use tracing::{info, warn};

use crate::engine::decide::lists::{List, lists};
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::keys::route_key;
use crate::engine::state::ledger::{Logged, Missing};
use crate::reason::{Reason, Untouched};
use crate::settings::PeerPassive;

/// Most events that are acted on before the loop looks at anything else.
const EVENTS_PER_TURN: usize = 1_024;

/// Most groups of [`EVENTS_PER_TURN`] events that are read before they are counted: more than the ring has room for.
const TURNS_PER_COUNT: usize = 32;

/// Most events that are listed at once: so many lists, if each is long, as the log takes within a second.
const LISTED_AT_ONCE: usize = 4_096;

/// Logs state changes, a line each. `untouched` returns why a route stays although its session has gone down.
fn log(events: Vec<Logged>, untouched: impl Fn(&Event) -> Option<Untouched>) {
    for (event, interface) in events {
        let interface = &*interface;
        let local = Ipv4Addr::from(event.key.local);
        let peer = Ipv4Addr::from(event.key.peer);
        let (from, to) = (event.from.name(), event.to.name());
        if event.to != State::Down {
            info!(interface, %local, %peer, from, to, "session");
            continue;
        }
        let reason = event.reason.name();
        let mut route_stays = None;
        if event.from == State::Up {
            route_stays = untouched(&event).map(Reason::text);
        }
        info!(interface, %local, %peer, from, to, reason, route_stays, "session");
    }
}

impl<H: Hands> Engine<H> {
    /// Acts on the state changes in `dz_events`: asks for the route changes, then writes the log, then has
    /// peers told. Returns whether there may be more.
    pub(crate) async fn reported(&mut self) -> bool {
        let more = self.drain();
        let mut answer = None;
        if self.jobs.is_asking() {
            // A change is asked for when its answer is first polled; netlink's own task sends the request.
            answer = self.jobs.answered_by_now();
            tokio::task::yield_now().await;
        }
        self.log_events();
        if let Some(answer) = answer {
            self.route_done(answer);
        }
        self.tick();
        more
    }

    fn log_events(&mut self) {
        let events = self.ledger.take_lines(self.hands.now_ns());
        log(events, |event| self.why_untouched(event));
    }

    /// Logs the state changes that were too many for a line each.
    pub(crate) fn log_lists(&mut self) {
        let (events, left_out) = self.ledger.take_listed(LISTED_AT_ONCE);
        for list in lists(events) {
            let List {
                interface,
                local,
                from,
                to,
                reason,
                count,
                peers,
            } = list;
            let interface = &*interface;
            info!(interface, %local, from, to, reason, count, peers, "sessions");
        }
        if left_out > 0 {
            warn!(left_out, "state changes neither logged nor listed");
        }
    }

    /// Returns why the route of a session that has gone down stays, by the session as it is now. To be called
    /// before the kernel's answer about the route is dealt with, which forgets another daemon's route in its
    /// place.
    fn why_untouched(&self, event: &Event) -> Option<Untouched> {
        let entry = self.hands.session(&event.key).ok()??;
        let (own, theirs) = (entry.session.timers.mode, entry.session.peer_mode);
        let ignore = self.options.peer_passive == PeerPassive::Ignore;
        let route = route_key(&event.key);
        let origin = self.peer_of(route).map(|peer| peer.origin);
        let troubles = self.shared.troubles();
        let foreign = troubles
            .get(&route)
            .is_some_and(|trouble| trouble.conflict.is_some());
        Untouched::of(own, theirs, ignore, origin, foreign)
    }

    /// Acts on the events in the ring. Returns whether there may be more.
    fn drain(&mut self) -> bool {
        for _ in 0..EVENTS_PER_TURN {
            let Some(event) = self.hands.next_event() else {
                return false;
            };
            self.ledger.count_read();
            match event {
                Ok(event) => self.state_changed(&event),
                Err(error) => warn!(%error, "an event that this version cannot read"),
            }
        }
        true
    }

    /// Acts on a state change: its route is decided about anew, and our clock asks for the session.
    fn state_changed(&mut self, event: &Event) {
        let Some(live) = self.sessions.get(&event.key) else {
            return;
        };
        if live.generation() != event.generation {
            return;
        }
        let interface = Arc::clone(live.interface());
        self.sessions.heard(&event.key);
        self.ledger.log_later(*event, interface);
        if event.to != State::AdminDown {
            // Our clock tells the peer the new state, unless an answer has.
            self.sessions.look_by(event.key, self.hands.now_ns());
        }
        let now_ns = self.hands.now_ns();
        let is_to_be_reviewed = self.sessions.damping_mut().changed(event, now_ns);
        let route = route_key(&event.key);
        let peer = self.peer_of(route);
        let is_followed = peer.is_some_and(|peer| peer.origin == Origin::Follow);
        if !is_followed {
            self.jobs.converging(route, event);
        }
        if is_to_be_reviewed {
            self.review(event.key);
            return;
        }
        // The route of a followed peer is not touched: the gate has acted already.
        if is_followed {
            return;
        }
        // AdminDown is our own doing: closing the session deletes the route.
        let ours = event.to == State::AdminDown;
        if (event.from == State::Up || event.to == State::Up) && !ours {
            self.adjust_route(route);
        }
    }

    /// Acts on the events in the ring, as many as it has room for at most. Returns whether it is empty.
    fn drain_all(&mut self) -> bool {
        let is_empty = (0..TURNS_PER_COUNT).any(|_| !self.drain());
        self.log_events();
        is_empty
    }

    /// Compares the number of events that the kernel has emitted with the number read. Returns whether any are
    /// missing, so that everything must be read.
    pub(crate) fn events_missing(&mut self) -> bool {
        if !self.drain_all() {
            // They come faster than they are read: the next count will do.
            return false;
        }
        let Ok((emitted, lost)) = self.events_emitted() else {
            return true;
        };
        // Reads events that were emitted between the first reading and the count.
        if !self.drain_all() {
            return false;
        }
        let Some(missing) = self.ledger.balance(emitted, lost) else {
            return false;
        };
        let Missing { unread, lost } = missing;
        warn!(unread, lost, "events lost: reading everything instead");
        self.shared.events_lost.store(lost, Ordering::Relaxed);
        true
    }
}
