//! The interfaces that are served or waited for, and the addresses of this host: which local addresses
//! sessions may have, and which addresses no peer may have.

use std::net::Ipv4Addr;
use std::sync::Arc;

use dz_common::map::{Peer, PeerKey};

use super::blocks::Blocks;
use super::host_addresses::HostAddresses;
use super::interface::Interface;
use super::keys::peer_key;
use crate::hash::{HashMap, HashSet};
use crate::settings::address::no_host;

/// An interface that sessions can run over at present: it exists and is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Carrier {
    /// Its index.
    pub(crate) ifindex: u32,
    /// Whether it is not to be served any more, so that no session is wanted.
    pub(crate) leaving: bool,
    /// The local addresses that sessions over it may have: its own and the borrowed ones.
    pub(crate) locals: HashSet<Ipv4Addr>,
}

/// The interfaces, in the order in which they were named, and the addresses of this host.
pub(crate) struct Interfaces {
    list: Vec<Interface>,
    host_addresses: HostAddresses,
    blocks: Blocks,
}

impl Interfaces {
    /// Takes interfaces that are all waited for, and the blocks of counters as an earlier agent gave them out.
    pub(crate) fn new(list: Vec<Interface>, blocks: Blocks) -> Self {
        Self {
            list,
            host_addresses: HostAddresses::default(),
            blocks,
        }
    }

