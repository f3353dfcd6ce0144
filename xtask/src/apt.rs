//! Packages of Debian and Ubuntu: installed when we are root there, named elsewhere.

use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Once;

use anyhow::{Context, bail};

use crate::shell;

/// Whether packages can be installed here without asking anybody.
pub(crate) fn can_install() -> bool {
    is_root() && shell::find_program("apt-get").is_some()
}

/// Whether the effective user is root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Installs those of the packages that are missing.
///
/// # Errors
/// Some are missing and we are not root on Debian or Ubuntu, or the installation fails.
pub(crate) fn install(packages: &[&str]) -> anyhow::Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| !is_installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !can_install() {
        bail!(
            "missing: {0}. On Debian or Ubuntu: sudo apt-get install --no-install-recommends {0}",
            missing.join(" ")
        );
    }
    update();
    shell::run(
        apt_get()
            .args(["install", "-y", "--no-install-recommends"])
            .args(&missing),
    )
    .with_context(|| format!("cannot install the packages {}", missing.join(" ")))
}

/// Installs what a package file depends on, but not the package.
///
/// # Errors
/// We are not root on Debian or Ubuntu, or the installation fails.
pub(crate) fn satisfy(package: &Path) -> anyhow::Result<()> {
    let depends = shell::read(
        Command::new("dpkg-deb")
            .arg("-f")
            .arg(package)
            .arg("Depends"),
    )?;
    let depends = depends.trim();
    if !can_install() {
        bail!("to be installed as root: {depends}");
    }
    update();
    shell::run(
        apt_get()
            .args(["satisfy", "-y", "--no-install-recommends"])
            .arg(depends),
    )
    .with_context(|| format!("cannot install {depends}"))
}

/// Fetches the package lists, once. Only warns when it fails: one dead source among several is no
/// reason to give up, and what is really missing fails when it is installed.
pub(crate) fn update() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Err(error) = shell::run(apt_get().arg("update")) {
            eprintln!("warning: {error:#}");
        }
    });
}

/// Downloads a package file into a folder.
///
/// # Errors
/// There is no apt-get, or no such package.
pub(crate) fn download(package: &str, folder: &Path) -> anyhow::Result<()> {
    shell::run(apt_get().args(["download", package]).current_dir(folder))
}

/// What it says goes to standard error: the output of `bench --json` is JSON alone.
fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .stdout(io::stderr())
        .args(["-q", "-o", "DPkg::Lock::Timeout=300"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn is_installed(package: &str) -> bool {
    shell::read(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}
