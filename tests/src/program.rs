//! The agent's binaries, as cargo builds them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, anyhow, bail};

/// The agent's binary: `$DZ_AGENT`, or the one that is built from this tree, which is brought up to
/// date once per test process (`cargo test` does not build the binaries of other packages).
///
/// # Errors
/// It cannot be built.
pub fn program() -> anyhow::Result<&'static Path> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    known(&PROGRAM, || find("DZ_AGENT", "dz-agent", &[]))
}

/// The binary with fault hooks: `$DZ_AGENT_WITH_FAULTS`, or built as [`program`] is.
pub fn program_with_faults() -> anyhow::Result<&'static Path> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let features = ["--features=dz-agent/faults"];
    known(&PROGRAM, || {
        find("DZ_AGENT_WITH_FAULTS", "dz-agent-faults", &features)
    })
}

fn known(
    place: &'static OnceLock<Result<PathBuf, String>>,
    find: impl FnOnce() -> anyhow::Result<PathBuf>,
) -> anyhow::Result<&'static Path> {
    let program = place.get_or_init(|| find().map_err(|error| format!("{error:#}")));
    program
        .as_deref()
        .map_err(|error| anyhow!("no dz-agent to test: {error}"))
}

fn find(variable: &str, name: &str, features: &[&str]) -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    // This program lies in target/<profile>/deps.
    let this = std::env::current_exe()?;
    let directory = this
        .ancestors()
        .nth(2)
        .context("a test program outside of target/")?;
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    // Both packages, so that features come out as they did for this program.
    build.args(["build", "--quiet", "--package=dz-tests"]);
    build.args(["--package=dz-agent", "--bin", name]);
    build.args(features);
    if directory.ends_with("release") {
        build.arg("--release");
    }
    build
        .arg("--target-dir")
        .arg(directory.parent().context("a profile outside of target/")?);
    let status = build.status().context("running cargo")?;
    if !status.success() {
        bail!("cargo build --bin {name}: {status}");
    }
    Ok(directory.join(name))
}