    /// Returns every interface, in the order in which they were named.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Interface> + Clone {
        self.list.iter()
    }

    /// Returns how many there are.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Returns the interface at a position in that order.
    ///
    /// # Panics
    /// There is none.
    pub(crate) fn at(&self, index: usize) -> &Interface {
        &self.list[index]
    }

    /// Returns the interface at a position in that order, to be changed.
    ///
    /// # Panics
    /// There is none.
    pub(crate) fn at_mut(&mut self, index: usize) -> &mut Interface {
        &mut self.list[index]
    }

    /// Says whether there are any that are not to be served any more.
    pub(crate) fn has_leaving(&self) -> bool {
        self.iter().any(Interface::is_leaving)
    }

    /// Removes the interface at a position, which those behind it move up to.
    ///
    /// # Panics
    /// There is none.
    pub(crate) fn remove(&mut self, index: usize) -> Interface {
        self.list.remove(index)
    }

    /// Returns the interface with this name.
    pub(crate) fn named(&self, name: &str) -> Option<&Interface> {
        self.iter().find(|interface| interface.name() == name)
    }

    /// Returns the interface with this kernel index.
    pub(crate) fn with_index(&self, ifindex: u32) -> Option<&Interface> {
        self.iter()
            .find(|interface| interface.ifindex() == Some(ifindex))
    }

    /// Returns the kernel index of the interface with this name.
    pub(crate) fn index_of(&self, name: &str) -> Option<u32> {
        self.named(name)?.ifindex()
    }

    /// Returns an interface's name to be kept: one text for all who keep it, if the interface is ours.
    pub(crate) fn kept_name(&self, name: &str) -> Arc<str> {
        self.named(name)
            .map_or_else(|| name.into(), Interface::shared_name)
    }

    /// Returns the name of the interface with this kernel index, or `#index` if none of ours has it.
    pub(crate) fn name_of(&self, ifindex: u32) -> Arc<str> {
        let found = self.with_index(ifindex);
        found.map_or_else(|| format!("#{ifindex}").into(), Interface::shared_name)
    }

    /// Returns the kernel indices of the interfaces that are served.
    pub(crate) fn indices(&self) -> impl Iterator<Item = u32> {
        self.iter().filter_map(Interface::ifindex)
    }

    /// Returns the interfaces that sessions can run over at present, by name.
    pub(crate) fn carriers(&self) -> HashMap<String, Carrier> {
        let carrier = |interface: &Interface| {
            let ifindex = interface.ifindex().filter(|_| interface.is_up())?;
            let locals = interface.usable().collect();
            let carrier = Carrier {
                ifindex,
                leaving: interface.is_leaving(),
                locals,
            };
            Some((interface.name().to_string(), carrier))
        };
        self.iter().filter_map(carrier).collect()
    }

    /// Returns the addresses of this host.
    pub(crate) const fn host_addresses(&self) -> &HostAddresses {
        &self.host_addresses
    }

    /// Returns the addresses of this host, to be changed.
    pub(crate) const fn host_addresses_mut(&mut self) -> &mut HostAddresses {
        &mut self.host_addresses
    }

    /// Returns the blocks of counters.
    pub(crate) const fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Returns the blocks of counters, to be changed.
    pub(crate) const fn blocks_mut(&mut self) -> &mut Blocks {
        &mut self.blocks
    }

    /// Says whether packets may leave by an interface with this source: never with an address that is gone.
    pub(crate) fn may_use(&self, interface: &Interface, address: Ipv4Addr) -> bool {
        interface.can_use(address) && !self.host_addresses.is_gone(address)
    }

    /// Says why an address cannot be a peer over an interface for sessions from `local`, in words that
    /// follow the address. None if it can.
    pub(crate) fn no_peer(
        &self,
        interface: &Interface,
        peer: Ipv4Addr,
        local: Ipv4Addr,
    ) -> Option<String> {
        if let Some(kind) = no_host(peer) {
            return Some(format!("is {kind}, not the address of a host"));
        }
        if let Some(refused) = interface.refuses(peer, local) {
            return Some(refused.to_owned());
        }
        let own = (self.host_addresses.is_held(peer)).then_some("is an address of this host");
        let broadcast = self.host_addresses.is_broadcast(peer);
        let broadcast =
            broadcast.then_some("is the broadcast address of another interface's subnet");
        own.or(broadcast).map(str::to_owned)
    }

    /// Says why an address cannot be the gateway to a peer: the kernel would refuse the route when the
    /// session goes Up. None if it can.
    pub(crate) fn no_gateway(&self, via: Ipv4Addr) -> Option<String> {
        let own = (self.host_addresses.is_held(via)).then_some("an address of this host");
        let broadcast = (self.host_addresses.is_broadcast(via)).then_some("a broadcast address");
        let what = own.or(broadcast)?;
        Some(format!("gateway {via} is {what}"))
    }

    /// Returns the peers whose address no peer may have, with the reason: the file names them, or the
    /// address has become this host's since. Takes a look-up for each address of this host, its subnets
    /// and links, not for each peer.
    pub(crate) fn refused_peers(&self, peers: &HashMap<PeerKey, Peer>) -> HashMap<PeerKey, String> {
        let mut refused = HashMap::default();
        for interface in &self.list {
            let held = self
                .host_addresses
                .addresses()
                .chain(self.host_addresses.broadcasts());
            for address in held.chain(interface.refused()) {
                let key = peer_key(interface.name(), address);
                if let Some(peer) = peers.get(&key)
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
    use dz_common::ingress::Link;

    use super::*;
    use crate::net::links::{self, Address, Tunnel};

    const OURS: Ipv4Addr = Ipv4Addr::new(169, 254, 7, 0);
    const PUBLIC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const PEER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

    /// `dz0`, index 7, is served with a /31; `dz1` is waited for; the NIC, index 2, is public.
    fn interfaces() -> Interfaces {
        let list = vec![Interface::new("dz0"), Interface::new("dz1")];
        let mut interfaces = Interfaces::new(list, Blocks::new([], [], 0));
        let found = links::Interface {
            ifindex: 7,
            name: "dz0".into(),
            kind: "gre".into(),
            up: true,
            running: true,
            mtu: 1476,
            mac: None,
            controller: None,
            link: Ok(Link::Layer3),
            tunnel: Tunnel::default(),
            vrf: None,
            xdp: None,
        };
        let ours = Address::plain(OURS, 31);
        let interface = interfaces.at_mut(0);
        interface.serve(&found, Link::Layer3);
        interface.become_as(&found, vec![ours]);
        let all = [(7, ours), (2, Address::plain(PUBLIC, 24))];
        interfaces.host_addresses_mut().read(&all);
        interfaces
    }

    #[test]
    fn they_are_found_by_name_and_index() {
        let interfaces = interfaces();
        assert_eq!((interfaces.len(), interfaces.index_of("dz0")), (2, Some(7)));
        assert_eq!(interfaces.index_of("dz1"), None, "not there");
        assert!(interfaces.named("dz1").is_some() && interfaces.named("dz2").is_none());
        assert_eq!(
            (interfaces.name_of(7), interfaces.name_of(8)),
            ("dz0".into(), "#8".into())
        );
        assert!(interfaces.indices().eq([7]));
        let carrier = Carrier {
            ifindex: 7,
            leaving: false,
            locals: HashSet::from_iter([OURS]),
        };
        assert_eq!(
            interfaces.carriers(),
            HashMap::from_iter([("dz0".to_owned(), carrier)])
        );
    }

    #[test]
    fn nothing_leaves_with_an_address_that_is_gone() {
        let mut interfaces = interfaces();
        assert!(interfaces.may_use(interfaces.at(0), OURS));
        assert!(
            !interfaces.may_use(interfaces.at(0), PUBLIC),
            "not borrowed"
        );
        interfaces.host_addresses_mut().use_address(OURS);
        interfaces
            .host_addresses_mut()
            .apply(7, &Address::plain(OURS, 31), true);
        assert!(
            !interfaces.may_use(interfaces.at(0), OURS),
            "until the next look"
        );
    }

    #[test]
    fn who_cannot_be_a_peer() {
        let interfaces = interfaces();
        let refused = |peer| interfaces.no_peer(interfaces.at(0), peer, OURS).is_some();
        assert!(!refused(PEER));
        let broadcast = Ipv4Addr::new(192, 0, 2, 255);
        for peer in [PUBLIC, OURS, broadcast, Ipv4Addr::LOCALHOST] {
            assert!(refused(peer), "{peer}");
        }
        assert!(interfaces.no_gateway(PUBLIC).is_some() && interfaces.no_gateway(PEER).is_none());
    }
}
