//! Being told to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{ExitCode, FailWith, Failure};

/// How the agent was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// For good: everything of ours goes.
    Withdraw,
    /// For a restart: the kernel part goes on.
    Leave,
}

/// The signals that stop the agent.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    leave: Signal,
    reload: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self, Failure> {
        let on = |kind| signal(kind).fail_with(ExitCode::Failure, || "signal handler");
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            leave: on(SignalKind::user_defined2())?,
            reload: on(SignalKind::hangup())?,
        })
    }

    /// How to stop; none for SIGHUP.
    pub(super) async fn next(&mut self) -> Option<Stop> {
        tokio::select! {
            // Told both at once, the agent does not leave things running that were to go.
            biased;
            _ = self.terminate.recv() => Some(Stop::Withdraw),
            _ = self.interrupt.recv() => Some(Stop::Withdraw),
            _ = self.leave.recv() => Some(Stop::Leave),
            _ = self.reload.recv() => None,
        }
    }
}
