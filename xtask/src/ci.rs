//! Runs the steps of continuous integration: format, lints, dependencies, the committed object, stories of the simulator,
//! calls that fail, all tests, some of them on other kernels.

use std::path::Path;
use std::time::Instant;

use xshell::cmd;

use crate::build_ebpf::{self, Comparison};
use crate::deny;
use crate::shell::{self, sh};
use crate::sim;

/// Runs every step; the first that fails ends it.
///
/// # Errors
/// A step has failed.
pub(crate) fn run() -> anyhow::Result<()> {
    let cargo = shell::cargo();
    step("format", || {
        cmd!(sh(), "{cargo} fmt --all --check").run()?;
        for manifest in ["dz-ebpf/Cargo.toml", "fuzz/Cargo.toml"] {
            cmd!(sh(), "{cargo} fmt --check --manifest-path {manifest}").run()?;
        }
        Ok(())
    })?;
    let comparison = step("the committed object", build_ebpf::check)?;
    let object = match &comparison {
        Comparison::Identical => None,
        Comparison::OtherToolchain(object) => Some(object.as_path()),
    };
    step("lints", || {
        let all = ["--workspace", "--all-targets", "--all-features"];
        cmd!(sh(), "{cargo} clippy {all...} -- -D warnings").run()?;
        Ok(())
    })?;
    step("dependencies", deny::run)?;
    step("stories", || {
        sim::run(&["--seeds", "10000"])?;
        sim::run(&["--seeds", "200", "--nodes", "50"])
    })?;
    step("calls that fail", || {
        cmd!(sh(), "{cargo} xtask inject --sample 60").run()?;
        Ok(())
    })?;
    step("tests", || test(object))
}

/// Runs the README's commands in one: on this kernel and in machines, on the object that was built here if it could not be
/// compared.
fn test(object: Option<&Path>) -> anyhow::Result<()> {
    let cargo = shell::cargo();
    cmd!(sh(), "{cargo} xtask test --deny-skips --vm")
        .envs(object.map(|object| ("DZ_EBPF_OBJECT", object)))
        .run()?;
    Ok(())
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
