//! Standard error that nobody reads.

use anyhow::{Context, Result, ensure};
use dz_tests::agent::Agent;
use dz_tests::bed::{HERE, INTERFACE};
use dz_tests::harness::Test;
use nix::sys::signal::Signal;

use crate::scene::{Belongings, NEEDS, Scene};

/// Runs the rest of the command line with standard error in a pipe that is full, and that nobody reads although
/// its other end is open.
const UNREAD: &str =
    "mkfifo \"$0\" && exec 2<>\"$0\" && rm \"$0\" && head -c 65536 /dev/zero >&2 && exec \"$@\"";

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("log::nobody_reads", &NEEDS, nobody_reads),
        Test::new("log::nobody_reads_a_refusal", &NEEDS, refused),
    ]
}

fn with_unread<T>(body: impl FnOnce(&[&str]) -> Result<T>) -> Result<T> {
    let folder = tempfile::tempdir()?;
    let pipe = folder.path().join("unread");
    body(&["sh", "-c", UNREAD, pipe.to_str().context("a path")?])
}

/// The agent starts, its sessions come up, routes follow, and it ends as it is told to.
fn nobody_reads() -> Result<()> {
    let scene = Scene::new("unread", 2)?;
    let arguments = ["--interface", INTERFACE, "--log-level", "debug"];
    let slowly = ["--tx-interval", "3s", "--rx-interval", "3s"];
    let arguments = [&arguments[..], &slowly, &["--detect-mult", "10"]].concat();
    let agent = with_unread(|unread| Agent::start_by(unread, &scene.bed.here, &arguments))?;
    let local = HERE.to_string();
    for (address, _) in &scene.peers {
        agent.cli(&["connect", &address.to_string(), "--local", &local])?;
    }
    scene.until_up()?;
    let belongings = Belongings::of(&agent, &scene.bed)?;
    agent.end(Signal::SIGTERM)?;
    let routes = scene.bed.here.ip("route show proto 144")?;
    ensure!(routes.is_empty(), "left behind: {routes}");
    scene.told(belongings.since_ns)
}

/// An agent that cannot start ends, although nobody reads why.
fn refused() -> Result<()> {
    let scene = Scene::new("unsaid", 0)?;
    let arguments = ["--interface", "lo"];
    let refused = with_unread(|unread| Agent::start_by(unread, &scene.bed.here, &arguments));
    let error = refused.err().context("it serves the loopback interface")?;
    ensure!(
        format!("{error:#}").contains("has ended: exit status: 5"),
        "{error:#}"
    );
    Ok(())
}
