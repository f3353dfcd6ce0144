//! Writes the families of state changes: as the deployed client labels them, and by the protocol's reasons.

use std::collections::BTreeMap;
use std::fmt;

use dz_common::counters::{Counter, Counters};
use dz_common::packet::State;
use dz_common::session::DownReason;

use super::labels::ServiceLabels;
use super::write::{Out, counter};

/// Writes the families of state changes.
pub(super) fn encode(out: Out<'_, '_>, blocks: &BTreeMap<ServiceLabels, Counters>) -> fmt::Result {
    let mut deployed = BTreeMap::new();
    let mut downs = BTreeMap::new();
    for (labels, counters) in blocks {
        for (counter, from, to, reason) in transitions() {
            let count = counters.get(counter);
            if labels.iface.is_empty() && count == 0 {
                continue;
            }
            let cause = deployed_cause(to, reason);
            let key = (labels.clone(), from.name(), to.name(), cause);
            *deployed.entry(key).or_insert(0) += count;
            if to == State::Down && reason != DownReason::None {
                downs.insert((labels.clone(), from.name(), reason.name()), count);
            }
        }
    }
    let rows = deployed
        .into_iter()
        .map(|((labels, from, to, reason), count)| {
            (
                (
                    labels,
                    [("state_from", from), ("state_to", to), ("reason", reason)],
                ),
                count,
            )
        });
    let help = "State changes; reason as the deployed client tells them apart";
    counter(out, "doublezero_liveness_session_transitions", help, rows)?;
    let rows = downs.into_iter().map(|((labels, from, reason), count)| {
        ((labels, [("state_from", from), ("reason", reason)]), count)
    });
    let help = "Sessions that went Down, by the protocol's reason";
    counter(out, "doublezero_liveness_downs", help, rows)
}

/// Returns every transition counter with its states and its reason, or no reason where there is only one.
fn transitions() -> impl Iterator<Item = (Counter, State, State, DownReason)> {
    use DownReason::{None, RemoteAdmin, RemoteDown, Timeout};
    let pairs = State::ALL
        .into_iter()
        .flat_map(|from| State::ALL.map(|to| (from, to)));
    pairs.flat_map(|(from, to)| {
        let counted = |reason| Some((Counter::transition(from, to, reason)?, from, to, reason));
        let any = counted(None);
        let each = [Timeout, RemoteAdmin, RemoteDown].map(counted);
        let each = if any.is_some() {
            [Option::None; 3]
        } else {
            each
        };
        any.into_iter().chain(each.into_iter().flatten())
    })
}

/// Returns the deployed client's name of the cause, which is the function that made the change.
const fn deployed_cause(to: State, reason: DownReason) -> &'static str {
    match (to, reason) {
        (State::AdminDown, _) => "admin_down_route",
        (State::Down, DownReason::Timeout) => "detect_timeout",
        // Leaving AdminDown: deployed clients make a new session instead.
        (State::Down, DownReason::None) => "register_route",
        _ => "handle_rx",
    }
}
