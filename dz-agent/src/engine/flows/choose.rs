//! Chooses interface, local address and gateway of a session where request or file leave them out.
//!
//! The local address is, in this order: the source of the followed route to the peer; the interface's only
//! global address; our outer address of its tunnel, if this host holds that; the source that the kernel would
//! choose (for a request only). The interface is the only one that is served, else the one that holds the
//! local address, else the one whose tunnel starts there.

use std::net::Ipv4Addr;

use dz_common::map::{Peer, PeerKey};
use tracing::warn;

use crate::command::RefusalKind;
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::ends::Local;
use crate::engine::state::followed::Says;
use crate::engine::state::interface::Interface;
use crate::engine::state::keys::{ifname, peer_key};
use crate::hash::{HashMap, HashSet};
use crate::settings::PeerSpec;

/// The sources that the kernel would choose, for peers whose local address nothing else tells.
pub(crate) type Sources = HashMap<PeerKey, Ipv4Addr>;

impl<H: Hands> Engine<H> {
    /// Asks the kernel for everything that the validation of a request needs and that is not known yet. Returns
    /// the sources that the kernel would choose where nothing else tells a local address.
    pub(crate) async fn prepare(&mut self, specs: &[PeerSpec]) -> Sources {
        // The address's notification may still be to be read: a script that adds an address and connects
        // from it must not have to wait, and an address that is gone must not be used.
        if self.agenda.has_check() || !self.can_carry(specs) {
            self.refresh_interfaces().await;
            self.agenda.check_soon(self.hands.now_ns());
        }
        let mut sources = Sources::default();
        // Spares questions: nearly all peers have the same local address.
        let mut asked = HashSet::default();
        for spec in specs {
            let Ok(index) = self.interface_for(spec) else {
                continue;
            };
            let interface = self.interfaces.at(index);
            let local = match spec.local {
                Some(local) => Some(local),
                None => match self.known_local(interface, spec.peer) {
                    Local::One(local) => Some(local),
                    Local::Several(_) => None,
                    Local::None => {
                        let source = self.ask_source(interface, spec.peer).await;
                        let key = peer_key(interface.name(), spec.peer);
                        sources.extend(source.map(|source| (key, source)));
                        source
                    }
                },
            };
            if let Some(local) = local
                && !self.interfaces.at(index).can_use(local)
                && asked.insert((index, local))
            {
                self.borrow(index, local).await;
            }
        }
        sources
    }

    /// Says whether every peer has an interface that is up and a known local address.
    fn can_carry(&self, specs: &[PeerSpec]) -> bool {
        specs.iter().all(|spec| {
            let interface = self
                .interface_for(spec)
                .map(|index| self.interfaces.at(index));
            let Ok(interface) = interface else {
                return false;
            };
            let known = || match self.known_local(interface, spec.peer) {
                Local::One(local) => Some(local),
                Local::Several(_) | Local::None => None,
            };
            let local = spec.local.or_else(known);
            interface.unavailable().is_none() && local.is_some_and(|local| interface.can_use(local))
        })
    }

    /// Chooses the interface of a peer, and returns its position.
    ///
    /// # Errors
    /// The peer's interface is not served, or it is not clear which one is meant.
    pub(crate) fn interface_for(&self, spec: &PeerSpec) -> Result<usize, (RefusalKind, String)> {
        let all = self.interfaces.iter().enumerate();
        let all = all.filter(|(_, interface)| !interface.is_leaving());
        if let Some(name) = &spec.interface {
            let mut found = all.filter(|(_, interface)| interface.name() == name);
            return found.next().map(|(index, _)| index).ok_or_else(|| {
                let text = format!("{name} is not served by this agent");
                (RefusalKind::NotFound, text)
            });
        }
        if let [(only, _)] = all.clone().take(2).collect::<Vec<_>>()[..] {
            return Ok(only);
        }
        let Some(local) = spec.local else {
            let text = "several interfaces are served: name one (--interface NAME)".to_owned();
            return Err((RefusalKind::Invalid, text));
        };
        let with = |has: &dyn Fn(&Interface) -> bool| -> Vec<usize> {
            let with = all.clone().filter(|(_, interface)| has(interface));
            with.map(|(index, _)| index).collect()
        };
        let holders = with(&|interface| interface.holds(local));
        let tunnels = with(&|interface| {
            let ends = interface.ends();
            ends.is_some_and(|ends| ends.tunnel.local == Some(local))
        });
        match (holders.as_slice(), tunnels.as_slice()) {
            ([only], _) | ([], [only]) => Ok(*only),
            ([], []) => {
                let text = format!(
                    "no served interface holds {local}, nor starts its tunnel there: name one \
                     (--interface NAME)"
                );
                Err((RefusalKind::NotFound, text))
            }
            _ => {
                let text = format!("several interfaces hold {local}: name one");
                Err((RefusalKind::Invalid, text))
            }
        }
    }

