//! Changes of interfaces, addresses and neighbours, with what the kernel does to routes along with them.

use std::cmp::Reverse;
use std::net::Ipv4Addr;

use nix::errno::Errno;

use super::addresses::{SCOPE_HOST, share, subnet};
use super::fib::{Kind, MAIN, Mode, Which};
use super::links::Shape;
use super::message;
use super::namespace::{Author, KERNEL, Net, refused, said};
use crate::net::NetlinkError;
use crate::net::links::Address;
use crate::net::monitor::Event;

impl Net {
    /// Makes an interface, down, with an index of its own.
    ///
    /// # Errors
    /// The name is taken (`EEXIST`).
    pub fn create_link(&mut self, name: &str, shape: Shape) -> Result<u32, NetlinkError> {
        let ifindex = self.links.create(name, shape).map_err(refused)?;
        self.tell_of_link(ifindex, false);
        Ok(ifindex)
    }

    /// Deletes an interface, with all that is by it.
    ///
    /// # Errors
    /// There is no such interface (`ENODEV`).
    pub fn delete_link(&mut self, ifindex: u32) -> Result<(), NetlinkError> {
        self.set_up(ifindex, false)?;
        while let [address, ..] = *self.addresses.of(ifindex) {
            self.drop_address(ifindex, &address);
        }
        self.disable(ifindex);
        self.tell_of_link(ifindex, true);
        self.links.delete(ifindex);
        Ok(())
    }

    /// Gives an interface another name.
    ///
    /// # Errors
    /// There is no such interface (`ENODEV`), or the name is taken (`EEXIST`).
    pub fn rename_link(&mut self, ifindex: u32, name: &str) -> Result<(), NetlinkError> {
        self.links.rename(ifindex, name).map_err(refused)?;
        self.tell_of_link(ifindex, false);
        // Their labels follow the name.
        for address in self.addresses.of(ifindex).to_vec() {
            self.tell_of_address(ifindex, &address, false);
        }
        Ok(())
    }

    /// Sets an interface up or down. Going down, it loses its neighbours and, silently, its routes.
    ///
    /// # Errors
    /// There is no such interface (`ENODEV`).
    pub fn set_up(&mut self, ifindex: u32, up: bool) -> Result<(), NetlinkError> {
        if !self.links.set_up(ifindex, up).map_err(refused)? {
            return Ok(());
        }
        if up {
            for address in self.addresses.of(ifindex).to_vec() {
                self.route_address(ifindex, &address);
            }
        } else {
            // What is this host's own stays so.
            let by_it = |scope| scope != SCOPE_HOST;
            self.fib
                .flush(|entry| entry.ifindex == Some(ifindex) && by_it(entry.scope));
            self.forget_neighbours(ifindex, true);
        }
        self.tell_of_link(ifindex, false);
        Ok(())
    }

    /// Gives an interface its carrier, or takes it away. Without one it forgets neighbours, and keeps
    /// routes.
    ///
    /// # Errors
    /// There is no such interface (`ENODEV`).
    pub fn set_carrier(&mut self, ifindex: u32, carrier: bool) -> Result<(), NetlinkError> {
        if self.links.set_carrier(ifindex, carrier).map_err(refused)? {
            if !carrier {
                self.forget_neighbours(ifindex, false);
            }
            self.tell_of_link(ifindex, false);
        }
        Ok(())
    }

    /// Gives an interface another Ethernet address: it forgets its neighbours.
    ///
    /// # Errors
    /// There is no such interface (`ENODEV`), or it has none (`EOPNOTSUPP`).
    pub fn set_mac(&mut self, ifindex: u32, mac: [u8; 6]) -> Result<(), NetlinkError> {
        self.links.set_mac(ifindex, mac).map_err(refused)?;
        self.forget_neighbours(ifindex, true);
        self.tell_of_link(ifindex, false);
        Ok(())
    }

