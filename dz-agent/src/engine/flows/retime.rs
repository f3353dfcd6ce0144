//! Gives a session the timers of its peer, which have changed: without the session's noticing where the protocol
//! allows that, else by closing it and opening it anew.

use std::net::Ipv4Addr;

use dz_common::control::{OP_SET_TIMERS, Request};
use dz_common::counters::Counter;
use dz_common::map::SessionKey;
use tracing::{debug, info, warn};

use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::keys::route_key;

impl<H: Hands> Engine<H> {
    /// Gives a session the timers of its peer. Where the peer would have to know of them first
    /// ([`dz_common::session::Timers::can_become`]), the session is closed as in a disconnect, but for the peer,
    /// which stays: so the next session is opened when this one is gone.
    pub(crate) fn retime(&mut self, key: SessionKey) {
        if self.closings.contains(&key) {
            return; // the next one has them
        }
        let peer = self.peer_of(route_key(&key));
        let timers = peer.filter(|peer| peer.local == key.local);
        let timers = timers.map(|peer| peer.timers);
        let generation = self.sessions.get(&key).map(|live| live.generation());
        let (Some(timers), Some(generation)) = (timers, generation) else {
            return;
        };
        let request = Request {
            op: OP_SET_TIMERS,
            key,
            generation,
            timers,
            ..Request::NONE
        };
        let (interface, peer) = (self.name_over(&key), Ipv4Addr::from(key.peer));
        match self.hands.control(&request) {
            Ok(Counter::ControlDone) => {
                debug!(%interface, %peer, "other timers: the session goes on");
            }
            Ok(Counter::ControlRefused) => {
                info!(
                    %interface,
                    %peer,
                    "other timers, slower to send or faster to receive: the session is opened anew, for its peer \
                     has to learn of them first"
                );
                self.close(key, true);
            }
            // Deleted by somebody else, or refused: the next full check finds it.
            outcome => warn!(%peer, ?outcome, "timers not changed; tried again in some seconds"),
        }
    }
}
