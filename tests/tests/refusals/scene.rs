//! An agent that is refused: how it is started, what it may say, and what it may not leave.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use dz_tests::agent::{Home, program};
use dz_tests::attached;
use dz_tests::bed::INTERFACE;
use dz_tests::harness::Requirement;
use dz_tests::netns::Netns;

/// What every test here needs.
pub(crate) const NEEDS: [Requirement; 2] = [Requirement::Root, Requirement::Tun];

/// `dz-agent run` as it will be refused: in a home, on an interface.
pub(crate) fn agent_run(home: &Home, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(program()?);
    run_arguments(&mut command, home, arguments);
    Ok(command)
}

/// The same, started through another program.
pub(crate) fn agent_run_by<S: AsRef<OsStr>>(
    wrapper: &[S],
    agent: &Path,
    home: &Home,
    arguments: &[&str],
) -> Result<Command> {
    let (first, rest) = wrapper.split_first().context("a wrapper")?;
    let mut command = Command::new(first);
    command.args(rest).arg(agent);
    run_arguments(&mut command, home, arguments);
    Ok(command)
}

fn run_arguments(command: &mut Command, home: &Home, arguments: &[&str]) {
    command.arg("--socket").arg(home.socket()).arg("run");
    command.arg("--pin-dir").arg(home.pin_dir());
    command.arg("--state-dir").arg(home.state_dir());
    command.args(arguments);
}

/// Exactly one line on standard error, with these words in it, and this exit code. Returns it.
pub(crate) fn refused(output: &Output, code: i32, words: &[&str]) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{}: {}", output.status, said.trim_end());
    ensure!(
        output.status.code() == Some(code),
        "{}, expected {code}: {said}",
        output.status
    );
    ensure!(
        said.lines().count() == 1 && said.starts_with("dz-agent: "),
        "not one clear line: {said:?}"
    );
    for word in words {
        ensure!(said.contains(word), "no {word:?} in: {said}");
    }
    ensure!(output.stdout.is_empty(), "{output:?}");
    Ok(said)
}

/// Nothing of an agent that never ran: no pins, no socket, no programs, no routes.
pub(crate) fn nothing_left(home: &Home, netns: &Netns) -> Result<()> {
    let pins = std::fs::read_dir(home.pin_dir()).map_or(0, Iterator::count);
    ensure!(pins == 0, "{pins} pins are left");
    ensure!(!home.socket().exists(), "the socket is left");
    if netns.ifindex(INTERFACE).is_ok() {
        let programs = attached::programs(netns, INTERFACE)?;
        ensure!(programs == 0, "{programs} programs are left");
    }
    let routes = netns.ip("route show proto 144")?;
    ensure!(routes.is_empty(), "left behind: {routes}");
    Ok(())
}
