//! Route changes, and the last step of a disconnect, that the kernel refuses for a while.

use anyhow::{Context, Result, anyhow, ensure};
use dz_common::packet::State;
use dz_tests::bed::{self, Bed, HERE, INTERFACE, THERE};
use dz_tests::harness::Test;
use dz_tests::udp_peer::Rules;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::time::Duration;

use crate::scene::{HELD_BACK, INTERVAL_MS, NEEDS, Scene, logged, refusal};

/// Within the patience of a test only by retries: full checks alone would take 50 s.
const SEVERAL: u64 = 6;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("refused::add", &NEEDS, add),
        Test::new("refused::gateway", &NEEDS, gateway),
        Test::new("refused::delete", &NEEDS, delete),
        Test::new("refused::disconnect", &NEEDS, disconnect),
        Test::new("refused::session_delete", &NEEDS, session_delete),
        Test::new("refused::all_who_wait_are_answered", &NEEDS, all_who_wait),
        Test::new("refused::back_up_meanwhile", &NEEDS, back_up_meanwhile),
        Test::new("refused::withdraw", &NEEDS, withdraw),
    ]
}

fn add() -> Result<()> {
    let mut scene = Scene::connected("add", |_, agent| {
        agent.home().faults()?.refuse_add(Errno::ENOMEM)
    })?;
    bed::until(scene.agent.home(), State::Up)?;
    scene.until_total("install_failures", SEVERAL)?;
    scene.until_error("adding route 169.254.7.1/32")?;
    ensure!(scene.shown()?["route"]["state"] == "absent");
    scene.faults()?.clear()?;
    scene.until_route(true)?;
    scene.until_no_error()?;
    scene.warned("adding route", 1)?;
    ensure!(scene.total("installs")? == 1 && scene.total("repairs")? == 0);
    Ok(())
}

/// For real: a gateway that has become an address of this host.
fn gateway() -> Result<()> {
    let bed = Bed::new("via", Duration::ZERO)?;
    let agent = bed.agent_with_faults(INTERVAL_MS)?;
    let (here, there, via) = (HERE.to_string(), THERE.to_string(), "10.5.5.5");
    agent.cli(&["connect", &there, "--local", &here, "--via", via])?;
    bed.here.ip(&format!("address add {via}/32 dev lo"))?;
    let peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
    let mut scene = Scene { bed, agent, peer };
    scene.until_total("install_failures", SEVERAL)?;
    scene.until_error("gateway")?;
    scene.warned("adding route", 1)?;
    scene.agent.cli(&["disconnect", &there])?;
    scene.until_nothing()?;
    bed::connect(&scene.agent)?;
    scene.until_up()?;
    scene.until_no_error()
}

fn delete() -> Result<()> {
    let mut scene = Scene::up("delete")?;
    scene.faults()?.refuse_delete(Errno::EBUSY)?;
    scene.peer.admin_down(HERE);
    bed::until(scene.agent.home(), State::Down)?;
    scene.until_total("uninstall_failures", SEVERAL)?;
    scene.until_error("deleting route 169.254.7.1/32")?;
    ensure!(
        scene.shown()?["route"]["state"] == "present",
        "it is not shown as it is"
    );
    scene.faults()?.clear()?;
    scene.until_route(false)?;
    scene.until_no_error()?;
    scene.warned("deleting route", 1)?;
    scene.peer.admin_up(HERE);
    scene.until_up()
}

/// The session is over at once, whoever asked is told what is left, and that ends by itself.
fn disconnect() -> Result<()> {
    let scene = Scene::up("undone")?;
    scene.faults()?.refuse_delete(Errno::EBUSY)?;
    let there = THERE.to_string();
    let said = refusal(&scene.agent, &["disconnect", &there])?;
    for words in ["deleting route", "retried", "nothing is sent or answered"] {
        ensure!(said.contains(words), "{said}");
    }
    bed::peer_until(&scene.peer, State::Down)?;
    let entry = bed::entry(scene.agent.home())?;
    ensure!(entry.session.state == State::AdminDown, "{entry:?}");
    scene.until_error("deleting route")?;
    // What is on its way out is neither connected nor free.
    let here = HERE.to_string();
    let said = refusal(&scene.agent, &["connect", &there, "--local", &here])?;
    ensure!(said.contains("still being closed"), "{said}");
    let said = refusal(&scene.agent, &["disconnect", &there])?;
    ensure!(said.contains("not connected"), "{said}");
    scene.faults()?.clear()?;
    scene.until_nothing()?;
    bed::connect(&scene.agent)?;
    scene.until_up()
}

