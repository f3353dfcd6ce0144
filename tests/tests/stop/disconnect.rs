//! `disconnect`: done when the reply comes.

use anyhow::{Result, ensure};
use dz_tests::bed;
use dz_tests::harness::Test;
use dz_tests::wait::{holds, monotonic_ns};
use dz_tests::wire::Direction;

use crate::scene::{NEEDS, Scene};

/// Long enough for a packet that somebody still has in store.
const AFTERWARDS: std::time::Duration = std::time::Duration::from_secs(2);

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("disconnect::one", &NEEDS, one),
        Test::new("disconnect::all", &NEEDS, all),
    ]
}

fn one() -> Result<()> {
    let scene = Scene::new("bye", 2)?;
    let agent = scene.agent(&[])?;
    let before_ns = monotonic_ns();
    let (gone, stays) = (scene.peers[0].0, scene.peers[1].0);
    agent.cli(&["disconnect", &gone.to_string()])?;
    // All of it is done when the reply comes: no waiting here.
    let route = bed::route_to(&scene.bed.here, gone)?;
    ensure!(route.is_empty(), "after the reply: {route}");
    let entries = bed::entries(agent.home())?;
    ensure!(
        entries.len() == 1 && entries[0].key.peer == stays.octets(),
        "{entries:?}"
    );
    let scene = Scene {
        peers: scene.peers.into_iter().take(1).collect(),
        ..scene
    };
    scene.told(before_ns)?;
    ensure!(!bed::route_to(&scene.bed.here, stays)?.is_empty());
    Ok(())
}

fn all() -> Result<()> {
    let scene = Scene::new("byes", 5)?;
    let agent = scene.agent(&[])?;
    let before_ns = monotonic_ns();
    agent.cli(&["disconnect", "--all"])?;
    let routes = scene.bed.here.ip("route show proto 144")?;
    ensure!(routes.is_empty(), "after the reply: {routes}");
    ensure!(bed::entries(agent.home())?.is_empty(), "a session is left");
    scene.told(before_ns)?;
    // The peers go on asking; nobody answers.
    let sent = bed::liveness(&scene.bed.wire, Direction::AToB).len();
    holds(AFTERWARDS, "silence", || {
        let now = bed::liveness(&scene.bed.wire, Direction::AToB).len();
        ensure!(now == sent, "{} packets", now - sent);
        anyhow::Ok(())
    })
}
