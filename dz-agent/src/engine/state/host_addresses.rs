//! The addresses of every interface of this host, and those that peers use as their local address.

use std::hash::Hash;
use std::net::Ipv4Addr;

use super::ends::is_global;
use crate::hash::{HashMap, HashSet};
use crate::net::links::Address;

/// The addresses of this host, on whatever interface. Every full check reads them anew; notifications keep
/// them current in between.
#[derive(Debug, Default)]
pub(crate) struct HostAddresses {
    /// The interfaces that hold each address; an interface that holds it with several prefixes stands
    /// there once for each.
    holders: HashMap<Ipv4Addr, Vec<(u32, Address)>>,
    /// The number of addresses of each interface that has any.
    counts: HashMap<u32, usize>,
    /// The broadcast addresses of all subnets, with the number of addresses in such a subnet.
    broadcasts: HashMap<Ipv4Addr, usize>,
    /// The local addresses of peers, whether this host has them or not. Notifications of other addresses
    /// mean nothing to sessions.
    used: HashSet<Ipv4Addr>,
    /// Used addresses that have gone since the kernel was last asked about the used ones.
    gone: HashSet<Ipv4Addr>,
    /// Used addresses that were not this host's when the kernel was last asked.
    missing: HashSet<Ipv4Addr>,
    /// Whether the kernel is to be asked about an address that came to be used since.
    is_new: bool,
}

impl HostAddresses {
    /// Replaces all addresses by those that were read. A used address that is not among them any more
    /// counts as gone until the kernel has been asked about it.
    pub(crate) fn read(&mut self, addresses: &[(u32, Address)]) {
        let held: Vec<_> = self.used().filter(|used| self.is_held(*used)).collect();
        self.gone.extend(held);
        self.holders.clear();
        self.counts.clear();
        self.broadcasts.clear();
        for (ifindex, address) in addresses {
            self.apply(*ifindex, address, false);
        }
    }

    /// Notes which used addresses are not this host's: the kernel has been asked about all of them.
    pub(crate) fn asked(&mut self, missing: HashSet<Ipv4Addr>) {
        self.missing = missing;
        self.gone.clear();
    }

    /// Says whether all of these were missing when the kernel was last asked.
    pub(crate) fn were_missing(&self, missing: &HashSet<Ipv4Addr>) -> bool {
        missing.is_subset(&self.missing)
    }

    /// Replaces the addresses that peers use.
    pub(crate) fn use_addresses(&mut self, used: HashSet<Ipv4Addr>) {
        self.used = used;
    }

    /// Applies a notification. One that was sent before the addresses were last read can undo a part of
    /// that, until the notification that corrects it is read, too.
    pub(crate) fn apply(&mut self, ifindex: u32, address: &Address, gone: bool) {
        let holders = self.holders.entry(address.local).or_default();
        let before = holders.len();
        // The kernel's key of an address on an interface; everything else can change.
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
        count(&mut self.counts, ifindex, held_before, !gone);
        if let Some(broadcast) = address.broadcast() {
            count(&mut self.broadcasts, broadcast, held_before, !gone);
        }
    }

    /// Returns the interfaces that hold an address.
    pub(crate) fn holders(&self, address: Ipv4Addr) -> impl Iterator<Item = u32> {
        let holders = self.holders.get(&address).into_iter().flatten();
        holders.map(|(ifindex, _)| *ifindex)
    }

    /// Says whether any interface holds an address.
    pub(crate) fn is_held(&self, address: Ipv4Addr) -> bool {
        self.holders.contains_key(&address)
    }

    /// Says whether an address may be chosen as a local address that nobody has named.
    pub(crate) fn is_global(&self, address: Ipv4Addr) -> bool {
        let mut holders = self.holders.get(&address).into_iter().flatten();
        holders.any(|(_, held)| is_global(address, held.scope))
    }

    /// Says whether an interface holds any address.
    pub(crate) fn holds_any(&self, ifindex: u32) -> bool {
        self.counts.contains_key(&ifindex)
    }

    /// Says whether a used address has gone, and no full check has found out yet whether for good.
    pub(crate) fn is_gone(&self, address: Ipv4Addr) -> bool {
        self.gone.contains(&address)
    }

