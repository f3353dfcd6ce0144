//! Addresses that sessions speak from: the served interfaces' own, and those of this host that they
//! borrow (as `ip unnumbered` does), because their peers use them; and what is counted for each.

use std::net::Ipv4Addr;

use anyhow::Context;
use dz_common::map::{LocalKey, PeerKey};
use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use tracing::{info, warn};

use super::interfaces::Interface;
use super::parts::Engine;
use super::state::agenda::SETTLE;
use super::state::keys::{ifname, peer_key};
use crate::net::{NetlinkError, local};

/// Blocks of counters, block 0 included.
const BLOCKS: u32 = 256;

/// Which local address has which block of counters. An address keeps its block while it is gone, also
/// under another interface index, so that its counters go on when it comes back.
#[derive(Debug)]
pub(super) struct Blocks {
    blocks: HashMap<(String, [u8; 4]), u32>,
    /// What an earlier agent had given out.
    inherited: HashMap<LocalKey, u32>,
    used: HashSet<u32>,
}

impl Blocks {
    pub(super) fn new(inherited: impl IntoIterator<Item = (LocalKey, u32)>) -> Self {
        let inherited: HashMap<_, _> = inherited.into_iter().collect();
        let used = inherited.values().copied().collect();
        Self {
            blocks: HashMap::new(),
            inherited,
            used,
        }
    }

    /// The block of an address; 0, which is shared, if there is none left.
    pub(super) fn of(&mut self, interface: &str, key: &LocalKey) -> u32 {
        let name = (interface.to_owned(), key.addr);
        if let Some(block) = self.blocks.get(&name) {
            return *block;
        }
        let free = || (1..BLOCKS).find(|block| !self.used.contains(block));
        let Some(block) = self.inherited.remove(key).or_else(free) else {
            return 0;
        };
        self.used.insert(block);
        self.blocks.insert(name, block);
        block
    }
}

/// What the kernel has said of the addresses that peers use and their interface does not hold.
#[derive(Default)]
struct Answers {
    /// By interface, those that are this host's all the same.
    borrowed: Vec<HashSet<Ipv4Addr>>,
    /// The others.
    missing: HashSet<Ipv4Addr>,
}

impl Engine {
    /// Asks the kernel which of the addresses that peers use and their interface does not hold are
    /// this host's all the same, and has each interface borrow those. Returns what the kernel did not
    /// tell, if anything; then what was borrowed stays so.
    pub(super) async fn read_borrowed(&mut self) -> Option<anyhow::Error> {
        let mut by_interface: HashMap<&str, HashSet<Ipv4Addr>> = HashMap::new();
        let mut used = HashSet::new();
        let mut last = None;
        for (key, peer) in &self.peers {
            // Nearly all have the same as the one before.
            if last.replace((&key.ifname, peer.local)) != Some((&key.ifname, peer.local)) {
                let local = peer.local.into();
                used.insert(local);
                by_interface.entry(ifname(key)).or_default().insert(local);
            }
        }
        let wanted = self.interfaces.iter().map(|interface| {
            let locals = by_interface.remove(interface.name.as_str());
            let locals = locals.unwrap_or_default().into_iter();
            locals.filter(|local| !interface.holds(*local)).collect()
        });
        let wanted: Vec<Vec<Ipv4Addr>> = wanted.collect();
        self.held.use_addresses(used);
        let mut answers = match self.ask_locals(&wanted).await {
            Ok(answers) => answers,
            Err(error) => return Some(error),
        };
        if !self.held.were_missing(&answers.missing) {
            // One that moves is deleted before it is added. Nothing is sent meanwhile.
            tokio::time::sleep(SETTLE).await;
            answers = match self.ask_locals(&wanted).await {
                Ok(answers) => answers,
                Err(error) => return Some(error),
            };
        }
        for (index, borrowed) in answers.borrowed.into_iter().enumerate() {
            self.set_borrowed(index, borrowed);
        }
        self.held.asked(answers.missing);
        None
    }

    /// Asks about addresses, each interface's apart.
    async fn ask_locals(&self, wanted: &[Vec<Ipv4Addr>]) -> anyhow::Result<Answers> {
        let mut answers = Answers::default();
        for (index, locals) in wanted.iter().enumerate() {
            let mut borrowed = HashSet::new();
            for &local in locals {
                let asked = self.ask_local(index, local).await;
                if asked.with_context(|| format!("whether {local} is an address of this host"))? {
                    borrowed.insert(local);
                } else {
                    answers.missing.insert(local);
                }
            }
            answers.borrowed.push(borrowed);
        }
        Ok(answers)
    }

    /// Whether peers of an interface may use an address of this host that it does not hold itself.
    async fn ask_local(&self, index: usize, address: Ipv4Addr) -> Result<bool, NetlinkError> {
        if address.is_unspecified() || address.is_loopback() {
            return Ok(false);
        }
        let vrf = self.interfaces[index].vrf();
        local::is_local(self.connections.netlink(), address, vrf).await
    }

    /// Has an interface borrow an address that a request names, if it is this host's.
    pub(super) async fn borrow(&mut self, index: usize, address: Ipv4Addr) {
        match self.ask_local(index, address).await {
            Ok(true) => {
                self.held.use_address(address);
                let interface = &mut self.interfaces[index];
                let mut borrowed = interface.borrowed().collect::<HashSet<_>>();
                borrowed.insert(address);
                self.set_borrowed(index, borrowed);
                self.use_holders();
                self.show_interfaces();
            }
            Ok(false) => {}
            Err(error) => warn!(%address, %error, "whether this is an address of this host"),
        }
    }

