//! How busy the whole machine is, softirqs included.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

/// How busy the machine is for a while, in % of one processor.
///
/// The run times of all threads, the kernel's own included, by the scheduler's clock of nanoseconds: a
/// packet's softirqs run in the thread that has caused it, here always one that sends. What interrupts
/// an idle processor is left out, which here are timers: a few per second. `/proc/stat` would count
/// those, too, but in ticks of 10 ms, and what a hypervisor takes from an idle processor is in it twice.
pub(crate) fn busy(time: Duration) -> anyhow::Result<f64> {
    let (begun, before) = (Instant::now(), run_times()?);
    thread::sleep(time);
    let (after, took) = (run_times()?, begun.elapsed());
    let ran = after.iter().map(|(thread, run_ns)| {
        // One that has come meanwhile has run since then; one that has ended is lost.
        run_ns.saturating_sub(before.get(thread).copied().unwrap_or(0))
    });
    Ok(100.0 * ran.sum::<u64>() as f64 / took.as_nanos() as f64)
}

/// How long each thread of the machine has run, ns.
fn run_times() -> anyhow::Result<HashMap<PathBuf, u64>> {
    let mut times = HashMap::new();
    for process in fs::read_dir("/proc").context("/proc")? {
        let tasks = process?.path().join("task");
        // What is no process has no threads, and one may end while it is looked at.
        for task in fs::read_dir(tasks).into_iter().flatten().flatten() {
            let file = task.path().join("schedstat");
            let shown = fs::read_to_string(&file).unwrap_or_default();
            if let Some(run_ns) = shown.split_whitespace().next() {
                times.insert(file, run_ns.parse()?);
            }
        }
    }
    Ok(times)
}
