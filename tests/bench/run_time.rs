//! How long an agent's threads run, by the scheduler's own count.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use dz_tests::agent::Agent;

/// In a while, ns.
pub(crate) fn busy(agent: &mut Agent, time: Duration) -> anyhow::Result<f64> {
    let before = run_ns(agent)?;
    thread::sleep(time);
    Ok(run_ns(agent)? - before)
}

/// So far, ns.
pub(crate) fn run_ns(agent: &mut Agent) -> anyhow::Result<f64> {
    let tasks = format!("/proc/{}/task", agent.process().pid());
    let mut ran = 0.0;
    for task in fs::read_dir(&tasks).context(tasks)? {
        // Run, wait, slices.
        let shown = fs::read_to_string(task?.path().join("schedstat"))?;
        let run = shown.split_whitespace().next().context("empty schedstat")?;
        ran += run.parse::<f64>()?;
    }
    Ok(ran)
}
