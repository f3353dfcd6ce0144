//! Taking everything back: what SIGTERM asks for.

use std::time::Duration;

use tracing::{error, info, warn};

use crate::engine::flows::due::LATEST_NS;
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::error::{ExitCode, Failure};
use crate::net::monitor::{Event, Monitor};
use crate::net::routes::{Route, RouteError};

/// How long a withdrawal may take before we give up and say so, ns.
const WITHDRAWAL_NS: u64 = 10_000_000_000;
/// After what time the kernel is asked again to disconnect whom it refused to, ns.
const AGAIN_NS: u64 = 250_000_000;

impl<H: Hands> Engine<H> {
    /// Handles a change in the network namespace while everything is taken back.
    pub(crate) async fn changed_at_the_end(&mut self, event: Event) {
        self.changed(event);
        if !self.sessions.next_hops().is_up_to_date() {
            // Notifications were lost, and there are no full checks any more. What cannot be read now
            // is read with the next notification.
            let _ = self.refresh_interfaces().await;
            let _ = self.read_neighbours().await;
        }
    }

    /// Does what has been put off: tells peers again, retries routes, and disconnects whom the kernel refused
    /// to disconnect.
    pub(crate) fn advance_withdrawal(&mut self) {
        self.say_farewells();
        self.retry_routes();
        if self.agenda.take_check(self.hands.now_ns()) {
            self.disconnect_rest();
        }
    }

    /// Returns when that is due, ns.
    pub(crate) fn withdrawal_due_ns(&self) -> Option<u64> {
        let due_ns = [self.closings_due_ns(), self.agenda.next_check_ns()];
        due_ns.into_iter().flatten().min()
    }

    /// Disconnects every peer, and closes every session, that is not on its way out; what the kernel refuses is tried
    /// again soon, for there are no full checks any more.
    fn disconnect_rest(&mut self) {
        self.disconnect_all();
        // What notifications have put there is nobody's business now.
        self.agenda.clear();
        if self.has_rest() {
            let again_ns = self.hands.now_ns().saturating_add(AGAIN_NS);
            self.agenda.check_by(again_ns);
        }
    }

    fn has_rest(&self) -> bool {
        // Each closing session is a live one until it is deleted, so that the numbers tell: there may be a hundred
        // thousand, and this is asked after every answer of the kernel's.
        !self.peers.is_empty() || self.sessions.len() > self.closings.len()
    }

    /// Has every peer disconnected.
    pub(crate) fn begin_withdrawal(&mut self) {
        info!(peers = self.peers.len(), "withdrawing everything");
        // Nobody wants anything any more, and nothing is looked at.
        self.wants.clear();
        self.disconnect_rest();
    }

    /// Takes everything back: sessions, routes, programs. The pins go last, by the caller.
    pub(crate) async fn withdraw(&mut self, monitor: &mut Monitor) -> Result<(), Failure> {
        self.begin_withdrawal();
        let deadline_ns = self.hands.now_ns().saturating_add(WITHDRAWAL_NS);
        let mut listening = true;
        while self.is_withdrawing() {
            let now_ns = self.hands.now_ns();
            if now_ns >= deadline_ns {
                break;
            }
            let due_ns = self.withdrawal_due_ns();
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
                            self.advance_withdrawal();
                        }
                    }
                    Err(error) => {
                        warn!(%error, "netlink notifications");
                        listening = false;
                    }
                },
                () = self.hands.sleep(pause) => self.advance_withdrawal(),
            }
        }
        self.end_withdrawal().await
    }

    /// Takes our programs off the interfaces, and says what is left.
    ///
    /// # Errors
    /// Something is left, or nobody knows.
    pub(crate) async fn end_withdrawal(&mut self) -> Result<(), Failure> {
        let left = Leftovers {
            routes: self.count_routes().await,
            sessions: self.sessions.len(),
            protocol: self.options.route_protocol,
        };
        self.detach_all();
        let Some(left) = left.describe() else {
            info!("everything withdrawn");
            return Ok(());
        };
        error!(left, "not everything is withdrawn");
        Err(Failure::new(ExitCode::Failure, left))
    }

    /// Says whether a session is still there, or a route being changed: one of no session, perhaps.
    pub(crate) fn is_withdrawing(&self) -> bool {
        self.has_rest()
            || !self.closings.is_empty()
            || self.jobs.is_asking()
            || self.jobs.next_retry_ns().is_some()
    }

    /// Counts our routes over the interfaces that are served, as the kernel has them.
    async fn count_routes(&self) -> Result<usize, RouteError> {
        let routes = self.hands.routes().await?;
        let here = |route: &&Route| self.interfaces.with_index(route.ifindex).is_some();
        Ok(routes.iter().filter(here).count())
    }
}

/// What a withdrawal has left in the kernel.
struct Leftovers {
    routes: Result<usize, RouteError>,
    sessions: usize,
    protocol: u8,
}

impl Leftovers {
    /// Says what is left and what to do about it; none if nothing is.
    fn describe(&self) -> Option<String> {
        let (sessions, protocol) = (self.sessions, self.protocol);
        let routes = match &self.routes {
            Ok(0) => None,
            Ok(routes) => Some(format!(
                "routes not withdrawn: {routes} (`ip route flush proto {protocol}` does it)"
            )),
            Err(error) => Some(format!(
                "not known whether routes are left: {error} (`ip route show proto {protocol}` tells)"
            )),
        };
        let sessions = (sessions > 0).then(|| {
            format!(
                "sessions not closed: {sessions} (`dz-agent purge` removes what is left of them)"
            )
        });
        let left: Vec<_> = routes.into_iter().chain(sessions).collect();
        (!left.is_empty()).then(|| left.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::NetlinkError;

    #[test]
    fn everything_is_withdrawn_only_if_the_kernel_says_so() {
        let describe = |routes, sessions| {
            let protocol = 144;
            let left = Leftovers {
                routes,
                sessions,
                protocol,
            };
            left.describe()
        };
        assert_eq!(describe(Ok(0), 0), None);
        let said = describe(Ok(2), 0).unwrap();
        assert!(said.starts_with("routes not withdrawn: 2 ("), "{said}");
        assert!(!said.contains("sessions"), "{said}");
        let said = describe(Ok(0), 1).unwrap();
        assert!(said.starts_with("sessions not closed: 1 ("), "{said}");
        let unread = RouteError::Netlink {
            what: "reading our routes".to_owned(),
            cause: NetlinkError::Interrupted,
        };
        let said = describe(Err(unread), 1).unwrap();
        assert!(
            said.contains("not known") && said.contains("closed: 1"),
            "{said}"
        );
    }
}
