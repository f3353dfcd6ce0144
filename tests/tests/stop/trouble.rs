//! SIGTERM when not all is well.

use anyhow::{Context, Result, ensure};
use dz_tests::agent::Home;
use dz_tests::bed::{self, Bed, INTERFACE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::tun::Tun;
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;

use crate::scene::{Belongings, NEEDS, Scene};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("trouble::interface_never_there", &NEEDS, never_there),
        Test::new("trouble::interface_gone", &NEEDS, gone),
    ]
}

/// One interface of two does not exist.
fn never_there() -> Result<()> {
    let scene = Scene::new("wait", 2)?;
    let agent = scene.agent(&["--interface", "doublezero1"])?;
    let belongings = Belongings::of(&agent, &scene.bed)?;
    let home = agent.end(Signal::SIGTERM)?;
    belongings.are_gone(&home, &scene.bed)?;
    scene.told(belongings.since_ns)
}

/// The interface was deleted, and its peers are parked: they go as well.
fn gone() -> Result<()> {
    let scene = Scene::new("gone", 2)?;
    let second = Tun::new(&scene.bed.here, "doublezero1", &["169.254.8.0/31"])?;
    let agent = scene.agent(&["--interface", "doublezero1"])?;
    let belongings = Belongings::of(&agent, &scene.bed)?;
    let Bed { here, there, wire } = scene.bed;
    drop(wire);
    eventually(PATIENCE, "parked sessions", || {
        let left = bed::entries(agent.home())?;
        ensure!(left.is_empty(), "{} sessions", left.len());
        anyhow::Ok(())
    })?;
    let home: Home = agent.end(Signal::SIGTERM)?;
    belongings.nothing_in_the_kernel()?;
    ensure!(!home.socket().exists(), "the socket is left");
    drop(second);
    // Created anew, it has nothing on it, and no agent comes back to it.
    let bed = Bed::join(here, there)?;
    let shown = bed.here.ip("route show proto 144")?;
    ensure!(shown.is_empty(), "{shown}");
    let attached = dz_tests::attached::programs(&bed.here, INTERFACE)?;
    ensure!(attached == 0, "{attached} programs");
    scene.peers.first().context("no peer").map(|_| ())
}
