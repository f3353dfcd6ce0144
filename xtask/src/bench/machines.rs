//! What is measured in virtual machines, because it needs a kernel that this machine may not have.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use super::row::{Row, rows};
use crate::test_suite::machine::find;
use crate::test_suite::programs::Bench;
use crate::vm;
use crate::vm::files::guest_files;
use crate::vm::guest::Job;
use crate::vm::kernel::{Kernel, Version};
use crate::vm::machine::{self, Time};

/// The bench, and the part of it.
const BENCH: &str = "forwarding";
const PART: &str = "gre";
/// In emulation everything takes its time, here that of this machine.
const DEADLINE: Duration = Duration::from_secs(3_600);
const AGENT: &str = "/bench/dz-agent";
const MEASURES: &str = "/bench/dz-bench";

/// Whether a bench, or this part of it, is for machines.
pub(super) fn has_part(name: &str, part: Option<&str>) -> bool {
    name == BENCH && part.is_none_or(|part| part == PART)
}

/// That part, on every kernel if none is named. The figures' names start with the kernel's.
///
/// # Errors
/// No QEMU or no kernel, or the bench fails.
pub(super) fn measure(
    built: &Bench,
    programs: &[&str],
    only: Option<Version>,
) -> anyhow::Result<Vec<Row>> {
    let mut all = Vec::new();
    for kernel in vm::kernels(only)? {
        eprintln!("==== {BENCH} {PART} on Linux {} in QEMU", kernel.release);
        let measured = on(&kernel, built, programs)?;
        all.extend(measured.into_iter().map(|row| Row {
            name: format!("linux_{}/{}", kernel.version.name(), row.name),
            ..row
        }));
    }
    Ok(all)
}

fn on(kernel: &Kernel, built: &Bench, programs: &[&str]) -> anyhow::Result<Vec<Row>> {
    let programs: Vec<_> = programs.iter().filter_map(|name| find(name)).collect();
    let mut files = guest_files(&programs)?;
    for (path, program) in [(AGENT, &built.agent), (MEASURES, &built.bench)] {
        files.program(Path::new(path), program)?;
    }
    let job = Job::new(MEASURES, DEADLINE);
    let job = job.arg(BENCH).arg(PART).env("DZ_AGENT", AGENT);
    let outputs = machine::outputs(kernel, Time::Instructions, files, &[job])?;
    rows(outputs.first().context("a machine without output")?)
}
