//! Slots whose key leads astray: to nobody, to half of one session and half of another, or to a
//! session whose slot is another one. The agent's stores are not atomic, so a scan may read a key
//! like that at any time; here they stay like that, which makes every scan read them.
//!
//! Whether a scan ever read a slot in the middle of a store cannot be seen from outside, and needs
//! not be: it cannot read anything then that is not written here as a whole.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dz_common::counters::Counter;
use dz_common::map::{Deadline, Destination, SessionKey};
use dz_common::packet::State;
use dz_tests::kernel::Kernel;
use dz_tests::rng::Rng;
use dz_tests::wait::monotonic_ns;

use crate::bench::{Sender, entry, frame, free, insert, kernel, key, seed, timers};
use crate::verdicts::{LOST, all_expire};

/// Those that fall silent, and those that are far from their deadlines (9 s).
const SHORT: u16 = 60;
const LONG: u16 = 20;
const LONG_US: u32 = 3_000_000;
/// Slots that no session owns.
const ASTRAY: u32 = 200;
const BUSY: Duration = Duration::from_secs(2);

pub(crate) fn torn_keys_do_no_harm() -> anyhow::Result<()> {
    let seed = seed("torn")?;
    let rng = Rng::new(seed, 0);
    let mut kernel = kernel("torn", 256)?;
    let mut sender = Sender::new(&kernel)?;
    let mut frames = Vec::new();
    for index in 0..SHORT + LONG {
        let generation = u32::from(index) + 1;
        let (mult, interval_us) = if index < SHORT {
            (1, 2_000 + rng.below(60_000) as u32)
        } else {
            (3, LONG_US)
        };
        // Owned and astray slots alternate.
        let slot = u32::from(index) * 6 + 1;
        let entry = entry(key(index), slot, generation, timers(mult, interval_us));
        insert(&mut kernel, &entry)?;
        frames.push(frame(&entry.key, generation, interval_us));
    }
    for frame in &frames[usize::from(SHORT)..] {
        sender.send(&rng, frame)?;
    }
    let mut astray = vec![free(key(0)); ASTRAY as usize];
    for (slot, value) in (0..).step_by(2).zip(&astray) {
        kernel.set_deadline(slot, value)?;
    }
    let before = kernel.counters(0)?.get(Counter::ScanDone);
    let start = Instant::now();
    let mut written = 0;
    let short = &frames[..usize::from(SHORT)];
    thread::scope(|scope| -> anyhow::Result<()> {
        let thread = scope.spawn(move || -> anyhow::Result<()> {
            let rng = Rng::new(seed, 1);
            while start.elapsed() < BUSY {
                sender.send(&rng, &short[rng.index(short.len())])?;
                thread::sleep(Duration::from_micros(rng.below(2_000)));
            }
            Ok(())
        });
        while !thread.is_finished() {
            rewrite(&mut kernel, &rng, &mut astray)?;
            written += 1;
        }
        thread.join().ok().context("the sender panicked")?
    })?;
    let silent_ns = monotonic_ns();
    // The last of them expire while slots still change.
    while kernel
        .sessions()?
        .iter()
        .any(|(key, entry)| is_short(key) && entry.session.state != State::Down)
    {
        rewrite(&mut kernel, &rng, &mut astray)?;
        written += 1;
        ensure!(
            monotonic_ns() < silent_ns + LOST.as_nanos() as u64,
            "a deadline is lost"
        );
    }
    let keys: Vec<_> = (0..SHORT).map(key).collect();
    let lateness = all_expire(&kernel, &keys, silent_ns)?;
    let scans = kernel.counters(0)?.get(Counter::ScanDone) - before;
    println!("torn: {written} stores during {scans} scans; {lateness}");
    still_up(&kernel)
}

/// Looks whether a slot is as it was left, and writes something else into it.
fn rewrite(kernel: &mut Kernel, rng: &Rng, astray: &mut [Deadline]) -> anyhow::Result<()> {
    let index = rng.index(astray.len());
    let (slot, left) = (2 * index as u32, astray[index]);
    let now = kernel.deadline(slot)?;
    ensure!(now == left, "slot {slot} was left as {left:?}, is {now:?}");
    let [one, other] = [0, 0].map(|_: u8| key(rng.below(u64::from(SHORT + LONG)) as u16));
    let key = match rng.below(4) {
        0 => one,
        1 => SessionKey { ifindex: 0, ..one },
        2 => SessionKey {
            local: [0; 4],
            ..one
        },
        _ => SessionKey {
            peer: [
                one.peer[0],
                other.peer[1],
                one.peer[2],
                other.peer[3] ^ 0x80,
            ],
            ..one
        },
    };
    astray[index] = Deadline {
        // Never 0, which would be a slot that nobody wrote.
        deadline_ns: monotonic_ns() - rng.below(1_000_000_000),
        key,
        next_due: rng.word(),
    };
    kernel.set_deadline(slot, &astray[index])
}

fn is_short(key: &Destination) -> bool {
    key.peer[2] == 0 && u16::from(key.peer[3]) < SHORT
}

/// Sessions that wrong slots named, too: untouched until their own deadlines.
fn still_up(kernel: &Kernel) -> anyhow::Result<()> {
    for index in SHORT..SHORT + LONG {
        let key = key(index);
        let now = kernel.session(&key)?.context("no session")?;
        let due_ns = now.session.last_rx_ns + now.session.detect_time_ns();
        let well = now.session.state == State::Up && now.session.transitions == 1;
        ensure!(
            well || monotonic_ns() >= due_ns,
            "expired too early: {now:#?}"
        );
    }
    Ok(())
}
