//! Makes system calls of the agent fail, one at a time, and kills it after one, for `cargo xtask inject`: whatever fails, nothing of
//! others is touched, no session flaps, and the next start is right.
//!
//! `DZ_AGENT` is the agent to try.

mod case;
mod life;
mod list;
mod scene;
mod starts;
mod table;
mod work;
mod workers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use dz_tests::{bpffs, netns};

use case::Case;

#[derive(Parser)]
struct Options {
    /// Try so many, drawn from all by the seed
    #[arg(long)]
    sample: Option<usize>,
    /// The seed of the sample
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Try those whose names have one of these in them: PHASE|CALL|NUMBER|FAULT
    #[arg(long)]
    only: Vec<String>,
    /// Only list what would be tried
    #[arg(long)]
    list: bool,
    /// Write the table of calls, errors and outcomes there
    #[arg(long)]
    table: Option<PathBuf>,
    /// How many are tried side by side
    #[arg(long, default_value_t = 2)]
    workers: usize,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Tries the cases, and returns whether all went well.
fn run(options: &Options) -> Result<bool> {
    netns::remove_leftovers();
    bpffs::remove_leftovers();
    let begin = Instant::now();
    let all = list::all()?;
    let chosen = list::choose(&all, &options.only, options.sample, options.seed);
    if options.list {
        for case in &chosen {
            println!("{case}");
        }
        return Ok(true);
    }
    println!(
        "{} of {} cases, seed {}",
        chosen.len(),
        all.len(),
        options.seed
    );
    let tried = workers::run(chosen, options.workers);
    if let Some(file) = &options.table {
        std::fs::write(file, table::markdown(&tried))?;
    }
    println!();
    for (case, result) in &tried {
        if let Err(why) = result {
            println!("BAD {case}: {why}");
        }
    }
    for (outcome, count) in table::outcomes(&tried) {
        println!("{outcome}: {count}");
    }
    println!("after {} s", begin.elapsed().as_secs());
    let failed = tried.iter().filter(|tried| tried.1.is_err()).count();
    println!("{} passed, {failed} failed", tried.len() - failed);
    Ok(failed == 0)
}
