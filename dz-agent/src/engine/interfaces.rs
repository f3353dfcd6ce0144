//! The interfaces served: waiting for them, attaching, following their addresses.

use std::net::Ipv4Addr;

use dz_common::ingress::Link;
use dz_common::map::LocalKey;
use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use tracing::{info, warn};

use super::ends::{Ends, Refused};
use super::guard::Guard;
use super::parts::Engine;
use super::reconcile::Carrier;
use crate::datapath::{Attachment, choose};
use crate::error::{ExitCode, FailWith, Failure};
use crate::host::lock::InterfaceLock;
use crate::net::links::{self, Address, Tunnel};
use crate::settings::{Switch, UnknownPeers};
use crate::view::{InterfaceView, Parked};

/// An interface that we serve or wait for.
pub(super) struct Interface {
    pub(super) name: String,
    /// Held for the life of the agent, before the interface exists.
    _lock: InterfaceLock,
    /// Why it is not served at present.
    waiting: Option<String>,
    /// Whether the kernel has it, as of the last look.
    exists: bool,
    present: Option<Present>,
}

/// An interface that exists, with our programs on it.
struct Present {
    ifindex: u32,
    link: Link,
    mac: Option<[u8; 6]>,
    up: bool,
    vrf: Option<u32>,
    tunnel: Tunnel,
    /// Its own addresses, in the kernel's order.
    locals: Vec<Address>,
    /// Addresses that this host has and the interface has not, and that its peers use.
    borrowed: HashSet<Ipv4Addr>,
    /// Addresses that cannot be a peer's.
    refused: HashMap<Ipv4Addr, Refused>,
    attachment: Attachment,
    guard: Guard,
}

/// What the kernel has of our interfaces, in their order, and every address with its interface.
pub(super) type Read = (Vec<Option<links::Interface>>, Vec<(u32, Address)>);

impl Present {
    /// Takes over what was read; returns the addresses that can be spoken from now, and those that
    /// cannot any more. What is borrowed is looked at apart.
    fn become_as(
        &mut self,
        found: &links::Interface,
        locals: Vec<Address>,
    ) -> (Vec<Ipv4Addr>, Vec<Ipv4Addr>) {
        let before: HashSet<_> = self.usable().collect();
        self.up = found.up;
        self.mac = found.mac;
        self.vrf = found.vrf;
        self.tunnel = found.tunnel;
        self.locals = locals;
        // What one has needs not be borrowed.
        let own = self.locals.iter().map(|address| address.local);
        for local in own.collect::<Vec<_>>() {
            self.borrowed.remove(&local);
        }
        let refused = self.ends().refused().into_iter();
        self.refused = refused.map(|one| (one.address, one)).collect();
        let after: HashSet<_> = self.usable().collect();
        let came = after.difference(&before).copied().collect();
        (came, before.difference(&after).copied().collect())
    }

    fn ends(&self) -> Ends<'_> {
        Ends {
            link: self.link,
            addresses: &self.locals,
            tunnel: self.tunnel,
        }
    }

    fn usable(&self) -> impl Iterator<Item = Ipv4Addr> {
        let own = self.locals.iter().map(|address| address.local);
        own.chain(self.borrowed.iter().copied())
    }
}

impl Interface {
    /// Takes the interface's name for ourselves.
    pub(super) fn new(name: &str) -> Result<Self, Failure> {
        let lock = InterfaceLock::acquire(name).map_err(Failure::from)?;
        let waiting = Some("does not exist yet".to_owned());
        Ok(Self {
            name: name.to_owned(),
            _lock: lock,
            waiting,
            exists: false,
            present: None,
        })
    }

    pub(super) fn ifindex(&self) -> Option<u32> {
        self.present.as_ref().map(|present| present.ifindex)
    }

    pub(super) fn link(&self) -> Option<Link> {
        self.present.as_ref().map(|present| present.link)
    }

    pub(super) fn mac(&self) -> Option<[u8; 6]> {
        self.present.as_ref()?.mac
    }

    pub(super) fn locals(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.present
            .iter()
            .flat_map(|present| present.locals.iter().map(|address| address.local))
    }

    /// Its addresses, in the kernel's order.
    pub(super) fn addresses(&self) -> &[Address] {
        let present = self.present.as_ref();
        present.map_or(&[], |present| present.locals.as_slice())
    }

    /// Whether it holds an address itself.
    pub(super) fn holds(&self, address: Ipv4Addr) -> bool {
        self.locals().any(|local| local == address)
    }

    /// The addresses that its peers may use: its own, and those that it borrows.
    pub(super) fn usable(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.present.iter().flat_map(Present::usable)
    }

