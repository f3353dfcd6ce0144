//! The engine's parts, how it starts, and questions that need several of them.

use std::sync::Arc;

use dz_common::map::{Peer, PeerKey, SessionKey};

use crate::datapath::MapError;
use crate::engine::decide::sound::take_unsound;
use crate::engine::hands::Hands;
use crate::engine::show::shared::Shared;
use crate::engine::state::agenda::Agenda;
use crate::engine::state::backoff::nanos;
use crate::engine::state::blocks::Blocks;
use crate::engine::state::checks::Checks;
use crate::engine::state::closings::Closings;
use crate::engine::state::damping::Damping;
use crate::engine::state::detours::Detours;
use crate::engine::state::interface::Interface;
use crate::engine::state::interfaces::Interfaces;
use crate::engine::state::keys::{RouteKey, peer_key};
use crate::engine::state::ledger::Ledger;
use crate::engine::state::routes::RouteJobs;
use crate::engine::state::sessions::Sessions;
use crate::engine::state::wants::Wants;
use crate::error::{ExitCode, FailWith, Failure};
use crate::hash::HashMap;
use crate::host::identity::Identity;
use crate::settings::{Gate, RunOptions, Switch};

/// The engine: its owners ([`super::state`]), its hands, and what it shows.
pub(super) struct Engine<H> {
    pub(super) options: RunOptions,
    pub(super) hands: H,
    pub(super) shared: Arc<Shared>,
    pub(super) interfaces: Interfaces,
    /// The peers, as they are in `dz_peers`.
    pub(super) peers: HashMap<PeerKey, Peer>,
    pub(super) sessions: Sessions,
    /// Route changes that are under way, wait, or are to be tried again.
    pub(super) jobs: RouteJobs,
    /// Sessions that are being closed.
    pub(super) closings: Closings,
    /// The peers that the file and followed routes want.
    pub(super) wants: Wants,
    /// Ways around, for packets that must not go to a peer that is Down.
    pub(super) detours: Detours,
    /// The account of state changes read from `dz_events`.
    pub(super) ledger: Ledger,
    /// Appointments ahead of the periodic full check.
    pub(super) agenda: Agenda,
    /// The full check under way, and the failures of earlier ones.
    pub(super) checks: Checks,
}

/// The parts of an engine that exist before the kernel part is loaded.
pub(super) struct Prepared {
    pub(super) wants: Wants,
    pub(super) identity: Identity,
    /// The interfaces that an earlier agent served and that are not named any more.
    pub(super) leaving: Vec<String>,
}

impl<H: Hands> Engine<H> {
    /// Makes an engine that has not changed anything in the kernel yet.
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
        // Events of an earlier agent's time: what they told is in the sessions, which the first full check
        // reads.
        while hands.next_event().is_some() {}
        // The first full check deals with what cannot be read or served.
        let sessions = hands.sessions(|_| ());
        let mut sessions = sessions.fail_with(ExitCode::Failure, kernel)?;
        take_unsound(&mut sessions, hands.slots());
        let reroute = [options.when_down, options.when_never_up].contains(&Gate::Reroute);
        let locals = hands.locals().fail_with(ExitCode::Failure, kernel)?;
        let in_sessions = sessions.iter().map(|entry| (entry.key.local, entry.block));
        let blocks = Blocks::new(locals, in_sessions, hands.now_ns());
        let damping = Damping::new(options.damping == Switch::On, nanos(options.hold_up));
        let interfaces = options.interfaces.iter().map(|name| Interface::new(name));
        let leaving = prepared.leaving.iter();
        let interfaces = interfaces.chain(leaving.map(|name| Interface::leaving(name)));
        let mut engine = Self {
            sessions: Sessions::new(prepared.identity, hands.slots(), &sessions).damped_by(damping),
            interfaces: Interfaces::new(interfaces.collect(), blocks),
            hands,
            options,
            shared,
            peers: Default::default(),
            jobs: RouteJobs::default(),
            closings: Default::default(),
            wants: prepared.wants,
            detours: Detours::new(reroute),
            ledger: Ledger::default(),
            agenda: Agenda::default(),
            checks: Checks::default(),
        };
        let emitted = engine.events_emitted();
        let (emitted, lost) = emitted.fail_with(ExitCode::Failure, kernel)?;
        engine.ledger = Ledger::new(emitted, lost);
        Ok(engine)
    }

    /// Returns the most sessions that there may be: `--max-sessions`, although the maps are rounded up to
    /// whole groups of deadline slots; fewer if maps taken over from an earlier agent have room for fewer.
    pub(super) fn capacity(&self) -> u32 {
        self.options.max_sessions.min(self.hands.slots())
    }

    /// Returns the peer that a route leads to, if somebody wants it.
    pub(super) fn peer_of(&self, key: RouteKey) -> Option<&Peer> {
        let interface = self.interfaces.with_index(key.ifindex)?;
        self.peers.get(&peer_key(interface.name(), key.dst))
    }

    /// Returns the name of a session's interface, also if the interface is gone.
    pub(super) fn name_over(&self, key: &SessionKey) -> Arc<str> {
        let live = self.sessions.get(key);
        live.map_or_else(
            || self.interfaces.name_of(key.ifindex),
            |live| Arc::clone(live.interface()),
        )
    }

    /// Returns how many events the kernel programs have tried to emit, and how many of these found no room.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn events_emitted(&self) -> Result<(u64, u64), MapError> {
        let counters = self.hands.counters(0)?;
        Ok((
            counters.event_emitted + counters.event_lost,
            counters.event_lost,
        ))
    }
}
