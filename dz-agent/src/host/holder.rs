//! Finds the process that has a socket which we need, for messages that say what to stop.
//!
//! Best effort: without the privilege to look into other processes, or for a holder in another
//! process namespace, nothing is found.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use crate::printable::one_line;

/// A process, for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Name of the command, at most 15 characters, see [`one_line`]; empty if it cannot be read.
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
    /// Describes the process with an id.
    pub(crate) fn of_pid(pid: u32) -> Self {
        let command = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        Self {
            pid,
            // Any user may call a process what he likes, line breaks and sequences for root's terminal included.
            command: one_line(String::from_utf8_lossy(&command).trim_end()).into_owned(),
        }
    }
}

/// Lists processes, separated by commas; `if_none` if there are none.
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

/// Finds the processes that have these sockets open, each with the socket. It looks at every file of
/// every process.
pub(crate) fn by_socket(inodes: &BTreeSet<u64>) -> BTreeSet<(u64, Holder)> {
    let mut found = BTreeSet::new();
    for pid in pids() {
        let open = open_sockets(pid);
        found.extend(
            open.intersection(inodes)
                .map(|inode| (*inode, Holder::of_pid(pid))),
        );
    }
    found
}

/// Finds the processes of a user whose command has this name: that much is told of a process that may
/// not be looked into.
pub(crate) fn named(command: &str, uid: u32) -> Vec<Holder> {
    pids()
        .map(Holder::of_pid)
        .filter(|holder| holder.command == command && effective_uid(holder.pid) == Some(uid))
        .collect()
}

/// Reads the inodes of the sockets that a process has open; none if it may not be looked into.
pub(crate) fn open_sockets(pid: u32) -> BTreeSet<u64> {
    let Ok(files) = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")) else {
        return BTreeSet::new();
    };
    let inode = |file: fs::DirEntry| {
        let link = fs::read_link(file.path()).ok()?;
        let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        inode.parse().ok()
    };
    files.flatten().filter_map(inode).collect()
}

fn pids() -> impl Iterator<Item = u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn effective_uid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Reads a table of the calling thread's network namespace; empty if it cannot be read.
pub(crate) fn net_table(name: &str) -> String {
    fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default()
}
