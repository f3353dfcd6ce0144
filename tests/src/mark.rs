//! What tells whether a session that is Up at both ends still is the one that it was, and has not flapped since.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dz_common::map::SessionEntry;

use crate::udp_peer::Snapshot;

/// A session that is Up at both ends, and how often it has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    generation: u32,
    transitions: u32,
    far_changes: usize,
}

impl Mark {
    /// Of the agent's entry and the far end's session.
    pub const fn of(entry: &SessionEntry, far: &Snapshot) -> Self {
        Self {
            generation: entry.generation,
            transitions: entry.session.transitions,
            far_changes: far.changes.len(),
        }
    }
}

/// Sessions that are Up at both ends, by peer.
pub type Marks = BTreeMap<Ipv4Addr, Mark>;
