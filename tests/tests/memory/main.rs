//! The kernel in memory against the kernel: the same random operations on both, with the same results,
//! the same state and the same notifications after each.
//!
//! `DZ_SEED=N` begins with that seed, `DZ_COUNT=N` takes so many.

mod compare;
mod operation;
mod real;
mod requests;

use anyhow::{Context, Result};
use dz_tests::harness::{Requirement::Root, Test, note};
use dz_tests::netns::Netns;
use dz_tests::rng::Rng;

use crate::operation::Operation;
use crate::real::Kernel;

/// Operations of each seed.
const OPERATIONS: usize = 300;

fn main() -> std::process::ExitCode {
    dz_tests::harness::run(vec![
        Test::new("net::first", &[Root], || seeds(1, 1)),
        Test::new("net::more", &[Root], || seeds(2, 11)),
    ])
}

/// Always the same ones, unless the environment says otherwise.
fn seeds(first: u64, count: u64) -> Result<()> {
    let number = |name: &str, otherwise| match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| name.to_owned()),
        Err(_) => Ok(otherwise),
    };
    let first: u64 = number("DZ_SEED", first)?;
    for seed in first..first + number("DZ_COUNT", count)? {
        round(seed)?;
    }
    Ok(())
}

fn round(seed: u64) -> Result<()> {
    let mut log: Vec<String> = Vec::new();
    let (here, far) = (Netns::new("memory")?, Netns::new("memory-far")?);
    let outcome: Result<()> = here.block_on(|| async {
        let rng = Rng::new(seed, 0);
        let (mut kernel, mut net) = Kernel::open(&here, &far).await?;
        for number in 0..OPERATIONS {
            let operation = Operation::draw(&rng, &net);
            log.push(format!("{number}: {operation:?}"));
            compare::step(&operation, &mut kernel, &mut net, &rng).await?;
        }
        Ok(())
    });
    let replay = || {
        note("operations", &log.join("\n"));
        format!("DZ_SEED={seed} DZ_COUNT=1 replays it")
    };
    outcome.with_context(replay)
}
