//! Somebody else's route to a peer: never touched, shown, and ours follows when it goes.

use anyhow::{Result, ensure};
use dz_common::packet::State;
use dz_tests::bed::{self, INTERFACE, PATIENCE, THERE};
use dz_tests::harness::Test;
use dz_tests::wait::eventually;

use crate::scene::{NEEDS, Scene};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("conflict::before_ours", &NEEDS, before_ours),
        Test::new("conflict::in_place_of_ours", &NEEDS, in_place_of_ours),
        Test::new("conflict::other_metric", &NEEDS, other_metric),
    ]
}

fn theirs(scene: &Scene) -> Result<String> {
    let shown = scene.bed.here.ip(&format!("route show exact {THERE}"))?;
    Ok(shown.trim().to_owned())
}

fn until_conflict(scene: &Scene, protocol: u64) -> Result<()> {
    eventually(PATIENCE, "a conflict", || {
        let shown = scene.shown()?;
        let route = &shown["route"];
        ensure!(
            route["state"] == "foreign" && route["protocol"] == protocol,
            "{shown}"
        );
        let conflicts = scene.total("conflicts")?;
        ensure!(conflicts == 1, "{conflicts} conflicts");
        anyhow::Ok(())
    })?;
    scene.until_error("remove it")
}

fn before_ours() -> Result<()> {
    let mut scene = Scene::connected("foreign", |bed, _| {
        let route = format!("route add {THERE}/32 dev {INTERFACE} proto static");
        bed.here.ip(&route).map(|_| ())
    })?;
    let before = theirs(&scene)?;
    bed::until(scene.agent.home(), State::Up)?;
    until_conflict(&scene, 4)?;
    scene.until_total("install_failures", 6)?;
    let after = theirs(&scene)?;
    ensure!(before == after, "{before}, then {after}");
    scene.warned("adding route", 1)?;

    scene
        .bed
        .here
        .ip(&format!("route delete {THERE}/32 proto static"))?;
    scene.until_route(true)?;
    scene.until_no_error()?;
    ensure!(scene.total("conflicts")? == 0 && scene.total("repairs")? == 0);
    Ok(())
}

/// `ip route change` without a protocol makes our route theirs.
fn in_place_of_ours() -> Result<()> {
    let scene = Scene::up("stolen")?;
    scene
        .bed
        .here
        .ip(&format!("route change {THERE}/32 dev {INTERFACE}"))?;
    let before = theirs(&scene)?;
    until_conflict(&scene, 3)?;
    // Nor does a disconnect touch it.
    scene.agent.cli(&["disconnect", "--all"])?;
    ensure!(
        theirs(&scene)? == before,
        "{before}, then {}",
        theirs(&scene)?
    );
    bed::connect(&scene.agent)?;
    until_conflict(&scene, 3)?;
    scene.bed.here.ip(&format!("route delete {THERE}/32"))?;
    scene.until_up()?;
    scene.until_no_error()?;
    ensure!(scene.total("conflicts")? == 0);
    Ok(())
}

/// Side by side with ours: nobody's business.
fn other_metric() -> Result<()> {
    let scene = Scene::up("metric")?;
    let route = format!("{THERE}/32 dev {INTERFACE} proto static metric 50");
    scene.bed.here.ip(&format!("route add {route}"))?;
    scene
        .bed
        .here
        .ip(&format!("route change {route} mtu 1300"))?;
    scene.nudge()?;
    scene.agent.cli(&["disconnect", "--all"])?;
    let left = theirs(&scene)?;
    ensure!(
        left.contains("metric 50") && left.lines().count() == 1,
        "{left}"
    );
    bed::connect(&scene.agent)?;
    scene.until_up()?;
    ensure!(scene.total("conflicts")? == 0 && scene.total("repairs")? == 0);
    ensure!(scene.total("install_failures")? == 0);
    Ok(())
}
