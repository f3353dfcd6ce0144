//! The engine's loop: it waits for the next reason to wake up, and gives the engine a turn to deal with it.

use std::future::ready;
use std::os::fd::OwnedFd;

use futures_util::future::LocalBoxFuture;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::command::Command;
use crate::engine::alarm::Alarm;
use crate::engine::flows::due::LATEST_NS;
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::round::{Round, Source};
use crate::engine::stop::{Signals, Stop};
use crate::engine::turn::Turn;
use crate::error::{ExitCode, FailWith, Failure};
use crate::host::logging::FloodLimit;
use crate::net::monitor::Monitor;

/// The time between two heartbeats, with each of which events are counted, ns.
const HEARTBEAT_NS: u64 = 1_000_000_000;
/// How late a heartbeat may be, so that it can share a wake-up of the thread with something else, ns.
const HEARTBEAT_SLACK_NS: u64 = 250_000_000;
/// How long a flood of notifications may keep our clock waiting, ns.
const TICK_LATEST_NS: u64 = 20_000_000;
/// Most notifications that are dealt with before what has been read is used.
const NOTIFICATIONS: usize = 4_096;
/// The time between two full checks that nothing asks for, ns.
const FULL_CHECK_NS: u64 = 10_000_000_000;

/// The sources of everything that wakes the loop up, but for signals and the clock.
pub(super) struct Senses {
    /// The descriptor of `dz_events`, readable while it has state changes.
    pub(super) ring: AsyncFd<OwnedFd>,
    pub(super) monitor: Monitor,
    pub(super) requests: mpsc::Receiver<Command>,
    pub(super) alarm: Alarm,
    /// Ends when a connection to netlink is lost: routes could never be changed again.
    pub(super) lost: LocalBoxFuture<'static, ()>,
}

impl<H: Hands> Engine<H> {
    /// Runs until a signal says how to stop.
    ///
    /// # Errors
    /// Something that the loop depends on is of no use any more: a descriptor, a connection, the thread of the API.
    /// The caller ends the process, and the kernel part goes on for the next start, rather than that half of an
    /// agent goes on.
    pub(super) async fn run(
        &mut self,
        senses: &mut Senses,
        signals: &mut Signals,
        floods: &FloodLimit,
    ) -> Result<Stop, Failure> {
        let Senses {
            ring,
            monitor,
            requests,
            alarm,
            lost,
        } = senses;
        let broken = |what| Err(Failure::new(ExitCode::Failure, what));
        let mut beat_ns = 0;
        let mut check_ns = self.hands.now_ns() + FULL_CHECK_NS;
        let mut round = Round::new();
        loop {
            // Heartbeat and full check are no arms of the `select!`: they have no share of a round to wait for.
            let begun_ns = self.hands.now_ns();
            #[cfg(feature = "faults")]
            crate::faults::turn().fail_with(ExitCode::Failure, || "a fault of a test")?;
            if begun_ns >= beat_ns {
                self.beat(begun_ns);
                floods.report();
                beat_ns = begun_ns + HEARTBEAT_NS;
            }
            if begun_ns >= check_ns {
                self.begin_check();
                check_ns = begun_ns + FULL_CHECK_NS;
            }
            let due_ns = self.due_ns();
            let alarm_ns = check_ns.min(beat_ns + HEARTBEAT_SLACK_NS);
            alarm
                .set(due_ns.map_or(alarm_ns, |due_ns| due_ns.min(alarm_ns)))
                .fail_with(ExitCode::Failure, || "timerfd")?;
            let mut late_ns = 0;
            let turn = tokio::select! {
                biased;
                stop = signals.next() => match stop {
                    Some(stop) => return Ok(stop),
                    None => Turn::Reload,
                },
                () = &mut *lost => return broken("a connection to netlink is lost"),
                guard = ring.readable_mut(), if round.has(Source::Events) => {
                    round.took(Source::Events);
                    let mut guard = guard.fail_with(ExitCode::Failure, || "dz_events")?;
                    if !self.reported().await {
                        guard.clear_ready();
                    }
                    continue;
                }
                turn = self.answered(), if round.has(Source::Answers) => {
                    round.took(Source::Answers);
                    turn
                }
                event = monitor.next(), if round.has(Source::Notifications) => {
                    round.took(Source::Notifications);
                    late_ns = due_ns.map_or(0, |due_ns| self.hands.now_ns().saturating_sub(due_ns));
                    Turn::Changed(event.fail_with(ExitCode::Failure, || "netlink notifications")?)
                }
                command = requests.recv(), if round.has(Source::Requests) => {
                    round.took(Source::Requests);
                    match command {
                        Some(command) => Turn::Command(command),
                        None => return broken("the thread of the API has ended"),
                    }
                }
                // After all sources: with more sessions than can be served, one of them is always due. Not in a
                // flood of notifications, whose turns do what is too late (below).
                rung = alarm.rings(), if round.has(Source::Notifications) => {
                    rung.fail_with(ExitCode::Failure, || "timerfd")?;
                    Turn::Due
                }
                // No source that has turns left has anything.
                () = ready(()), if round.is_over() => {
                    round = Round::new();
                    continue;
                }
            };
            if matches!(turn, Turn::Read(_)) {
                // Notifications that have come may speak against what has been read.
                for _ in 0..NOTIFICATIONS {
                    let event = monitor.next_by_now();
                    match event.fail_with(ExitCode::Failure, || "netlink notifications")? {
                        Some(event) => self.take_turn(Turn::Changed(event)).await,
                        None => break,
                    }
                }
            }
            self.take_turn(turn).await;
            // Due work waits for the notifications that are still to be read: a daemon that replaces its
            // routes may notify of some hundred others between the end of one and its return. A flood
            // must not keep due work waiting for ever, our clock least of all.
            if late_ns > LATEST_NS {
                self.take_turn(Turn::Due).await;
            } else if late_ns > TICK_LATEST_NS {
                self.tick();
            }
        }
    }
}
