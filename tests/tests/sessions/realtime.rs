//! Who runs before others.

use std::fs;

use anyhow::{Context, Result, ensure};
use dz_tests::agent::Agent;
use dz_tests::bed::Bed;
use dz_tests::harness::Test;

use crate::needs::NEEDS;

/// `SCHED_FIFO` in `/proc/PID/task/TID/stat`.
const FIFO: &str = "1";
/// Where the policy is there, behind the program's name: field 41 of proc_pid_stat(5).
const POLICY: usize = 41 - 3;

pub(super) fn tests() -> Vec<Test> {
    vec![Test::new("realtime::not_the_api", &NEEDS, only)]
}

/// The threads of the events and of the routes, and not that of the API; and nobody if it is not wanted.
fn only() -> Result<()> {
    let bed = Bed::new("realtime", std::time::Duration::ZERO)?;
    for (wanted, first) in [("on", true), ("off", false)] {
        let mut agent = bed.agent_with(100, &["--realtime", wanted])?;
        let threads = threads(&mut agent)?;
        // With one processor routes have no thread of their own.
        let (before, others): (Vec<_>, Vec<_>) = threads
            .iter()
            .partition(|thread| thread.is_main || thread.name == "netlink");
        let fifo = |thread: &&Thread| thread.policy == FIFO;
        ensure!(
            before.iter().all(|thread| fifo(thread) == first),
            "{wanted}: {threads:?}"
        );
        ensure!(!others.is_empty(), "no thread of the API: {threads:?}");
        ensure!(!others.iter().any(fifo), "{threads:?}");
        let locked = locked_kilobytes(&mut agent)?;
        ensure!((locked > 0) == first, "{wanted}: {locked} kB locked");
    }
    Ok(())
}

#[derive(Debug)]
struct Thread {
    is_main: bool,
    name: String,
    policy: String,
}

fn threads(agent: &mut Agent) -> Result<Vec<Thread>> {
    let pid = agent.process().pid().to_string();
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        let stat = fs::read_to_string(task.path().join("stat"))?;
        let (name, fields) = stat.rsplit_once(") ").context("no name")?;
        let (_, name) = name.split_once('(').context("no name")?;
        let policy = fields.split_whitespace().nth(POLICY).context("too short")?;
        threads.push(Thread {
            is_main: task.file_name().to_str() == Some(&pid),
            name: name.to_owned(),
            policy: policy.to_owned(),
        });
    }
    Ok(threads)
}

fn locked_kilobytes(agent: &mut Agent) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.process().pid()))?;
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let locked = locked.and_then(|text| text.trim().strip_suffix(" kB"));
    Ok(locked.context("no VmLck")?.parse()?)
}
