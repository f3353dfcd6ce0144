//! Keeps up with the interfaces that packets can be diverted to, and confines the addresses that must not be
//! seen there: those that only served interfaces hold.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use dz_common::map::Confined;
use futures_util::FutureExt;
use tracing::{info, warn};

use crate::engine::hands::{Answer, Hands, Surroundings};
use crate::engine::parts::Engine;
use crate::engine::state::checks::Reading;
use crate::engine::state::interface::Interface;
use crate::hash::HashSet;
use crate::net::NetlinkError;
use crate::net::links::{self, Address};
use crate::net::monitor::Event;

impl<H: Hands> Engine<H> {
    /// Has ways around looked up again that a change in the network namespace may concern.
    pub(crate) fn around_changed(&mut self, event: &Event) {
        match *event {
            Event::Link { ifindex, .. } => {
                // A link that goes down takes its routes along, without a notification.
                if self.detours.is_candidate(ifindex) {
                    self.detours.look_at_all();
                }
                self.agenda.look_around_soon(self.hands.now_ns());
            }
            Event::Address {
                ifindex,
                ref address,
                gone,
            } => self.address_around(ifindex, address.local, gone),
            Event::Route {
                dst,
                prefix_len,
                ifindex,
                ..
            } => {
                // No way around is by an interface of ours, which has a gate.
                if ifindex.is_none_or(|ifindex| self.interfaces.with_index(ifindex).is_none()) {
                    self.detours.cover(dst, prefix_len, ifindex);
                    self.detours.look_within(dst, prefix_len);
                }
            }
            Event::Neighbour { .. } | Event::Host(_) | Event::Local { .. } => {}
            Event::Overrun => {
                self.detours.doubt_coverage();
                self.detours.look_at_all();
            }
        }
        self.look_up_ways();
    }

    /// Has ways around looked up again that an address concerns which came or went. Most are of no concern:
    /// containers come and go.
    fn address_around(&mut self, ifindex: u32, address: Ipv4Addr, gone: bool) {
        let is_ours = |ifindex| self.interfaces.with_index(ifindex).is_some();
        let concerned = is_ours(ifindex)
            || self.interfaces.host_addresses().is_used(address)
            || self
                .interfaces
                .host_addresses()
                .holders(address)
                .any(is_ours);
        if concerned {
            self.agenda.look_around_soon(self.hands.now_ns());
        }
        // Without a notification the kernel deletes routes that name the address as their source, and with an
        // interface's last address all of its routes.
        if gone
            && self.detours.leans_on(
                ifindex,
                address,
                self.interfaces.host_addresses().holds_any(ifindex),
            )
        {
            self.detours.look_at_all();
        }
    }

    /// Begins to look around: to read all addresses and interfaces. [`Self::looked_around`] goes on with it. A full
    /// check that is under way may have read too early, and has its turn first.
    pub(crate) fn begin_to_look_around(&mut self) {
        if self.checks.is_reading() {
            self.agenda.look_around_soon(self.hands.now_ns());
            return;
        }
        let surroundings = self.read_surroundings();
        let reading = async move {
            Reading {
                surroundings: Some(surroundings.await),
                routes: None,
            }
        };
        self.checks.look_around(reading.boxed_local());
    }

    /// Begins to read links and addresses. Changes from now on ask for another look around.
    pub(crate) fn read_surroundings(&mut self) -> Answer<Result<Surroundings, NetlinkError>> {
        self.agenda.looked_around();
        let names = self.interfaces.iter().map(Interface::name);
        self.hands.surroundings(names.map(str::to_owned).collect())
    }

    /// Updates ways around and confined addresses to what has been read. Returns why reading failed, if it did.
    pub(crate) async fn looked_around(
        &mut self,
        read: Result<Surroundings, NetlinkError>,
    ) -> Option<anyhow::Error> {
        match read {
            Ok(read) => {
                self.use_addresses(&read.addresses);
                self.look_at(Ok(read.carriers)).await
            }
            Err(error) => Some(unread(error)),
        }
    }