    /// Adds an address. Whether it is secondary is the kernel's decision.
    ///
    /// # Errors
    /// There is no such interface (`ENODEV`), it has the address (`EEXIST`), or one of its subnet with
    /// another scope (`EINVAL`).
    pub fn add_address(&mut self, ifindex: u32, address: Address) -> Result<(), NetlinkError> {
        if self.links.is_up(ifindex).is_none() {
            return Err(refused(Errno::ENODEV));
        }
        let address = self.addresses.add(ifindex, address).map_err(|refusal| {
            let (errno, text) = refusal.answer();
            said(errno, text)
        })?;
        self.tell_of_address(ifindex, &address, false);
        self.route_address(ifindex, &address);
        Ok(())
    }

    /// Deletes an address; with a primary one its secondary ones.
    ///
    /// # Errors
    /// There is no such interface (`ENODEV`), or it has no such address (`EADDRNOTAVAIL`).
    pub fn delete_address(&mut self, ifindex: u32, wanted: &Address) -> Result<(), NetlinkError> {
        if self.links.is_up(ifindex).is_none() {
            return Err(refused(Errno::ENODEV));
        }
        let address = self.addresses.find(ifindex, wanted);
        let address =
            address.ok_or_else(|| said(Errno::EADDRNOTAVAIL, "ipv4: Address not found"))?;
        if !address.secondary {
            let of_it = |other: &&Address| other.secondary && share(other, &address);
            let list = self.addresses.of(ifindex);
            for secondary in list.iter().filter(of_it).copied().collect::<Vec<_>>() {
                self.drop_address(ifindex, &secondary);
            }
        }
        self.drop_address(ifindex, &address);
        Ok(())
    }

    /// Ends the search for a neighbour ([`Net::resolve`]): it has answered, or has not. What nobody
    /// searches for any more is not told.
    pub fn answer_for(&mut self, ifindex: u32, address: Ipv4Addr, mac: Option<[u8; 6]>) {
        if self.neighbours.answer(ifindex, address, mac) {
            self.tell_of_neighbour(ifindex, address, mac);
        }
    }

    /// A neighbour that was known does not answer any more, and has failed. One that is permanent is not asked.
    /// Returns whether there was such a one.
    pub fn lose_neighbour(&mut self, ifindex: u32, address: Ipv4Addr) -> bool {
        let lost = self.neighbours.lose(ifindex, address);
        if lost {
            self.tell_of_neighbour(ifindex, address, None);
        }
        lost
    }

    /// Writes a neighbour of an Ethernet interface, as an administrator does.
    ///
    /// # Errors
    /// There is no such interface (`ENODEV`), or it has no Ethernet address (`EINVAL`).
    pub fn set_neighbour(
        &mut self,
        ifindex: u32,
        address: Ipv4Addr,
        mac: [u8; 6],
        permanent: bool,
    ) -> Result<(), NetlinkError> {
        self.check_ethernet(ifindex)?;
        if self.neighbours.set(ifindex, address, mac, permanent) {
            self.tell_of_neighbour(ifindex, address, Some(mac));
        }
        Ok(())
    }

    /// Deletes a neighbour, as an administrator does.
    ///
    /// # Errors
    /// There is no such interface (`ENODEV`), or it has no such neighbour (`ENOENT`).
    pub fn delete_neighbour(
        &mut self,
        ifindex: u32,
        address: Ipv4Addr,
    ) -> Result<(), NetlinkError> {
        if self.links.is_up(ifindex).is_none() {
            return Err(refused(Errno::ENODEV));
        }
        let times = self.neighbours.delete(ifindex, address);
        for _ in 0..times.ok_or_else(|| refused(Errno::ENOENT))? {
            self.tell_of_neighbour(ifindex, address, None);
        }
        Ok(())
    }

    /// Returns a neighbour's Ethernet address if it is known; if not, has it resolved.
    ///
    /// # Errors
    /// There is no such interface (`ENODEV`), or it has no Ethernet address (`EINVAL`).
    pub fn resolve(
        &mut self,
        ifindex: u32,
        address: Ipv4Addr,
    ) -> Result<Option<[u8; 6]>, NetlinkError> {
        self.check_ethernet(ifindex)?;
        Ok(self.neighbours.resolve(ifindex, address))
    }

