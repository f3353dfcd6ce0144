//! Runs the simulator, optimised.

use xshell::cmd;

use crate::shell::{self, sh};

/// Builds the simulator and hands it the arguments.
///
/// # Errors
/// The simulator cannot be built, or finds something.
pub(super) fn run(arguments: &[&str]) -> anyhow::Result<()> {
    let cargo = shell::cargo();
    cmd!(
        sh(),
        "{cargo} run --release --package dz-agent --features sim --bin dz-agent-sim --
         {arguments...}"
    )
    .run()?;
    Ok(())
}
