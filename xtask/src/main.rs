//! Build, demo, test and conformance commands: `cargo xtask --help`.

mod conform;
mod demo;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Build, demo, test and conformance commands"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows two agents on this machine: sessions come Up, survive a freeze, lose a link
    Demo,
    /// Replays recorded traces (JSON lines, plain or gzip) and captures (pcap) against dz-common
    Conform {
        /// Files to replay
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Demo => demo::run(),
        Command::Conform { files } => conform::run(&files),
    }
}
