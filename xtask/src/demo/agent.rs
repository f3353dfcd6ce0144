//! An agent's process.

use std::fs;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What an agent gets to withdraw everything when we end before it does.
const PATIENCE: Duration = Duration::from_secs(10);

/// The process, ended on drop.
#[derive(Debug)]
pub(super) struct Agent {
    child: Child,
}

impl Agent {
    pub(super) fn new(child: Child) -> Self {
        Self { child }
    }

    /// Its process id: `nsenter` has become the agent.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it has ended, if it has.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Whether the kernel has stopped it (SIGSTOP).
    ///
    /// # Errors
    /// It is gone.
    pub(super) fn is_stopped(&self) -> anyhow::Result<bool> {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let state = status.lines().find_map(|line| line.strip_prefix("State:"));
        Ok(state.is_some_and(|state| state.trim_start().starts_with('T')))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let deadline = Instant::now() + PATIENCE;
        let mut ended = self.child.try_wait();
        if matches!(ended, Ok(None)) {
            // It has not been waited for, so that the number is still its own.
            let _ = kill(pid, Signal::SIGTERM);
            let _ = kill(pid, Signal::SIGCONT);
        }
        while matches!(ended, Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
            ended = self.child.try_wait();
        }
        if matches!(ended, Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
