//! The loop: it waits for whatever comes next, and gives the engine its turn.

use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::command::Command;
use crate::engine::alarm::Alarm;
use crate::engine::flows::due::LATEST_NS;
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::stop::{Signals, Stop};
use crate::engine::turn::Turn;
use crate::error::{ExitCode, FailWith, Failure};
use crate::host::logging::FloodLimit;
use crate::net::monitor::Monitor;

/// How often the agent says that it is alive and counts events, ns.
const HEARTBEAT_NS: u64 = 1_000_000_000;
/// How long that may wait for something else to wake the thread up, ns.
const HEARTBEAT_SLACK_NS: u64 = 250_000_000;
/// How long a flood of notifications may keep our clock waiting, ns.
const TICK_LATEST_NS: u64 = 20_000_000;
/// How often everything is read and compared, whatever notifications came or did not come, ns.
const FULL_CHECK_NS: u64 = 10_000_000_000;

/// From where the loop hears of things.
pub(super) struct Senses {
    /// Readable while kernel programs have reported something.
    pub(super) ring: AsyncFd<OwnedFd>,
    pub(super) monitor: Monitor,
    pub(super) requests: mpsc::Receiver<Command>,
}

impl<H: Hands> Engine<H> {
    /// Runs until a signal says how to stop.
    ///
    /// # Errors
    /// A descriptor that the loop waits on is of no use any more.
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
        } = senses;
        let mut alarm = Alarm::new().fail_with(ExitCode::Failure, || "timerfd")?;
        let mut beat_ns = 0;
        let mut check_ns = self.hands.now_ns() + FULL_CHECK_NS;
        loop {
            // Here, so that nothing that goes on and on keeps it waiting.
            let begun_ns = self.hands.now_ns();
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
                guard = ring.readable_mut() => {
                    let mut guard = guard.fail_with(ExitCode::Failure, || "dz_events")?;
                    if !self.reported().await {
                        guard.clear_ready();
                    }
                    continue;
                }
                turn = self.answered() => turn,
                event = monitor.next() => {
                    late_ns = due_ns.map_or(0, |due_ns| self.hands.now_ns().saturating_sub(due_ns));
                    Turn::Changed(event.fail_with(ExitCode::Failure, || "netlink notifications")?)
                }
                Some(command) = requests.recv() => Turn::Command(command),
                // Last: with more sessions than can be served, one of them is always due.
                rung = alarm.rings() => {
                    rung.fail_with(ExitCode::Failure, || "timerfd")?;
                    Turn::Due
                }
            };
            self.take_turn(turn).await;
            // What is due comes after the notifications that wait to be read: between a route's end and
            // its coming back there may be some hundred others. But neither waits for ever.
            if late_ns > LATEST_NS {
                self.take_turn(Turn::Due).await;
            } else if late_ns > TICK_LATEST_NS {
                self.tick();
            }
        }
    }
}
