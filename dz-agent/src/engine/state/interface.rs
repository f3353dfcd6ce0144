//! One interface that is served or waited for: its state and addresses as they were last read, and the
//! local addresses that sessions over it may have.

use std::net::Ipv4Addr;
use std::sync::Arc;

use dz_common::ingress::Link;

use super::ends::{Ends, Refused};
use crate::hash::{HashMap, HashSet};
use crate::net::links::{self, Address};
use crate::view::{InterfaceView, Parked};

/// An interface that we serve or wait for, or that an earlier agent served and we are not to (*leaving*).
#[derive(Debug)]
pub(crate) struct Interface {
    /// Its name, one text that each of its sessions shares.
    name: Arc<str>,
    /// Why it is not served, in words that follow its name.
    waiting: Option<String>,
    /// Whether nobody names it any more: its sessions are closed, and then it is let go of.
    leaving: bool,
    /// Whether the kernel had it when it was last read.
    exists: bool,
    /// What was read, while it is served.
    seen: Option<Seen>,
}

/// What was last read of an interface that has our programs on it.
#[derive(Debug)]
struct Seen {
    found: links::Interface,
    link: Link,
    /// Its own addresses, in the kernel's order.
    locals: Vec<Address>,
    /// Addresses of this host that peers use over this interface although it does not have them.
    borrowed: HashSet<Ipv4Addr>,
    /// Addresses that no peer over this interface may have.
    refused: HashMap<Ipv4Addr, Refused>,
}

/// The difference between an interface as it is read now and as it was read before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    /// Addresses that sessions may have from now on.
    pub(crate) came: Vec<Ipv4Addr>,
    /// Addresses that sessions may not have any more.
    pub(crate) went: Vec<Ipv4Addr>,
    /// Whether it went up (true) or down.
    pub(crate) up: Option<bool>,
}

impl Seen {
    fn new(found: &links::Interface, link: Link) -> Self {
        Self {
            found: found.clone(),
            link,
            locals: Vec::new(),
            borrowed: HashSet::default(),
            refused: HashMap::default(),
        }
    }

    /// Takes over the state and addresses that were read. The borrowed ones are asked about elsewhere
    /// ([`Interface::borrow`]).
    fn become_as(&mut self, found: &links::Interface, locals: Vec<Address>) -> Changed {
        let before: HashSet<_> = self.usable().collect();
        let up = (self.found.up != found.up).then_some(found.up);
        self.found = found.clone();
        self.locals = locals;
        // An address that the interface has itself is not borrowed any more.
        let own = self.locals.iter().map(|address| address.local);
        for local in own.collect::<Vec<_>>() {
            self.borrowed.remove(&local);
        }
        let refused = self.ends().refused().into_iter();
        self.refused = refused.map(|one| (one.address, one)).collect();
        let after: HashSet<_> = self.usable().collect();
        Changed {
            came: after.difference(&before).copied().collect(),
            went: before.difference(&after).copied().collect(),
            up,
        }
    }

    fn ends(&self) -> Ends<'_> {
        Ends {
            link: self.link,
            addresses: &self.locals,
            tunnel: self.found.tunnel,
        }
    }

    fn usable(&self) -> impl Iterator<Item = Ipv4Addr> {
        let own = self.locals.iter().map(|address| address.local);
        own.chain(self.borrowed.iter().copied())
    }
}

