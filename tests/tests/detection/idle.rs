//! The one interleaving that would lose a deadline for good: the scan that leaves the group without
//! any runs on one CPU while another CPU stores one into a slot that the scan has passed.
//!
//! So a round pins the frame whose deadline ends the group to one CPU (its timer fires there), and
//! on another sends a second session's frame at the moment when the timer is expected to fire. How
//! often that hit a running scan is printed: what a run without hits shows is little.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dz_common::map::{NEVER_NS, SessionKey};
use dz_common::packet::State;
use dz_tests::harness::Outcome;
use dz_tests::kernel::Kernel;
use dz_tests::rng::Rng;
use dz_tests::wait::monotonic_ns;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::bench::{Sender, entry, frame, insert, kernel, key, seed, timers};
use crate::verdicts::{LOST, Lateness, in_time};

const ROUNDS: u32 = 1_500;
/// Both ends of the group, and between.
const SLOTS: [u32; 6] = [0, 1, 700, 1_400, 2_046, 2_047];
const INTERVAL_US: u32 = 2_000;
/// The second frame comes so long around the expected scan, ns.
const AROUND_NS: u64 = 60_000;
/// Half of the verdicts are no later, whatever else the machine does in some of the rounds: 0.03 ms on one of
/// our own, 0.2 ms on an emulated one. A timer that is not started for its deadline comes up to 250 ms later, or never.
const USUALLY: Duration = Duration::from_millis(10);
/// A scan of 2,048 slots takes at least this long, ns.
const SCAN_NS: u64 = 20_000;

pub(crate) fn an_idle_group_wakes_up() -> anyhow::Result<Outcome> {
    let cpus = cpus()?;
    let &[first, second, ..] = cpus.as_slice() else {
        return Ok(Outcome::Skip(
            "one CPU: nothing runs beside a scan".to_owned(),
        ));
    };
    let seed = seed("idle")?;
    let rng = Rng::new(seed, 0);
    let mut kernel = kernel("idle", 64)?;
    let mut frames = Vec::new();
    for (index, slot) in (0..).zip(SLOTS) {
        let generation = slot + 1;
        let entry = entry(key(index), slot, generation, timers(1, INTERVAL_US));
        insert(&mut kernel, &entry)?;
        frames.push(frame(&entry.key, generation, INTERVAL_US));
    }
    let mut sender = Sender::new(&kernel)?;
    let mut lateness = Lateness::default();
    let (mut expected_ns, mut hits) = (0, 0);
    for _ in 0..ROUNDS {
        let one = rng.index(SLOTS.len());
        let other = (one + 1 + rng.index(SLOTS.len() - 1)) % SLOTS.len();
        let keys = [key(one as u16), key(other as u16)];
        pin(first)?;
        let before_ns = monotonic_ns();
        sender.send(&rng, &frames[one])?;
        pin(second)?;
        let due_ns = before_ns + u64::from(INTERVAL_US) * 1_000;
        let at_ns = due_ns + expected_ns + rng.below(2 * AROUND_NS);
        while monotonic_ns() < at_ns.saturating_sub(AROUND_NS) {
            std::hint::spin_loop();
        }
        sender.send(&rng, &frames[other])?;
        let ends = [down(&kernel, &keys[0])?, down(&kernel, &keys[1])?];
        for end in &ends {
            lateness.0.push(in_time(end)?);
        }
        let [scan_ns, frame_ns] = [ends[0].session.since_ns, ends[1].session.last_rx_ns];
        hits += u32::from((scan_ns..scan_ns + SCAN_NS).contains(&frame_ns));
        // Where to aim next, unless the machine was away.
        let late_ns = scan_ns.saturating_sub(due_ns);
        if late_ns < 500_000 {
            expected_ns = (expected_ns * 7 + late_ns) / 8;
        }
        idle(&kernel)?;
    }
    println!("idle: {lateness}; {hits} of {ROUNDS} frames came while a scan ran");
    ensure!(
        lateness.at(50) < USUALLY,
        "verdicts are usually late: {lateness}"
    );
    Ok(Outcome::Passed)
}

/// Waits for a session to go Down.
fn down(kernel: &Kernel, key: &SessionKey) -> anyhow::Result<dz_common::map::SessionEntry> {
    soon("a deadline is lost", || {
        let entry = kernel.session(key)?.context("no session")?;
        Ok((entry.session.state == State::Down).then_some(entry))
    })
    .with_context(|| format!("of {:?}, {:#?}", key.peer, kernel.group()))
}

/// Waits until the group's timer is off.
fn idle(kernel: &Kernel) -> anyhow::Result<()> {
    soon("the timer never stops", || {
        Ok((kernel.group()?.next_firing_ns == NEVER_NS).then_some(()))
    })
}

/// As `eventually`, for what takes less than its pause.
fn soon<T>(
    what: &'static str,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        let last = start.elapsed() > LOST;
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(!last, "{what}");
        thread::sleep(Duration::from_micros(100));
    }
}

fn cpus() -> anyhow::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count())
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .collect())
}

fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}
