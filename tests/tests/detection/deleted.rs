//! A session deleted while its deadline is due in its slot: the scan meets a slot that leads
//! nowhere, again and again, and must neither spin on it nor clear it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dz_common::counters::Counter;
use dz_common::map::{Deadline, NEVER_NS};
use dz_common::packet::State;
use dz_tests::kernel::Kernel;
use dz_tests::rng::Rng;
use dz_tests::wait::{eventually, monotonic_ns};

use crate::bench::{Sender, entry, frame, insert, kernel, key, seed, timers};
use crate::reuse::grace_period;
use crate::verdicts::{LOST, all_expire};

const SESSIONS: u16 = 300;
const INTERVAL_US: u32 = 5_000;
/// The one that lives on: 9 s.
const SURVIVOR: u16 = 1_000;
const LONG_US: u32 = 3_000_000;
/// How long the timer is watched.
const WATCHED: Duration = Duration::from_secs(2);
/// Such a group is scanned every 250 ms; a timer that spins comes every millisecond.
const SCAN_AT_MOST_EVERY: Duration = Duration::from_millis(50);

pub(crate) fn the_dead_do_not_spin() -> anyhow::Result<()> {
    let rng = Rng::new(seed("deleted")?, 0);
    let mut kernel = kernel("deleted", 512)?;
    let mut sender = Sender::new(&kernel)?;
    let mut due = 0;
    let mut slots = Vec::new();
    for index in 0..SESSIONS {
        let entry = entry(key(index), u32::from(index), 1, timers(1, INTERVAL_US));
        insert(&mut kernel, &entry)?;
        let before_ns = monotonic_ns();
        sender.send(&rng, &frame(&entry.key, 1, INTERVAL_US))?;
        // From well before its deadline to just after the timer.
        let offset_ns = rng.pick(&[1_000_000, 4_900_000, 5_000_000]) + rng.below(200_000);
        while monotonic_ns() < before_ns + offset_ns {
            std::hint::spin_loop();
        }
        kernel.delete_session(&entry.key)?;
        let slot = kernel.deadline(entry.slot)?;
        due += u32::from(slot.deadline_ns != NEVER_NS);
        slots.push(slot);
    }
    ensure!(due > 0, "no session was deleted before it expired");
    eventually(LOST, "every deadline is over", || {
        let now_ns = monotonic_ns();
        let over = |ns: u64| ns == NEVER_NS || ns < now_ns;
        slots
            .iter()
            .all(|slot| over(slot.deadline_ns))
            .then_some(())
    })?;
    eventually(LOST, "the timer of a group without sessions stops", || {
        let next_ns = kernel.group().map_or(0, |group| group.next_firing_ns);
        if next_ns == NEVER_NS {
            Ok(())
        } else {
            Err(next_ns)
        }
    })?;
    let before = scans(&kernel)?;
    thread::sleep(WATCHED / 4);
    ensure!(
        scans(&kernel)? <= before + 1,
        "scans although nothing is due"
    );

    // Now there is something to scan for, but not soon.
    let survivor = entry(key(SURVIVOR), 2_000, 1, timers(3, LONG_US));
    insert(&mut kernel, &survivor)?;
    sender.send(&rng, &frame(&survivor.key, 1, LONG_US))?;
    let (start, before) = (Instant::now(), scans(&kernel)?);
    thread::sleep(WATCHED);
    let scanned = scans(&kernel)? - before;
    let took = start.elapsed();
    println!("deleted: {due} of {SESSIONS} while due; {scanned} scans in {took:?} afterwards");
    ensure!(
        SCAN_AT_MOST_EVERY * u32::try_from(scanned)? <= took,
        "{scanned} scans in {took:?}"
    );
    let state = kernel
        .session(&survivor.key)?
        .context("no session")?
        .session
        .state;
    ensure!(
        state == State::Up || took > Duration::from_secs(9),
        "the survivor is {state:?}"
    );
    let mut cleared = 0;
    for (index, slot) in (0..).zip(&slots) {
        let now = kernel.deadline(index)?;
        // A scan that had found the session when it was deleted may have come to this late.
        let late = Deadline {
            deadline_ns: NEVER_NS,
            next_due: now.next_due,
            ..*slot
        };
        cleared += u32::from(now != *slot);
        let right = now == *slot || (now == late && cleared <= 1);
        ensure!(right, "slot {index} was {slot:?}, is {now:?}");
    }
    use_again(&mut kernel, &mut sender, &rng)
}

fn scans(kernel: &Kernel) -> anyhow::Result<u64> {
    Ok(kernel.counters(0)?.get(Counter::ScanDone))
}

/// Other sessions in the same slots, some with a key that another of the slots still names.
fn use_again(kernel: &mut Kernel, sender: &mut Sender, rng: &Rng) -> anyhow::Result<()> {
    grace_period()?;
    let mut keys = Vec::new();
    for index in 0..SESSIONS / 2 {
        let key = key(SESSIONS - 1 - index);
        let entry = entry(key, index.into(), 2, timers(3, INTERVAL_US * 4));
        insert(kernel, &entry)?;
        sender.send(rng, &frame(&key, 2, INTERVAL_US * 4))?;
        keys.push(key);
    }
    let lateness = all_expire(kernel, &keys, monotonic_ns())?;
    println!("deleted: slots used again: {lateness}");
    Ok(())
}
