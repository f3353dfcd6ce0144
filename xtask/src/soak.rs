//! Builds an agent and the program `dz-soak` of the test harness, which keeps it busy.

use std::process::{Command, ExitCode};

use anyhow::ensure;
use xshell::cmd;

use crate::apt;
use crate::shell::sh;
use crate::test_suite::{machine, programs};

/// For how long, and what happens.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// For how long
    #[arg(long, default_value_t = 20)]
    minutes: u32,
    /// The seed of what happens
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs it.
///
/// # Errors
/// No privilege, or something does not build. A leak is no error but an exit code.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    ensure!(
        apt::is_root(),
        "run this as root: it makes network namespaces and loads kernel programs"
    );
    machine::require(&["ip", "tc"])?;
    let agent = programs::build_agent_with_faults()?;
    let soak = programs::build_program("dz-soak")?;
    let (minutes, seed) = (options.minutes.to_string(), options.seed.to_string());
    let command = cmd!(sh(), "{soak} --minutes {minutes} --seed {seed}");
    let command = command
        .env("DZ_AGENT", &agent)
        .env("DZ_AGENT_WITH_FAULTS", &agent)
        .env("PATH", machine::path()?);
    let status = Command::from(command).status()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
