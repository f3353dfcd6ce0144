//! What continuous integration runs: format, lints, the committed object, stories of the simulator, all tests, some of
//! them on other kernels.

use std::path::Path;
use std::time::Instant;

use crate::build_ebpf::{self, Comparison};
use crate::{shell, sim};

/// Runs every step; the first that fails ends it.
///
/// # Errors
/// Of the step that failed.
pub(crate) fn run() -> anyhow::Result<()> {
    step("format", || {
        shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
        let manifest = ["--manifest-path", "dz-ebpf/Cargo.toml"];
        shell::run(shell::cargo().args(["fmt", "--check"]).args(manifest))
    })?;
    let comparison = step("the committed object", build_ebpf::check)?;
    let object = match &comparison {
        Comparison::Identical => None,
        Comparison::OtherToolchain(object) => Some(object.as_path()),
    };
    step("lints", || {
        shell::run(
            shell::cargo()
                .args(["clippy", "--workspace", "--all-targets", "--all-features"])
                .args(["--", "-D", "warnings"]),
        )
    })?;
    step("stories", || {
        sim::run(&["--seeds", "10000"])?;
        sim::run(&["--seeds", "200", "--nodes", "50"])
    })?;
    step("tests", || test(object))
}

/// The README's commands, in one: on this kernel and in machines, on the object that was built here if it could not be compared.
fn test(object: Option<&Path>) -> anyhow::Result<()> {
    let mut command = shell::cargo();
    command.args(["xtask", "test", "--deny-skips", "--vm"]);
    if let Some(object) = object {
        command.env("DZ_EBPF_OBJECT", object);
    }
    shell::run(&mut command)
}

fn step<T>(name: &str, run: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    println!("\n######## {name}");
    let start = Instant::now();
    let result = run();
    let verdict = if result.is_ok() { "ok" } else { "FAILED" };
    println!(
        "######## {name}: {verdict} after {} s",
        start.elapsed().as_secs()
    );
    result
}
