//! The engine's parts, and questions that need several of them.

use std::sync::Arc;

use dz_common::map::{Peer, PeerKey, SessionKey};
use foldhash::HashMap;

use super::check::Reading;
use super::connections::Connections;
use super::detours::Detours;
use super::followed::Followed;
use super::holding::Holding;
use super::shared::Shared;
use super::sources::Sources;
use super::state::agenda::Agenda;
use super::state::checks::Checks;
use super::state::closings::Closings;
use super::state::interfaces::Interfaces;
use super::state::keys::{RouteKey, peer_key};
use super::state::ledger::Ledger;
use super::state::routes::RouteJobs;
use super::state::sessions::Sessions;
use crate::datapath::Datapath;
use crate::host::identity::Identity;
use crate::host::logging::FloodLimit;
use crate::settings::RunOptions;

/// Everything that changes.
pub(super) struct Engine {
    pub(super) options: RunOptions,
    pub(super) datapath: Datapath,
    pub(super) connections: Connections,
    pub(super) identity: Identity,
    pub(super) shared: Arc<Shared>,
    pub(super) floods: FloodLimit,
    pub(super) interfaces: Interfaces,
    /// What we hold of each interface, in their order.
    pub(super) holdings: Vec<Holding>,
    pub(super) peers: HashMap<PeerKey, Peer>,
    pub(super) sessions: Sessions,
    pub(super) jobs: RouteJobs,
    /// Sessions on their way out.
    pub(super) closings: Closings,
    /// What makes peers without a request.
    pub(super) sources: Sources,
    pub(super) followed: Followed,
    /// Ways around, for packets that must not go to a peer that is Down.
    pub(super) detours: Detours,
    /// Which ring events have been read.
    pub(super) ledger: Ledger,
    pub(super) reading: Reading,
    /// When to look at something ahead of time.
    pub(super) agenda: Agenda,
    /// How full checks go.
    pub(super) checks: Checks,
}

impl Engine {
    /// Most sessions: as many as asked for, although the maps are rounded up to whole groups of
    /// deadline slots, and no more than they hold, for those of an earlier agent keep their size.
    pub(super) fn capacity(&self) -> u32 {
        self.options.max_sessions.min(self.datapath.slots())
    }

    pub(super) fn peer_of(&self, key: RouteKey) -> Option<&Peer> {
        let interface = self.interfaces.with_index(key.ifindex)?;
        self.peers.get(&peer_key(interface.name(), key.dst))
    }

    /// Returns the name of a session's interface, also of one that is gone.
    pub(super) fn name_over(&self, key: &SessionKey) -> Arc<str> {
        let live = self.sessions.get(key);
        live.map_or_else(
            || self.interfaces.name_of(key.ifindex),
            |live| Arc::clone(live.interface()),
        )
    }
}
