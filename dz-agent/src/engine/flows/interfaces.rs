//! Keeps up with the interfaces that are served or waited for: it attaches to those that have come, takes
//! over their state and addresses, and lets go of those that are gone.

use std::net::Ipv4Addr;

use dz_common::ingress::Link;
use dz_common::map::LocalKey;
use tracing::{info, warn};

use crate::datapath::{Mended, Place};
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::interface::Interface;
use crate::error::{ExitCode, FailWith, Failure};
use crate::net::NetlinkError;
use crate::net::links::{self, Address};

/// Our interfaces as they were read, in their order, and every address of this host with its interface.
pub(crate) type Read = (Vec<Option<links::Interface>>, Vec<(u32, Address)>);

impl<H: Hands> Engine<H> {
    /// Reads every interface and updates its state. An interface that cannot be served is logged and shown, and
    /// tried again with the next reading. Returns why reading failed, if it did.
    pub(crate) async fn refresh_interfaces(&mut self) -> Option<anyhow::Error> {
        let (found, addresses) = match self.read_interfaces().await {
            Ok(read) => read,
            Err(failure) => return Some(failure.into()),
        };
        self.update_interfaces(found, &addresses).await
    }

    /// Updates the state of every interface to what has been read. Returns why the kernel could not be asked about
    /// our programs, if it could not.
    pub(crate) async fn update_interfaces(
        &mut self,
        found: Vec<Option<links::Interface>>,
        addresses: &[(u32, Address)],
    ) -> Option<anyhow::Error> {
        let mut unseen = None;
        for (index, found) in found.into_iter().enumerate() {
            self.update_or_wait(index, found.clone(), addresses);
            if let (Some(found), Some(_)) = (found, self.interfaces.at(index).ifindex())
                && let Err(error) = self.keep_programs(index, &found).await
            {
                unseen = Some(error.into());
            }
        }
        self.show_interfaces();
        unseen
    }

    /// Attaches to every interface that is named and exists, or to none; with that the kernel part is ours. Of each kind
    /// of interface that does not exist yet, the programs are loaded, to be sure of them.
    ///
    /// # Errors
    /// An interface cannot be served, or the kernel refuses our programs.
    pub(crate) fn begin_serving(
        &mut self,
        found: &[Option<links::Interface>],
    ) -> Result<(), Failure> {
        let mut here = Vec::new();
        let mut waits = false;
        for (index, found) in found.iter().enumerate() {
            if self.interfaces.at(index).is_leaving() {
                continue;
            }
            waits |= found.is_none();
            if let Some(found) = found {
                let link = link_of(found);
                let name = || format!("interface {}", found.name);
                let link = link.map_err(|failure| failure.context(name()))?;
                here.push((index, found.clone(), link));
            }
        }
        if waits {
            self.hands.load_all()?;
        }
        self.hands.begin(&here)?;
        for (index, found, link) in here {
            self.interfaces.at_mut(index).serve(&found, link);
        }
        Ok(())
    }

    /// Updates an interface ([`Self::update_interface`]). One that cannot be served is logged and shown.
    pub(crate) fn update_or_wait(
        &mut self,
        index: usize,
        found: Option<links::Interface>,
        addresses: &[(u32, Address)],
    ) {
        if let Err(failure) = self.update_interface(index, found, addresses) {
            let interface = self.interfaces.at_mut(index);
            if interface.wait(format!("is not served: {failure}")) {
                warn!(interface = interface.name(), reason = %failure, "interface not served");
            }
        }
    }

    /// Has the programs of an interface looked for, and says what was put right and what could not be.
    async fn keep_programs(
        &mut self,
        index: usize,
        found: &links::Interface,
    ) -> Result<(), NetlinkError> {
        let interface = &found.name;
        let kept = self.hands.keep_programs(index, found).await?;
        for Mended { hook, what } in kept.mended {
            warn!(%interface, hook, what, "program put back to its place");
        }
        for (hook, place) in kept.changed {
            match place {
                Place::First => info!(%interface, hook, "program in its place"),
                Place::Behind(others) => warn!(
                    %interface,
                    hook,
                    others,
                    "programs of others run before ours: what they do with packets cannot be known"
                ),
                Place::Missing(reason) => {
                    warn!(%interface, hook, reason, "program not in its place; trying again");
                }
            }
        }
        Ok(())
    }

    /// Shares the interfaces with API and metrics.
    pub(crate) fn show_interfaces(&self) {
        let all = self.interfaces.iter().enumerate();
        let named = all.filter(|(_, interface)| !interface.is_leaving());
        let shown = named.map(|(index, interface)| self.hands.show(index, interface.view()));
        *self.shared.interfaces() = shown.collect();
    }

