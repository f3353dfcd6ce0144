//! Interface and local address of a session where whoever asks for it leaves them out.
//!
//! The local address is, in this order: the source of the followed route to the peer; the interface's
//! only global address; our outer address of its tunnel, if this host has that; what the kernel would
//! take (a request only). The interface is the only one that is served, else the one that holds the
//! local address, else the one whose tunnel starts there.

use std::net::Ipv4Addr;

use dz_common::map::{Peer, PeerKey};
use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use tracing::warn;

use crate::command::RefusalKind;
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::ends::Local;
use crate::engine::state::followed::Says;
use crate::engine::state::interface::Interface;
use crate::engine::state::keys::{ifname, peer_key};
use crate::settings::PeerSpec;

/// What the kernel takes as the source, where that had to be asked: by interface and peer.
pub(crate) type Sources = HashMap<PeerKey, Ipv4Addr>;

impl<H: Hands> Engine<H> {
    /// Finds out what a request needs to be checked and is not known yet. Returns what the kernel
    /// takes as sources where nothing else says.
    pub(crate) async fn prepare(&mut self, specs: &[PeerSpec]) -> Sources {
        // An address may be younger than the last notification that we have read: a script that adds
        // one and connects from it must not have to wait. And one that is gone is not to be used.
        if self.agenda.has_check() || !self.can_carry(specs) {
            self.refresh_interfaces().await;
            self.agenda.check_soon(self.hands.now_ns());
        }
        let mut sources = Sources::new();
        // Nearly all peers have the same local address.
        let mut asked = HashSet::new();
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

    /// Whether nothing that the peers need is missing.
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

    /// The interface that a peer is meant to be reached by; an index.
    pub(crate) fn interface_for(&self, spec: &PeerSpec) -> Result<usize, (RefusalKind, String)> {
        let all = self.interfaces.iter().enumerate();
        if let Some(name) = &spec.interface {
            let mut found = all.filter(|(_, interface)| interface.name() == name);
            return found.next().map(|(index, _)| index).ok_or_else(|| {
                let text = format!("{name} is not served by this agent");
                (RefusalKind::NotFound, text)
            });
        }
        if self.interfaces.len() == 1 {
            return Ok(0);
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

    /// The local address of a session with a peer.
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

    /// The same as far as the kernel need not be asked.
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

    /// A configured peer with what its line leaves out, as it is now. As long as nothing better is
    /// known, or the interface is not there, a peer keeps what it had.
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
