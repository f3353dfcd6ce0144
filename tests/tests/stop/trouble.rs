//! SIGTERM when not all is well.

use anyhow::{Context, Result, ensure};
use dz_tests::agent::{Agent, Home};
use dz_tests::attached;
use dz_tests::bed::{self, Bed, HERE, INTERFACE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::tun::Tun;
use dz_tests::wait::eventually;
use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::NEEDS;
use crate::scene::{ARGUMENTS, Belongings, Scene};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("trouble::interface_never_there", &NEEDS, never_there),
        Test::new("trouble::interface_gone", &NEEDS, gone),
        Test::new("trouble::routes_stay", &NEEDS, || routes_stay(false)),
        Test::new("trouble::routes_stay_after_a_takeover", &NEEDS, || {
            routes_stay(true)
        }),
        Test::new("trouble::start_that_fails", &NEEDS, start_that_fails),
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
    let programs = attached::programs(&bed.here, INTERFACE)?;
    ensure!(programs == 0, "{programs} programs");
    scene.peers.first().context("no peer").map(|_| ())
}

/// Routes that cannot be deleted are named, with what does it; all else goes, and peers are told at
/// once. The next start deletes them.
fn routes_stay(taken_over: bool) -> Result<()> {
    const PEERS: u8 = 3;
    let scene = Scene::new("stuck", PEERS)?;
    let mut agent = scene.agent_with_faults()?;
    if taken_over {
        let home = agent.end(Signal::SIGUSR2)?;
        agent = Agent::start_with_faults(home, &scene.bed.here, &ARGUMENTS)?;
    }
    let belongings = Belongings::of(&agent, &scene.bed)?;
    agent.home().faults()?.refuse_delete(Errno::EPERM)?;
    agent.process().signal(Signal::SIGTERM)?;
    scene.told(belongings.since_ns)?;
    let status = agent.process().wait()?;
    ensure!(status.code() == Some(1), "{status}");
    let log = agent.process().log();
    let last = log.lines().last().unwrap_or_default();
    ensure!(
        last.contains("3 routes could not be withdrawn")
            && last.contains("ip route flush proto 144"),
        "{log}"
    );
    let home = agent.crash()?;
    let left = scene.bed.here.ip("route show proto 144")?;
    ensure!(left.lines().count() == usize::from(PEERS), "{left}");
    ensure!(attached::programs(&scene.bed.here, INTERFACE)? == 0);
    belongings.nothing_in_the_kernel()?;

    let agent = scene.start(home, &[])?;
    eventually(PATIENCE, "no routes", || {
        let left = scene.bed.here.ip("route show proto 144")?;
        ensure!(left.is_empty(), "{left}");
        anyhow::Ok(())
    })?;
    agent.end(Signal::SIGTERM).map(|_| ())
}

/// A start that cannot serve one of its interfaces leaves alone what an earlier agent has left.
fn start_that_fails() -> Result<()> {
    const PEERS: u8 = 2;
    let scene = Scene::new("fails", PEERS)?;
    let agent = scene.agent(&[])?;
    let belongings = Belongings::of(&agent, &scene.bed)?;
    let home = agent.end(Signal::SIGUSR2)?;
    let mut arguments = ARGUMENTS.to_vec();
    arguments.extend(["--interface", "lo"]);
    let mut agent = Agent::spawn_in(home, &scene.bed.here, &arguments)?;
    let status = agent.process().wait()?;
    ensure!(status.code() == Some(5), "{status}");
    let home = agent.crash()?;
    belongings.are_there(&scene.bed, usize::from(PEERS))?;
    let agent = scene.start(home, &[])?;
    scene.until_up()?;
    for (_, peer) in &scene.peers {
        let ups = peer.session(HERE).context("no session")?.session.ups;
        ensure!(ups == 1, "{ups} times Up");
    }
    agent.end(Signal::SIGTERM).map(|_| ())
}
