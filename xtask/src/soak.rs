//! Builds an agent and the program `dz-soak` of the test harness, which keeps it busy.

use std::process::{Command, ExitCode};

use anyhow::ensure;
use xshell::cmd;

use crate::apt;
use crate::shell::sh;
use crate::test_suite::{machine, programs};

/// Runs it; the arguments are the program's.
///
/// # Errors
/// No privilege, or something does not build. A leak is no error but an exit code.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    ensure!(
        apt::is_root(),
        "run this as root: it makes network namespaces and loads kernel programs"
    );
    machine::require(&["ip", "tc"])?;
    let agent = programs::build_agent_with_faults()?;
    let soak = programs::build_program("dz-soak")?;
    let command = cmd!(sh(), "{soak} {arguments...}");
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
