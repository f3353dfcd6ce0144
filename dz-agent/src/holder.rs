//! Which process holds something that we need: for error messages that say what to stop.
//!
//! Best effort: without the privilege to look into other processes, or for a holder in another
//! process namespace, nothing is found.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

/// A process, for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Name of the command, at most 15 characters; empty if it cannot be read.
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.command.as_str() {
            "" => write!(f, "process {}", self.pid),
            command => write!(f, "process {} ({command})", self.pid),
        }
    }
}

impl Holder {
    /// The process with an id.
    pub(crate) fn of_pid(pid: u32) -> Self {
        let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Self {
            pid,
            command: command.trim_end().to_owned(),
        }
    }
}

/// Several of them, separated by commas; `if_none` if there are none.
pub(crate) fn list(holders: &[Holder], if_none: &str) -> String {
    if holders.is_empty() {
        return if_none.to_owned();
    }
    holders
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// The processes that have one of these sockets open.
pub(crate) fn of_sockets(inodes: &BTreeSet<u64>) -> Vec<Holder> {
    let links: BTreeSet<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut holders: Vec<Holder> = pids
        .filter(|pid| has_open(*pid, &links))
        .map(Holder::of_pid)
        .collect();
    holders.sort();
    holders
}

fn has_open(pid: u32, links: &BTreeSet<String>) -> bool {
    let Ok(files) = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")) else {
        return false;
    };
    files
        .flatten()
        .filter_map(|file| fs::read_link(file.path()).ok())
        .any(|link| link.to_str().is_some_and(|link| links.contains(link)))
}

/// Reads a table of the calling thread's network namespace; empty if it cannot be read.
pub(crate) fn net_table(name: &str) -> String {
    fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default()
}
