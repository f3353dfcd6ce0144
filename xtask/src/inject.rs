//! Builds the agent and the program `dz-inject` of the test harness, which makes the agent's system calls fail.

use std::process::{Command, ExitCode};

use anyhow::ensure;
use xshell::cmd;

use crate::apt;
use crate::shell::sh;
use crate::test_suite::{machine, programs};

/// Programs that the scenes need.
const PROGRAMS: [&str; 3] = ["ip", "tc", "bpftool"];

/// Tries calls; the arguments are the program's.
///
/// # Errors
/// No privilege, or something does not build. A case that is bad is no error but an exit code.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    ensure!(
        apt::is_root(),
        "run this as root: it makes network namespaces and loads kernel programs"
    );
    machine::require(&PROGRAMS)?;
    let agent = programs::build_agent()?;
    let inject = programs::build_program("dz-inject")?;
    let command = cmd!(sh(), "{inject} {arguments...}");
    let command = command.env("DZ_AGENT", agent).env("PATH", machine::path()?);
    let status = Command::from(command).status()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
