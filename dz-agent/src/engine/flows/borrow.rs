//! Has interfaces borrow addresses: a peer may use an address as its local one that its interface does not
//! hold, if it is this host's, as `ip unnumbered` does.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context;
use dz_common::map::LocalKey;
use tracing::warn;

use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::agenda::SETTLE_NS;
use crate::engine::state::keys::ifname;
use crate::hash::{HashMap, HashSet};
use crate::net::NetlinkError;

/// The kernel's answers about addresses that peers use and their interface does not hold.
#[derive(Default)]
struct Answers {
    /// For each interface, the addresses that are this host's.
    borrowed: Vec<HashSet<Ipv4Addr>>,
    /// The addresses that are not this host's.
    missing: HashSet<Ipv4Addr>,
}

impl<H: Hands> Engine<H> {
    /// Asks the kernel which of the addresses that peers use and their interface does not hold are this host's,
    /// and has each interface borrow those. Returns why the kernel could not be asked, if it could not; then
    /// the borrowed addresses stay as they are.
    pub(crate) async fn read_borrowed(&mut self) -> Option<anyhow::Error> {
        let mut by_interface: HashMap<&str, HashSet<Ipv4Addr>> = HashMap::default();
        let mut used = HashSet::default();
        let mut last = None;
        for (key, peer) in &self.peers {
            // Spares hashing: nearly every peer has the local address of the one before.
            if last.replace((&key.ifname, peer.local)) != Some((&key.ifname, peer.local)) {
                let local = peer.local.into();
                used.insert(local);
                by_interface.entry(ifname(key)).or_default().insert(local);
            }
        }
        let wanted = self.interfaces.iter().map(|interface| {
            let locals = by_interface.remove(interface.name());
            let locals = locals.unwrap_or_default().into_iter();
            locals.filter(|local| !interface.holds(*local)).collect()
        });
        let wanted: Vec<Vec<Ipv4Addr>> = wanted.collect();
        self.interfaces.host_addresses_mut().use_addresses(used);
        let mut answers = match self.ask_locals(&wanted).await {
            Ok(answers) => answers,
            Err(error) => return Some(error),
        };
        if !self
            .interfaces
            .host_addresses()
            .were_missing(&answers.missing)
        {
            // An address that moves is deleted before it is added: the second question may find it. Nothing
            // is sent meanwhile.
            self.hands.sleep(Duration::from_nanos(SETTLE_NS)).await;
            answers = match self.ask_locals(&wanted).await {
                Ok(answers) => answers,
                Err(error) => return Some(error),
            };
        }
        for (index, borrowed) in answers.borrowed.into_iter().enumerate() {
            self.set_borrowed(index, borrowed);
        }
        self.interfaces.host_addresses_mut().asked(answers.missing);
        None
    }

    /// Asks the kernel about the addresses that peers of each interface use.
    async fn ask_locals(&self, wanted: &[Vec<Ipv4Addr>]) -> anyhow::Result<Answers> {
        let mut answers = Answers::default();
        for (index, locals) in wanted.iter().enumerate() {
            let mut borrowed = HashSet::default();
            for &local in locals {
                let asked = self.ask_local(index, local).await;
                if asked.with_context(|| format!("whether {local} is an address of this host"))? {
                    borrowed.insert(local);
                } else {
                    answers.missing.insert(local);
                }
            }
            answers.borrowed.push(borrowed);
        }
        Ok(answers)
    }

    /// Asks whether an address that an interface does not hold is this host's, in the interface's VRF.
    async fn ask_local(&self, index: usize, address: Ipv4Addr) -> Result<bool, NetlinkError> {
        if address.is_unspecified() || address.is_loopback() {
            return Ok(false);
        }
        let vrf = self.interfaces.at(index).vrf();
        self.hands.is_local(address, vrf).await
    }

    /// Has an interface borrow the local address of a request, if it is this host's.
    pub(crate) async fn borrow(&mut self, index: usize, address: Ipv4Addr) {
        match self.ask_local(index, address).await {
            Ok(true) => {
                self.interfaces.host_addresses_mut().use_address(address);
                let interface = self.interfaces.at_mut(index);
                let mut borrowed = interface.borrowed().collect::<HashSet<_>>();
                borrowed.insert(address);
                self.set_borrowed(index, borrowed);
                self.use_holders();
                self.show_interfaces();
            }
            Ok(false) => {}
            Err(error) => warn!(%address, %error, "whether this is an address of this host"),
        }
    }

    fn set_borrowed(&mut self, index: usize, borrowed: HashSet<Ipv4Addr>) {
        let interface = self.interfaces.at_mut(index);
        let Some((ifindex, before)) = interface.borrow(borrowed.clone()) else {
            return;
        };
        let name = interface.name().to_owned();
        let own: HashSet<_> = interface.locals().collect();
        let key = |local: &Ipv4Addr| LocalKey {
            ifindex,
            addr: local.octets(),
        };
        for local in borrowed.difference(&before) {
            self.local_came(&name, &key(local));
        }
        for local in before
            .difference(&borrowed)
            .filter(|local| !own.contains(*local))
        {
            self.local_went(&name, &key(local));
        }
    }
}
