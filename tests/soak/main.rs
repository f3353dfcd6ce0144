//! Keeps an agent busy for as long as it is told, for `cargo xtask soak`: peers come, go and flap, addresses come and go, requests
//! to the kernel fail, somebody scrapes, and agents are killed, replaced and stopped. Between rounds everything is brought back to
//! the same state, and must then be as it was: sessions, routes, descriptors, threads, counter blocks, pins; memory within 5 %.
//!
//! `DZ_AGENT_WITH_FAULTS` is the agent.

mod churn;
mod scene;
mod state;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use dz_tests::{bpffs, netns};
use nix::sys::signal::Signal;

use scene::Scene;
use state::State;

/// How many agents live for a part of the time each.
const ROUNDS: u32 = 4;
/// What an agent's memory may be, as a part of what it was after its first minute.
const MEMORY: f64 = 1.05;

#[derive(Parser)]
struct Options {
    /// For how long
    #[arg(long, default_value_t = 20)]
    minutes: u32,
    /// The seed of what happens
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(faults) if faults.is_empty() => {
            println!("nothing leaked");
            ExitCode::SUCCESS
        }
        Ok(faults) => {
            for fault in &faults {
                println!("LEAK {fault}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the rounds, and returns what was not as before.
fn run(options: &Options) -> Result<Vec<String>> {
    netns::remove_leftovers();
    bpffs::remove_leftovers();
    println!("seed {}", options.seed);
    let begin = Instant::now();
    let whole = Duration::from_secs(60 * u64::from(options.minutes));
    let mut scene = Scene::new(options.seed)?;
    let mut first: Option<State> = None;
    let mut faults = Vec::new();
    for round in 1..=ROUNDS {
        // Agents that take over from each other, in each of the ways.
        scene
            .restarts()
            .with_context(|| format!("restarts before round {round}"))?;
        let until = begin + whole * round / ROUNDS;
        let warm = until
            .saturating_duration_since(Instant::now())
            .min(Duration::from_secs(240))
            / 4;
        scene.churn(Instant::now() + warm)?;
        let before = scene.at_rest()?;
        scene.churn(until)?;
        let after = scene.at_rest()?;
        println!(
            "round {round}, after {} s: {after}",
            begin.elapsed().as_secs()
        );
        faults.extend(
            after
                .faults(&before, MEMORY)
                .map(|fault| format!("round {round}: {fault}")),
        );
        let first = first.get_or_insert_with(|| after.clone());
        // Another process has other memory.
        let between = after.faults(first, f64::INFINITY);
        faults.extend(between.map(|fault| format!("round {round}, after the first: {fault}")));
    }
    println!("{}", scene.done());
    let home = scene.agent()?.end(Signal::SIGTERM)?;
    ensure!(scene.routes()?.is_empty(), "routes after the stop");
    ensure!(!home.pin_dir().exists(), "pins after the stop");
    Ok(faults)
}
