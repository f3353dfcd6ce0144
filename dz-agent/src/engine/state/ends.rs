//! The choice of a session's local address and gateway where nobody names them, and the addresses that
//! no peer may have: pure functions of an interface's addresses and tunnel.
//!
//! With an allocated address the interface holds the local address, and peers are behind it. Without
//! one (plain IBRL) the local address is the host's public one, on its NIC, and the tunnel has only
//! the addresses of its link: a /31 of scope link, whose far end is the gateway to every peer.

use std::net::Ipv4Addr;

use dz_common::ingress::Link;

use crate::net::links::{Address, Tunnel};

/// `RT_SCOPE_UNIVERSE`.
const UNIVERSE: u8 = 0;

/// An interface's addresses and tunnel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends<'a> {
    pub(crate) link: Link,
    /// Its addresses, in the kernel's order.
    pub(crate) addresses: &'a [Address],
    pub(crate) tunnel: Tunnel,
}

/// The choice of a local address where nobody names one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Local {
    /// This one.
    One(Ipv4Addr),
    /// None: the interface has several that could be meant.
    Several(Vec<Ipv4Addr>),
    /// None: there is no address that could be meant.
    None,
}

/// An address that no peer over an interface may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) address: Ipv4Addr,
    /// The reason, in words that follow the address.
    pub(crate) why: String,
    /// Whether it is the gateway of sessions whose local address is borrowed. Sessions from the interface's
    /// own addresses have no gateway: they may have this address as a peer.
    pub(crate) is_gateway: bool,
}

/// Says whether an address may be chosen as a local address that nobody has named: it has global scope
/// and is neither link-local nor loopback.
pub(crate) const fn is_global(address: Ipv4Addr, scope: u8) -> bool {
    scope == UNIVERSE && !address.is_link_local() && !address.is_loopback()
}

impl Ends<'_> {
    /// Chooses the local address: the interface's only global address, else the tunnel's outer address on
    /// our side if this host holds it.
    pub(crate) fn local(&self, is_held: impl Fn(Ipv4Addr) -> bool) -> Local {
        let mut global = Vec::new();
        for address in self.addresses {
            // An address with several point-to-point peers is listed once for each.
            if is_global(address.local, address.scope) && !global.contains(&address.local) {
                global.push(address.local);
            }
        }
        match (global.as_slice(), self.tunnel.local) {
            ([only], _) => Local::One(*only),
            ([], Some(outer)) if is_held(outer) => Local::One(outer),
            ([], _) => Local::None,
            _ => Local::Several(global),
        }
    }

    /// Chooses the gateway of sessions with a local address: the far end of the interface's only /31 if the
    /// address is not the interface's own; none otherwise.
    pub(crate) fn via(&self, local: Ipv4Addr) -> Option<Ipv4Addr> {
        let own = self.addresses.iter().any(|address| address.local == local);
        if own || self.link != Link::Layer3 {
            return None;
        }
        let mut links = self.addresses.iter().filter_map(other_end);
        let first = links.next()?;
        links.all(|end| end == first).then_some(first)
    }

    /// Returns the addresses that no peer over this interface may have.
    pub(crate) fn refused(&self) -> Vec<Refused> {
        let mut refused = Vec::new();
        let mut refuse = |address, why: String, is_gateway| {
            refused.push(Refused {
                address,
                why,
                is_gateway,
            });
        };
        for address in self.addresses {
            let own = "is an address of this host".to_owned();
            refuse(address.local, own, false);
            if let Some(subnet) = address.subnet() {
                let why = format!("is the network address of {subnet}");
                refuse(subnet.network(), why, false);
                let why = format!("is the broadcast address of {subnet}");
                refuse(subnet.broadcast(), why, false);
            }
            if let Some(theirs) = other_end(address).filter(|_| self.is_link(address)) {
                let why = format!("is the gateway, the far end of the link itself ({address})");
                refuse(theirs, why, true);
            }
        }
        if let Some(remote) = self.tunnel.remote {
            let why = "is the remote end of the tunnel itself".to_owned();
            refuse(remote, why, false);
        }
        refused
    }

    fn is_link(&self, address: &Address) -> bool {
        self.link == Link::Layer3 && !is_global(address.local, address.scope)
    }
}