    /// Chooses the local address of a session with a peer.
    ///
    /// # Errors
    /// There is none, or it is not clear which one is meant.
    pub(crate) fn local_for(
        &self,
        interface: &Interface,
        peer: Ipv4Addr,
        sources: &Sources,
    ) -> Result<Ipv4Addr, String> {
        let name = interface.name();
        match self.known_local(interface, peer) {
            Local::One(local) => Ok(local),
            Local::Several(several) => {
                let several: Vec<_> = several.iter().map(Ipv4Addr::to_string).collect();
                let several = several.join(", ");
                Err(format!(
                    "{name} has {several}: say which one (--local ADDRESS)"
                ))
            }
            Local::None => {
                let source = sources.get(&peer_key(name, peer));
                source.copied().ok_or_else(|| {
                    format!(
                        "{name} has no address to speak from: name one of this host's \
                         (--local ADDRESS)"
                    )
                })
            }
        }
    }

    /// Chooses the local address as far as the kernel need not be asked.
    fn known_local(&self, interface: &Interface, peer: Ipv4Addr) -> Local {
        if let Says::Peer(peer, _) = self.followed_peer(&peer_key(interface.name(), peer)) {
            return Local::One(peer.local.into());
        }
        let is_held = |address| self.interfaces.host_addresses().is_held(address);
        interface
            .ends()
            .map_or(Local::None, |ends| ends.local(is_held))
    }

    async fn ask_source(&self, interface: &Interface, peer: Ipv4Addr) -> Option<Ipv4Addr> {
        let source = self.hands.source_to(peer, interface.ifindex()?).await;
        let source = source.inspect_err(|error| warn!(%peer, %error, "source not looked up"));
        source
            .ok()?
            .filter(|source| self.interfaces.host_addresses().is_global(*source))
    }

    /// Completes a configured peer by the local address and gateway that its line leaves out. Those that cannot
    /// be chosen now, because the interface is not there, say, stay as the peer had them.
    pub(crate) fn with_ends(&self, key: &PeerKey, mut peer: Peer) -> Peer {
        let before = self.peers.get(key);
        let interface = self.interfaces.named(ifname(key));
        let interface = interface.filter(|interface| interface.ends().is_some());
        if peer.local == [0; 4] {
            let known = interface.map(|interface| self.known_local(interface, key.peer.into()));
            peer.local = match (known, before) {
                (Some(Local::One(local)), _) => local.octets(),
                (_, Some(before)) => before.local,
                _ => peer.local,
            };
        }
        if peer.via == [0; 4] && peer.local != [0; 4] {
            let local = peer.local.into();
            let usable = |interface: &&Interface| {
                self.interfaces.host_addresses().is_held(local) || interface.can_use(local)
            };
            let via = match (interface.filter(usable), before) {
                (Some(interface), _) => interface.ends().and_then(|ends| ends.via(local)),
                (None, Some(before)) => Some(before.via.into()),
                (None, None) => None,
            };
            let via = via.filter(|via| via.octets() != key.peer);
            peer.via = via.map_or([0; 4], |via| via.octets());
        }
        peer
    }
}
