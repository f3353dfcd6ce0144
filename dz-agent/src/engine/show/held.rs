//! Why a session is held, and until when.

use dz_common::map::{HELD_DAMPED, HELD_NEW, SessionEntry};
use dz_common::packet::State;

use crate::reason::Held;

/// Returns why a session is held, and until when, ns. `hold`: the one of damping, as the engine knows it; the entry,
/// by which the gate acts, tells.
pub(super) fn held(
    entry: &SessionEntry,
    hold: Option<(Held, u64)>,
    hold_up_ns: u64,
) -> Option<(Held, u64)> {
    if entry.held & HELD_DAMPED != 0 {
        // Without the engine's word it is about to be let go.
        return Some(hold.unwrap_or((Held::TakenOver, 0)));
    }
    let counts_ns = entry.session.since_ns.saturating_add(hold_up_ns);
    let is_new = entry.held & HELD_NEW != 0 && entry.session.state == State::Up;
    is_new.then_some((Held::HoldUp, counts_ns))
}

#[cfg(test)]
mod tests {
    use dz_common::map::HELD_QUIET;

    use super::*;
    use crate::fixture;

    #[test]
    fn why_a_session_is_held() {
        let with = |held, state| {
            let mut entry = fixture::up([10, 0, 0, 2]);
            (entry.held, entry.session.state) = (held, state);
            entry
        };
        let flapping = Some((Held::Flapping, 9));
        let both = HELD_DAMPED | HELD_NEW;
        let new = Some((Held::HoldUp, with(0, State::Up).session.since_ns + 7));
        for (bits, state, hold, expected) in [
            (0, State::Up, flapping, None),
            (HELD_DAMPED, State::Up, flapping, flapping),
            (both, State::Down, flapping, flapping),
            (HELD_DAMPED, State::Up, None, Some((Held::TakenOver, 0))),
            (HELD_NEW, State::Up, None, new),
            // Down, it would not count anyway.
            (HELD_NEW, State::Down, None, None),
            (HELD_QUIET, State::Up, None, None),
        ] {
            assert_eq!(
                held(&with(bits, state), hold, 7),
                expected,
                "{bits} {state:?}"
            );
        }
    }
}