impl Interface {
    /// Makes an interface that is waited for.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            waiting: Some("does not exist yet".to_owned()),
            leaving: false,
            exists: false,
            seen: None,
        }
    }

    /// Makes one that an earlier agent served and that is not to be served any more.
    pub(crate) fn leaving(name: &str) -> Self {
        Self {
            leaving: true,
            ..Self::new(name)
        }
    }

    /// Says whether it is not to be served any more.
    pub(crate) const fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Returns its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns its name, to be kept.
    pub(crate) fn shared_name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// Notes whether the kernel has it.
    pub(crate) const fn set_exists(&mut self, exists: bool) {
        self.exists = exists;
    }

    /// Notes that it is served. Its addresses are still to be [read](Self::become_as).
    pub(crate) fn serve(&mut self, found: &links::Interface, link: Link) {
        self.seen = Some(Seen::new(found, link));
        self.waiting = None;
    }

    /// Notes why it is not served, in words that follow its name. Returns whether the reason has changed.
    pub(crate) fn wait(&mut self, reason: String) -> bool {
        let is_news = self.waiting.as_ref() != Some(&reason);
        self.waiting = Some(reason);
        is_news
    }

    /// Notes that it is not served any more. Returns its index and the addresses that its peers could
    /// use, if it was.
    pub(crate) fn unserve(&mut self) -> Option<(u32, Vec<Ipv4Addr>)> {
        let seen = self.seen.take()?;
        Some((seen.found.ifindex, seen.usable().collect()))
    }

    /// Takes over the state and addresses that were read. None if the interface is not served.
    pub(crate) fn become_as(
        &mut self,
        found: &links::Interface,
        locals: Vec<Address>,
    ) -> Option<Changed> {
        let seen = self.seen.as_mut()?;
        Some(seen.become_as(found, locals))
    }

    /// Says whether it is served and up: sessions can run over it.
    pub(crate) fn is_up(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.found.up)
    }

    pub(crate) fn ifindex(&self) -> Option<u32> {
        self.seen.as_ref().map(|seen| seen.found.ifindex)
    }

    pub(crate) fn link(&self) -> Option<Link> {
        self.seen.as_ref().map(|seen| seen.link)
    }

    pub(crate) fn mac(&self) -> Option<[u8; 6]> {
        self.seen.as_ref()?.found.mac
    }

    pub(crate) fn locals(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.seen
            .iter()
            .flat_map(|seen| seen.locals.iter().map(|address| address.local))
    }

    /// Returns its own addresses, in the kernel's order.
    pub(crate) fn addresses(&self) -> &[Address] {
        let seen = self.seen.as_ref();
        seen.map_or(&[], |seen| seen.locals.as_slice())
    }

    /// Says whether it has an address itself.
    pub(crate) fn holds(&self, address: Ipv4Addr) -> bool {
        self.locals().any(|local| local == address)
    }

    /// Returns the local addresses that sessions over it may have: its own and the borrowed ones.
    pub(crate) fn usable(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.seen.iter().flat_map(Seen::usable)
    }

    /// Says whether sessions over it may have a local address.
    pub(crate) fn can_use(&self, address: Ipv4Addr) -> bool {
        let borrows = |seen: &Seen| seen.borrowed.contains(&address);
        self.seen.as_ref().is_some_and(borrows) || self.holds(address)
    }

    /// Returns the addresses of this host that it borrows.
    pub(crate) fn borrowed(&self) -> impl Iterator<Item = Ipv4Addr> {
        let borrowed = self.seen.iter().flat_map(|seen| &seen.borrowed);
        borrowed.copied()
    }

    /// Has it borrow these addresses and no others. Returns its index and the addresses that it borrowed
    /// before; none while it is not served.
    pub(crate) fn borrow(
        &mut self,
        addresses: HashSet<Ipv4Addr>,
    ) -> Option<(u32, HashSet<Ipv4Addr>)> {
        let seen = self.seen.as_mut()?;
        let before = std::mem::replace(&mut seen.borrowed, addresses);
        Some((seen.found.ifindex, before))
    }

    /// Returns its addresses in the form that chooses the ends of a session where nobody names them.
    pub(crate) fn ends(&self) -> Option<Ends<'_>> {
        self.seen.as_ref().map(Seen::ends)
    }

    /// Returns the index of the VRF device that it belongs to.
    pub(crate) fn vrf(&self) -> Option<u32> {
        self.seen.as_ref()?.found.vrf
    }

    /// Returns the addresses that no peer over this interface may have.
    pub(crate) fn refused(&self) -> impl Iterator<Item = Ipv4Addr> {
        let refused = self.seen.iter().flat_map(|seen| seen.refused.keys());
        refused.copied()
    }

    /// Says why this interface's addresses or tunnel keep an address from being the peer of a session from
    /// `local`. None if they do not.
    pub(crate) fn refuses(&self, peer: Ipv4Addr, local: Ipv4Addr) -> Option<&str> {
        let refused = self.seen.as_ref()?.refused.get(&peer)?;
        let fits = refused.is_gateway && self.holds(local);
        (!fits).then_some(&*refused.why)
    }

    /// Says why no session can run over it now, in words that follow its name. None if sessions can.
    pub(crate) fn unavailable(&self) -> Option<String> {
        match &self.seen {
            _ if self.leaving => Some("is not to be served any more".to_owned()),
            None => Some(
                self.waiting
                    .clone()
                    .unwrap_or_else(|| "is not there".to_owned()),
            ),
            Some(seen) if !seen.found.up => Some("is down: bring it up".to_owned()),
            Some(_) => None,
        }
    }

    /// Returns why no session can run over it now, as a reason. None if sessions can.
    fn parks(&self) -> Option<Parked> {
        match &self.seen {
            None if self.exists => Some(Parked::InterfaceUnfit),
            None => Some(Parked::InterfaceMissing),
            Some(seen) if !seen.found.up => Some(Parked::InterfaceDown),
            Some(_) => None,
        }
    }

    /// Returns its view. The hands add attach mode and port guard.
    pub(crate) fn view(&self) -> InterfaceView {
        InterfaceView {
            name: self.name.to_string(),
            ifindex: self.ifindex(),
            locals: self.locals().collect(),
            borrowed: self.borrowed().collect(),
            waiting: self.unavailable(),
            parks: self.parks(),
            ..InterfaceView::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::links::Tunnel;

    const OURS: Ipv4Addr = Ipv4Addr::new(169, 254, 7, 0);
    const PUBLIC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn found(up: bool) -> links::Interface {
        links::Interface {
            ifindex: 7,
            name: "doublezero0".into(),
            kind: "gre".into(),
            up,
            running: up,
            mtu: 1476,
            mac: None,
            controller: None,
            link: Ok(Link::Layer3),
            tunnel: Tunnel::default(),
            vrf: None,
            xdp: None,
        }
    }

    fn address(local: Ipv4Addr) -> Address {
        Address::plain(local, 31)
    }

    fn served() -> Interface {
        let mut interface = Interface::new("doublezero0");
        interface.set_exists(true);
        interface.serve(&found(true), Link::Layer3);
        interface.become_as(&found(true), vec![address(OURS)]);
        interface
    }

    #[test]
    fn why_it_is_not_served() {
        let mut interface = Interface::new("doublezero0");
        assert_eq!(interface.view().parks, Some(Parked::InterfaceMissing));
        interface.set_exists(true);
        assert!(interface.wait("is a bond's".to_owned()));
        assert!(!interface.wait("is a bond's".to_owned()), "no news");
        assert_eq!(interface.view().parks, Some(Parked::InterfaceUnfit));
        assert_eq!(interface.unavailable().as_deref(), Some("is a bond's"));
        let mut interface = served();
        assert_eq!(
            (interface.unavailable(), interface.view().parks),
            (None, None)
        );
        let changed = interface.become_as(&found(false), vec![address(OURS)]);
        let down = Changed {
            up: Some(false),
            ..Changed::default()
        };
        assert_eq!(changed, Some(down));
        assert_eq!(interface.view().parks, Some(Parked::InterfaceDown));
        assert!(!interface.is_up() && interface.unavailable().is_some());
    }

    #[test]
    fn an_address_that_it_gets_itself_need_not_be_borrowed() {
        let mut interface = served();
        let borrowed = HashSet::from_iter([PUBLIC]);
        assert_eq!(interface.borrow(borrowed), Some((7, HashSet::default())));
        assert!(interface.can_use(PUBLIC) && !interface.holds(PUBLIC));
        let both = vec![address(OURS), address(PUBLIC)];
        let changed = interface.become_as(&found(true), both);
        assert_eq!(changed, Some(Changed::default()), "it could be used before");
        assert!(interface.holds(PUBLIC) && interface.borrowed().next().is_none());
        let changed = interface.become_as(&found(true), vec![address(OURS)]);
        assert_eq!(changed.map(|changed| changed.went), Some(vec![PUBLIC]));
    }

    #[test]
    fn what_is_gone_takes_its_addresses_along() {
        let mut interface = served();
        interface.borrow(HashSet::from_iter([PUBLIC]));
        assert_eq!(interface.unserve(), Some((7, vec![OURS, PUBLIC])));
        assert_eq!(interface.unserve(), None);
        assert_eq!(
            (interface.ifindex(), interface.usable().next()),
            (None, None)
        );
        assert_eq!(interface.borrow(HashSet::default()), None);
        assert_eq!(interface.become_as(&found(true), Vec::new()), None);
    }
}
