//! What can be asked of the namespace, as the functions of [`crate::net`] ask a kernel.

use std::net::Ipv4Addr;

use nix::errno::Errno;

use super::addresses::SCOPE_LINK;
use super::fib::{Entry, Kind};
use super::message::describe;
use super::namespace::Net;
use crate::net::coverage::Coverage;
use crate::net::detours::{Flow, Way};
use crate::net::hosts::{self, HostRoute};
use crate::net::links::{Address, Interface, Unsuitable};
use crate::settings::Follow;

/// What a look-up finds.
struct Answer<'a> {
    kind: Kind,
    /// The entry; none if the kernel takes the destination for a neighbour.
    entry: Option<&'a Entry>,
    source: Option<Ipv4Addr>,
}

impl Net {
    /// Reads an interface by its name.
    pub fn interface(&self, name: &str) -> Option<Interface> {
        self.links.interface(self.ifindex(name)?)
    }

    /// Returns the index of the interface with a name.
    pub fn ifindex(&self, name: &str) -> Option<u32> {
        self.links.ifindex(name)
    }

    /// Reads the interfaces that can carry packets on their own ([`crate::net::detours::carriers`]).
    pub fn carriers(&self) -> Vec<Interface> {
        let all = self.links.all();
        let all = all.filter_map(|ifindex| self.links.interface(ifindex));
        let is_carrier = |interface: &Interface| {
            interface.up && interface.running && interface.link != Err(Unsuitable::Loopback)
        };
        all.filter(is_carrier).collect()
    }

    /// Reads every address, with the index of its interface, those of one interface in the kernel's order.
    pub fn addresses(&self) -> Vec<(u32, Address)> {
        self.addresses.all().collect()
    }

    /// Returns whether an address is this host's own, outside of all VRFs or, where there is none, in the
    /// one with an index.
    pub fn is_local(&self, address: Ipv4Addr, vrf: Option<u32>) -> bool {
        let found = self.look_up(address, None, vrf);
        found.is_ok_and(|answer| answer.kind == Kind::Local)
    }

    /// Returns the source that the kernel would choose for packets to a destination by an interface.
    pub fn source_to(&self, dst: Ipv4Addr, ifindex: u32) -> Option<Ipv4Addr> {
        self.look_up(dst, None, Some(ifindex)).ok()?.source
    }

    /// Reads which interfaces have routes, and to which destinations ([`crate::net::coverage::read`]).
    pub fn coverage(&self) -> Coverage {
        let mut coverage = Coverage::default();
        let all = self.fib.entries();
        for entry in all.filter(|entry| entry.kind == Kind::Unicast) {
            coverage.note(entry.dst, entry.prefix_len, entry.ifindex);
        }
        coverage
    }

    /// Finds the best route of a flow by one of the interfaces ([`crate::net::detours::best`]).
    pub fn way_around(&self, flow: Flow, interfaces: &[u32], holders: &[u32]) -> Way {
        let route = |ifindex: &u32| {
            let found = self.look_up(flow.dst, Some(flow.src), Some(*ifindex));
            let answer = found.ok().filter(|answer| answer.kind == Kind::Unicast);
            let entry = answer?.entry?;
            let is_strange = !holders.contains(ifindex);
            let length = std::cmp::Reverse(entry.prefix_len);
            let way = Way {
                ifindex: *ifindex,
                named: entry.src,
            };
            Some(((is_strange, length, entry.metric), way))
        };
        let found = interfaces.iter().filter_map(route);
        let best = found.min_by_key(|(preference, _)| *preference);
        best.map_or_else(Way::default, |(_, way)| way)
    }

    /// Reads the neighbours of an interface whose Ethernet address is known.
    pub fn neighbours(&self, ifindex: u32) -> Vec<(Ipv4Addr, [u8; 6])> {
        self.neighbours.known(ifindex).collect()
    }

    /// Returns the neighbours that are being searched for: each waits for [`Net::answer_for`].
    pub fn resolving(&self) -> Vec<(u32, Ipv4Addr)> {
        self.neighbours.resolving().collect()
    }

    /// Reads the routes by an interface that `--follow` asks for ([`hosts::list`]).
    pub fn host_routes(&self, ifindex: u32, follow: &Follow) -> Vec<HostRoute> {
        self.followed(follow, |entry| entry.ifindex == Some(ifindex))
    }

    /// Reads those that lead nowhere ([`hosts::list_nowhere`]): one kind after the other.
    pub fn host_routes_nowhere(&self, follow: &Follow) -> Vec<HostRoute> {
        let kinds = [
            Kind::Blackhole,
            Kind::Unreachable,
            Kind::Prohibit,
            Kind::Throw,
        ];
        let of_kind = |kind| self.followed(follow, move |entry| entry.kind == kind);
        let mut routes: Vec<_> = kinds.into_iter().flat_map(of_kind).collect();
        routes.retain(HostRoute::leads_nowhere);
        routes
    }

