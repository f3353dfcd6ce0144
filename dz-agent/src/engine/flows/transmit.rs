//! Our clock: it has the transmit program send the packets that are no answers.

use std::net::Ipv4Addr;

use dz_common::counters::Counter;
use dz_common::ingress::Link;
use dz_common::map::{MAX_DUE, Peer, SessionKey};
use tracing::warn;

use crate::datapath::{Order, Transmitted};
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::sessions::Live;

/// The pause before the next try where the transmit program could not be run, ns.
const RETRY_NS: u64 = 100_000_000;

impl<H: Hands> Engine<H> {
    /// Has the transmit program look at every session that is due by now. Sessions that become due meanwhile
    /// wait for the next turn, so that the agent still answers when there are more than it can serve.
    pub(crate) fn tick(&mut self) {
        let by_ns = self.hands.now_ns();
        loop {
            let taken = self.sessions.take_due(by_ns, MAX_DUE as usize);
            if taken.is_empty() {
                return;
            }
            let mut orders = Vec::with_capacity(taken.len());
            for (slot, key) in taken {
                // Where the peer's clock ticks first, an answer has been the transmission.
                if let Some(later_ns) = self.hands.not_due_before(slot, by_ns) {
                    self.sessions.look_at(slot, key, later_ns);
                } else if let Some(live) = self.sessions.get(&key) {
                    orders.push(self.order(key, live, false));
                }
            }
            self.transmit_orders(&orders);
        }
    }

    fn transmit_orders(&mut self, orders: &[Order]) {
        let mut outcomes = Vec::with_capacity(orders.len());
        let result = self
            .hands
            .transmit(orders, |order, outcome| outcomes.push((*order, outcome)));
        for (order, outcome) in &outcomes {
            self.transmitted(order, *outcome);
        }
        if let Err(error) = result {
            warn!(%error, "transmit program not run; retried");
            for order in &orders[outcomes.len()..] {
                self.sessions
                    .look_at(order.slot, order.key, self.hands.now_ns() + RETRY_NS);
            }
        }
    }

    fn transmitted(&mut self, order: &Order, outcome: Transmitted) {
        if outcome.exit == Some(Counter::TxNoNeighbour) {
            self.resolve(&order.key, self.hands.now_ns());
        }
        // 0: the session is gone. The full check opens it again if a peer wants it.
        if outcome.next_due_ns != 0 {
            self.sessions.look_again(
                order.slot,
                order.key,
                outcome.next_due_ns,
                self.hands.now_ns(),
            );
        }
    }

    /// Says whether packets may leave with a session's local address: not with one that is not ours any more.
    pub(crate) fn may_speak(&self, key: &SessionKey) -> bool {
        let interface = self.interfaces.with_index(key.ifindex);
        interface.is_some_and(|interface| self.interfaces.may_use(interface, key.local.into()))
    }

    /// Makes the order to transmit for a session; `force`: also if it is not due, for a farewell.
    pub(crate) fn order(&self, key: SessionKey, live: &Live, force: bool) -> Order {
        let ethernet = live.next_hop().map(|next_hop| {
            let destination = self.sessions.next_hops().mac(&(key.ifindex, next_hop));
            let source = self.interfaces.with_index(key.ifindex);
            (
                destination.unwrap_or_default(),
                source.and_then(|i| i.mac()).unwrap_or_default(),
            )
        });
        Order {
            key,
            slot: live.slot(),
            generation: live.generation(),
            force,
            ethernet,
        }
    }

    /// Returns the next hop of frames to a peer; none on a layer-3 device.
    pub(crate) fn next_hop(
        &self,
        ifindex: u32,
        peer: [u8; 4],
        facts: Option<&Peer>,
    ) -> Option<Ipv4Addr> {
        let interface = self.interfaces.with_index(ifindex)?;
        if interface.link() != Some(Link::Ethernet) {
            return None;
        }
        let via = facts.map(|peer| peer.via).filter(|via| *via != [0; 4]);
        Some(via.unwrap_or(peer).into())
    }
}