    /// Whether its peers may use an address.
    pub(super) fn can_use(&self, address: Ipv4Addr) -> bool {
        let borrows = |present: &Present| present.borrowed.contains(&address);
        self.present.as_ref().is_some_and(borrows) || self.holds(address)
    }

    /// The addresses of this host that it borrows.
    pub(super) fn borrowed(&self) -> impl Iterator<Item = Ipv4Addr> {
        let borrowed = self.present.iter().flat_map(|present| &present.borrowed);
        borrowed.copied()
    }

    /// Has it borrow these and no others; returns its index, and what it borrowed before. None while
    /// it does not exist.
    pub(super) fn borrow(
        &mut self,
        addresses: HashSet<Ipv4Addr>,
    ) -> Option<(u32, HashSet<Ipv4Addr>)> {
        let present = self.present.as_mut()?;
        let before = std::mem::replace(&mut present.borrowed, addresses);
        Some((present.ifindex, before))
    }

    /// What is taken where nobody names the ends of a session.
    pub(super) fn ends(&self) -> Option<Ends<'_>> {
        self.present.as_ref().map(Present::ends)
    }

    /// Index of the VRF device that it belongs to.
    pub(super) fn vrf(&self) -> Option<u32> {
        self.present.as_ref()?.vrf
    }

    /// Addresses that cannot be a peer's.
    pub(super) fn refused(&self) -> impl Iterator<Item = Ipv4Addr> {
        let refused = self
            .present
            .iter()
            .flat_map(|present| present.refused.keys());
        refused.copied()
    }

    /// Why an address cannot be the peer of one of ours, if it is for the interface to say.
    pub(super) fn refuses(&self, peer: Ipv4Addr, local: Ipv4Addr) -> Option<&str> {
        let refused = self.present.as_ref()?.refused.get(&peer)?;
        let fits = refused.is_gateway && self.holds(local);
        (!fits).then_some(&*refused.why)
    }

    /// Why no session can run over it now.
    pub(super) fn unavailable(&self) -> Option<String> {
        match &self.present {
            None => Some(
                self.waiting
                    .clone()
                    .unwrap_or_else(|| "not there".to_owned()),
            ),
            Some(present) if !present.up => Some("is down: bring it up".to_owned()),
            Some(_) => None,
        }
    }

    /// The same, as a reason.
    fn parks(&self) -> Option<Parked> {
        match &self.present {
            None if self.exists => Some(Parked::InterfaceUnfit),
            None => Some(Parked::InterfaceMissing),
            Some(present) if !present.up => Some(Parked::InterfaceDown),
            Some(_) => None,
        }
    }

    fn view(&self) -> InterfaceView {
        InterfaceView {
            name: self.name.clone(),
            ifindex: self.ifindex(),
            attach: self
                .present
                .as_ref()
                .map(|present| present.attachment.mode().to_string()),
            tc: self
                .present
                .as_ref()
                .map(|present| present.attachment.tc().to_owned()),
            attach_reason: self
                .present
                .as_ref()
                .map(|present| present.attachment.why().to_owned()),
            port_guard: self.present.as_ref().map(|present| present.guard.view()),
            locals: self.locals().collect(),
            borrowed: self.borrowed().collect(),
            waiting: self.unavailable(),
            parks: self.parks(),
        }
    }
}

impl Engine {
    /// Looks at every interface again and follows what changed. What goes wrong is logged and
    /// shown; the next look tries again. Returns what the kernel did not tell, if anything.
    pub(super) async fn refresh_interfaces(&mut self) -> Option<anyhow::Error> {
        let (found, addresses) = match self.read_interfaces().await {
            Ok(read) => read,
            Err(failure) => return Some(failure.into()),
        };
        for (index, found) in found.into_iter().enumerate() {
            if let Err(failure) = self.follow_interface(index, found, &addresses) {
                let interface = &mut self.interfaces[index];
                let reason = failure.to_string();
                if interface.waiting.as_ref() != Some(&reason) {
                    warn!(interface = interface.name, %reason, "interface not served");
                    interface.waiting = Some(reason);
                }
            }
        }
        self.show_interfaces();
        None
    }

    /// Shows the interfaces to those who look.
    pub(super) fn show_interfaces(&self) {
        *self.shared.interfaces() = self.interfaces.iter().map(Interface::view).collect();
    }

