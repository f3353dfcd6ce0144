//! D2: sends the farewells of closing sessions ([`crate::engine::state::farewell`]).

use std::net::Ipv4Addr;

use dz_common::counters::Counter;
use dz_common::map::SessionKey;
use tracing::warn;

use crate::datapath::Order;
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::farewell::Untold;

impl<H: Hands> Engine<H> {
    /// Sends one AdminDown packet for each of these closing sessions, in as few runs of the transmit program as
    /// possible. A packet whose next hop is not resolved is put off, or never sent.
    pub(crate) fn say(&mut self, keys: &[SessionKey]) {
        let now_ns = self.hands.now_ns();
        let mut orders = Vec::with_capacity(keys.len());
        for key in keys {
            match self.farewell_order(key) {
                Ok(order) => orders.push(order),
                Err(why) => self.not_said(*key, why, now_ns),
            }
        }
        let mut taken = vec![false; orders.len()];
        let mut outcomes = taken.iter_mut();
        let run = self.hands.transmit(&orders, |_, outcome| {
            if let Some(taken) = outcomes.next() {
                *taken = outcome.exit == Some(Counter::TxOriginated);
            }
        });
        if let Err(error) = run {
            warn!(%error, "transmit program not run for farewells");
        }
        for (order, taken) in orders.iter().zip(taken) {
            self.said(order.key, taken, now_ns);
        }
    }

    /// Makes the order to send a packet of a farewell, or says why it cannot be sent.
    fn farewell_order(&self, key: &SessionKey) -> Result<Order, Untold> {
        let live = self.sessions.get(key);
        let live = live.filter(|_| self.may_speak(key));
        let live = live.ok_or_else(|| Untold::Address(key.local.into()))?;
        match live.next_hop() {
            Some(next_hop)
                if self
                    .sessions
                    .next_hops()
                    .mac(&(key.ifindex, next_hop))
                    .is_none() =>
            {
                Err(Untold::NextHop(next_hop))
            }
            _ => Ok(self.order(*key, live, true)),
        }
    }

    fn said(&mut self, key: SessionKey, taken: bool, now_ns: u64) {
        let interval_us = || {
            let entry = self.hands.session(&key).ok().flatten();
            entry.map_or(0, |entry| entry.session.tx_interval_us())
        };
        self.closings.said(key, interval_us, taken, now_ns);
        self.log_untold(&key);
    }

    /// Puts a farewell off whose next hop may still be resolved, or ends it.
    fn not_said(&mut self, key: SessionKey, why: Untold, now_ns: u64) {
        let may_be_resolved = matches!(why, Untold::NextHop(_));
        if may_be_resolved && self.closings.wait_for_next_hop(key, now_ns) {
            self.resolve(&key, now_ns);
        } else {
            self.end_farewell(&key, why);
        }
    }

    /// Ends the farewell of a closing session: no more packet of it is sent.
    pub(crate) fn end_farewell(&mut self, key: &SessionKey, why: Untold) {
        if self.closings.end_farewell(key, why) {
            self.log_untold(key);
        }
    }

    fn log_untold(&self, key: &SessionKey) {
        if let Some(why) = self.closings.untold(key) {
            let (local, peer) = (Ipv4Addr::from(key.local), Ipv4Addr::from(key.peer));
            let interface = self.name_over(key);
            warn!(%interface, %local, %peer, "peer {why}");
        }
    }
}
