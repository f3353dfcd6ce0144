//! The gate's entries: one for each session, from before the session is inserted until right before
//! it is deleted, so that no packet meets a session without its gate.

use std::net::Ipv4Addr;

use dz_common::map::Gate;
use tracing::warn;

use super::Engine;
use super::reconcile::{RouteKey, gate_key};
use crate::datapath::MapError;

impl Engine {
    /// Makes the gate before a destination what it should be.
    pub(super) fn guard(&mut self, key: RouteKey) {
        let local = self.owners.get(&key).map(|owner| owner.local);
        let result = match local {
            Some(local) => self.raise_gate(key, local),
            None => self.remove_gate(key),
        };
        if let Err(error) = result {
            warn!(dst = %key.dst, %error, "gate not changed; retried");
        }
    }

    /// Puts the gate before a session's peer. A way around that an earlier agent has left there
    /// stays until we have looked ourselves.
    pub(super) fn raise_gate(&mut self, key: RouteKey, local: [u8; 4]) -> Result<(), MapError> {
        let gate_key = gate_key(&key);
        let found = self.datapath.maps.reader().gate(&gate_key)?;
        let known = self.detours.of(key.dst);
        let detour = known.or(found.map(|gate| gate.detour)).unwrap_or(0);
        self.detours.look(key.dst);
        let gate = Gate { local, detour };
        if found == Some(gate) {
            return Ok(());
        }
        self.datapath.maps.set_gate(&gate_key, &gate)
    }

    /// Takes the gate away from a destination, whose session is about to go.
    pub(super) fn remove_gate(&mut self, key: RouteKey) -> Result<(), MapError> {
        self.datapath.maps.delete_gate(&gate_key(&key))?;
        if !self.is_gated(key.dst, Some(key.ifindex)) {
            self.detours.forget(key.dst);
        }
        Ok(())
    }

    /// Whether a session of ours has this peer, on an interface other than `but`.
    fn is_gated(&self, dst: Ipv4Addr, but: Option<u32>) -> bool {
        let ours = |ifindex| self.owners.contains_key(&RouteKey { ifindex, dst });
        self.interfaces
            .iter()
            .filter_map(super::Interface::ifindex)
            .any(|ifindex| Some(ifindex) != but && ours(ifindex))
    }

    /// The way around a destination has been looked up.
    pub(super) fn detour_found(&mut self, found: super::detours::Found) {
        let dst = found.dst;
        if !self.detours.done(found) {
            return;
        }
        if !self.is_gated(dst, None) {
            self.detours.forget(dst);
            return;
        }
        let interfaces = self.interfaces.iter();
        let indices: Vec<u32> = interfaces.filter_map(super::Interface::ifindex).collect();
        for ifindex in indices {
            let key = RouteKey { ifindex, dst };
            if self.owners.contains_key(&key) {
                self.guard(key);
            }
        }
    }
}