    fn check_ethernet(&self, ifindex: u32) -> Result<(), NetlinkError> {
        match self.links.is_up(ifindex) {
            None => Err(refused(Errno::ENODEV)),
            Some(_) if !self.links.is_ethernet(ifindex) => Err(refused(Errno::EINVAL)),
            Some(_) => Ok(()),
        }
    }

    fn forget_neighbours(&mut self, ifindex: u32, permanent_too: bool) {
        for address in self.neighbours.flush(ifindex, permanent_too) {
            self.tell_of_neighbour(ifindex, address, None);
        }
    }

    /// Takes an interface's entries out of all tables, whatever they are (`fib_disable_ip`).
    fn disable(&mut self, ifindex: u32) {
        self.fib.flush(|entry| entry.ifindex == Some(ifindex));
        self.forget_neighbours(ifindex, true);
    }

    /// Adds the kernel's own entries for an address (`fib_add_ifaddr`), as far as they are missing.
    fn route_address(&mut self, ifindex: u32, address: &Address) {
        let primary = self.addresses.primary(ifindex, address);
        let src = primary.unwrap_or(*address).local;
        self.add_own(ifindex, Kind::Local, address.local, 32, src);
        if self.links.is_up(ifindex) != Some(true) || address.secondary {
            return;
        }
        let within = subnet(address);
        if has_subnet(address) {
            let prefix_len = address.prefix_len;
            self.add_own(ifindex, Kind::Unicast, within, prefix_len, src);
            if let Some(broadcast) = address.broadcast() {
                self.add_own(ifindex, Kind::Broadcast, broadcast, 32, src);
            }
        }
    }

    fn add_own(&mut self, ifindex: u32, kind: Kind, dst: Ipv4Addr, prefix_len: u8, src: Ipv4Addr) {
        let own = self.own(ifindex, kind, dst, prefix_len, src);
        // Those that are there stay.
        let _ = self.add_entry(Author::Kernel, own, Mode::Append);
    }

    fn delete_own(
        &mut self,
        ifindex: u32,
        kind: Kind,
        dst: Ipv4Addr,
        prefix_len: u8,
        src: Ipv4Addr,
    ) {
        let own = self.own(ifindex, kind, dst, prefix_len, src);
        let mut which = Which::to(own.table, dst, prefix_len);
        which.protocol = KERNEL;
        which.scope = Some(own.scope);
        which.kind = Some(kind);
        which.ifindex = Some(ifindex);
        which.src = Some(src);
        let _ = self.delete_entry(Author::Kernel, &which);
    }

    /// Removes an address, and what stands and falls with it.
    fn drop_address(&mut self, ifindex: u32, address: &Address) {
        // Its primary one is looked up without it.
        self.addresses.remove(ifindex, address);
        self.tell_of_address(ifindex, address, true);
        self.unroute_address(ifindex, address);
        if self.addresses.of(ifindex).is_empty() {
            self.disable(ifindex);
        }
    }

    /// Deletes the kernel's own entries for an address that is gone (`fib_del_ifaddr`), and the routes that
    /// name it as their source.
    fn unroute_address(&mut self, ifindex: u32, address: &Address) {
        let mut primary = *address;
        let within = subnet(address);
        if address.secondary {
            match self.addresses.primary(ifindex, address) {
                Some(found) => primary = found,
                // The primary one of an interface that is deleted is gone before it.
                None => return,
            }
        } else if has_subnet(address) {
            let prefix_len = address.prefix_len;
            self.delete_own(ifindex, Kind::Unicast, within, prefix_len, primary.local);
        }
        let left = self.addresses.of(ifindex);
        let holds_local = left.iter().any(|other| {
            other.local == address.local && self.source_of(ifindex, other) == primary.local
        });
        let holds_broadcast = left.iter().any(|other| {
            !other.secondary
                && other.local == primary.local
                && other.broadcast() == address.broadcast()
        });
        if let Some(broadcast) = address.broadcast()
            && !address.secondary
            && !holds_broadcast
        {
            self.delete_own(ifindex, Kind::Broadcast, broadcast, 32, primary.local);
        }
        if holds_local {
            return;
        }
        self.delete_own(ifindex, Kind::Local, address.local, 32, primary.local);
        if !self.holds(address.local) {
            self.flush_source(address.local);
        }
    }

