//! When something is due, and by how much it is late.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::parts::Engine;
use crate::datapath::now_ns;

/// How long a flood of notifications may keep everything waiting that is due.
pub(super) const LATEST: Duration = Duration::from_secs(1);

impl Engine {
    /// When a peer is to be told again that its session is over, or a route is to be tried again, ns.
    pub(super) fn closings_due_ns(&self) -> Option<u64> {
        let due_ns = [self.closings.due_ns(), self.jobs.next_retry_ns()];
        due_ns.into_iter().flatten().min()
    }
}

/// Waits until then, or for ever.
pub(super) async fn moment(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// By how much what was to be done by then is late.
pub(super) fn lateness(due_ns: Option<u64>, look_at: Option<Instant>) -> Duration {
    let due = due_ns.map(|due_ns| Duration::from_nanos(now_ns().saturating_sub(due_ns)));
    let look = look_at.map(|at| Instant::now().saturating_duration_since(at));
    due.max(look).unwrap_or_default()
}
