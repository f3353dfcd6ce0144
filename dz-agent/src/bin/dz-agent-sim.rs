//! The simulator by itself: stories of the engine over kernels in memory. See `cargo xtask sim --help`.

use std::fmt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use clap::Parser;
use dz_agent::engine::sim::{Story, shrink, tell, told};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Tells stories of several nodes, each from its seed, and says which promise is broken.
#[derive(Parser)]
struct Cli {
    /// How many stories.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed; with --seeds 1 the only one.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many nodes; without it 2 to 6, by the seed.
    #[arg(long)]
    nodes: Option<usize>,
    /// Print the story of a seed that fails as it is, without making it shorter.
    #[arg(long)]
    whole: bool,
    /// Tell the shorter story once more, and print what the agents log, with the time of the story.
    #[arg(long)]
    log: bool,
}

/// The time of the story that this thread tells, in front of each line of the log.
struct Told;

impl FormatTime for Told {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{}", told())
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let next = AtomicU64::new(cli.seed);
    let (failed, steps, packets) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let begun = Instant::now();
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= cli.seed + cli.seeds {
                return;
            }
            let nodes = cli.nodes.unwrap_or(2 + (seed % 5) as usize);
            let story = Story::drawn(seed, nodes);
            match tell(&story) {
                Ok(report) => {
                    steps.fetch_add(report.steps, Ordering::Relaxed);
                    packets.fetch_add(report.packets, Ordering::Relaxed);
                }
                Err(finding) => {
                    failed.store(true, Ordering::Relaxed);
                    println!("seed {seed}, {nodes} nodes: {finding}");
                    if cli.whole {
                        println!("{story}");
                        return;
                    }
                    let short = shrink(&story);
                    if cli.log {
                        tracing_subscriber::fmt().with_timer(Told).init();
                    }
                    let Err(finding) = tell(&short) else { return };
                    println!("a shorter one: {finding}\n{short}");
                }
            }
        }
    };
    thread::scope(|scope| {
        let processors = thread::available_parallelism().map_or(1, Into::into);
        for _ in 0..processors {
            scope.spawn(work);
        }
    });
    if failed.load(Ordering::Relaxed) {
        return ExitCode::FAILURE;
    }
    println!(
        "{} stories, {} steps, {} packets in {:.1} s: nothing found",
        cli.seeds,
        steps.load(Ordering::Relaxed),
        packets.load(Ordering::Relaxed),
        begun.elapsed().as_secs_f64(),
    );
    ExitCode::SUCCESS
}
