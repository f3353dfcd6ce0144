//! Addresses that sessions speak from: the served interfaces' own, and those of this host that they
//! borrow (as `ip unnumbered` does), because their peers use them; and what is counted for each.

use std::net::Ipv4Addr;

use anyhow::Context;
use dz_common::map::{LocalKey, PeerKey};
use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use tracing::{info, warn};

use super::Engine;
use super::ends::is_global;
use super::interfaces::Interface;
use super::reconcile::{ifname, peer_key};
use super::run::SETTLE;
use crate::net::links::Address;
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

/// The addresses of this host, on whatever interface: read in every full check, and kept current by
/// notifications in between.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// By address, the interfaces that hold it, one several times if with several prefixes.
    holders: HashMap<Ipv4Addr, Vec<(u32, Address)>>,
    /// Addresses of each interface; those that hold none are not in it.
    counts: HashMap<u32, usize>,
    /// Addresses that peers use. News of any other one means nothing to sessions.
    used: HashSet<Ipv4Addr>,
    /// Those of them that went since everything was read.
    gone: HashSet<Ipv4Addr>,
    /// Those that were not this host's when the kernel was asked last.
    missing: HashSet<Ipv4Addr>,
    /// The kernel is to be asked about some.
    is_new: bool,
}

impl Held {
    /// Takes the place of everything that was known.
    pub(super) fn read(&mut self, addresses: &[(u32, Address)]) {
        self.holders.clear();
        self.counts.clear();
        self.gone.clear();
        for (ifindex, address) in addresses {
            self.apply(*ifindex, address, false);
        }
    }

    /// Takes note of a notification. One that was sent before the addresses were read can make this
    /// wrong until the next one is read.
    pub(super) fn apply(&mut self, ifindex: u32, address: &Address, gone: bool) {
        let holders = self.holders.entry(address.local).or_default();
        let before = holders.len();
        // What the kernel tells addresses of one interface apart by; the rest can change.
        let same = |(holder, other): &(u32, Address)| {
            (*holder, other.prefix_len, other.peer) == (ifindex, address.prefix_len, address.peer)
        };
        holders.retain(|held| !same(held));
        let held_before = before > holders.len();
        if !gone {
            holders.push((ifindex, *address));
            self.gone.remove(&address.local);
        } else if holders.is_empty() {
            self.holders.remove(&address.local);
            if self.used.contains(&address.local) {
                self.gone.insert(address.local);
            }
        }
        let count = self.counts.entry(ifindex).or_default();
        *count = count.saturating_add(usize::from(!gone));
        *count = count.saturating_sub(usize::from(held_before));
        if *count == 0 {
            self.counts.remove(&ifindex);
        }
    }

    /// The interfaces that hold an address.
    pub(super) fn holders(&self, address: Ipv4Addr) -> impl Iterator<Item = u32> {
        let holders = self.holders.get(&address).into_iter().flatten();
        holders.map(|(ifindex, _)| *ifindex)
    }

    /// Whether any interface holds an address.
    pub(super) fn is_held(&self, address: Ipv4Addr) -> bool {
        self.holders.contains_key(&address)
    }

    /// Whether an address can be taken without having been named.
    pub(super) fn is_global(&self, address: Ipv4Addr) -> bool {
        let mut holders = self.holders.get(&address).into_iter().flatten();
        holders.any(|(_, held)| is_global(address, held.scope))
    }

    /// Whether an interface holds any address.
    pub(super) fn holds_any(&self, ifindex: u32) -> bool {
        self.counts.contains_key(&ifindex)
    }

    /// Whether an address that peers use went a moment ago, and the full check has yet to see it.
    pub(super) fn is_gone(&self, address: Ipv4Addr) -> bool {
        self.gone.contains(&address)
    }