    /// The source that the kernel's own entries for an address name: that of its subnet's primary one.
    fn source_of(&self, ifindex: u32, address: &Address) -> Ipv4Addr {
        let primary = self.addresses.primary(ifindex, address);
        primary.unwrap_or(*address).local
    }

    fn flush_source(&mut self, source: Ipv4Addr) {
        let mut flushed = self
            .fib
            .flush(|entry| entry.table == MAIN && entry.src == Some(source));
        // The kernel goes through its tree from the end.
        flushed.sort_by_key(|entry| Reverse(entry.dst));
        if self.tells_of_sources {
            for entry in flushed {
                self.tell_of_route(message::went(&entry, 0));
            }
        }
    }

    fn tell_of_link(&mut self, ifindex: u32, gone: bool) {
        if let Some(interface) = self.links.interface(ifindex) {
            self.notices.push(Event::Link {
                ifindex,
                name: interface.name,
                up: interface.up,
                gone,
            });
        }
    }

    fn tell_of_address(&mut self, ifindex: u32, address: &Address, gone: bool) {
        self.notices.push(Event::Address {
            ifindex,
            address: *address,
            gone,
        });
    }

    fn tell_of_neighbour(&mut self, ifindex: u32, address: Ipv4Addr, mac: Option<[u8; 6]>) {
        self.notices.push(Event::Neighbour {
            ifindex,
            address,
            mac,
        });
    }
}

/// Whether an address makes a route to its subnet.
fn has_subnet(address: &Address) -> bool {
    let within = subnet(address);
    within.octets()[0] != 0 && (within != address.local || address.prefix_len < 32)
}

#[cfg(test)]
mod tests {
    use super::super::notices::Family;
    use super::*;
    use crate::net::links::Tunnel;
    use crate::net::routes::Route;

    const SRC: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    /// A namespace with a tunnel that holds [`SRC`], another one, and our route by that with the source.
    fn net(tells_of_sources: bool) -> (Net, [u32; 2], Address) {
        let mut net = Net::new(tells_of_sources);
        let links = ["gre1", "gre2"].map(|name| {
            let shape = Shape::gre(Tunnel::default());
            let ifindex = net.create_link(name, shape).expect("created");
            net.set_up(ifindex, true).expect("up");
            ifindex
        });
        let address = Address::plain(SRC, 32);
        net.add_address(links[0], address).expect("added");
        let route = Route {
            dst: Ipv4Addr::new(198, 51, 100, 7),
            ifindex: links[1],
            src: Some(SRC),
            via: None,
        };
        net.add_route(144, &route).expect("added");
        net.subscribe(false, 100);
        (net, links, address)
    }

    #[test]
    fn a_route_goes_with_its_source() {
        for tells in [false, true] {
            let (mut net, [first, _], address) = net(tells);
            net.delete_address(first, &address).expect("deleted");
            assert!(net.routes(144).is_empty());
            assert_eq!(net.next_event(Family::Routes).is_some(), tells);
            assert!(net.next_event(Family::Addresses).is_some());
        }
    }

    #[test]
    fn a_source_that_another_interface_holds_stays() {
        let (mut net, [first, second], address) = net(true);
        net.add_address(second, address).expect("added");
        net.delete_address(first, &address).expect("deleted");
        assert_eq!(net.routes(144).len(), 1);
    }

    #[test]
    fn routes_go_silently_with_their_interface() {
        for delete in [false, true] {
            let (mut net, [_, second], _) = net(true);
            match delete {
                true => net.delete_link(second).expect("deleted"),
                false => net.set_up(second, false).expect("down"),
            }
            assert!(net.routes(144).is_empty());
            assert_eq!(net.next_event(Family::Routes), None);
            assert!(net.next_event(Family::Links).is_some());
        }
    }
}
