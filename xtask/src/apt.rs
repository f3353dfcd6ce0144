//! Installs packages of Debian and Ubuntu when we are root there, and names them elsewhere.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Once;

use anyhow::{Context, bail, ensure};
use xshell::cmd;

use crate::shell::{self, sh};

/// Returns whether packages can be installed here without asking anybody.
pub(crate) fn can_install() -> bool {
    is_root() && shell::find_program("apt-get").is_some()
}

/// Returns whether the effective user is root.
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
    apt_get(&["install", "-y", "--no-install-recommends"], &missing)
        .with_context(|| format!("cannot install the packages {}", missing.join(" ")))
}

/// Installs what a package file depends on, but not the package.
///
/// # Errors
/// We are not root on Debian or Ubuntu, or the installation fails.
pub(crate) fn satisfy(package: &Path) -> anyhow::Result<()> {
    let depends = shell::answer(cmd!(sh(), "dpkg-deb -f {package} Depends"))?;
    if !can_install() {
        bail!("to be installed as root: {depends}");
    }
    update();
    apt_get(&["satisfy", "-y", "--no-install-recommends"], &[&depends])
        .with_context(|| format!("cannot install {depends}"))
}

/// Fetches the package lists, once. Only warns when it fails: one dead source among several is no
/// reason to give up, and what is really missing fails when it is installed.
pub(crate) fn update() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Err(error) = apt_get(&["update"], &[]) {
            eprintln!("warning: {error:#}");
        }
    });
}

/// Downloads a package file into a folder.
///
/// # Errors
/// There is no apt-get, or no such package.
pub(crate) fn download(package: &str, folder: &Path) -> anyhow::Result<()> {
    let _folder = sh().push_dir(folder);
    apt_get(&["download"], &[package])
}

/// Runs apt-get. What it says goes to standard error: the output of `bench --json` is JSON alone.
fn apt_get(subcommand: &[&str], packages: &[&str]) -> anyhow::Result<()> {
    let options = ["-q", "-o", "DPkg::Lock::Timeout=300"];
    let command = cmd!(sh(), "apt-get {options...} {subcommand...} {packages...}")
        .env("DEBIAN_FRONTEND", "noninteractive");
    let line = command.to_string();
    eprintln!("$ {line}");
    let status = Command::from(command)
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()
        .with_context(|| format!("cannot start `{line}`"))?;
    ensure!(status.success(), "`{line}` failed: {status}");
    Ok(())
}

fn is_installed(package: &str) -> bool {
    let format = "-f=${db:Status-Status}";
    shell::answer(cmd!(sh(), "dpkg-query -W {format} {package}"))
        .is_ok_and(|status| status == "installed")
}