    /// Reads what the kernel has of our interfaces, and then every address of this host: an interface
    /// that is created in between comes without any, and is looked at again.
    ///
    /// # Errors
    /// The kernel did not tell.
    pub(super) async fn read_interfaces(&mut self) -> Result<Read, Failure> {
        let netlink = self.connections.netlink();
        let mut found = Vec::with_capacity(self.interfaces.len());
        for Interface { name, .. } in &self.interfaces {
            let asked = || format!("interface {name}");
            let link = links::by_name(netlink, name).await;
            found.push(link.fail_with(ExitCode::Failure, asked)?);
        }
        let addresses = links::addresses(netlink).await;
        let addresses = addresses.fail_with(ExitCode::Failure, || "addresses")?;
        self.held.read(&addresses);
        Ok((found, addresses))
    }

    /// Makes an interface's state what was read.
    ///
    /// # Errors
    /// [`ExitCode::Interface`] if it exists and cannot be served.
    pub(super) fn follow_interface(
        &mut self,
        index: usize,
        found: Option<links::Interface>,
        addresses: &[(u32, Address)],
    ) -> Result<(), Failure> {
        let name = self.interfaces[index].name.clone();
        let old = self.interfaces[index].ifindex();
        if old.is_some() && found.as_ref().map(|found| found.ifindex) != old {
            self.interface_gone(index);
        }
        self.interfaces[index].exists = found.is_some();
        let Some(found) = found else { return Ok(()) };
        if self.interfaces[index].present.is_none() {
            let present = self.attach(&name, &found)?;
            self.interfaces[index].present = Some(present);
            self.interfaces[index].waiting = None;
        }
        let Some(present) = &mut self.interfaces[index].present else {
            return Ok(());
        };
        present.guard.keep(&name, self.options.port);
        if present.up != found.up {
            info!(interface = name, up = found.up, "interface");
        }
        let own = addresses
            .iter()
            .filter(|(ifindex, _)| *ifindex == found.ifindex);
        let locals = own.map(|(_, address)| *address).collect();
        let (came, went) = present.become_as(&found, locals);
        let key = |local: Ipv4Addr| LocalKey {
            ifindex: found.ifindex,
            addr: local.octets(),
        };
        for local in came {
            self.local_came(&name, &key(local));
        }
        for local in went {
            self.local_went(&name, &key(local));
        }
        Ok(())
    }

    fn attach(&mut self, name: &str, found: &links::Interface) -> Result<Present, Failure> {
        let link = found
            .link
            .clone()
            .fail_with(ExitCode::Interface, || format!("interface {name}"))?;
        let choice = choose(self.options.attach, found, link)?;
        // With `--unknown pass` the port is somebody else's socket's. Before the programs: what they
        // pass, or a change of mode misses, is answered by no ICMP error.
        let guarded =
            self.options.port_guard == Switch::On && self.options.unknown == UnknownPeers::Drop;
        let guard = Guard::new(guarded, name, self.options.port);
        let attachment = self.datapath.attach(name, link, &choice)?;
        Ok(Present {
            ifindex: found.ifindex,
            link,
            mac: found.mac,
            up: found.up,
            vrf: found.vrf,
            tunnel: found.tunnel,
            locals: Vec::new(),
            borrowed: HashSet::new(),
            refused: HashMap::new(),
            attachment,
            guard,
        })
    }

    fn interface_gone(&mut self, index: usize) {
        let interface = &mut self.interfaces[index];
        let name = interface.name.clone();
        interface.waiting = Some("is gone".to_owned());
        let Some(present) = interface.present.take() else {
            return;
        };
        warn!(
            interface = name,
            ifindex = present.ifindex,
            "interface gone"
        );
        for local in present.usable() {
            let key = LocalKey {
                ifindex: present.ifindex,
                addr: local.octets(),
            };
            self.local_went(&name, &key);
        }
        if let Err(error) = present.attachment.detach() {
            warn!(interface = name, %error, "pin of its link not removed");
        }
    }

    /// Takes our programs off every interface.
    pub(super) fn detach_all(&mut self) {
        for interface in &mut self.interfaces {
            if let Some(present) = interface.present.take()
                && let Err(error) = present.attachment.detach()
            {
                warn!(interface = interface.name, %error, "programs not detached");
            }
        }
    }

    /// The interfaces that sessions can run over at present.
    pub(super) fn carriers(&self) -> HashMap<String, Carrier> {
        let carrier = |interface: &Interface| {
            let present = interface.present.as_ref().filter(|present| present.up)?;
            let locals = interface.usable().collect();
            Some((
                interface.name.clone(),
                Carrier {
                    ifindex: present.ifindex,
                    locals,
                },
            ))
        };
        self.interfaces.iter().filter_map(carrier).collect()
    }
}
