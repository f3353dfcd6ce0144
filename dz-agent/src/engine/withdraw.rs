//! Taking everything back: what SIGTERM asks for.

use std::time::Duration;

use tracing::{error, info, warn};

use super::due::LATEST_NS;
use super::hands::Hands;
use super::parts::Engine;
use super::sources::Sources;
use crate::error::{ExitCode, Failure};
use crate::net::monitor::{Event, Monitor};

/// How long a withdrawal may take before we give up and say so, ns.
const WITHDRAWAL_NS: u64 = 10_000_000_000;

impl<H: Hands> Engine<H> {
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
        let deadline_ns = self.hands.now_ns().saturating_add(WITHDRAWAL_NS);
        let mut listening = true;
        while !self.closings.is_empty() {
            let now_ns = self.hands.now_ns();
            if now_ns >= deadline_ns {
                break;
            }
            let due_ns = self.closings_due_ns();
            let wake_ns = due_ns.map_or(deadline_ns, |due_ns| due_ns.min(deadline_ns));
            let pause = Duration::from_nanos(wake_ns.saturating_sub(now_ns));
            tokio::select! {
                biased;
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
                        let late_ns = due_ns.map(|due_ns| self.hands.now_ns().saturating_sub(due_ns));
                        if late_ns > Some(LATEST_NS) {
                            self.advance_closings();
                        }
                    }
                    Err(error) => {
                        warn!(%error, "netlink notifications");
                        listening = false;
                    }
                },
                () = self.hands.sleep(pause) => self.advance_closings(),
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
