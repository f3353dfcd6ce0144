//! Programs of an agent whose pins are elsewhere, or on a BPF file system that is gone from sight: they are found on the
//! interface.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use dz_tests::agent::{Agent, Home, program};
use dz_tests::attached;
use dz_tests::bed::{self, Bed, INTERFACE, THERE};
use dz_tests::bpffs;
use dz_tests::harness::Test;
use dz_tests::netns::Netns;
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;

use crate::scene::{INTERVAL_MS, NEEDS_TCX, Scene, start, until_up};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("elsewhere::other_pins", &NEEDS_TCX, other_pins),
        Test::new("elsewhere::purged", &NEEDS_TCX, purged),
        Test::new("elsewhere::of_an_agent", &NEEDS_TCX, of_an_agent),
        Test::new("elsewhere::private_bpffs", &NEEDS_TCX, private_bpffs),
    ]
}

/// A start with another pin directory takes off what a dead agent has left, and serves.
fn other_pins() -> Result<()> {
    let scene = Scene::new("pins")?;
    let _left = scene.agent.crash()?;
    let mut agent = start(Home::new()?, &scene.bed)?;
    ensure!(attached::programs(&scene.bed.here, INTERFACE)? == 2);
    let log = agent.process().log();
    ensure!(log.matches("taken off").count() == 2, "{log}");
    bed::connect(&agent)?;
    until_up(&agent)
}

/// `purge` finds programs and routes without their pins.
fn purged() -> Result<()> {
    let scene = Scene::new("purged")?;
    let here = &scene.bed.here;
    bed::until_route(here, THERE, true)?;
    let _left = scene.agent.crash()?;
    let said = command(here, "purge", &Home::new()?)?;
    let text = String::from_utf8_lossy(&said.stdout);
    ensure!(said.status.success(), "{said:?}");
    let route = format!("removed route {THERE}/32 dev {INTERFACE}\n");
    ensure!(text.contains(&route), "{text}");
    ensure!(text.matches("(its pin is not here)").count() == 2, "{text}");
    attached::until(here, INTERFACE, 0)?;
    bed::until_route(here, THERE, false)
}

/// What an agent that runs has pinned elsewhere stays: the interface is locked.
fn of_an_agent() -> Result<()> {
    let scene = Scene::new("locked")?;
    for verb in ["prepare", "purge"] {
        let said = command(&scene.bed.here, verb, &Home::new()?)?;
        ensure!(said.status.code() == Some(6), "{verb}: {said:?}");
    }
    ensure!(attached::programs(&scene.bed.here, INTERFACE)? == 2);
    until_up(&scene.agent)
}

/// A BPF file system that ends with the agent's mount namespace is said to.
fn private_bpffs() -> Result<()> {
    let bed = Bed::new("private", std::time::Duration::ZERO)?;
    let _peer = bed.peer(dz_tests::udp_peer::Rules::Deployed, INTERVAL_MS)?;
    let mount = format!("mount -t bpf bpf {} && exec \"$@\"", bpffs::ROOT);
    let wrapper = ["unshare", "--mount", "sh", "-c", &mount, "sh"];
    let interval = format!("{INTERVAL_MS}ms");
    let options = ["--interface", INTERFACE, "--tx-interval", &interval];
    let mut agent = Agent::start_by(&wrapper, &bed.here, &options)?;
    bed::connect(&agent)?;
    until_up(&agent)?;
    bed::until_route(&bed.here, THERE, true)?;
    let status = agent.get("/v1/status")?;
    let warned = status["warnings"].to_string();
    ensure!(warned.contains("mount namespace alone"), "{warned}");
    agent.process().signal(Signal::SIGUSR2)?;
    let ended = agent.process().wait()?;
    ensure!(ended.success(), "{ended}");
    let log = agent.process().log();
    ensure!(log.contains("the kernel part ends"), "{log}");
    ensure!(!log.contains("goes on"), "{log}");
    attached::until(&bed.here, INTERFACE, 0)?;
    // What is left is the route, and `purge` knows.
    let said = command(&bed.here, "purge", agent.home())?;
    ensure!(said.status.success(), "{said:?}");
    eventually(bed::PATIENCE, "no route", || {
        let route = bed::route_to(&bed.here, THERE)?;
        ensure!(route.is_empty(), "{route}");
        anyhow::Ok(())
    })
}

/// Runs a command in the namespace, with the pin directory of a home.
fn command(netns: &Netns, verb: &str, home: &Home) -> Result<Output> {
    let mut command = Command::new(program()?);
    command.arg(verb).arg("--pin-dir").arg(home.pin_dir());
    if verb == "prepare" {
        command.arg("--state-dir").arg(home.state_dir());
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = netns.spawn(&mut command)?;
    child
        .wait_with_output()
        .with_context(|| format!("dz-agent {verb}"))
}
