//! The interfaces served: waiting for them, attaching, following their addresses.

use std::net::Ipv4Addr;

use dz_common::ingress::Link;
use dz_common::map::{Confined, LocalKey};
use foldhash::{HashMap, HashMapExt, HashSet};
use tracing::{info, warn};

use super::Engine;
use super::guard::Guard;
use super::reconcile::Carrier;
use crate::cli::{Switch, UnknownPeers};
use crate::datapath::{Attachment, choose};
use crate::error::{ExitCode, FailWith, Failure};
use crate::lock::InterfaceLock;
use crate::net::NetlinkError;
use crate::net::links::{self, Address};
use crate::view::{InterfaceView, Parked};

/// Blocks of counters, block 0 included.
const BLOCKS: u32 = 256;

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
    locals: Vec<Address>,
    attachment: Attachment,
    guard: Guard,
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

    /// Why no session can run over it now.
    pub(super) fn unavailable(&self) -> Option<String> {
        match &self.present {
            None => Some(
                self.waiting
                    .clone()
                    .unwrap_or_else(|| "not there".to_owned()),
            ),
            Some(present) if !present.up => Some("is down: bring it up".to_owned()),
            Some(present) if present.locals.is_empty() => Some(format!(
                "has no IPv4 address, and IPv6 does not serve: add one with `ip address add \
                 ADDRESS dev {}`",
                self.name
            )),
            Some(_) => None,
        }
    }

    /// The same, as a reason.
    fn parks(&self) -> Option<Parked> {
        match &self.present {
            None if self.exists => Some(Parked::InterfaceUnfit),
            None => Some(Parked::InterfaceMissing),
            Some(present) if !present.up => Some(Parked::InterfaceDown),
            Some(present) if present.locals.is_empty() => Some(Parked::AddressMissing),
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
                .map(|present| present.attachment.mode.to_string()),
            tc: self
                .present
                .as_ref()
                .map(|present| present.attachment.tc().to_owned()),
            attach_reason: self
                .present
                .as_ref()
                .map(|present| present.attachment.why.clone()),
            port_guard: self.present.as_ref().map(|present| present.guard.view()),
            locals: self.locals().collect(),
            waiting: self.unavailable(),
            parks: self.parks(),
        }
    }
}

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

impl Engine {
    /// Looks at every interface again and follows what changed. What goes wrong is logged and
    /// shown; the next look tries again. Returns what the kernel did not tell, if anything.
    pub(super) async fn refresh_interfaces(&mut self) -> Option<anyhow::Error> {
        let mut unread = None;
        for index in 0..self.interfaces.len() {
            if let Err(failure) = self.refresh_interface(index).await {
                if failure.error.downcast_ref::<NetlinkError>().is_some() {
                    unread = Some(failure.into());
                    continue;
                }
                let interface = &mut self.interfaces[index];
                let reason = failure.to_string();
                if interface.waiting.as_ref() != Some(&reason) {
                    warn!(interface = interface.name, %reason, "interface not served");
                    interface.waiting = Some(reason);
                }
            }
        }
        *self.shared.interfaces() = self.interfaces.iter().map(Interface::view).collect();
        unread
    }

    /// Looks at one interface.
    ///
    /// # Errors
    /// [`ExitCode::Interface`] if it exists and cannot be served.
    pub(super) async fn refresh_interface(&mut self, index: usize) -> Result<(), Failure> {
        let name = self.interfaces[index].name.clone();
        let asked = || format!("interface {name}");
        let found = links::by_name(self.connections.netlink(), &name)
            .await
            .fail_with(ExitCode::Failure, asked)?;
        let old = self.interfaces[index].ifindex();
        if old.is_some() && found.as_ref().map(|found| found.ifindex) != old {
            self.interface_gone(index);
        }
        self.interfaces[index].exists = found.is_some();
        let Some(found) = found else { return Ok(()) };
        let locals = links::addresses(self.connections.netlink(), found.ifindex)
            .await
            .fail_with(ExitCode::Failure, asked)?;
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
        present.up = found.up;
        present.mac = found.mac;
        let before: HashSet<_> = present.locals.iter().map(|address| address.local).collect();
        let after: HashSet<_> = locals.iter().map(|address| address.local).collect();
        present.locals = locals;
        for local in after.difference(&before) {
            self.local_came(
                &name,
                LocalKey {
                    ifindex: found.ifindex,
                    addr: local.octets(),
                },
            );
        }
        for local in before.difference(&after) {
            self.local_went(
                &name,
                LocalKey {
                    ifindex: found.ifindex,
                    addr: local.octets(),
                },
            );
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
            locals: Vec::new(),
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
        if let Err(error) = present.attachment.detach() {
            warn!(interface = name, %error, "pin of its link not removed");
        }
        for address in present.locals {
            let addr = address.local.octets();
            self.local_went(
                &name,
                LocalKey {
                    ifindex: present.ifindex,
                    addr,
                },
            );
        }
    }

    fn local_came(&mut self, interface: &str, key: LocalKey) {
        // Until we have seen that it is held elsewhere, too.
        self.confine_one(Confined { addr: key.addr }, key.ifindex);
        self.look_around_soon();
        let block = self.blocks.of(interface, &key);
        if block == 0 {
            warn!(interface, "no block of counters left: counted in block 0");
        }
        if let Err(error) = self.datapath.maps.set_local(&key, block) {
            warn!(interface, local = %Ipv4Addr::from(key.addr), %error, "address not noted");
        }
    }

    fn local_went(&mut self, interface: &str, key: LocalKey) {
        info!(interface, local = %Ipv4Addr::from(key.addr), "address gone");
        if let Err(error) = self.datapath.maps.delete_local(&key) {
            warn!(interface, local = %Ipv4Addr::from(key.addr), %error, "address not forgotten");
        }
    }

    /// Forgets addresses that went while no agent was there to see it.
    pub(super) fn forget_stale_locals(&mut self) {
        let held: HashSet<_> = self
            .interfaces
            .iter()
            .filter_map(|interface| Some((interface.ifindex()?, interface)))
            .flat_map(|(ifindex, interface)| {
                interface.locals().map(move |local| LocalKey {
                    ifindex,
                    addr: local.octets(),
                })
            })
            .collect();
        let known = self.datapath.maps.reader().locals();
        let known = known.inspect_err(|error| warn!(%error, "addresses not read"));
        for (key, _) in known.unwrap_or_default() {
            if !held.contains(&key) {
                self.local_went(&self.interface_name(key.ifindex), key);
            }
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
            let locals = interface.locals().collect();
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
}
