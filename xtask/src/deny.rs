//! Holds the dependencies of every workspace against `deny.toml`: licences, versions twice, crates and sources that are not wanted.

use xshell::cmd;

use crate::shell::{self, sh};

/// The version that `deny.toml` is written for.
const VERSION: &str = "0.20.2";
/// The manifests of the workspaces.
const MANIFESTS: [&str; 3] = ["Cargo.toml", "dz-ebpf/Cargo.toml", "fuzz/Cargo.toml"];

/// Checks them; installs cargo-deny, once, if this version is not there.
///
/// # Errors
/// A dependency is not as it should be, or cargo-deny cannot be had.
pub(crate) fn run() -> anyhow::Result<()> {
    require()?;
    for manifest in MANIFESTS {
        let flags = [
            "--manifest-path",
            manifest,
            "--locked",
            "--config",
            "deny.toml",
        ];
        let checks = ["licenses", "bans", "sources"];
        let cargo = shell::cargo();
        cmd!(sh(), "{cargo} deny {flags...} check {checks...}").run()?;
    }
    Ok(())
}

/// Builds it without optimisation: it runs for a second, and an optimised build takes as long as all of our tests.
fn require() -> anyhow::Result<()> {
    let cargo = shell::cargo();
    let answer = shell::answer(cmd!(sh(), "{cargo} deny --version"));
    if answer.is_ok_and(|version| version.ends_with(VERSION)) {
        return Ok(());
    }
    cmd!(
        sh(),
        "{cargo} install --locked --debug --version {VERSION} cargo-deny"
    )
    .env("CARGO_PROFILE_DEV_DEBUG", "0")
    .run()?;
    Ok(())
}
