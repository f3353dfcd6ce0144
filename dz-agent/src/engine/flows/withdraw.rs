//! Withdraws everything that the agent has put into the kernel, for SIGTERM.

use std::time::Duration;

use tracing::{error, info, warn};

use crate::engine::flows::due::LATEST_NS;
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::error::{ExitCode, Failure};
use crate::net::monitor::{Event, Monitor};
use crate::net::routes::{Route, RouteError};

/// The longest time that a withdrawal may take, ns.
const WITHDRAWAL_NS: u64 = 10_000_000_000;
/// The pause before the kernel is asked again for disconnects that it has refused, ns.
const AGAIN_NS: u64 = 250_000_000;

impl<H: Hands> Engine<H> {
    /// Acts on a change in the network namespace during a withdrawal.
    pub(crate) async fn changed_at_the_end(&mut self, event: Event) {
        self.changed(event);
        if !self.sessions.next_hops().is_up_to_date() {
            // Notifications were lost, and there are no full checks any more. A reading that fails is tried
            // again with the next notification.
            let _ = self.refresh_interfaces().await;
            let _ = self.read_neighbours().await;
        }
    }

    /// Does what is due: sends farewells, retries route changes, and disconnects that the kernel has refused.
    pub(crate) fn advance_withdrawal(&mut self) {
        self.say_farewells();
        self.retry_routes();
        if self.agenda.take_check(self.hands.now_ns()) {
            self.disconnect_rest();
        }
    }

    /// Returns when [`Self::advance_withdrawal`] is to be called next, ns.
    pub(crate) fn withdrawal_due_ns(&self) -> Option<u64> {
        let due_ns = [self.closings_due_ns(), self.agenda.next_check_ns()];
        due_ns.into_iter().flatten().min()
    }

    /// Disconnects every peer, and closes every session that is not being closed. If the kernel refuses any, that
    /// is tried again soon.
    fn disconnect_rest(&mut self) {
        self.disconnect_all();
        // Appointments that notifications have made are not kept during a withdrawal: the agenda has the
        // retry alone.
        self.agenda.clear();
        if self.has_rest() {
            let again_ns = self.hands.now_ns().saturating_add(AGAIN_NS);
            self.agenda.check_by(again_ns);
        }
    }

    /// Says whether any peer, or any session that is not being closed, is left.
    fn has_rest(&self) -> bool {
        // Numbers are compared, for this is asked after every answer of the kernel's, of a hundred thousand
        // sessions. A closing session is a live one until it is deleted.
        !self.peers.is_empty() || self.sessions.len() > self.closings.len()
    }

    /// Begins to disconnect every peer.
    pub(crate) fn begin_withdrawal(&mut self) {
        self.log_lists();
        info!(peers = self.peers.len(), "withdrawing everything");
        // File and followed routes want no peer any more.
        self.wants.clear();
        self.disconnect_rest();
    }

    /// Withdraws everything: peers, sessions, routes, programs. The caller removes the pins afterwards.
    ///
    /// # Errors
    /// Something is left in the kernel, or nobody knows.
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
                // Farewells need next hops that are resolved, and end when their address goes.
                event = monitor.next(), if listening => match event {
                    Ok(event) => {
                        self.changed_at_the_end(event).await;
                        // A flood of notifications does not keep due work waiting for ever.
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

    /// Takes our programs off the interfaces, and logs what is left.
    ///
    /// # Errors
    /// Something is left in the kernel, or nobody knows.
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

    /// Says whether any session is left, or any route change is under way or to be tried again.
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

/// The routes and sessions that a withdrawal has left in the kernel.
struct Leftovers {
    routes: Result<usize, RouteError>,
    sessions: usize,
    protocol: u8,
}

impl Leftovers {
    /// Describes what is left, and says what to do about it; none if nothing is left.
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
