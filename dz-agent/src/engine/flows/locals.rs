//! Keeps `dz_locals` current: the local addresses that sessions may have over each interface, its own and
//! the borrowed ones, with their blocks of counters.

use std::net::Ipv4Addr;
use std::sync::Arc;

use dz_common::map::LocalKey;
use tracing::{info, warn};

use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::blocks::Given;
use crate::hash::HashMap;

impl<H: Hands> Engine<H> {
    /// Writes a local address that sessions over an interface may have from now on.
    pub(crate) fn local_came(&mut self, interface: &str, key: &LocalKey) {
        let sessions = &self.sessions;
        let has_sessions = |local| sessions.keys().any(|key| key.local == local);
        let blocks = self.interfaces.blocks_mut();
        let block = match blocks.came(interface, key, self.hands.now_ns(), has_sessions) {
            Given::Own(block) => block,
            Given::Another(block) => {
                if let Err(error) = self.hands.clear_counters(block) {
                    warn!(interface, block, %error, "counters go on from another address's");
                }
                block
            }
            Given::Shared => {
                warn!(interface, "no block of counters left: counted in block 0");
                0
            }
        };
        if let Err(error) = self.hands.set_local(key, block) {
            warn!(interface, local = %Ipv4Addr::from(key.addr), %error, "address not noted");
        }
    }

    /// Deletes a local address that sessions over an interface may not have any more.
    pub(crate) fn local_went(&mut self, interface: &str, key: &LocalKey) {
        info!(interface, local = %Ipv4Addr::from(key.addr), "address gone, or not used any more");
        match self.hands.delete_local(key) {
            Ok(()) => {
                let now_ns = self.hands.now_ns();
                self.interfaces.blocks_mut().went(key, now_ns);
            }
            // Packets may still be counted in its block, which it keeps.
            Err(error) => {
                warn!(interface, local = %Ipv4Addr::from(key.addr), %error, "address not forgotten");
            }
        }
    }

    /// Writes and deletes local addresses where the map differs from those that sessions may have: an earlier agent has left it, or
    /// the kernel has refused a change of it.
    pub(crate) fn correct_locals(&mut self) {
        let mut missing: HashMap<LocalKey, Arc<str>> = HashMap::default();
        for interface in self.interfaces.iter() {
            let Some(ifindex) = interface.ifindex() else {
                continue;
            };
            for local in interface.usable() {
                let addr = local.octets();
                missing.insert(LocalKey { ifindex, addr }, interface.shared_name());
            }
        }
        let known = match self.hands.locals() {
            Ok(known) => known,
            Err(error) => {
                warn!(%error, "addresses not read; repeated");
                return;
            }
        };
        for (key, _) in known {
            if missing.remove(&key).is_none() {
                self.local_went(&self.interfaces.name_of(key.ifindex), &key);
            }
        }
        for (key, interface) in missing {
            self.local_came(&interface, &key);
        }
    }
}
