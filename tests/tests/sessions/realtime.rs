//! Who runs before others.

use std::fs;

use anyhow::{Context, Result, ensure};
use dz_tests::agent::Agent;
use dz_tests::bed::Bed;
use dz_tests::harness::Test;

use crate::NEEDS;

/// `SCHED_FIFO` in `/proc/PID/task/TID/stat`.
const FIFO: &str = "1";
/// Where the policy is there, behind the program's name: field 41 of proc_pid_stat(5).
const POLICY: usize = 41 - 3;

pub(super) fn tests() -> Vec<Test> {
    vec![Test::new("realtime::event_thread_only", &NEEDS, only)]
}

/// The thread of the events, and not that of the API; and nobody if it is not wanted.
fn only() -> Result<()> {
    let bed = Bed::new("realtime", std::time::Duration::ZERO)?;
    for (wanted, first) in [("on", true), ("off", false)] {
        let mut agent = bed.agent_with(100, &["--realtime", wanted])?;
        let (main, others) = policies(&mut agent)?;
        ensure!((main == FIFO) == first, "{wanted}: {main}");
        ensure!(!others.is_empty(), "no thread of the API");
        ensure!(others.iter().all(|policy| policy != FIFO), "{others:?}");
        let locked = locked_kilobytes(&mut agent)?;
        ensure!((locked > 0) == first, "{wanted}: {locked} kB locked");
    }
    Ok(())
}

/// Of the first thread, and of all others.
fn policies(agent: &mut Agent) -> Result<(String, Vec<String>)> {
    let pid = agent.process().pid().to_string();
    let mut main = None;
    let mut others = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        let stat = fs::read_to_string(task.path().join("stat"))?;
        let (_, fields) = stat.rsplit_once(") ").context("no name")?;
        let policy = fields.split_whitespace().nth(POLICY).context("too short")?;
        if task.file_name().to_str() == Some(&pid) {
            main = Some(policy.to_owned());
        } else {
            others.push(policy.to_owned());
        }
    }
    Ok((main.context("no first thread")?, others))
}

fn locked_kilobytes(agent: &mut Agent) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.process().pid()))?;
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let locked = locked.and_then(|text| text.trim().strip_suffix(" kB"));
    Ok(locked.context("no VmLck")?.parse()?)
}