    /// Replaces the addresses of this host by those that have been read. Notifications that came meanwhile count
    /// after them: of each address that they name the last one is right, whenever it was read.
    pub(crate) fn use_addresses(&mut self, addresses: &[(u32, Address)]) {
        let heard = self.checks.take_heard();
        let held = self.interfaces.host_addresses_mut();
        held.read(addresses);
        for (ifindex, address, gone) in heard {
            held.apply(ifindex, &address, gone);
        }
    }

    /// Looks around with the addresses that have just been read. Returns why reading failed, if it did.
    pub(crate) async fn look_at_links(&mut self) -> Option<anyhow::Error> {
        self.agenda.looked_around();
        let carriers = self.hands.carriers().await;
        self.look_at(carriers).await
    }

    /// Looks around with addresses and links that have been read. Returns why reading failed, if it did.
    pub(crate) async fn look_at(
        &mut self,
        carriers: Result<Vec<links::Interface>, NetlinkError>,
    ) -> Option<anyhow::Error> {
        let carriers = match carriers {
            Ok(carriers) => carriers,
            Err(error) => return Some(unread(error)),
        };
        // Interfaces of other agents are no candidates either: two gates would hand a packet to each other.
        let served = self.hands.served();
        let others = carriers
            .iter()
            .filter(|carrier| !served.contains(&carrier.name));
        let mut candidates: Vec<u32> = others.map(|carrier| carrier.ifindex).collect();
        candidates.sort_unstable();
        if self.detours.wants_coverage() {
            match self.hands.coverage().await {
                Ok(coverage) => self.detours.use_coverage(coverage),
                Err(error) => {
                    warn!(%error, "routes not read: ways around are asked for by each interface")
                }
            }
        }
        self.detours.use_candidates(candidates);
        self.use_holders();

        let served: HashSet<u32> = served
            .iter()
            .filter_map(|name| self.hands.ifindex(name))
            .collect();
        let mut only_here = BTreeSet::new();
        for interface in self.interfaces.iter() {
            let Some(ifindex) = interface.ifindex() else {
                continue;
            };
            for address in interface.locals() {
                if self
                    .interfaces
                    .host_addresses()
                    .holders(address)
                    .all(|one| served.contains(&one))
                {
                    only_here.insert((address, ifindex));
                }
            }
        }
        self.confine(&only_here);
        None
    }

    /// Passes the interfaces that hold each used address on to the ways around.
    pub(crate) fn use_holders(&mut self) {
        let holders = self.interfaces.host_addresses().used().map(|address| {
            let mut holders: Vec<u32> = self.interfaces.host_addresses().holders(address).collect();
            holders.sort_unstable();
            (address, holders)
        });
        let holders = holders.collect();
        self.detours.use_holders(holders);
        self.look_up_ways();
    }

    /// Confines these addresses, and releases all others.
    fn confine(&mut self, wanted: &BTreeSet<(Ipv4Addr, u32)>) {
        let confined = match self.hands.confined() {
            Ok(confined) => confined.into_iter().collect::<HashSet<_>>(),
            Err(error) => {
                warn!(%error, "confined addresses not read; repeated");
                return;
            }
        };
        let mut kept = HashSet::default();
        for &(address, ifindex) in wanted {
            let key = Confined {
                addr: address.octets(),
            };
            kept.insert(key);
            if !confined.contains(&key) {
                self.confine_one(key, ifindex);
            }
        }
        for key in confined.difference(&kept) {
            match self.hands.release(key) {
                Ok(()) => info!(source = %Ipv4Addr::from(key.addr), "may leave elsewhere"),
                Err(error) => warn!(%error, "address not released; repeated"),
            }
        }
    }

    /// Confines an address: packets with this source are not diverted.
    fn confine_one(&mut self, key: Confined, ifindex: u32) {
        if let Err(error) = self.hands.confine(&key, ifindex) {
            let source = Ipv4Addr::from(key.addr);
            warn!(%source, %error, "address not confined: its packets may be diverted");
        }
    }
}

fn unread(error: NetlinkError) -> anyhow::Error {
    anyhow::Error::from(error).context("interfaces and addresses")
}
