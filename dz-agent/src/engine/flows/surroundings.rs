//! What is around the interfaces that we serve: interfaces that packets can be diverted to, and
//! addresses that must not be seen there.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use dz_common::map::Confined;
use foldhash::{HashSet, HashSetExt};
use tracing::{info, warn};

use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::net::NetlinkError;
use crate::net::monitor::Event;

impl<H: Hands> Engine<H> {
    /// Something changed in the network namespace: what does it mean for packets that are diverted?
    pub(crate) fn around_changed(&mut self, event: &Event) {
        match *event {
            Event::Link { ifindex, .. } => {
                // It can flush routes without a word.
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
                // Those by interfaces with a gate, ours above all, lead around nothing.
                if ifindex.is_none_or(|ifindex| self.interfaces.with_index(ifindex).is_none()) {
                    self.detours.look_within(dst, prefix_len);
                }
            }
            Event::Neighbour { .. } | Event::Host(_) | Event::Local { .. } => {}
            Event::Overrun => self.detours.look_at_all(),
        }
        self.look_up_ways();
    }

    /// An address came or went. Most are of no concern: containers come and go.
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
        // Without a word the kernel flushes routes that name the address as their source, and with
        // an interface's last address all of its routes.
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

    /// Looks at all interfaces and addresses, as they are by now, and follows what changed.
    /// Returns what the kernel did not tell, if anything.
    pub(crate) async fn look_around(&mut self) -> Option<anyhow::Error> {
        let addresses = match self.hands.addresses().await {
            Ok(addresses) => addresses,
            Err(error) => return Some(untold(error)),
        };
        self.interfaces.host_addresses_mut().read(&addresses);
        self.look_at_links().await
    }

    /// The same with the addresses that have just been read.
    pub(crate) async fn look_at_links(&mut self) -> Option<anyhow::Error> {
        self.agenda.looked_around();
        self.try_look_around().await.err().map(untold)
    }

    async fn try_look_around(&mut self) -> Result<(), NetlinkError> {
        // Of other agents, too: a packet that two gates hand to each other would never arrive.
        let served = self.hands.served();
        let carriers = self.hands.carriers().await?;
        let others = carriers
            .iter()
            .filter(|carrier| !served.contains(&carrier.name));
        let mut candidates: Vec<u32> = others.map(|carrier| carrier.ifindex).collect();
        candidates.sort_unstable();
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
        Ok(())
    }

    /// Tells the ways around which interfaces hold the addresses that peers use.
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

    /// Confines these addresses and no others.
    fn confine(&mut self, wanted: &BTreeSet<(Ipv4Addr, u32)>) {
        let confined = match self.hands.confined() {
            Ok(confined) => confined.into_iter().collect::<HashSet<_>>(),
            Err(error) => {
                warn!(%error, "confined addresses not read; repeated");
                return;
            }
        };
        let mut kept = HashSet::new();
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

    /// Keeps packets from an address from being diverted.
    fn confine_one(&mut self, key: Confined, ifindex: u32) {
        if let Err(error) = self.hands.confine(&key, ifindex) {
            let source = Ipv4Addr::from(key.addr);
            warn!(%source, %error, "address not confined: its packets may be diverted");
        }
    }
}

fn untold(error: NetlinkError) -> anyhow::Error {
    anyhow::Error::from(error).context("interfaces and addresses")
}
