//! Detection needs nobody in user space.

use std::thread;
use std::time::Duration;

use dz_tests::rng::Rng;
use dz_tests::wait::monotonic_ns;

use crate::bench::{Sender, entry, frame, insert, kernel, key, seed, timers};
use crate::verdicts::all_expire;

/// Multiplier and interval, µs.
const TIMES: [(u8, u32); 4] = [(1, 50_000), (3, 150_000), (1, 700_000), (3, 400_000)];

pub(crate) fn user_space_may_sleep() -> anyhow::Result<()> {
    let rng = Rng::new(seed("alone")?, 0);
    let mut kernel = kernel("alone", 16)?;
    let mut sender = Sender::new(&kernel)?;
    let mut keys = Vec::new();
    for (index, (detect_mult, interval_us)) in (0..).zip(TIMES) {
        let (key, generation) = (key(index), u32::from(index) + 1);
        let timers = timers(detect_mult, interval_us);
        insert(&mut kernel, &entry(key, generation, generation, timers))?;
        sender.send(&rng, &frame(&key, generation, interval_us))?;
        keys.push(key);
    }
    let silent_ns = monotonic_ns();
    let longest_us = TIMES.map(|(mult, us)| u64::from(mult) * u64::from(us));
    // Not a wait for a result: nobody looks, nobody runs a program until every deadline is over.
    thread::sleep(Duration::from_micros(
        longest_us.into_iter().max().unwrap_or(0),
    ));
    println!("alone: {}", all_expire(&kernel, &keys, silent_ns)?);
    Ok(())
}
