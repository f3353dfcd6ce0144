//! Routes of ours that somebody else deletes or changes: put back, and counted. What we do ourselves,
//! and what the kernel flushes with an interface or an address, is not.

use anyhow::{Result, ensure};
use dz_tests::bed::{self, HERE, INTERFACE, PATIENCE, THERE};
use dz_tests::harness::Test;
use dz_tests::wait::eventually;

use crate::scene::{NEEDS, Scene};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("repair::deleted", &NEEDS, deleted),
        Test::new("repair::changed", &NEEDS, changed),
        Test::new("repair::flushed", &NEEDS, flushed),
        Test::new("repair::not_of_our_own_doing", &NEEDS, not_of_our_own_doing),
        Test::new("repair::uninvited", &NEEDS, uninvited),
    ]
}

fn until_repairs(scene: &Scene, repairs: u64) -> Result<()> {
    scene.until_total("repairs", repairs)?;
    scene.until_route(true)?;
    let counted = scene.total("repairs")?;
    ensure!(counted == repairs, "{counted} repairs, {repairs} were due");
    Ok(())
}

fn deleted() -> Result<()> {
    let mut scene = Scene::up("repair")?;
    for repairs in 1..=3 {
        scene
            .bed
            .here
            .ip(&format!("route delete {THERE}/32 proto 144"))?;
        until_repairs(&scene, repairs)?;
    }
    scene.warned("route put back", 3)?;
    let counters = scene.agent.cli(&["counters"])?;
    ensure!(counters.contains("route_repairs"), "{counters}");
    Ok(())
}

fn changed() -> Result<()> {
    let scene = Scene::up("changed")?;
    let before = bed::route_to(&scene.bed.here, THERE)?;
    let changes = ["", "src 127.0.0.1", "src 127.0.0.1 via 169.254.7.9 onlink"];
    for (change, repairs) in changes.iter().zip(1..) {
        let change = format!("route change {THERE}/32 dev {INTERFACE} proto 144 {change}");
        scene.bed.here.ip(&change)?;
        until_repairs(&scene, repairs)?;
        eventually(PATIENCE, "the route as it was", || {
            let after = bed::route_to(&scene.bed.here, THERE)?;
            ensure!(after == before, "{after}");
            anyhow::Ok(())
        })?;
    }
    Ok(())
}

fn flushed() -> Result<()> {
    let scene = Scene::up("flush")?;
    let before = bed::entry(scene.agent.home())?.session;
    // Of the main table, that of the interface's own prefix goes, too.
    for flush in ["route flush proto 144", "route flush table main"] {
        let repairs = scene.total("repairs")?;
        scene.bed.here.ip(flush)?;
        scene.until_total("repairs", repairs + 1)?;
        scene.until_route(true)?;
        // `ip` looks again until it finds nothing, so that we may meet it several times, until the session is held; its
        // end installs the route once more.
        eventually(
            PATIENCE,
            "each installation but the first a repair, or a hold's end",
            || {
                let (installs, repairs) = (scene.total("installs")?, scene.total("repairs")?);
                let holds = scene.total("holds")?;
                ensure!(
                    installs == 1 + repairs + holds,
                    "{installs} installations, {repairs} repairs, {holds} holds"
                );
                anyhow::Ok(())
            },
        )?;
    }
    let after = bed::entry(scene.agent.home())?.session;
    ensure!(after.transitions == before.transitions, "{after:?}");
    Ok(())
}

fn not_of_our_own_doing() -> Result<()> {
    let mut scene = Scene::up("ours")?;
    let installs = scene.total("installs")?;
    // The kernel flushes the route, which nobody is told of.
    scene.bed.here.ip(&format!("link set {INTERFACE} down"))?;
    scene.bed.here.ip(&format!("link set {INTERFACE} up"))?;
    scene.until_total("installs", installs + 1)?;
    scene.until_up()?;
    let installs = scene.total("installs")?;
    scene
        .bed
        .here
        .ip(&format!("address delete {HERE}/31 dev {INTERFACE}"))?;
    scene
        .bed
        .here
        .ip(&format!("address add {HERE}/31 dev {INTERFACE} scope link"))?;
    scene.until_total("installs", installs + 1)?;
    scene.until_up()?;
    // We ourselves.
    scene.peer.admin_down(HERE);
    scene.until_route(false)?;
    scene.peer.admin_up(HERE);
    scene.until_up()?;
    scene.agent.cli(&["disconnect", "--all"])?;
    bed::connect(&scene.agent)?;
    scene.until_up()?;
    ensure!(
        scene.total("repairs")? == 0,
        "{} repairs",
        scene.total("repairs")?
    );
    scene.warned("route put back", 0)?;
    Ok(())
}

/// A route under our number to a peer that is Down, or to nobody's, does not stay.
fn uninvited() -> Result<()> {
    let scene = Scene::up("uninvited")?;
    scene.peer.admin_down(HERE);
    scene.until_route(false)?;
    let add = |dst: &str| {
        let line = format!("route add {dst}/32 dev {INTERFACE} proto 144");
        scene.bed.here.ip(&line)
    };
    add(&THERE.to_string())?;
    scene.until_route(false)?;
    add("10.1.2.3")?;
    eventually(PATIENCE, "nobody's route gone", || {
        let left = scene.bed.here.ip("route show proto 144")?;
        ensure!(left.is_empty(), "{left}");
        anyhow::Ok(())
    })?;
    ensure!(scene.total("repairs")? == 0);
    Ok(())
}
