//! Calls of a child that fail, or after which it is killed.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};
use dz_tests::agent::program;
use dz_tests::harness::{Requirement, Test};
use dz_tests::injector::{Call, Fault, Injector};
use dz_tests::netns::Netns;
use nix::errno::Errno;

pub(crate) fn tests() -> Vec<Test> {
    let needs = [Requirement::Root];
    vec![
        Test::new("injected::recorded", &needs, recorded),
        Test::new("injected::error", &needs, error),
        Test::new("injected::kill", &needs, kill),
    ]
}

/// Has the agent print its version, and returns how it ended, what it printed, and the calls that were written down.
fn version(fault: Option<(Call, Fault)>) -> Result<(ExitStatus, String, Vec<String>)> {
    let netns = Netns::new("injected")?;
    let mut command = Command::new(program()?);
    command
        .arg("--version")
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let (child, injector) = Injector::spawn(&netns, &mut command, fault)?;
    let output = child.wait_with_output()?;
    let printed = String::from_utf8(output.stdout)?;
    Ok((output.status, printed, injector.end()))
}

fn print() -> Result<Call> {
    let (status, printed, kinds) = version(None)?;
    ensure!(
        status.success() && printed.starts_with("dz-agent "),
        "{status}: {printed}"
    );
    let mut writes = kinds.iter().filter(|kind| kind.starts_with("write"));
    let kind = writes
        .next_back()
        .with_context(|| format!("no write among {kinds:?}"))?;
    let number = kinds.iter().filter(|other| *other == kind).count();
    Ok(Call {
        kind: kind.clone(),
        number,
    })
}

/// What the dynamic loader calls is not the program's.
fn recorded() -> Result<()> {
    let (.., kinds) = version(None)?;
    ensure!(
        kinds.first().is_some_and(|kind| kind == "sigaltstack"),
        "{kinds:?}"
    );
    ensure!(
        !kinds.iter().any(|kind| kind.contains("libc.so")),
        "{kinds:?}"
    );
    print().map(drop)
}

/// A call that fails is not carried out.
fn error() -> Result<()> {
    let (status, printed, _) = version(Some((print()?, Fault::Error(Errno::EIO))))?;
    ensure!(printed.is_empty(), "{status}: {printed}");
    Ok(())
}

/// One after which the child is killed is.
fn kill() -> Result<()> {
    let (status, printed, _) = version(Some((print()?, Fault::Kill)))?;
    ensure!(printed.starts_with("dz-agent "), "{status}: {printed}");
    ensure!(status.signal() == Some(libc::SIGKILL), "{status}");
    Ok(())
}
