//! Addresses of interfaces: the lists that the kernel keeps, primary ones before secondary ones.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use nix::errno::Errno;

use super::fib::truncated;
use crate::net::links::Address;

/// `RT_SCOPE_LINK` and `RT_SCOPE_HOST`.
pub(super) const SCOPE_LINK: u8 = 253;
pub(super) const SCOPE_HOST: u8 = 254;

/// Where an address's subnet begins: the far end's, if it was given one.
pub(super) fn subnet(address: &Address) -> Ipv4Addr {
    truncated(far_end(address), address.prefix_len)
}

/// What the kernel calls `ifa_address`.
fn far_end(address: &Address) -> Ipv4Addr {
    address.peer.unwrap_or(address.local)
}

/// Whether two addresses are of one subnet, in the kernel's eyes.
pub(super) fn share(one: &Address, other: &Address) -> bool {
    one.prefix_len == other.prefix_len && subnet(one) == subnet(other)
}

/// Why an address was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is there.
    Assigned,
    /// One of its subnet has another scope.
    Scope,
}

impl Refusal {
    /// What the kernel answers, and says.
    pub(super) const fn answer(self) -> (Errno, &'static str) {
        match self {
            Self::Assigned => (Errno::EEXIST, "ipv4: Address already assigned"),
            Self::Scope => (Errno::EINVAL, "ipv4: Invalid scope value"),
        }
    }
}

/// The addresses of all interfaces.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses(BTreeMap<u32, Vec<Address>>);

impl Addresses {
    /// Adds an address, and returns it as the kernel has it: primary or secondary.
    ///
    /// # Errors
    /// It is there, or its scope does not fit.
    pub(super) fn add(&mut self, ifindex: u32, mut address: Address) -> Result<Address, Refusal> {
        let list = self.0.entry(ifindex).or_default();
        address.peer = address.peer.filter(|peer| *peer != address.local);
        let same = |other: &Address| share(other, &address) && other.local == address.local;
        if list.iter().any(same) {
            return Err(Refusal::Assigned);
        }
        address.secondary = false;
        for other in list.iter() {
            if !share(other, &address) {
                continue;
            }
            if other.scope != address.scope {
                return Err(Refusal::Scope);
            }
            address.secondary = true;
        }
        // A primary one stands behind the last primary one whose scope is not narrower.
        let before = |other: &Address| !other.secondary && address.scope <= other.scope;
        let at = match address.secondary {
            true => list.len(),
            false => list.iter().rposition(before).map_or(0, |at| at + 1),
        };
        list.insert(at, address);
        Ok(address)
    }

    /// Returns the address that a wish to delete one is about.
    pub(super) fn find(&self, ifindex: u32, wanted: &Address) -> Option<Address> {
        let mut list = self.of(ifindex).iter();
        let found = list.find(|address| address.local == wanted.local && share(address, wanted));
        found.copied()
    }

    /// Removes an address.
    pub(super) fn remove(&mut self, ifindex: u32, address: &Address) {
        if let Some(list) = self.0.get_mut(&ifindex) {
            list.retain(|other| other != address);
            if list.is_empty() {
                self.0.remove(&ifindex);
            }
        }
    }

    /// Returns the addresses of an interface, in their order.
    pub(super) fn of(&self, ifindex: u32) -> &[Address] {
        self.0.get(&ifindex).map_or(&[], Vec::as_slice)
    }

    /// Returns the primary address of the subnet that an address is in.
    pub(super) fn primary(&self, ifindex: u32, of: &Address) -> Option<Address> {
        let mut list = self.of(ifindex).iter();
        list.find(|address| !address.secondary && share(address, of))
            .copied()
    }

    /// Returns every address with the index of its interface.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, Address)> {
        let lists = self.0.iter();
        lists.flat_map(|(ifindex, list)| list.iter().map(|address| (*ifindex, *address)))
    }

    /// Chooses the source of packets that leave by an interface, towards a gateway if there is one: of the
    /// interface's own addresses, else of another one's (`inet_select_addr`).
    pub(super) fn source(
        &self,
        ifindex: u32,
        towards: Option<Ipv4Addr>,
        scope: u8,
    ) -> Option<Ipv4Addr> {
        let fit = |address: &&Address| !address.secondary && address.scope <= scope;
        let near = |address: &Address| {
            towards.is_none_or(|dst| truncated(dst, address.prefix_len) == subnet(address))
        };
        let own: Vec<_> = self.of(ifindex).iter().filter(fit).collect();
        let chosen = own.iter().find(|address| near(address)).or(own.first());
        if let Some(address) = chosen {
            return Some(address.local);
        }
        let everywhere = |address: &&Address| fit(address) && address.scope != SCOPE_LINK;
        let others = self.0.values();
        let found = others.filter_map(|list| list.iter().find(everywhere));
        found.map(|address| address.local).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(local: [u8; 4], prefix_len: u8, scope: u8) -> Address {
        Address {
            scope,
            ..Address::plain(local.into(), prefix_len)
        }
    }

    #[test]
    fn the_second_of_a_subnet_is_secondary() {
        let mut addresses = Addresses::default();
        let add = |addresses: &mut Addresses, address| addresses.add(7, address);
        let first = address([10, 0, 0, 1], 24, 0);
        assert_eq!(add(&mut addresses, first), Ok(first));
        assert_eq!(add(&mut addresses, first), Err(Refusal::Assigned));
        let narrower = address([10, 0, 0, 2], 24, SCOPE_LINK);
        assert_eq!(add(&mut addresses, narrower), Err(Refusal::Scope));
        let second = add(&mut addresses, address([10, 0, 0, 2], 24, 0)).expect("added");
        assert!(second.secondary);
        let other = add(&mut addresses, address([10, 0, 0, 1], 32, 0)).expect("added");
        assert!(!other.secondary);
        assert_eq!(addresses.of(7), [first, other, second]);
        assert_eq!(addresses.primary(7, &second), Some(first));
        addresses.remove(7, &first);
        assert_eq!(addresses.primary(7, &second), None);
    }

    #[test]
    fn a_source_is_near_and_reaches_far_enough() {
        let mut addresses = Addresses::default();
        let link = address([169, 254, 0, 0], 31, SCOPE_LINK);
        let [one, two] = [1, 2].map(|third| address([10, 0, third, 1], 24, 0));
        for address in [link, one, two] {
            addresses.add(7, address).expect("added");
        }
        let gateway = Some(Ipv4Addr::new(10, 0, 2, 9));
        assert_eq!(addresses.source(7, gateway, 0), Some(two.local));
        assert_eq!(addresses.source(7, None, 0), Some(one.local));
        assert_eq!(addresses.source(7, None, SCOPE_LINK), Some(link.local));
        assert_eq!(addresses.source(8, None, SCOPE_LINK), Some(one.local));
    }
}
