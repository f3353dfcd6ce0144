//! Taking everything back: what SIGTERM asks for.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use super::due::{LATEST, lateness, moment};
use super::parts::Engine;
use super::sources::Sources;
use crate::datapath::now_ns;
use crate::error::{ExitCode, Failure};
use crate::net::monitor::{Event, Monitor};

/// How long a withdrawal may take before we give up and say so.
const WITHDRAWAL: Duration = Duration::from_secs(10);

impl Engine {
    /// Handles a change in the network namespace while everything is taken back.
    async fn changed_at_the_end(&mut self, event: Event) {
        self.changed(event);
        if !self.sessions.next_hops().is_up_to_date() {
            // Notifications were lost, and there are no full checks any more. What cannot be read now
            // is read with the next notification.
            let _ = self.refresh_interfaces().await;
            let _ = self.read_neighbours().await;
        }
    }

    /// Does what has been put off: tells peers again, and retries routes.
    fn advance_closings(&mut self) {
        self.say_farewells();
        self.retry_routes();
    }

    /// Takes everything back: sessions, routes, programs. The pins go last, by the caller.
    pub(super) async fn withdraw(&mut self, monitor: &mut Monitor) -> Result<(), Failure> {
        info!(peers = self.peers.len(), "withdrawing everything");
        // Nobody wants anything any more, and nothing is looked at.
        self.sources = Sources::default();
        self.agenda.clear();
        self.disconnect_all();
        let deadline = Instant::now() + WITHDRAWAL;
        let mut listening = true;
        while !self.closings.is_empty() {
            let due_ns = self.closings_due_ns();
            let due = due_ns
                .map(|at_ns| Instant::now() + Duration::from_nanos(at_ns.saturating_sub(now_ns())));
            tokio::select! {
                biased;
                () = sleep_until(deadline) => {}
                Some(done) = self.jobs.answered(), if self.jobs.is_asking() => {
                    self.route_done(done);
                }
                Some(found) = self.sessions.next_hops_mut().answered(), if self.sessions.next_hops().is_asking() => {
                    self.next_hop_looked_up(found);
                }
                // Next hops that are resolved, and addresses that nothing may be sent from any more.
                event = monitor.next(), if listening => match event {
                    Ok(event) => {
                        self.changed_at_the_end(event).await;
                        // With more of them than can be read, what is due does not wait for ever.
                        if lateness(due_ns, None) > LATEST {
                            self.advance_closings();
                        }
                    }
                    Err(error) => {
                        warn!(%error, "netlink notifications");
                        listening = false;
                    }
                },
                () = moment(due) => self.advance_closings(),
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        self.detach_all();
        if self.closings.is_empty() {
            info!("everything withdrawn");
            return Ok(());
        }
        let left = self.closings.len();
        error!(left, "routes left behind");
        Err(Failure::new(
            ExitCode::Failure,
            format!(
                "{left} routes could not be withdrawn: `ip route flush proto {}` does it",
                self.options.route_protocol
            ),
        ))
    }
}
