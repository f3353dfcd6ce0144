//! Writes the families of peers: by the source that wants them, by changes of followed routes, and those
//! that are not served as their owner may expect.

use std::fmt;

use dz_common::map::Origin;
use prometheus_client::metrics::gauge::ConstGauge;

use super::write::{Out, counter, gauge, single};
use crate::reason::{self, Reason};
use crate::view::{SessionView, Snapshot, origin_name};

/// Writes the families of peers.
pub(super) fn encode(out: Out<'_, '_>, snapshot: &Snapshot) -> fmt::Result {
    wanted(out, snapshot)?;
    let untouched = snapshot.sessions.iter().filter_map(SessionView::untouched);
    let name = "doublezero_liveness_untouched_routes";
    let help = "Sessions whose route stays when they go down, by reason";
    by_reason(out, name, help, &reason::count(untouched))?;
    let held = snapshot.sessions.iter().filter_map(|session| session.held);
    let name = "doublezero_liveness_held_sessions";
    let help = "Sessions that are held, and do not count as Up while they are Up, by reason";
    by_reason(out, name, help, &reason::count(held.map(|(why, _)| why)))?;
    let parked = snapshot.parked.iter().map(|parked| parked.why);
    let name = "doublezero_liveness_parked_peers";
    let help = "Peers without a session, by reason";
    by_reason(out, name, help, &reason::count(parked))?;
    let left = snapshot.sessions.iter().filter(|session| session.left);
    let name = "doublezero_liveness_left_peers";
    let help = "Followed peers that have left: ten minutes Down without a packet";
    single(out, name, help, &ConstGauge::new(left.count() as u64))?;
    followed(out, snapshot)
}

fn wanted(out: Out<'_, '_>, snapshot: &Snapshot) -> fmt::Result {
    let sessions = snapshot.sessions.iter().filter_map(|view| view.origin);
    let parked = snapshot.parked.iter().map(|view| view.origin);
    let origins: Vec<_> = sessions.chain(parked).collect();
    let rows = [Origin::Api, Origin::Config, Origin::Follow].map(|origin| {
        let count = origins.iter().filter(|found| **found == origin).count();
        ([("origin", origin_name(origin))], count as u64)
    });
    let help = "Peers, parked ones included, by who wants them";
    gauge(out, "doublezero_liveness_peers", help, rows)
}

fn followed(out: Out<'_, '_>, snapshot: &Snapshot) -> fmt::Result {
    let name = "doublezero_liveness_followed_routes_passed_over";
    let help = "Routes that meet the conditions of --follow and make no peer, by reason";
    by_reason(out, name, help, &snapshot.passed_over)?;
    let changes = &snapshot.agent.follow_changes;
    let rows = [
        ("appeared", changes.appeared),
        ("changed", changes.changed),
        ("disappeared", changes.disappeared),
    ];
    let rows = rows.map(|(change, count)| ([("change", change)], count));
    let help = "Peers that came, changed and went with the followed routes";
    counter(out, "doublezero_liveness_follow_changes", help, rows)
}

fn by_reason<R: Reason>(
    out: Out<'_, '_>,
    name: &str,
    help: &str,
    counts: &[(R, u64)],
) -> fmt::Result {
    let rows = counts.iter();
    let rows = rows.map(|(reason, count)| ([("reason", reason.label())], *count));
    gauge(out, name, help, rows)
}
