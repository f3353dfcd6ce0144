//! The other end of the agent's fault hooks: netlink that fails when a test wants it to.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::errno::Errno;

/// Names the folder to the agent.
pub const VARIABLE: &str = "DZ_AGENT_FAULTS";

/// The faults of one agent. Each lasts until it is cleared, also beyond this value.
#[derive(Debug)]
pub struct Faults {
    folder: PathBuf,
}

impl Faults {
    pub(crate) fn new(folder: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Holds every request to delete a route back for so long, before the kernel sees it.
    ///
    /// # Errors
    /// Of the file system.
    pub fn delay_delete(&self, delay: Duration) -> anyhow::Result<()> {
        self.set("delete-delay-ms", delay.as_millis())
    }

    /// Refuses every request to delete a route.
    ///
    /// # Errors
    /// Of the file system.
    pub fn refuse_delete(&self, errno: Errno) -> anyhow::Result<()> {
        self.set("delete-refused", errno as u128)
    }

    /// Refuses every request to add a route.
    ///
    /// # Errors
    /// Of the file system.
    pub fn refuse_add(&self, errno: Errno) -> anyhow::Result<()> {
        self.set("add-refused", errno as u128)
    }

    /// Refuses every request to delete a session from its map.
    ///
    /// # Errors
    /// Of the file system.
    pub fn refuse_session_delete(&self, errno: Errno) -> anyhow::Result<()> {
        self.set("session-delete-refused", errno as u128)
    }

    /// Calls the next dumps inconsistent, of whatever is dumped.
    ///
    /// # Errors
    /// Of the file system.
    pub fn interrupt_dumps(&self, dumps: u32) -> anyhow::Result<()> {
        self.set("dump-interrupted", dumps.into())
    }

    /// Has followed peers be those that left after so long a silence while Down.
    ///
    /// # Errors
    /// Of the file system.
    pub fn leave_after(&self, silence: Duration) -> anyhow::Result<()> {
        self.set("left-after-ms", silence.as_millis())
    }

    /// Has the engine's loop end with an error.
    ///
    /// # Errors
    /// Of the file system.
    pub fn fail_loop(&self, errno: Errno) -> anyhow::Result<()> {
        self.set("loop-fails", errno as u128)
    }

    /// Has the agent die in a takeover, after so many of its steps and one.
    ///
    /// # Errors
    /// Of the file system.
    pub fn die_in_takeover(&self, steps: u32) -> anyhow::Result<()> {
        self.set("die-in-takeover", steps.into())
    }

    /// Ends every fault.
    ///
    /// # Errors
    /// Of the file system.
    pub fn clear(&self) -> anyhow::Result<()> {
        for file in fs::read_dir(&self.folder)? {
            fs::remove_file(file?.path())?;
        }
        Ok(())
    }

    /// By renaming: the agent never reads half a number.
    fn set(&self, name: &str, number: u128) -> anyhow::Result<()> {
        let half = self.folder.join("half");
        fs::write(&half, number.to_string())?;
        fs::rename(half, self.folder.join(name)).context(name.to_owned())
    }
}
