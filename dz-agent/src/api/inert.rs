//! Counts of peers and routes that are not served as their owner may expect, by the reason, as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::reason::{self, Reason};
use crate::view::{SessionView, Snapshot};

/// Counts by reason, without those that are 0. The labels are those of the metrics.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct InertJson {
    /// Sessions whose peer's route stays when they go down: [`reason::Untouched`].
    #[serde(default)]
    pub untouched: BTreeMap<String, u64>,
    /// Routes that meet the conditions of `--follow` and make no peer: [`reason::PassedOver`].
    #[serde(default)]
    pub passed_over: BTreeMap<String, u64>,
    /// Peers without a session: [`reason::Parked`].
    #[serde(default)]
    pub parked_reasons: BTreeMap<String, u64>,
    /// Sessions of followed peers that have left: long Down without a packet, and spoken to once a
    /// minute.
    #[serde(default)]
    pub left: u64,
    /// Sessions that are held: [`reason::Held`].
    #[serde(default)]
    pub held: BTreeMap<String, u64>,
}

impl From<&Snapshot> for InertJson {
    fn from(snapshot: &Snapshot) -> Self {
        let untouched = snapshot.sessions.iter().filter_map(SessionView::untouched);
        let parked = snapshot.parked.iter().map(|parked| parked.why);
        let held = snapshot.sessions.iter().filter_map(|session| session.held);
        let held = held.map(|(why, _)| why);
        let left = snapshot.sessions.iter().filter(|session| session.left);
        Self {
            untouched: by_label(&reason::count(untouched)),
            passed_over: by_label(&snapshot.passed_over),
            parked_reasons: by_label(&reason::count(parked)),
            left: left.count() as u64,
            held: by_label(&reason::count(held)),
        }
    }
}

fn by_label<R: Reason>(counts: &[(R, u64)]) -> BTreeMap<String, u64> {
    let counts = counts.iter().filter(|(_, count)| *count > 0);
    counts
        .map(|(reason, count)| (reason.label().to_owned(), *count))
        .collect()
}