    fn followed(&self, follow: &Follow, wanted: impl Fn(&Entry) -> bool) -> Vec<HostRoute> {
        let of_protocol = |entry: &&Entry| {
            let protocol = follow.protocol;
            protocol.is_none_or(|protocol| protocol == entry.protocol)
        };
        let entries = self.fib.table(follow.table).filter(of_protocol);
        let entries = entries.filter(|entry| wanted(entry));
        entries
            .filter_map(|entry| hosts::parse(&describe(entry)))
            .collect()
    }

    /// What the kernel answers to `RTM_GETROUTE` (`ip_route_output_key_hash_rcu`).
    fn look_up(
        &self,
        dst: Ipv4Addr,
        src: Option<Ipv4Addr>,
        oif: Option<u32>,
    ) -> Result<Answer<'_>, Errno> {
        if src.is_some_and(|src| !self.is_own(src)) {
            return Err(Errno::EINVAL);
        }
        match oif.map(|oif| self.links.is_up(oif)) {
            Some(None) => return Err(Errno::ENODEV),
            Some(Some(false)) => return Err(Errno::ENETUNREACH),
            Some(Some(true)) | None => {}
        }
        let entry = match (self.fib.look_up(dst, oif), oif) {
            (Ok(entry), _) => entry,
            // Packets that are bound to an interface need no route: they go to a neighbour.
            (Err(_), Some(oif)) => {
                return Ok(Answer {
                    kind: Kind::Unicast,
                    entry: None,
                    source: src.or_else(|| self.addresses.source(oif, None, SCOPE_LINK)),
                });
            }
            (Err(errno), None) => return Err(errno),
        };
        let chosen = || match entry.kind {
            Kind::Local => Some(dst),
            _ => self
                .addresses
                .source(entry.ifindex?, entry.via, entry.scope),
        };
        Ok(Answer {
            kind: entry.kind,
            entry: Some(entry),
            source: src.or(entry.src).or_else(chosen),
        })
    }

    /// Whether packets may name an address as their source: it is an interface's, whether that is up or
    /// not, or the table `local` was given it.
    fn is_own(&self, address: Ipv4Addr) -> bool {
        let held = self.addresses.all();
        self.holds(address) || held.into_iter().any(|(_, held)| held.local == address)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fib::{MAIN, Mode, truncated};
    use super::super::links::Shape;
    use super::super::namespace::Author;
    use super::*;

    const SRC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
    const DST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

    /// Two interfaces, of which the first holds [`SRC`].
    fn net() -> (Net, [u32; 2]) {
        let mut net = Net::new(true);
        let links = ["eth0", "eth1"].map(|name| {
            let shape = Shape::nic([2, 0, 0, 0, 0, 1]);
            let ifindex = net.create_link(name, shape).expect("created");
            net.set_up(ifindex, true).expect("up");
            ifindex
        });
        let address = Address::plain(SRC, 24);
        net.add_address(links[0], address).expect("added");
        (net, links)
    }

    #[test]
    fn what_is_local_and_with_which_source() {
        let (net, [eth0, eth1]) = net();
        assert!(net.is_local(SRC, None));
        assert!(net.is_local(Ipv4Addr::new(127, 0, 0, 9), None));
        assert!(!net.is_local(DST, None));
        assert_eq!(net.source_to(DST, eth0), Some(SRC));
        assert_eq!(net.source_to(DST, eth1), Some(SRC), "of another interface");
        assert_eq!(net.source_to(DST, 99), None);
    }

    #[test]
    fn a_holder_goes_first_then_the_longer_prefix() {
        let (mut net, links) = net();
        let flow = Flow { dst: DST, src: SRC };
        assert_eq!(net.way_around(flow, &links, &links), Way::default());
        for (ifindex, prefix_len) in links.into_iter().zip([8, 24]) {
            let entry = Entry {
                table: MAIN,
                dst: truncated(DST, prefix_len),
                prefix_len,
                tos: 0,
                metric: 0,
                protocol: 4,
                scope: SCOPE_LINK,
                kind: Kind::Unicast,
                ifindex: Some(ifindex),
                src: None,
                via: None,
            };
            let by = Author::Other(9);
            net.add_entry(by, entry, Mode::Exclusive).expect("added");
        }
        let by = |net: &Net, holders: &[u32]| net.way_around(flow, &links, holders).ifindex;
        assert_eq!(by(&net, &links), links[1]);
        assert_eq!(by(&net, &links[..1]), links[0]);
        let stranger = Flow { dst: DST, src: DST };
        assert_eq!(net.way_around(stranger, &links, &[]), Way::default());
    }
}
