//! What the tests use of this machine: programs, installed when we are root on Debian or Ubuntu.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use anyhow::Context;

use crate::{apt, shell};

/// Programs, and the Debian package that each is in.
const PROGRAMS: [(&str, &str); 6] = [
    ("bpftool", "bpftool"),
    ("ip", "iproute2"),
    ("tcpdump", "tcpdump"),
    ("ethtool", "ethtool"),
    ("curl", "curl"),
    ("ping", "iputils-ping"),
];

/// Gets what is missing. What it cannot get it names; the tests that need it then say so.
pub(crate) fn prepare() {
    if !apt::is_root() {
        println!("NOT ROOT: tests that need namespaces, netlink or BPF will be skipped.");
    }
    for (program, package) in PROGRAMS {
        if shell::find_program(program).is_none() {
            warn(program, apt::install(&[package]));
        }
    }
    warn("promtool", require_promtool());
}

/// Gets those of the programs that are missing.
///
/// # Errors
/// One cannot be had.
pub(crate) fn require(names: &[&str]) -> anyhow::Result<()> {
    let wanted = PROGRAMS.iter().filter(|(name, _)| names.contains(name));
    for (program, package) in wanted {
        if shell::find_program(program).is_none() {
            apt::install(&[package])?;
            let found = shell::find_program(program);
            found.with_context(|| format!("the package {package} has no program {program}"))?;
        }
    }
    Ok(())
}

/// Gets promtool if it is missing.
///
/// # Errors
/// It cannot be had.
pub(crate) fn require_promtool() -> anyhow::Result<()> {
    if shell::find_program("promtool").is_none() && !tools().join("promtool").is_file() {
        fetch_promtool()?;
    }
    Ok(())
}

/// The path for test programs: ours, the system's, and what [`prepare`] has unpacked.
///
/// # Errors
/// A folder in it cannot be part of a path.
pub(crate) fn path() -> anyhow::Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .chain([tools()]);
    Ok(std::env::join_paths(folders)?)
}

/// How many end-to-end tests run side by side: they watch intervals of milliseconds.
pub(crate) fn test_threads() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get().min(2))
}

fn warn(program: &str, result: anyhow::Result<()>) {
    if let Err(error) = result {
        println!("WARNING: no {program}: {error:#}");
    }
}

fn tools() -> PathBuf {
    shell::root().join("target/tools")
}

/// Unpacks promtool from Debian's package without installing it: that would start a Prometheus
/// server on this machine.
fn fetch_promtool() -> anyhow::Result<()> {
    let folder = tools().join("prometheus");
    fs::create_dir_all(&folder)?;
    let download = || {
        shell::run(
            Command::new("apt-get")
                .args(["-q", "download", "prometheus"])
                .current_dir(&folder),
        )
    };
    if apt::can_install() {
        apt::update();
    }
    download().context("install promtool (package prometheus, on Debian and Ubuntu)")?;
    let package = fs::read_dir(&folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;
    shell::run(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(&package)
            .arg(&folder),
    )?;
    fs::rename(folder.join("usr/bin/promtool"), tools().join("promtool"))?;
    fs::remove_dir_all(&folder)?;
    Ok(())
}
