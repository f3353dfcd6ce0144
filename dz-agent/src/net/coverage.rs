//! Which interfaces have routes that cover a destination: the only ones by which the kernel can have a way
//! to it. Read once, and kept up with notifications, it spares a question by each interface of a host with
//! many containers. It may know routes that are gone, which costs a question, no more.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use prefix_trie::PrefixMap;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::NetlinkError;
use super::netlink::Netlink;
use crate::hash::{HashMap, HashSet};

/// Prefixes of an interface that are kept. One with more counts as covering every destination: such are few,
/// and a table of the whole Internet takes no memory here.
const MOST_PREFIXES: usize = 256;
/// Stands for the interfaces of a route that does not say which (a next hop object).
const ANY: u32 = 0;

/// The interfaces by the prefixes of their routes, of all tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    by_prefix: PrefixMap<Ipv4Net, Vec<u32>>,
    /// How many prefixes are kept of each interface.
    kept: HashMap<u32, usize>,
    /// The interfaces that count as covering everything.
    everywhere: HashSet<u32>,
    /// Routes that were read.
    routes: usize,
}

impl Coverage {
    /// Notes a route; without an interface it may lead through any.
    pub fn note(&mut self, prefix: Ipv4Addr, prefix_len: u8, ifindex: Option<u32>) {
        let ifindex = ifindex.unwrap_or(ANY);
        if self.everywhere.contains(&ifindex) {
            return;
        }
        let Ok(prefix) = Ipv4Net::new(prefix, prefix_len) else {
            return;
        };
        let interfaces = self.by_prefix.entry(prefix.trunc()).or_default();
        if interfaces.contains(&ifindex) {
            return;
        }
        let kept = self.kept.entry(ifindex).or_default();
        if *kept == MOST_PREFIXES {
            self.everywhere.insert(ifindex);
            if interfaces.is_empty() {
                self.by_prefix.remove(&prefix.trunc());
            }
            return;
        }
        *kept += 1;
        interfaces.push(ifindex);
    }

    /// Returns those of some interfaces, in ascending order, that have a route which covers a destination, in
    /// the same order.
    #[must_use]
    pub fn covering(&self, dst: Ipv4Addr, among: &[u32]) -> Vec<u32> {
        let mut found: Vec<u32> = self.everywhere.iter().copied().collect();
        let covering = self.by_prefix.cover_values(&Ipv4Net::from(dst));
        found.extend(covering.flatten());
        if found.contains(&ANY) {
            return among.to_vec();
        }
        found.sort_unstable();
        found.dedup();
        found.retain(|ifindex| among.binary_search(ifindex).is_ok());
        found
    }

    /// Returns how many routes were read for it.
    #[must_use]
    pub const fn routes(&self) -> usize {
        self.routes
    }

    /// Returns how many interfaces are known.
    #[must_use]
    pub fn interfaces(&self) -> usize {
        self.kept.len()
    }
}

/// Reads the unicast routes of all tables.
///
/// # Errors
/// The tables could not be read, or kept changing.
pub async fn read(netlink: &Netlink) -> Result<Coverage, NetlinkError> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.kind = RouteType::Unicast;
    let mut coverage = Coverage::default();
    let note = |message| {
        if let RouteNetlinkMessage::NewRoute(message) = message {
            note(&mut coverage, &message);
        }
        None::<()>
    };
    let request = RouteNetlinkMessage::GetRoute(message);
    netlink.dump(request, note).await?;
    Ok(coverage)
}

fn note(coverage: &mut Coverage, message: &RouteMessage) {
    coverage.routes = coverage.routes.saturating_add(1);
    let prefix_len = message.header.destination_prefix_length;
    // The default route has no destination attribute.
    let mut prefix = Ipv4Addr::UNSPECIFIED;
    let mut interfaces = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(dst)) => prefix = *dst,
            RouteAttribute::Oif(ifindex) => interfaces.push(*ifindex),
            RouteAttribute::MultiPath(next_hops) => {
                interfaces.extend(next_hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    if interfaces.is_empty() {
        coverage.note(prefix, prefix_len, None);
    }
    for ifindex in interfaces {
        coverage.note(prefix, prefix_len, Some(ifindex));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
    const AMONG: [u32; 4] = [2, 3, 5, 9];

    #[test]
    fn interfaces_are_found_by_every_prefix_of_theirs() {
        let mut coverage = Coverage::default();
        assert!(coverage.covering(DST, &AMONG).is_empty());
        coverage.note(Ipv4Addr::UNSPECIFIED, 0, Some(9));
        coverage.note(Ipv4Addr::new(203, 0, 113, 0), 24, Some(2));
        coverage.note(DST, 32, Some(2));
        coverage.note(Ipv4Addr::new(203, 0, 112, 0), 24, Some(3));
        coverage.note(DST, 32, Some(4));
        assert_eq!(coverage.covering(DST, &AMONG), [2, 9], "4 may not be used");
        let neighbour = Ipv4Addr::new(203, 0, 113, 8);
        assert_eq!(coverage.covering(neighbour, &AMONG), [2, 9]);
        assert_eq!(
            coverage.covering(Ipv4Addr::new(203, 0, 112, 7), &AMONG),
            [3, 9]
        );
    }

    #[test]
    fn a_route_that_names_no_interface_may_lead_through_any() {
        let mut coverage = Coverage::default();
        coverage.note(Ipv4Addr::new(203, 0, 113, 0), 24, None);
        assert_eq!(coverage.covering(DST, &AMONG), AMONG);
        assert!(
            coverage
                .covering(Ipv4Addr::new(10, 0, 0, 1), &AMONG)
                .is_empty()
        );
    }

    #[test]
    fn an_interface_with_many_routes_covers_everything_in_bounded_memory() {
        let mut coverage = Coverage::default();
        for host in 0..100_000_u32 {
            coverage.note(Ipv4Addr::from(0x0a00_0000 + host), 32, Some(5));
        }
        coverage.note(DST, 32, Some(3));
        assert_eq!(coverage.by_prefix.len(), MOST_PREFIXES + 1);
        assert_eq!(coverage.covering(DST, &AMONG), [3, 5]);
        assert_eq!(coverage.interfaces(), 2);
    }
}