    /// Whether packets may leave with this source: never with an address that is gone.
    pub(super) fn may_use(&self, interface: &Interface, address: Ipv4Addr) -> bool {
        interface.can_use(address) && !self.held.is_gone(address)
    }

    fn set_borrowed(&mut self, index: usize, borrowed: HashSet<Ipv4Addr>) {
        let interface = &mut self.interfaces[index];
        let Some((ifindex, before)) = interface.borrow(borrowed.clone()) else {
            return;
        };
        let name = interface.name.clone();
        let own: HashSet<_> = interface.locals().collect();
        let key = |local: &Ipv4Addr| LocalKey {
            ifindex,
            addr: local.octets(),
        };
        for local in borrowed.difference(&before) {
            self.local_came(&name, &key(local));
        }
        for local in before
            .difference(&borrowed)
            .filter(|local| !own.contains(*local))
        {
            self.local_went(&name, &key(local));
        }
    }

    /// An address can be spoken from over an interface.
    pub(super) fn local_came(&mut self, interface: &str, key: &LocalKey) {
        let block = self.blocks.of(interface, key);
        if block == 0 {
            warn!(interface, "no block of counters left: counted in block 0");
        }
        if let Err(error) = self.datapath.maps_mut().set_local(key, block) {
            warn!(interface, local = %Ipv4Addr::from(key.addr), %error, "address not noted");
        }
    }

    /// An address is not spoken from over an interface any more.
    pub(super) fn local_went(&mut self, interface: &str, key: &LocalKey) {
        info!(interface, local = %Ipv4Addr::from(key.addr), "address gone, or not used any more");
        if let Err(error) = self.datapath.maps_mut().delete_local(key) {
            warn!(interface, local = %Ipv4Addr::from(key.addr), %error, "address not forgotten");
        }
    }

    /// Forgets addresses that went while no agent was there to see it.
    pub(super) fn forget_stale_locals(&mut self) {
        let usable: HashSet<_> = self
            .interfaces
            .iter()
            .filter_map(|interface| Some((interface.ifindex()?, interface)))
            .flat_map(|(ifindex, interface)| {
                interface.usable().map(move |local| LocalKey {
                    ifindex,
                    addr: local.octets(),
                })
            })
            .collect();
        let known = self.datapath.maps().reader().locals();
        let known = known.inspect_err(|error| warn!(%error, "addresses not read"));
        for (key, _) in known.unwrap_or_default() {
            if !usable.contains(&key) {
                self.local_went(&self.interface_name(key.ifindex), &key);
            }
        }
    }

    /// Why an address cannot be a peer's over an interface, in words that follow it.
    pub(super) fn no_peer(
        &self,
        interface: &Interface,
        peer: Ipv4Addr,
        local: Ipv4Addr,
    ) -> Option<String> {
        if let Some(kind) = crate::settings::address::no_host(peer) {
            return Some(format!("is {kind}, not the address of a host"));
        }
        if let Some(refused) = interface.refuses(peer, local) {
            return Some(refused.to_owned());
        }
        let own = (self.held.is_held(peer)).then_some("is an address of this host");
        let broadcast = self.held.is_broadcast(peer);
        let broadcast =
            broadcast.then_some("is the broadcast address of another interface's subnet");
        own.or(broadcast).map(str::to_owned)
    }

    /// Why an address cannot be the gateway to a peer: the kernel would refuse the route once the session
    /// is Up.
    pub(super) fn no_gateway(&self, via: Ipv4Addr) -> Option<String> {
        let own = (self.held.is_held(via)).then_some("an address of this host");
        let broadcast = (self.held.is_broadcast(via)).then_some("a broadcast address");
        let what = own.or(broadcast)?;
        Some(format!("gateway {via} is {what}"))
    }

    /// The peers that cannot be, with the reason: from the file and from earlier times, when the
    /// address was somebody else's. One look-up for each address of this host, its subnets and links.
    pub(super) fn refused_peers(&self) -> HashMap<PeerKey, String> {
        let mut refused = HashMap::new();
        for interface in &self.interfaces {
            let held = self.held.addresses().chain(self.held.broadcasts());
            for address in held.chain(interface.refused()) {
                let key = peer_key(&interface.name, address);
                if let Some(peer) = self.peers.get(&key)
                    && let Some(why) = self.no_peer(interface, address, peer.local.into())
                {
                    refused.insert(key, format!("{address} {why}"));
                }
            }
        }
        refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_its_block() {
        let key = |ifindex, last| LocalKey {
            ifindex,
            addr: [10, 0, 0, last],
        };
        let mut blocks = Blocks::new([(key(3, 1), 1)]);
        assert_eq!(blocks.of("dz0", &key(3, 1)), 1, "inherited");
        assert_eq!(blocks.of("dz0", &key(3, 2)), 2);
        assert_eq!(
            blocks.of("dz0", &key(9, 1)),
            1,
            "the interface was created anew"
        );
        assert_eq!(
            blocks.of("dz1", &key(4, 1)),
            3,
            "the same address on another interface"
        );
        for last in 3..=255 {
            blocks.of("dz0", &key(3, last));
        }
        assert_eq!(blocks.of("dz2", &key(5, 1)), 0, "none left");
    }
}