    /// Every address.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.holders.keys().copied()
    }

    /// Takes note that a peer uses an address.
    pub(super) fn use_address(&mut self, address: Ipv4Addr) {
        self.used.insert(address);
    }

    /// Takes note that a peer is to use an address that the kernel has yet to be asked about.
    pub(super) fn ask_about(&mut self, address: Ipv4Addr) {
        self.used.insert(address);
        self.is_new = true;
    }

    /// Whether there is an address to ask about; no more after this.
    pub(super) const fn take_new(&mut self) -> bool {
        std::mem::replace(&mut self.is_new, false)
    }

    /// Whether peers use an address.
    pub(super) fn is_used(&self, address: Ipv4Addr) -> bool {
        self.used.contains(&address)
    }

    /// The addresses that peers use.
    pub(super) fn used(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.used.iter().copied()
    }

    /// Whether peers use any address that an interface holds.
    pub(super) fn has_used(&self, ifindex: u32) -> bool {
        self.used()
            .any(|address| self.holders(address).any(|holder| holder == ifindex))
    }

    /// Whether peers use any address within a prefix.
    pub(super) fn is_used_within(&self, prefix: Ipv4Addr, prefix_len: u8) -> bool {
        let host_bits = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
        let within =
            |address: &Ipv4Addr| (u32::from(*address) ^ u32::from(prefix)) & !host_bits == 0;
        self.used.iter().any(within)
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
        self.held.used = used;
        let mut answers = match self.ask_locals(&wanted).await {
            Ok(answers) => answers,
            Err(error) => return Some(error),
        };
        if !answers.missing.is_subset(&self.held.missing) {
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
        self.held.missing = answers.missing;
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
        if let Err(error) = self.datapath.maps.set_local(key, block) {
            warn!(interface, local = %Ipv4Addr::from(key.addr), %error, "address not noted");
        }
    }

    /// An address is not spoken from over an interface any more.
    pub(super) fn local_went(&mut self, interface: &str, key: &LocalKey) {
        info!(interface, local = %Ipv4Addr::from(key.addr), "address gone, or not used any more");
        if let Err(error) = self.datapath.maps.delete_local(key) {
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
        let known = self.datapath.maps.reader().locals();
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
        if let Some(kind) = crate::address::no_host(peer) {
            return Some(format!("is {kind}, not the address of a host"));
        }
        if let Some(refused) = interface.refuses(peer, local) {
            return Some(refused.to_owned());
        }
        let held = self.held.is_held(peer);
        held.then(|| "is an address of this host".to_owned())
    }

    /// The peers that cannot be, with the reason: from the file and from earlier times, when the
    /// address was somebody else's. One look-up for each address of this host and its links.
    pub(super) fn refused_peers(&self) -> HashMap<PeerKey, String> {
        let mut refused = HashMap::new();
        for interface in &self.interfaces {
            let here = self.held.addresses().chain(interface.refused());
            for address in here {
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

    #[test]
    fn an_address_moves_between_interfaces() {
        let public = Ipv4Addr::new(192, 0, 2, 1);
        let address = |scope| Address {
            local: public,
            prefix_len: 24,
            peer: None,
            scope,
            secondary: false,
        };
        let holders = |held: &Held| held.holders(public).collect::<Vec<_>>();
        let mut held = Held::default();
        held.read(&[(2, address(0))]);
        held.apply(3, &address(253), false);
        assert_eq!(holders(&held), [2, 3], "the new one first");
        held.apply(2, &address(0), true);
        assert_eq!(holders(&held), [3]);
        assert!(
            held.is_held(public) && !held.is_global(public),
            "by its scope"
        );
        assert!(held.holds_any(3) && !held.holds_any(2));
        held.apply(3, &address(253), true);
        held.apply(3, &address(253), true);
        assert!(!held.is_held(public) && !held.holds_any(3), "told twice");
        held.apply(2, &address(0), false);
        held.apply(2, &address(0), false);
        assert_eq!(holders(&held), [2], "changed, not added again");
        let narrow = Address {
            prefix_len: 32,
            ..address(0)
        };
        held.apply(2, &narrow, false);
        held.apply(2, &address(0), true);
        assert_eq!(holders(&held), [2], "with another prefix");
        held.apply(2, &narrow, true);
        assert!(!held.holds_any(2));
    }

    #[test]
    fn only_used_addresses_matter() {
        let mut held = Held::default();
        let [public, other] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(172, 17, 0, 1)];
        held.use_address(public);
        assert!(held.is_used(public) && !held.is_used(other));
        assert!(held.is_used_within(Ipv4Addr::new(192, 0, 2, 0), 24));
        assert!(held.is_used_within(Ipv4Addr::UNSPECIFIED, 0));
        assert!(!held.is_used_within(Ipv4Addr::new(192, 0, 2, 0), 32));
        let address = |local| Address {
            local,
            prefix_len: 24,
            peer: None,
            scope: 0,
            secondary: false,
        };
        held.read(&[
            (2, address(public)),
            (2, address(other)),
            (4, address(other)),
        ]);
        assert!(held.has_used(2) && !held.has_used(4));
        held.apply(2, &address(public), true);
        held.apply(2, &address(other), true);
        assert!(held.is_gone(public) && !held.is_gone(other));
        assert!(!held.has_used(2));
        held.apply(3, &address(public), false);
        assert!(!held.is_gone(public), "it has moved");
    }
}
