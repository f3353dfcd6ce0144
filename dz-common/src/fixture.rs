//! The session entry and the configuration that unit tests begin with.

use crate::entry::Identity;
use crate::gate::Action;
use crate::map::{ABI_VERSION, Config, SessionEntry, SessionKey};
use crate::packet::{State, Version};
use crate::session::{Session, Timers};

/// An instant long after boot, so that subtractions have room.
pub(crate) const NOW_NS: u64 = 1_000_000_000_000;
/// When the session of [`entry`] was inserted.
const INSERTED_NS: u64 = NOW_NS - 600_000_000_000;

/// An entry whose session is in this state, and has a deadline if that has one.
pub(crate) fn entry(state: State) -> SessionEntry {
    let identity = Identity {
        key: SessionKey {
            ifindex: 3,
            local: [10, 0, 0, 1],
            peer: [10, 0, 0, 2],
        },
        slot: 5,
        generation: 7,
        block: 2,
        seed: 9,
    };
    let mut session = Session::new(Timers::DEFAULT, 0x1111_1111, INSERTED_NS);
    session.state = state;
    if matches!(state, State::Init | State::Up) {
        session.peer_discr = 0x2222_2222;
        session.last_rx_ns = NOW_NS - 1_000_000;
        session.detect_deadline_ns = session.last_rx_ns + session.detect_time_ns();
    }
    SessionEntry::new(identity, session)
}

/// The configuration of an agent that nobody has told anything.
pub(crate) fn config() -> Config {
    Config {
        abi_version: ABI_VERSION,
        port: crate::LIVENESS_PORT,
        unknown_pass: 0,
        ignore_peer_passive: 0,
        version: Version::new([1, 2, 3, 0]),
        groups: 1,
        grace_ns: 30_000_000_000,
        when_down: Action::Pass,
        when_never_up: Action::Pass,
        ttl: 64,
        tos: 0xc0,
        route_protocols: [0; 4],
    }
}
