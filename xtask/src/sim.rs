//! Runs the simulator, optimised.

use crate::shell;

/// Builds the simulator and hands it the arguments.
///
/// # Errors
/// It cannot be built, or finds something.
pub(super) fn run(arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = shell::cargo();
    command.args([
        "run",
        "--release",
        "--package",
        "dz-agent",
        "--features",
        "sim",
    ]);
    command
        .args(["--bin", "dz-agent-sim", "--"])
        .args(arguments);
    shell::run(&mut command)
}
