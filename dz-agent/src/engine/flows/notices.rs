//! Acts on netlink notifications: some change what the engine knows, most schedule something to be read.

use std::sync::atomic::Ordering;

use tracing::warn;

use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::interface::Interface;
use crate::engine::state::keys::RouteKey;
use crate::net::monitor::Event;

impl<H: Hands> Engine<H> {
    /// Acts on a change in the network namespace.
    pub(crate) fn changed(&mut self, event: Event) {
        if let Event::Address {
            ifindex,
            address,
            gone,
        } = &event
        {
            self.checks.hear((*ifindex, *address, *gone));
            self.interfaces
                .host_addresses_mut()
                .apply(*ifindex, address, *gone);
        }
        self.around_changed(&event);
        match event {
            Event::Link {
                ifindex,
                name,
                up,
                gone,
            } => {
                if gone || !up {
                    self.interface_down(ifindex);
                }
                let ours = |i: &Interface| i.name() == name || i.ifindex() == Some(ifindex);
                // An interface that joins a VRF takes its addresses along, without a notification of theirs.
                if self.interfaces.iter().any(ours)
                    || self.interfaces.host_addresses().has_used(ifindex)
                {
                    self.agenda.check_soon(self.hands.now_ns());
                }
            }
            Event::Address {
                ifindex,
                address,
                gone,
            } => {
                // Another interface may hold it as well.
                if gone && !self.interfaces.host_addresses().is_held(address.local) {
                    self.address_gone(address.local);
                }
                // Peers may use the address of any interface. With it the kernel deletes each route that has
                // it as its source, without a notification.
                if self.interfaces.with_index(ifindex).is_some()
                    || self.interfaces.host_addresses().is_used(address.local)
                {
                    self.agenda.check_soon(self.hands.now_ns());
                }
            }
            Event::Local { dst, prefix_len } => {
                if self
                    .interfaces
                    .host_addresses()
                    .is_used_within(dst, prefix_len)
                {
                    self.agenda.check_soon(self.hands.now_ns());
                }
            }
            Event::Route {
                dst,
                prefix_len: 32,
                ifindex,
                protocol,
                gone,
                place,
            } => {
                let ours = protocol == self.options.route_protocol;
                let ours = ifindex
                    .filter(|ifindex| ours && self.interfaces.with_index(*ifindex).is_some());
                match ours {
                    Some(ifindex) => {
                        self.route_changed(RouteKey { ifindex, dst }, gone, &place);
                    }
                    None => self.foreign_route_changed(dst, gone, &place),
                }
            }
            Event::Route { .. } => {}
            Event::Host(change) => self.host_route_changed(&change),
            Event::Neighbour {
                ifindex,
                address,
                mac,
            } => {
                self.neighbour_changed((ifindex, address, mac));
            }
            Event::Overrun => {
                warn!("netlink notifications lost: reading everything again");
                self.shared.overruns.fetch_add(1, Ordering::Relaxed);
                self.wants.followed_mut().doubt();
                self.sessions.next_hops_mut().set_up_to_date(false);
                self.agenda.check_soon(self.hands.now_ns());
            }
        }
    }
}
