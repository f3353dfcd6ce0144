//! Deals with the kernel's answers to route changes, for which closing sessions wait.

use std::sync::Arc;

use tracing::{debug, info, warn};

use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::show::shared::Trouble;
use crate::engine::state::keys::RouteKey;
use crate::engine::state::routes::{Change, ChangeResult, Finished};
use crate::net::routes::{Added, Deleted};

/// Most answers that are dealt with before the loop looks at anything else.
const ANSWERS_PER_TURN: usize = 64;

impl<H: Hands> Engine<H> {
    /// Deals with an answer of the kernel's, and with others that it has given meanwhile.
    pub(crate) fn route_done(&mut self, finished: Finished) {
        self.finished(finished);
        self.advance_routes();
    }

    /// Deals with the answers that the kernel has given by now, and asks for changes that wait for room.
    pub(crate) fn advance_routes(&mut self) {
        for _ in 0..ANSWERS_PER_TURN {
            // Those that are still to come wake the loop up: it polls for them before it sleeps.
            let Some(finished) = self.jobs.answered_by_now() else {
                break;
            };
            self.finished(finished);
        }
        while let Some(key) = self.jobs.next_waiting() {
            self.adjust_route(key);
        }
    }

    /// Notes, logs and counts the end of a change, and goes on with what waits for it.
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
                    self.route_taken(key);
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
                // A disconnect does not wait for an addition that was under way when it began, but for the
                // deletion that follows.
                if withdrawal {
                    self.route_stuck(key, &error);
                }
                if setback.again {
                    // Another change may be wanted by now, which does not wait for the pause.
                    self.adjust_route(key);
                } else {
                    self.jobs.retry(key, pause, self.hands.now_ns());
                }
            }
        }
    }

    /// Says that our own route by another interface is in the way of an addition, if it is: two interfaces can
    /// have sessions with the same address, and the table has room for one route to it.
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

    /// Tries routes again by other interfaces that could not be added because of a route of ours that is gone.
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
