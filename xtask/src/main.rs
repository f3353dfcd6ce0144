//! Build, demo, test, bench and conformance commands: `cargo xtask --help`.

mod apt;
mod bench;
mod build_ebpf;
mod ci;
mod conform;
mod demo;
mod deny;
mod fuzz;
mod inject;
mod record;
mod shell;
mod sim;
mod soak;
mod test_suite;
#[cfg(test)]
mod tidy;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use build_ebpf::rustc_wrapper;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Build, demo, test, bench and conformance commands"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compiles the kernel programs into the object that is committed and embedded in the agent
    BuildEbpf {
        /// Only compare the committed object with one built here
        #[arg(long)]
        check: bool,
    },
    /// Runs all tests; installs what they need when root on Debian or Ubuntu
    Test(test_suite::Options),
    /// Runs the end-to-end tests in QEMU on Debian's kernels, with real GRE tunnels
    Vm(vm::Options),
    /// Measures the agent as it is shipped, beside a baseline, against goals
    Bench(bench::Options),
    /// Makes each system call of the agent fail, and kills it after each: nothing of others is touched, the next start is right
    Inject {
        /// As `cargo xtask inject -- --help` lists them: --sample, --seed, --only, --list, --table, --workers
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Keeps an agent busy, with restarts and faults, and looks for what is left behind
    Soak {
        /// As `cargo xtask soak -- --help` lists them: --minutes, --seed
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs the fuzzers; installs cargo-fuzz if it is missing
    Fuzz(fuzz::Options),
    /// Checks licences, versions and sources of all dependencies
    Deny,
    /// Format, lints, dependencies, the committed object, all tests, also in virtual machines
    Ci,
    /// Shows two agents on this machine: sessions come Up, survive a freeze, lose a link
    Demo,
    /// Tells stories of the engine over kernels in memory, each from a seed, and says what is wrong in one
    Sim {
        /// As `cargo xtask sim -- --help` lists them: --seeds, --seed, --nodes, --whole, --log
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Replays recorded traces (JSON lines, plain or gzip) and captures (pcap) against dz-common
    Conform {
        /// Whose rules they are held against; with ours, the steps that lead elsewhere are counted
        #[arg(long, value_enum, default_value_t = conform::Trust::Proven)]
        trust: conform::Trust,
        /// Files to replay
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    let result = if std::env::var_os(rustc_wrapper::MARKER).is_some() {
        rustc_wrapper::run(std::env::args_os().skip(1))
    } else {
        run(Cli::parse().command)
    };
    result.unwrap_or_else(|error| {
        // One line, whatever RUST_BACKTRACE says.
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::BuildEbpf { check: false } => build_ebpf::build(),
        Command::BuildEbpf { check: true } => build_ebpf::check().map(drop),
        Command::Test(options) => return test_suite::run(&options),
        Command::Vm(options) => return vm::run(&options),
        Command::Bench(options) => return bench::run(&options),
        Command::Inject { arguments } => return inject::run(&arguments),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Soak { arguments } => return soak::run(&arguments),
        Command::Deny => deny::run(),
        Command::Ci => ci::run(),
        Command::Demo => return demo::run(),
        Command::Sim { arguments } => {
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            sim::run(&arguments)
        }
        Command::Conform { trust, files } => conform::run(trust, &files),
    }?;
    Ok(ExitCode::SUCCESS)
}
