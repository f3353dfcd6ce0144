//! The signals that stop the agent or have it read the file of peers again.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{ExitCode, FailWith, Failure};

/// How the agent was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// SIGTERM, SIGINT: everything of ours is taken out of the kernel.
    Withdraw,
    /// SIGUSR2: the kernel part goes on, for the next agent to take over.
    Leave,
}

/// The signals that the agent handles.
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

    /// Waits for the next signal. Returns how to stop; none for SIGHUP.
    pub(super) async fn next(&mut self) -> Option<Stop> {
        tokio::select! {
            // In this order: where SIGTERM and SIGUSR2 came together, nothing is left running.
            biased;
            _ = self.terminate.recv() => Some(Stop::Withdraw),
            _ = self.interrupt.recv() => Some(Stop::Withdraw),
            _ = self.leave.recv() => Some(Stop::Leave),
            _ = self.reload.recv() => None,
        }
    }
}
