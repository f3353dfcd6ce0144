//! The gate: what becomes of a packet that is about to leave for a peer's address. The session
//! entry alone decides, so that one store switches answering and forwarding together.

use crate::counters::Counter;
use crate::map::Config;
use crate::packet::State;
use crate::session::{Mode, Session};

/// What is done with packets for a peer that is not Up.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "user",
    derive(
        zerocopy::TryFromBytes,
        zerocopy::IntoBytes,
        zerocopy::KnownLayout,
        zerocopy::Immutable
    )
)]
pub enum Action {
    /// On into the tunnel, as if there were no gate.
    Pass = 0,
    /// Dropped.
    Drop = 1,
    /// Out by the best route through no gated interface.
    Reroute = 2,
}

/// What the gate has to know of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its state.
    pub state: State,
    /// Whether it was ever Up.
    pub ever_up: bool,
    /// Whether routes and traffic are left alone, see [`is_passive`].
    pub passive: bool,
}

impl Facts {
    /// Those of a session.
    pub const fn of(session: &Session, ignore_peer_passive: bool) -> Self {
        Self {
            state: session.state,
            ever_up: session.ups != 0,
            passive: is_passive(session.timers.mode, session.peer_mode, ignore_peer_passive),
        }
    }

    /// What becomes of a packet, and, where it goes on into the tunnel, why.
    #[inline(always)]
    pub const fn verdict(&self, config: &Config) -> (Action, Counter) {
        if matches!(self.state, State::Up) {
            return (Action::Pass, Counter::GateUp);
        }
        if self.passive {
            return (Action::Pass, Counter::GatePassive);
        }
        let (action, passed) = if self.ever_up {
            (config.when_down, Counter::GateDownPassed)
        } else {
            (config.when_never_up, Counter::GateNeverUpPassed)
        };
        match action {
            Action::Pass => (action, passed),
            Action::Drop => (action, Counter::GateDropped),
            Action::Reroute => (action, Counter::GateRerouted),
        }
    }
}

/// The effective mode of a session: passive if we are, or if the peer says that it is and that is
/// honoured.
#[inline(always)]
pub const fn is_passive(own: Mode, peer: Mode, ignore_peer: bool) -> bool {
    matches!(own, Mode::Passive) || (!ignore_peer && matches!(peer, Mode::Passive))
}