    /// Says whether an address is the broadcast address of a subnet of any interface.
    pub(crate) fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        self.broadcasts.contains_key(&address)
    }

    /// Returns the broadcast addresses of the subnets of every interface.
    pub(crate) fn broadcasts(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.broadcasts.keys().copied()
    }

    /// Returns every address.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.holders.keys().copied()
    }

    /// Notes that a peer uses an address.
    pub(crate) fn use_address(&mut self, address: Ipv4Addr) {
        self.used.insert(address);
    }

    /// Notes that a peer is to use an address that the kernel has yet to be asked about.
    pub(crate) fn ask_about(&mut self, address: Ipv4Addr) {
        self.used.insert(address);
        self.is_new = true;
    }

    /// Says whether there is a new address to ask the kernel about, and clears that.
    pub(crate) const fn take_new(&mut self) -> bool {
        std::mem::replace(&mut self.is_new, false)
    }

    /// Says whether peers use an address.
    pub(crate) fn is_used(&self, address: Ipv4Addr) -> bool {
        self.used.contains(&address)
    }

    /// Returns the addresses that peers use.
    pub(crate) fn used(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.used.iter().copied()
    }

    /// Says whether peers use any address that an interface holds.
    pub(crate) fn has_used(&self, ifindex: u32) -> bool {
        self.used()
            .any(|address| self.holders(address).any(|holder| holder == ifindex))
    }

    /// Says whether peers use any address within a prefix.
    pub(crate) fn is_used_within(&self, prefix: Ipv4Addr, prefix_len: u8) -> bool {
        let host_bits = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
        let within =
            |address: &Ipv4Addr| (u32::from(*address) ^ u32::from(prefix)) & !host_bits == 0;
        self.used.iter().any(within)
    }
}

/// Changes the count of `kind`: by one less for what went, by one more for what came.
fn count<K: Eq + Hash>(counts: &mut HashMap<K, usize>, kind: K, went: bool, came: bool) {
    let before = counts.get(&kind).copied().unwrap_or(0);
    let after = (before + usize::from(came)).saturating_sub(usize::from(went));
    if after == 0 {
        counts.remove(&kind);
    } else {
        counts.insert(kind, after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_moves_between_interfaces() {
        let public = Ipv4Addr::new(192, 0, 2, 1);
        let address = |scope| Address {
            scope,
            ..Address::plain(public, 24)
        };
        let holders = |held: &HostAddresses| held.holders(public).collect::<Vec<_>>();
        let mut held = HostAddresses::default();
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
        let mut held = HostAddresses::default();
        let [public, other] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(172, 17, 0, 1)];
        held.use_address(public);
        assert!(held.is_used(public) && !held.is_used(other));
        assert!(held.is_used_within(Ipv4Addr::new(192, 0, 2, 0), 24));
        assert!(held.is_used_within(Ipv4Addr::UNSPECIFIED, 0));
        assert!(!held.is_used_within(Ipv4Addr::new(192, 0, 2, 0), 32));
        let address = |local| Address::plain(local, 24);
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
        held.read(&[]);
        assert!(held.is_gone(public), "read, without any news");
        held.read(&[]);
        assert!(held.is_gone(public), "the kernel has not been asked yet");
        held.read(&[(3, address(public))]);
        assert!(!held.is_gone(public), "back");
        held.read(&[]);
        let missing = HashSet::from_iter([public]);
        assert!(!held.were_missing(&missing));
        held.asked(missing.clone());
        assert!(held.were_missing(&missing) && !held.is_gone(public));
    }

    #[test]
    fn broadcast_addresses_are_counted() {
        let address = |last, prefix_len| Address::plain(Ipv4Addr::new(192, 0, 2, last), prefix_len);
        let all = Ipv4Addr::new(192, 0, 2, 255);
        let mut held = HostAddresses::default();
        held.read(&[(2, address(1, 24)), (3, address(130, 25))]);
        held.apply(2, &address(1, 24), false);
        held.apply(2, &address(1, 32), false);
        held.apply(2, &address(4, 31), false);
        assert_eq!(held.broadcasts().collect::<Vec<_>>(), [all]);
        held.apply(2, &address(1, 24), true);
        held.apply(2, &address(1, 24), true);
        assert!(held.is_broadcast(all), "of the other subnet");
        held.apply(3, &address(130, 25), true);
        assert!(!held.is_broadcast(all));
        held.read(&[(2, address(1, 24))]);
        held.read(&[]);
        assert!(!held.is_broadcast(all));
    }
}
