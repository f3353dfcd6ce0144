//! Builds all tests and what they need, runs every test program, and sums up which ran, failed and were skipped.
//!
//! It reads two kinds of lines that a test program prints: `test result:`, which libtest and libtest-mimic
//! share, and `SKIPPED <test>: <reason>` for each test that could not run.

pub(crate) mod machine;
pub(crate) mod programs;
pub(crate) mod report;

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use anyhow::Context;
use xshell::{Cmd, cmd};

use crate::shell::{self, sh};
use crate::{apt, vm};
use programs::{Program, Programs};
use report::{Report, Results};

/// What to run, and what counts as success.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Packages or test files (`incident` for tests/tests/incident.rs); everything if none is named
    groups: Vec<String>,
    /// A skipped test is a failure, unless the kernel of this machine cannot run it. Implied for
    /// groups that are named
    #[arg(long)]
    deny_skips: bool,
    /// Then end-to-end tests in virtual machines, as `cargo xtask vm --quick`
    #[arg(long, conflicts_with_all = ["groups", "args"])]
    vm: bool,
    /// Arguments for every test program, such as a part of a test's name
    #[arg(last = true)]
    args: Vec<OsString>,
}

/// Runs the tests.
///
/// # Errors
/// A group that does not exist, or the tests do not build. Failing tests are no error but an
/// exit code.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    // First, for what cannot be had is to be known at once.
    let kernels = if options.vm {
        vm::kernels(None)?
    } else {
        Vec::new()
    };
    machine::prepare();
    let programs = Programs::build(&options.groups)?;
    let mut report = Report::default();
    for program in &programs.tests {
        let threads = format!("--test-threads={}", machine::test_threads());
        let command = sh()
            .cmd(&program.executable)
            .args(&options.args)
            .args(program.end_to_end.then_some(threads))
            .env("CARGO_MANIFEST_DIR", &program.folder)
            .env("DZ_AGENT", &programs.agent)
            .env("DZ_AGENT_WITH_FAULTS", &programs.agent_with_faults)
            .env("DZ_TEST_RIGHTS", program.rights)
            .env("PATH", machine::path()?);
        println!("\n==== {}", program.name);
        let _folder = sh().push_dir(&program.folder);
        follow(program, command, &mut report)?;
    }
    if programs.documentation {
        let program = Program::documentation();
        println!("\n==== {}", program.name);
        let cargo = shell::cargo();
        let mut command = cmd!(sh(), "{cargo} test --doc --workspace --all-features");
        if !options.args.is_empty() {
            command = command.arg("--").args(&options.args);
        }
        follow(&program, command, &mut report)?;
    }
    vm::run_on(&kernels, &programs, &mut report)?;
    if !apt::is_root() {
        println!("\nNOT ROOT: tests that need namespaces, netlink or BPF did not run.");
    }
    let deny_skips = options.deny_skips || !options.groups.is_empty();
    Ok(report.print(deny_skips))
}

/// Runs one test program, shows what it prints, and takes the results from it.
fn follow(program: &Program, command: Cmd<'_>, report: &mut Report) -> anyhow::Result<()> {
    let mut child = Command::from(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start the tests {}", program.name))?;
    // Both through us, line by line, so that lines do not mix when they share a pipe.
    let stderr = child
        .stderr
        .take()
        .map(|pipe| thread::spawn(move || lines(pipe, |line| eprintln!("{line}"))));
    let mut results = Results::new(&program.name);
    if let Some(pipe) = child.stdout.take() {
        lines(pipe, |line| {
            println!("{line}");
            results.line(line);
        });
    }
    let status = child.wait()?;
    if let Some(thread) = stderr {
        let _ = thread.join(); // it prints, and has nothing to say about the result
    }
    let ended = status.success().then_some(()).ok_or(status.to_string());
    results.end(ended, report);
    Ok(())
}

/// Calls `each` for every line, bytes that are not UTF-8 replaced, until the other end closes.
fn lines(pipe: impl Read, mut each: impl FnMut(&str)) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        each(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
        line.clear();
    }
}