fn session_delete() -> Result<()> {
    let mut scene = Scene::up("step4")?;
    scene.faults()?.refuse_session_delete(Errno::EBUSY)?;
    let said = refusal(&scene.agent, &["disconnect", "--all"])?;
    ensure!(said.contains("its session is not deleted"), "{said}");
    ensure!(bed::route_to(&scene.bed.here, THERE)?.is_empty());
    let entry = bed::entry(scene.agent.home())?;
    ensure!(entry.session.state == State::AdminDown, "{entry:?}");
    scene.faults()?.clear()?;
    scene.until_nothing()?;
    scene.warned("session not deleted", 1)?;
    bed::connect(&scene.agent)?;
    scene.until_up()
}

/// A connect that comes while the peer is being disconnected takes nobody's answer away.
fn all_who_wait() -> Result<()> {
    let scene = Scene::up("waiting")?;
    scene.faults()?.delay_delete(HELD_BACK)?;
    let (here, there) = (HERE.to_string(), THERE.to_string());
    std::thread::scope(|scope| -> Result<()> {
        let disconnected = scope.spawn(|| scene.agent.cli(&["disconnect", "--all"]));
        bed::until(scene.agent.home(), State::AdminDown)?;
        let connect = ["connect", &there, "--local", &here];
        let said = refusal(&scene.agent, &connect)?;
        ensure!(said.contains("still being closed"), "{said}");
        let said = disconnected.join().map_err(|_| anyhow!("panic"))?;
        said.context("the first one's answer")?;
        Ok(())
    })?;
    scene.until_nothing()
}

/// What is wanted by then counts, not what was refused.
fn back_up_meanwhile() -> Result<()> {
    let scene = Scene::up("flip")?;
    scene.faults()?.refuse_delete(Errno::EBUSY)?;
    for _ in 0..2 {
        scene.peer.admin_down(HERE);
        bed::until(scene.agent.home(), State::Down)?;
        scene.until_error("deleting route")?;
        scene.peer.admin_up(HERE);
        bed::until(scene.agent.home(), State::Up)?;
        scene.until_no_error()?;
    }
    scene.faults()?.clear()?;
    let route = bed::route_to(&scene.bed.here, THERE)?;
    ensure!(!route.is_empty(), "withdrawn late, of a session that is Up");
    ensure!(scene.total("withdraws")? == 0 && scene.total("installs")? == 1);
    Ok(())
}

/// On SIGTERM, for as long as it is patient: a session's route, and one of our number that no session has.
/// Everything is withdrawn only if the kernel has none of them.
fn withdraw() -> Result<()> {
    let mut scene = Scene::up("sigterm")?;
    scene.faults()?.refuse_delete(Errno::EBUSY)?;
    let stray = format!("route add 10.7.9.9/32 dev {INTERFACE} proto 144");
    scene.bed.here.ip(&stray)?;
    logged(&mut scene.agent, "deleting route 10.7.9.9/32")?;
    let process = scene.agent.process();
    process.signal(Signal::SIGTERM)?;
    let status = process.wait()?;
    let log = process.log();
    ensure!(status.code() == Some(1), "{status}: {log}");
    ensure!(log.contains("routes not withdrawn: 2 ("), "{log}");
    ensure!(!log.contains("everything withdrawn"), "{log}");
    let left = scene.bed.here.ip("route show proto 144")?;
    ensure!(left.lines().count() == 2, "{left}");
    Ok(())
}
