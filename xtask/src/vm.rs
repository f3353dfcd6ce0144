//! Tests on other kernels than this machine's: in QEMU, on Debian's cloud kernels.
//!
//! Whoever needs a machine takes a [`kernel`], puts programs into an archive ([`files`],
//! [`initramfs`]), and runs command lines in it ([`machine::outputs`]).

pub(crate) mod files;
pub(crate) mod guest;
pub(crate) mod initramfs;
pub(crate) mod kernel;
mod left_out;
pub(crate) mod machine;
mod modules;
mod ports;
mod quick;
mod suite;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::ensure;

use crate::test_suite::machine as tools;
use crate::test_suite::programs::Programs;
use crate::test_suite::report::Report;
use crate::{apt, shell};
use kernel::{Kernel, Version};
use suite::Wanted;

/// What machines need on this one: programs, and the Debian package that each is in.
const PROGRAMS: [(&str, &str); 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("dash", "dash"),
    ("xz", "xz-utils"),
    ("strip", "binutils"),
];

/// Where and what to run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only on this kernel
    #[arg(long)]
    kernel: Option<Version>,
    /// Only what depends on the kernel and the tunnel most, as CI does: minutes
    #[arg(long, conflicts_with_all = ["groups", "args"])]
    quick: bool,
    /// Test files (`incident` for tests/tests/incident); all if none is named
    groups: Vec<String>,
    /// Arguments for every test program, such as a part of a test's name
    #[arg(last = true)]
    args: Vec<OsString>,
}

/// Runs tests in machines. A skipped test is a failure, unless that kernel cannot run it.
///
/// # Errors
/// No kernel, no QEMU, a group that does not exist, or the tests do not build. Failing tests, and
/// machines that die, are no error but an exit code.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let kernels = kernels(options.kernel)?;
    tools::prepare();
    let groups = match &options.groups[..] {
        [] => vec![suite::PACKAGE.to_owned()],
        groups => groups.to_vec(),
    };
    let programs = Programs::build(&groups)?;
    let mut report = Report::default();
    let wanted = if options.quick {
        Wanted::Quick
    } else if options.groups.is_empty() && options.args.is_empty() {
        Wanted::WhatApplies
    } else {
        let args = &options.args;
        Wanted::Groups { args }
    };
    for kernel in &kernels {
        suite::run(kernel, &programs, &wanted, &mut report)?;
    }
    Ok(report.print(true))
}

/// The kernels to run on, all if none is named, and what machines need.
///
/// # Errors
/// One of them cannot be had.
pub(crate) fn kernels(only: Option<Version>) -> anyhow::Result<Vec<Kernel>> {
    prepare()?;
    let versions = Version::ALL.into_iter();
    let wanted = versions.filter(|version| only.is_none_or(|only| only == *version));
    wanted.map(kernel::get).collect()
}

/// Runs those of the end-to-end tests that are worth their time on each of the kernels.
///
/// # Errors
/// A machine cannot be started.
pub(crate) fn run_on(
    kernels: &[Kernel],
    programs: &Programs,
    report: &mut Report,
) -> anyhow::Result<()> {
    for kernel in kernels {
        suite::run(kernel, programs, &Wanted::Quick, report)?;
    }
    Ok(())
}

/// Gets what machines need.
///
/// # Errors
/// It cannot be had.
pub(crate) fn prepare() -> anyhow::Result<()> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "machines boot kernels for x86-64, which QEMU would have to emulate here: run them there"
    );
    for (program, package) in PROGRAMS {
        if shell::find_program(program).is_none() {
            apt::install(&[package])?;
        }
    }
    Ok(())
}
