//! How busy the whole machine is, softirqs included.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::unistd::{SysconfVar, sysconf};

/// How busy the machine is for a while, in % of one processor.
///
/// From its idle time, which the kernel knows exactly: what a tick finds running, which the other
/// columns of `/proc/stat` count, is next to never something that takes microseconds.
pub(crate) fn busy(time: Duration) -> anyhow::Result<f64> {
    let (begun, before) = (Instant::now(), not_ours()?);
    thread::sleep(time);
    let (after, took) = (not_ours()?, begun.elapsed());
    let processors = thread::available_parallelism()?.get() as f64;
    Ok(100.0 * (processors - (after - before) / took.as_secs_f64()))
}

/// Processor time that nobody used here, s: idle, waiting for a disk, or another machine's on the
/// same hardware.
fn not_ours() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    // cpu user nice system idle iowait irq softirq steal
    let columns: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|column| column.parse().ok())
        .collect();
    let [_, _, _, idle, waiting, _, _, stolen, ..] = columns[..] else {
        anyhow::bail!("/proc/stat: {line}");
    };
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no ticks")?;
    Ok((idle + waiting + stolen) / per_second as f64)
}