/// Returns the other end of a /31 (RFC 3021).
fn other_end(address: &Address) -> Option<Ipv4Addr> {
    let flipped = Ipv4Addr::from(u32::from(address.local) ^ 1);
    (address.prefix_len == 31).then_some(address.peer.unwrap_or(flipped))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 7, 1);
    const LINK: u8 = 253;

    fn address(local: [u8; 4], prefix_len: u8, scope: u8) -> Address {
        Address {
            scope,
            ..Address::plain(local.into(), prefix_len)
        }
    }

    fn link_end() -> Address {
        address([169, 254, 7, 0], 31, LINK)
    }

    fn tunnel(addresses: &[Address]) -> Ends<'_> {
        Ends {
            link: Link::Layer3,
            addresses,
            tunnel: Tunnel {
                local: Some(PUBLIC),
                remote: Some(Ipv4Addr::new(198, 51, 100, 1)),
            },
        }
    }

    fn held(address: Ipv4Addr) -> bool {
        address == PUBLIC
    }

    #[test]
    fn the_local_address_that_is_meant() {
        let (link, allocated) = (link_end(), address([10, 8, 0, 1], 32, UNIVERSE));
        let plain = [link];
        assert_eq!(tunnel(&plain).local(held), Local::One(PUBLIC));
        assert_eq!(tunnel(&[]).local(held), Local::One(PUBLIC));
        assert_eq!(tunnel(&plain).local(|_| false), Local::None, "gone");
        let both = [link, allocated];
        assert_eq!(tunnel(&both).local(held), Local::One(allocated.local));
        let careless = [address([169, 254, 7, 0], 31, UNIVERSE)];
        assert_eq!(tunnel(&careless).local(held), Local::One(PUBLIC));
        let twice = Address {
            peer: Some([10, 9, 0, 1].into()),
            ..allocated
        };
        let ends = [allocated, twice];
        assert_eq!(tunnel(&ends).local(held), Local::One(allocated.local));
        let other = address([10, 8, 0, 2], 32, UNIVERSE);
        let several = Local::Several(vec![allocated.local, other.local]);
        assert_eq!(tunnel(&[allocated, other]).local(held), several);
    }

    #[test]
    fn the_gateway_that_is_meant() {
        let (link, allocated) = (link_end(), address([10, 8, 0, 1], 32, UNIVERSE));
        let addresses = [link, allocated];
        let ends = tunnel(&addresses);
        assert_eq!(ends.via(PUBLIC), Some(GATEWAY));
        assert_eq!(ends.via(allocated.local), None, "its own");
        assert_eq!(ends.via(link.local), None, "its own");
        let second = address([169, 254, 9, 0], 31, LINK);
        assert_eq!(tunnel(&[link, second]).via(PUBLIC), None, "which?");
        let named = Address {
            local: [169, 254, 7, 1].into(),
            peer: Some([169, 254, 7, 0].into()),
            ..link
        };
        let other = Some([169, 254, 7, 0].into());
        assert_eq!(tunnel(&[named]).via(PUBLIC), other);
        let ethernet = Ends {
            link: Link::Ethernet,
            ..tunnel(&addresses)
        };
        assert_eq!(ethernet.via(PUBLIC), None, "peers are neighbours there");
    }

    #[test]
    fn addresses_that_are_no_peers() {
        let addresses = [link_end(), address([10, 1, 0, 9], 24, UNIVERSE)];
        let refused = tunnel(&addresses).refused();
        let why = |text: &str| {
            let address: Ipv4Addr = text.parse().unwrap();
            let found = refused.iter().find(|refused| refused.address == address);
            found.map(|found| found.why.as_str())
        };
        assert_eq!(why("10.1.0.9"), Some("is an address of this host"));
        assert_eq!(
            why("10.1.0.0"),
            Some("is the network address of 10.1.0.0/24")
        );
        let broadcast = Some("is the broadcast address of 10.1.0.0/24");
        assert_eq!(why("10.1.0.255"), broadcast);
        assert!(why("169.254.7.1").is_some_and(|why| why.starts_with("is the gateway")));
        let remote = Some("is the remote end of the tunnel itself");
        assert_eq!(why("198.51.100.1"), remote);
        assert_eq!(why("10.1.0.8"), None);
        // A /31 of one's own making leads to a peer, and so does the other one of a /32.
        let own = [
            address([10, 2, 0, 0], 31, UNIVERSE),
            address([10, 3, 0, 1], 32, UNIVERSE),
        ];
        let refused = tunnel(&own).refused();
        let addresses: Vec<_> = refused.iter().map(|refused| refused.address).collect();
        let ours = [own[0].local, own[1].local, Ipv4Addr::new(198, 51, 100, 1)];
        assert_eq!(addresses, ours);
    }
}
