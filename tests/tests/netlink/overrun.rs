//! What the agent was not told, or could not read: it says so, reads again, and puts things right.

use std::io::Write;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_tests::bed::{self, HERE, INTERFACE, PATIENCE, THERE};
use dz_tests::harness::Test;
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::scene::{NEEDS, Scene, logged};

/// More notifications than the socket's buffer holds.
const CHANGES: u32 = 60_000;
/// Far more than are read again at once.
const DUMPS: u32 = 100_000;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("overrun::notifications", &NEEDS, notifications),
        Test::new("overrun::dumps_interrupted", &NEEDS, dumps_interrupted),
    ]
}

fn missed(scene: &Scene, name: &str) -> Result<u64> {
    let counters = scene.agent.get("/v1/counters")?;
    counters["agent"][name].as_u64().context("not counted")
}

fn notifications() -> Result<()> {
    let mut scene = Scene::up("overrun")?;
    let before = bed::entry(scene.agent.home())?.session;
    let mut batch = tempfile::NamedTempFile::new()?;
    for i in 0..CHANGES {
        writeln!(
            batch,
            "route add {} dev lo",
            Ipv4Addr::from(0xac10_0000 + i)
        )?;
    }
    scene.agent.process().freeze()?;
    let path = batch.path().display().to_string();
    scene.bed.here.ip(&format!("-batch {path}"))?;
    // Nobody will be told of this one.
    scene
        .bed
        .here
        .ip(&format!("route delete {THERE}/32 proto 144"))?;
    scene.agent.process().signal(Signal::SIGCONT)?;
    scene.until_route(true)?;
    ensure!(missed(&scene, "notification_overruns")? >= 1);
    logged(&mut scene.agent, "notifications lost")?;
    // And the stream goes on.
    let repairs = scene.total("repairs")?;
    scene
        .bed
        .here
        .ip(&format!("route delete {THERE}/32 proto 144"))?;
    scene.until_total("repairs", repairs + 1)?;
    scene.until_route(true)?;
    let after = bed::entry(scene.agent.home())?.session;
    ensure!(after.transitions == before.transitions, "{after:?}");
    Ok(())
}

fn dumps_interrupted() -> Result<()> {
    let mut scene = Scene::up("dump")?;
    let status = |scene: &Scene| -> Result<Value> { scene.agent.get("/v1/status") };
    ensure!(status(&scene)?["check_error"].is_null());
    scene.faults()?.interrupt_dumps(DUMPS)?;
    // The kernel flushes the route without a word: only reading the table shows it.
    scene.bed.here.ip(&format!("link set {INTERFACE} down"))?;
    scene.bed.here.ip(&format!("link set {INTERFACE} up"))?;
    eventually(PATIENCE, "several failed checks", || {
        let failed = missed(&scene, "checks_failed")?;
        ensure!(failed >= 6, "{failed}");
        let status = status(&scene)?;
        let error = status["check_error"].as_str().unwrap_or_default();
        ensure!(error.contains("kept changing"), "{status}");
        anyhow::Ok(())
    })?;
    ensure!(
        bed::route_to(&scene.bed.here, THERE)?.is_empty(),
        "read after all?"
    );
    // A state change needs no dump.
    scene.peer.admin_down(HERE);
    bed::until(scene.agent.home(), State::Down)?;
    scene.peer.admin_up(HERE);
    scene.until_up()?;

    scene.bed.here.ip(&format!("link set {INTERFACE} down"))?;
    scene.bed.here.ip(&format!("link set {INTERFACE} up"))?;
    scene.faults()?.clear()?;
    scene.until_up()?;
    eventually(PATIENCE, "a check that reads everything", || {
        let status = status(&scene)?;
        ensure!(status["check_error"].is_null(), "{status}");
        anyhow::Ok(())
    })?;
    // Once for what could not be read first, whichever that was, and for what then.
    let log = scene.agent.process().log();
    let about = |line: &&str| line.contains("WARN") && line.contains("full check");
    let warnings = log.lines().filter(about).count();
    ensure!(
        warnings <= 4,
        "{warnings} lines for two errors in two rounds"
    );
    ensure!(scene.total("repairs")? == 0);
    Ok(())
}
