//! What the kernel answers to route changes, and what that means for sessions that wait for it.

use std::sync::Arc;

use tracing::{debug, info, warn};

use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::show::shared::Trouble;
use crate::engine::state::keys::RouteKey;
use crate::engine::state::routes::{Change, ChangeResult, Finished};
use crate::net::routes::{Added, Deleted};

/// Answers that are taken note of before anything else has its turn.
const ANSWERS_PER_TURN: usize = 64;

impl<H: Hands> Engine<H> {
    /// The kernel has answered, and others of its answers may be there, too.
    pub(crate) fn route_done(&mut self, finished: Finished) {
        self.finished(finished);
        self.advance_routes();
    }

    /// Takes note of what the kernel has answered by now, and asks for what can be asked for.
    pub(crate) fn advance_routes(&mut self) {
        for _ in 0..ANSWERS_PER_TURN {
            // The loop looks before it sleeps for those that are not there yet.
            let Some(finished) = self.jobs.answered_by_now() else {
                break;
            };
            self.finished(finished);
        }
        while let Some(key) = self.jobs.next_waiting() {
            self.adjust_route(key);
        }
    }

    fn finished(&mut self, (key, answer): Finished) {
        let (interface, local) = self.route_labels(key);
        let (interface, dst) = (&*interface, key.dst);
        let shared = Arc::clone(&self.shared);
        let count = |what: fn(&mut crate::engine::show::shared::RouteCounts)| {
            if let Some(local) = local {
                shared.count(interface, local, what);
            }
        };
        let withdrawal = matches!(answer, ChangeResult::Withdraw(_));
        let elsewhere = self.held_elsewhere(&answer);
        let result = match answer {
            ChangeResult::Install(Ok(added)) => {
                if added != Added::AlreadyThere {
                    info!(interface, %dst, "route installed");
                    count(|counts| counts.installs += 1);
                }
                Ok(false)
            }
            ChangeResult::Withdraw(Ok(deleted)) => {
                if deleted == Deleted::Deleted {
                    info!(interface, %dst, "route withdrawn");
                    count(|counts| counts.withdraws += 1);
                    self.next_in_line(key);
                }
                Ok(true)
            }
            ChangeResult::Install(Err(error)) => {
                count(|counts| counts.install_failures += 1);
                Err(error)
            }
            ChangeResult::Withdraw(Err(error)) => {
                count(|counts| counts.uninstall_failures += 1);
                Err(error)
            }
        };
        match result {
            Ok(gone) => {
                let Some(success) = self.jobs.succeeded(key, gone) else {
                    return;
                };
                if success.repair {
                    warn!(interface, %dst, "route put back: somebody else had deleted or changed it");
                    count(|counts| counts.repairs += 1);
                }
                if success.failures > 0 {
                    let failures = success.failures;
                    info!(interface, %dst, failures, "route: the kernel agrees again");
                    self.shared.troubles().remove(&key);
                }
                if success.again {
                    self.adjust_route(key);
                } else {
                    let by = if gone {
                        Change::Withdraw
                    } else {
                        Change::Install
                    };
                    self.converged(key, Some(by));
                }
                if gone {
                    self.route_gone(key);
                }
            }
            Err(error) => {
                let text = elsewhere.unwrap_or_else(|| error.to_string());
                let Some(setback) = self.jobs.failed(key, &text) else {
                    return;
                };
                let pause = setback.pause;
                if setback.is_news {
                    warn!(interface, %error, retry = ?pause, "route");
                    let conflict = error.conflict().map(|foreign| foreign.protocol);
                    let trouble = Trouble { text, conflict };
                    self.shared.troubles().insert(key, trouble);
                } else {
                    debug!(interface, %error, retry = ?pause, "route, again");
                }
                // An addition that was under way when the session began to close is not what its
                // disconnect waits for: the deletion comes next.
                if withdrawal {
                    self.route_stuck(key, &error);
                }
                if setback.again {
                    // Something else may be wanted by now, which need not wait.
                    self.adjust_route(key);
                } else {
                    self.jobs.retry(key, pause, self.hands.now_ns());
                }
            }
        }
    }

    /// What is in the way of an addition, if that is our own route on another interface: two
    /// interfaces can lead to the same address, and the table has room for one of them.
    fn held_elsewhere(&self, answer: &ChangeResult) -> Option<String> {
        let ChangeResult::Install(Err(error)) = answer else {
            return None;
        };
        let foreign = error.conflict()?;
        let other = foreign
            .ifindex
            .filter(|_| foreign.protocol == self.options.route_protocol)
            .and_then(|ifindex| self.interfaces.with_index(ifindex))?;
        Some(format!(
            "the route to it is by {} at present; this one takes its place when that goes",
            other.name()
        ))
    }

    /// A route of ours is gone: one to the same address by another interface that could not be added
    /// need not wait for its next try.
    fn next_in_line(&mut self, gone: RouteKey) {
        let waiting: Vec<_> = self
            .ways_to(gone.dst)
            .filter(|key| *key != gone && self.jobs.is_failing(*key))
            .collect();
        for key in waiting {
            self.adjust_route(key);
        }
    }
}