    /// Reads our interfaces, and then every address of this host. Addresses of an interface that is created in
    /// between belong to none that was read; its notification asks for another reading.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub(crate) async fn read_interfaces(&mut self) -> Result<Read, Failure> {
        let mut found = Vec::with_capacity(self.interfaces.len());
        for name in self.interfaces.iter().map(Interface::name) {
            let asked = || format!("interface {name}");
            let link = self.hands.interface(name).await;
            found.push(link.fail_with(ExitCode::Failure, asked)?);
        }
        let addresses = self.hands.addresses().await;
        let addresses = addresses.fail_with(ExitCode::Failure, || "addresses")?;
        self.interfaces.host_addresses_mut().read(&addresses);
        Ok((found, addresses))
    }

    /// Updates an interface to the state and addresses that were read, attaching to it if it has come.
    ///
    /// # Errors
    /// [`ExitCode::Interface`]: it exists and cannot be served. The caller adds its name.
    fn update_interface(
        &mut self,
        index: usize,
        found: Option<links::Interface>,
        addresses: &[(u32, Address)],
    ) -> Result<(), Failure> {
        let interface = self.interfaces.at(index);
        let (name, old) = (interface.name().to_owned(), interface.ifindex());
        if old.is_some() && found.as_ref().map(|found| found.ifindex) != old {
            self.interface_gone(index);
        }
        self.interfaces.at_mut(index).set_exists(found.is_some());
        let Some(found) = found else { return Ok(()) };
        if self.interfaces.at(index).ifindex().is_none() {
            self.attach(index, &found)?;
        }
        self.hands.keep_port(index);
        let own = addresses
            .iter()
            .filter(|(ifindex, _)| *ifindex == found.ifindex);
        let locals = own.map(|(_, address)| *address).collect();
        let interface = self.interfaces.at_mut(index);
        let Some(changed) = interface.become_as(&found, locals) else {
            return Ok(());
        };
        if let Some(up) = changed.up {
            info!(interface = name, up, "interface");
        }
        let key = |local: Ipv4Addr| LocalKey {
            ifindex: found.ifindex,
            addr: local.octets(),
        };
        for local in changed.came {
            self.local_came(&name, &key(local));
        }
        for local in changed.went {
            self.local_went(&name, &key(local));
        }
        Ok(())
    }

    fn attach(&mut self, index: usize, found: &links::Interface) -> Result<(), Failure> {
        let link = link_of(found)?;
        self.hands.attach(index, found, link)?;
        self.interfaces.at_mut(index).serve(found, link);
        Ok(())
    }

    /// Stops serving an interface that is gone or has been created anew.
    fn interface_gone(&mut self, index: usize) {
        let interface = self.interfaces.at_mut(index);
        let name = interface.shared_name();
        interface.wait("is gone".to_owned());
        if let Some(ifindex) = interface.ifindex() {
            warn!(interface = &*name, ifindex, "interface gone");
        }
        self.unserve(index);
        if let Err(error) = self.hands.detach(index) {
            warn!(interface = &*name, %error, "pin of its link not removed");
        }
    }

    /// Forgets the addresses of an interface that sessions could have.
    fn unserve(&mut self, index: usize) {
        let interface = self.interfaces.at_mut(index);
        let name = interface.shared_name();
        let Some((ifindex, usable)) = interface.unserve() else {
            return;
        };
        for local in usable {
            let key = LocalKey {
                ifindex,
                addr: local.octets(),
            };
            self.local_went(&name, &key);
        }
    }

    /// Lets go of the interfaces that are not to be served any more and whose sessions are closed: takes our programs
    /// off, and gives the locks up. What fails is tried again by the next full check. To be called at the end of one: no
    /// reading is under way then, in which interfaces would have their earlier positions.
    pub(crate) fn let_go_of_leaving(&mut self) {
        for index in (0..self.interfaces.len()).rev() {
            let interface = self.interfaces.at(index);
            let name = interface.shared_name();
            if !interface.is_leaving()
                || self
                    .sessions
                    .iter()
                    .any(|(_, live)| *live.interface() == name)
            {
                continue;
            }
            self.unserve(index);
            match self.hands.let_go(index) {
                Ok(()) => {
                    self.interfaces.remove(index);
                    info!(interface = &*name, "let go of: it is not served any more");
                    // Others' packets may be diverted there from now on.
                    self.agenda.look_around_soon(self.hands.now_ns());
                }
                Err(error) => warn!(interface = &*name, %error, "not let go of; tried again"),
            }
        }
    }

    /// Takes our programs off every interface.
    pub(crate) fn detach_all(&mut self) {
        for index in 0..self.interfaces.len() {
            let interface = self.interfaces.at_mut(index);
            interface.unserve();
            if let Err(error) = self.hands.detach(index) {
                warn!(interface = interface.name(), %error, "programs not detached");
            }
        }
    }
}

/// Returns what the frames of an interface start with.
fn link_of(found: &links::Interface) -> Result<Link, Failure> {
    let link = found.link.clone();
    link.map_err(|why| Failure::new(ExitCode::Interface, why))
}
