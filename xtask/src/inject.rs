//! Builds the agent and the program `dz-inject` of the test harness, which makes the agent's system calls fail.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::ensure;
use xshell::cmd;

use crate::apt;
use crate::shell::sh;
use crate::test_suite::{machine, programs};

/// Programs that the scenes need.
const PROGRAMS: [&str; 3] = ["ip", "tc", "bpftool"];

/// Which calls to try, and what to write about it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Try so many cases, drawn from all by the seed
    #[arg(long)]
    sample: Option<usize>,
    /// The seed of the sample
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Try those whose names have this in them, such as `takeover|bpf`; may be given several times
    #[arg(long)]
    only: Vec<String>,
    /// Only list what would be tried
    #[arg(long)]
    list: bool,
    /// Write the table of calls, errors and outcomes there
    #[arg(long)]
    table: Option<PathBuf>,
}

/// Tries them.
///
/// # Errors
/// No privilege, or something does not build. A case that is bad is no error but an exit code.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    ensure!(
        apt::is_root(),
        "run this as root: it makes network namespaces and loads kernel programs"
    );
    machine::require(&PROGRAMS)?;
    let agent = programs::build_agent()?;
    let inject = programs::build_program("dz-inject")?;
    let seed = options.seed.to_string();
    let mut command = cmd!(sh(), "{inject} --seed {seed}");
    if let Some(sample) = options.sample {
        command = command.args(["--sample", &sample.to_string()]);
    }
    if options.list {
        command = command.arg("--list");
    }
    if let Some(table) = &options.table {
        command = command.arg("--table").arg(table);
    }
    for name in &options.only {
        command = command.args(["--only", name]);
    }
    let command = command.env("DZ_AGENT", agent).env("PATH", machine::path()?);
    let status = Command::from(command).status()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
