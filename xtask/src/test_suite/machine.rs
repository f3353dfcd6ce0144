//! Finds the programs of this machine that tests start, and installs them when we are root on Debian or Ubuntu.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::thread;

use anyhow::Context;
use xshell::cmd;

use crate::apt;
use crate::shell::{self, sh};

/// Programs, and the Debian package that each is in.
const PROGRAMS: [(&str, &str); 8] = [
    ("bpftool", "bpftool"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("tcpdump", "tcpdump"),
    ("ethtool", "ethtool"),
    ("curl", "curl"),
    ("ping", "iputils-ping"),
    ("iperf3", "iperf3"),
];

/// Programs of a package that would start a daemon on this machine if it were installed: it is
/// unpacked instead.
struct Unpacked {
    package: &'static str,
    /// Paths inside of it.
    programs: &'static [&'static str],
    /// Whether they need libraries of other packages, which are installed.
    libraries: bool,
}

const PROMTOOL: Unpacked = Unpacked {
    package: "prometheus",
    programs: &["usr/bin/promtool"],
    libraries: false,
};
const BIRD: Unpacked = Unpacked {
    package: "bird2",
    programs: &["usr/sbin/bird"],
    libraries: true,
};

/// Finds the programs that tests start in a virtual machine, as far as they are here, but for promtool, which has a hundred
/// megabytes and nothing to do with the kernel.
pub(crate) fn guest_programs() -> Vec<PathBuf> {
    let names = PROGRAMS.iter().map(|(program, _)| *program);
    names
        .chain(["bird", "setpriv", "setarch", "sh"])
        .filter_map(find)
        .collect()
}

/// Finds a program on the path, or one that [`prepare`] has unpacked.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let unpacked = || Some(tools().join(name)).filter(|file| file.is_file());
    shell::find_program(name).or_else(unpacked)
}

/// Gets the programs that are missing. It names those that it cannot get; the tests that need them then say so.
pub(crate) fn prepare() {
    if !apt::is_root() {
        println!("NOT ROOT: tests that need namespaces, netlink or BPF will be skipped.");
    }
    for (program, package) in PROGRAMS {
        if shell::find_program(program).is_none() {
            warn(program, apt::install(&[package]));
        }
    }
    warn("promtool", PROMTOOL.require());
    warn("bird", BIRD.require());
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
    if names.contains(&"bird") {
        BIRD.require()?;
    }
    Ok(())
}

/// Gets promtool if it is missing.
///
/// # Errors
/// It cannot be had.
pub(crate) fn require_promtool() -> anyhow::Result<()> {
    PROMTOOL.require()
}

/// Returns the path for test programs: ours, the system's, and what [`prepare`] has unpacked.
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

/// Returns how many end-to-end tests run side by side: few, for they watch intervals of milliseconds.
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

impl Unpacked {
    /// Gets the programs if one is missing.
    fn require(&self) -> anyhow::Result<()> {
        let missing = self.programs.iter().any(|path| {
            let name = path.rsplit('/').next().unwrap_or(path);
            find(name).is_none()
        });
        if missing { self.fetch() } else { Ok(()) }
    }

    fn fetch(&self) -> anyhow::Result<()> {
        let folder = tools().join(self.package);
        fs::create_dir_all(&folder)?;
        if apt::can_install() {
            apt::update();
        }
        let download = apt::download(self.package, &folder);
        download.with_context(|| format!("get the package {} (Debian, Ubuntu)", self.package))?;
        let package = fs::read_dir(&folder)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .context("apt-get download left no package")?;
        if self.libraries {
            apt::satisfy(&package)?;
        }
        cmd!(sh(), "dpkg-deb -x {package} {folder}").run()?;
        for path in self.programs {
            let name = path.rsplit('/').next().unwrap_or(path);
            fs::rename(folder.join(path), tools().join(name))?;
        }
        fs::remove_dir_all(&folder)?;
        Ok(())
    }
}
