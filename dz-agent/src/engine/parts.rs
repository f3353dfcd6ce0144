//! The engine's parts, how it starts, and questions that need several of them.

use std::sync::Arc;

use dz_common::map::{Peer, PeerKey, SessionKey};
use foldhash::HashMap;
use tracing::{info, warn};

use super::check::Reading;
use super::detours::Detours;
use super::followed::Followed;
use super::hands::Hands;
use super::shared::Shared;
use super::sources::Sources;
use super::state::agenda::Agenda;
use super::state::blocks::Blocks;
use super::state::checks::Checks;
use super::state::closings::Closings;
use super::state::interface::Interface;
use super::state::interfaces::Interfaces;
use super::state::keys::{RouteKey, peer_key};
use super::state::ledger::Ledger;
use super::state::routes::RouteJobs;
use super::state::sessions::Sessions;
use crate::error::{ExitCode, FailWith, Failure};
use crate::host::identity::Identity;
use crate::settings::{Gate, RunOptions};

/// Everything that changes.
pub(super) struct Engine<H> {
    pub(super) options: RunOptions,
    pub(super) hands: H,
    pub(super) identity: Identity,
    pub(super) shared: Arc<Shared>,
    pub(super) interfaces: Interfaces,
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

/// What is ours before the kernel part is loaded.
pub(super) struct Prepared {
    pub(super) sources: Sources,
    pub(super) followed: Followed,
    pub(super) identity: Identity,
}

impl<H: Hands> Engine<H> {
    /// Makes an engine that has not touched anything yet.
    ///
    /// # Errors
    /// The maps of an earlier agent cannot be read.
    pub(super) fn new(
        mut hands: H,
        options: RunOptions,
        prepared: Prepared,
        shared: Arc<Shared>,
    ) -> Result<Self, Failure> {
        let kernel = || "reading the maps of an earlier agent";
        // What happened before us is in the sessions, which are all read anyway.
        while hands.next_event().is_some() {}
        let sessions = hands.sessions().fail_with(ExitCode::Failure, kernel)?;
        let reroute = [options.when_down, options.when_never_up].contains(&Gate::Reroute);
        let blocks = Blocks::new(hands.locals().fail_with(ExitCode::Failure, kernel)?);
        let interfaces = options.interfaces.iter().map(|name| Interface::new(name));
        let mut engine = Self {
            sessions: Sessions::new(hands.slots(), &sessions),
            interfaces: Interfaces::new(interfaces.collect(), blocks),
            hands,
            options,
            identity: prepared.identity,
            shared,
            peers: Default::default(),
            jobs: RouteJobs::default(),
            closings: Default::default(),
            sources: prepared.sources,
            followed: prepared.followed,
            detours: Detours::new(reroute),
            ledger: Ledger::default(),
            reading: Reading::default(),
            agenda: Agenda::default(),
            checks: Checks::default(),
        };
        let emitted = engine.events_emitted();
        let (emitted, lost) = emitted.fail_with(ExitCode::Failure, kernel)?;
        engine.ledger = Ledger::new(emitted, lost);
        Ok(engine)
    }

    /// Attaches to the interfaces that are there and goes on from what was found.
    ///
    /// # Errors
    /// An interface cannot be served, the kernel does not take our programs, or does not tell what there is.
    pub(super) async fn start(&mut self) -> Result<(), Failure> {
        let (found, addresses) = self.read_interfaces().await?;
        for (index, found) in found.into_iter().enumerate() {
            let followed = self.follow_interface(index, found, &addresses);
            followed.map_err(|failure| {
                let name = self.interfaces.at(index).name();
                failure.context(format!("interface {name}"))
            })?;
            let interface = self.interfaces.at(index);
            if let Some(reason) = interface.unavailable() {
                warn!(
                    interface = interface.name(),
                    reason, "waiting for the interface"
                );
            }
        }
        if self.interfaces.iter().any(|i| i.ifindex().is_none()) {
            self.hands.load_all()?;
        }
        if let Some(file) = &self.options.peers {
            let peers = self.sources.configured.len();
            info!(file = %file.display(), peers, "peers configured");
        }
        // Also what an earlier agent had from a file, or by following, and nobody wants any more.
        self.full_check().await;
        // By now it is known what is borrowed.
        self.forget_stale_locals();
        self.tick();
        Ok(())
    }

    /// Most sessions: as many as asked for, although the maps are rounded up to whole groups of
    /// deadline slots, and no more than they hold, for those of an earlier agent keep their size.
    pub(super) fn capacity(&self) -> u32 {
        self.options.max_sessions.min(self.hands.slots())
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
