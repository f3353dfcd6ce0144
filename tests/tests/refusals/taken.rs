//! What another agent has already: interface, pins, socket. Ports are no reason to refuse: see
//! `interfaces` and `sessions`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use dz_tests::agent::{Agent, Home, program};
use dz_tests::attached;
use dz_tests::bed::INTERFACE;
use dz_tests::harness::Test;
use dz_tests::netns::Netns;
use dz_tests::tun::Tun;

use crate::scene::{NEEDS, agent_run, refused};

const OTHER: &str = "doublezero1";
const NO_METRICS: [&str; 2] = ["--metrics-listen", "off"];

pub(super) fn tests() -> Vec<Test> {
    vec![Test::new(
        "taken::by_another_agent",
        &NEEDS,
        by_another_agent,
    )]
}

/// A first agent has interface, pin directory and socket; a second one wants one of each.
fn by_another_agent() -> Result<()> {
    let netns = Netns::new("second")?;
    let _tun = Tun::new(&netns, INTERFACE, &["169.254.7.0/31"])?;
    let _other = Tun::new(&netns, OTHER, &["169.254.8.0/31"])?;
    let mut first = Agent::start(&netns, &["--interface", INTERFACE])?;
    let pid = format!("process {}", first.process().pid());
    let before = std::fs::read_dir(first.home().pin_dir())?.count();

    let home = Home::new()?;
    let mut second = agent_run(&home, &["--interface", INTERFACE])?;
    second.args(NO_METRICS);
    refused(&netns.output(&mut second)?, 6, &[INTERFACE, &pid])?;
    empty(&home)?;

    // One of the first agent's, the other one of our own.
    let second = |socket: PathBuf, pins: &Path| -> Result<Command> {
        let mut command = Command::new(program()?);
        command.arg("--socket").arg(socket).arg("run");
        command.arg("--pin-dir").arg(pins);
        command.arg("--state-dir").arg(home.state_dir());
        command.args(["--interface", OTHER]).args(NO_METRICS);
        Ok(command)
    };
    let mut same_pins = second(home.socket(), first.home().pin_dir())?;
    refused(
        &netns.output(&mut same_pins)?,
        6,
        &["pin directory", "--pin-dir", &pid],
    )?;
    let mut same_socket = second(first.home().socket(), home.pin_dir())?;
    refused(
        &netns.output(&mut same_socket)?,
        6,
        &["agent.sock", "--socket"],
    )?;
    empty(&home)?;
    ensure!(attached::programs(&netns, OTHER)? == 0, "programs are left");

    // The first one has lost nothing.
    let after = std::fs::read_dir(first.home().pin_dir())?.count();
    ensure!(after == before, "{before} pins, then {after}");
    ensure!(attached::programs(&netns, INTERFACE)? == 2);
    first.cli(&["sessions"])?;
    Ok(())
}

fn empty(home: &Home) -> Result<()> {
    let pins = std::fs::read_dir(home.pin_dir()).map_or(0, Iterator::count);
    ensure!(pins == 0, "{pins} pins are left");
    ensure!(!home.socket().exists(), "the socket is left");
    Ok(())
}
