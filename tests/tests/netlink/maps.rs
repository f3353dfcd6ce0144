//! Somebody else's hands in our maps.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use dz_common::map::{PeerKey, SessionKey};
use dz_common::packet::State;
use dz_tests::bed::{self, HERE, PATIENCE, THERE};
use dz_tests::bpftool;
use dz_tests::harness::{Requirement, Test};
use dz_tests::wait::eventually;
use zerocopy::IntoBytes;

use crate::scene::{HELD_BACK, NEEDS, Scene};

pub(super) fn tests() -> Vec<Test> {
    let needs = [NEEDS[0], NEEDS[1], Requirement::Tool("bpftool")];
    vec![
        Test::new("maps::session_deleted", &needs, session_deleted),
        Test::new(
            "maps::session_deleted_on_its_way_out",
            &needs,
            on_its_way_out,
        ),
        Test::new(
            "maps::peer_deleted_and_added",
            &needs,
            peer_deleted_and_added,
        ),
    ]
}

fn pin(scene: &Scene, map: &str) -> String {
    let pin: PathBuf = scene.agent.home().pin_dir().join(map);
    pin.to_string_lossy().into_owned()
}

fn hex(bytes: &[u8]) -> Vec<String> {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bpftool(words: &[&str], bytes: &[(&str, &[u8])]) -> Result<()> {
    let mut all: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    for (name, bytes) in bytes {
        all.extend([(*name).to_owned(), "hex".to_owned()]);
        all.extend(hex(bytes));
    }
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    bpftool::json(&all).map(|_| ())
}

fn delete_session(scene: &Scene, key: &SessionKey) -> Result<()> {
    let pin = pin(scene, "dz_sessions");
    bpftool(
        &["map", "delete", "pinned", &pin],
        &[("key", key.destination().as_bytes())],
    )
}

/// Opened again, for its peer is still there; and again.
fn session_deleted() -> Result<()> {
    let mut scene = Scene::up("hand")?;
    let mut generation = 0;
    for _ in 0..3 {
        let before = bed::entry(scene.agent.home())?;
        ensure!(before.generation > generation, "{before:?}");
        generation = before.generation;
        delete_session(&scene, &before.key)?;
        scene.nudge()?;
        eventually(PATIENCE, "a session of a later generation, Up", || {
            let after = bed::entry(scene.agent.home())?;
            ensure!(
                after.generation > before.generation && after.session.state == State::Up,
                "{after:?}"
            );
            anyhow::Ok(())
        })?;
        scene.until_route(true)?;
    }
    scene.warned("somebody else has deleted the session", 3)?;
    scene.agent.cli(&["disconnect", "--all"])?;
    scene.until_nothing()
}

/// Whoever waits for its end is answered, and not before the route is gone.
fn on_its_way_out() -> Result<()> {
    let scene = Scene::up("hasty")?;
    scene.faults()?.delay_delete(HELD_BACK)?;
    std::thread::scope(|scope| -> Result<()> {
        let disconnected = scope.spawn(|| {
            scene.agent.cli(&["disconnect", "--all"])?;
            bed::route_to(&scene.bed.here, THERE)
        });
        let entry = bed::until(scene.agent.home(), State::AdminDown)?;
        delete_session(&scene, &entry.key)?;
        scene.nudge()?;
        let route = disconnected.join().ok().context("a panic")??;
        ensure!(
            route.is_empty(),
            "answered before the route was gone: {route}"
        );
        Ok(())
    })?;
    scene.faults()?.clear()?;
    scene.until_nothing()?;
    bed::connect(&scene.agent)?;
    scene.until_up()
}

fn peer_deleted_and_added() -> Result<()> {
    let scene = Scene::up("peer")?;
    let reader = dz_agent::datapath::MapReader::from_pins(scene.agent.home().pin_dir())?;
    let peers = reader.peers()?;
    let [(key, peer)] = peers.as_slice() else {
        anyhow::bail!("{} peers", peers.len());
    };
    let pin = pin(&scene, "dz_peers");
    let key: &PeerKey = key;
    bpftool(
        &["map", "delete", "pinned", &pin],
        &[("key", key.as_bytes())],
    )?;
    scene.nudge()?;
    scene.until_nothing()?;
    bed::peer_until(&scene.peer, State::Down)?;
    let shown = scene.agent.get("/v1/sessions")?;
    ensure!(shown["parked"] == serde_json::json!([]), "{shown}");

    let entry = [("key", key.as_bytes()), ("value", peer.as_bytes())];
    bpftool(&["map", "update", "pinned", &pin], &entry)?;
    scene.nudge()?;
    scene.until_up()?;
    let shown = scene.shown()?;
    ensure!(shown["local"] == HERE.to_string(), "{shown}");
    scene.agent.cli(&["disconnect", "--all"])?;
    scene.until_nothing()
}
