//! Keeps `dz_locals` current: the local addresses that sessions may have over each interface, its own and
//! the borrowed ones, with their blocks of counters.

use std::net::Ipv4Addr;

use dz_common::map::LocalKey;
use tracing::{info, warn};

use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::blocks::Given;
use crate::hash::HashSet;

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

    /// Deletes local addresses of an earlier agent's that have gone since.
    pub(crate) fn forget_stale_locals(&mut self) {
        let usable: HashSet<_> = self
            .interfaces
            .iter()
            .filter_map(|interface| Some((interface.ifindex()?, interface)))
            .flat_map(|(ifindex, interface)| {
                interface.usable().map(move |local| LocalKey {
                    ifindex,
                    addr: local.octets(),
                })
            })
            .collect();
        let known = self.hands.locals();
        let known = known.inspect_err(|error| warn!(%error, "addresses not read"));
        for (key, _) in known.unwrap_or_default() {
            if !usable.contains(&key) {
                self.local_went(&self.interfaces.name_of(key.ifindex), &key);
            }
        }
    }
}
