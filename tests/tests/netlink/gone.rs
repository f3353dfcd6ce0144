//! The interface is deleted in the middle of everything.

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::packet::State;
use dz_tests::bed::{self, Bed, PATIENCE, THERE};
use dz_tests::harness::Test;
use dz_tests::wait::eventually;
use nix::errno::Errno;

use crate::scene::{HELD_BACK, NEEDS, Scene, refusal};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("gone::while_disconnecting", &NEEDS, while_disconnecting),
        Test::new("gone::after_a_refusal", &NEEDS, after_a_refusal),
        Test::new("gone::then_disconnected", &NEEDS, then_disconnected),
    ]
}

/// Both ends with new indices, and a session that comes Up over them.
fn comes_back(scene: Scene) -> Result<()> {
    let Scene { bed, agent, peer } = scene;
    let Bed { here, there, wire } = bed;
    drop(wire);
    let bed = Bed::join(here, there)?;
    let scene = Scene { bed, agent, peer };
    eventually(PATIENCE, "an agent that serves the new interface", || {
        bed::connect(&scene.agent)
    })?;
    scene.until_up()
}

fn delete_interface(scene: &Scene) -> Result<()> {
    scene.bed.here.ip("link delete doublezero0").map(|_| ())
}

fn while_disconnecting() -> Result<()> {
    let scene = Scene::up("middle")?;
    scene.faults()?.delay_delete(HELD_BACK)?;
    std::thread::scope(|scope| -> Result<()> {
        let disconnected = scope.spawn(|| scene.agent.cli(&["disconnect", "--all"]));
        bed::until(scene.agent.home(), State::AdminDown)?;
        delete_interface(&scene)?;
        disconnected.join().ok().context("a panic")??;
        Ok(())
    })?;
    scene.until_nothing()?;
    scene.faults()?.clear()?;
    comes_back(scene)
}

fn after_a_refusal() -> Result<()> {
    let scene = Scene::up("refused")?;
    scene.faults()?.refuse_delete(Errno::EBUSY)?;
    refusal(&scene.agent, &["disconnect", "--all"])?;
    delete_interface(&scene)?;
    scene.faults()?.clear()?;
    scene.until_nothing()?;
    comes_back(scene)
}

/// The session of an interface that is gone cannot be ended yet: a disconnect does not say that it is.
fn then_disconnected() -> Result<()> {
    let scene = Scene::up("stray")?;
    scene.faults()?.refuse_delete(Errno::EBUSY)?;
    delete_interface(&scene)?;
    bed::until(scene.agent.home(), State::AdminDown)?;
    scene.until_total("uninstall_failures", 1)?;
    let there = THERE.to_string();
    let said = refusal(&scene.agent, &["disconnect", &there])?;
    ensure!(said.contains("retried"), "{said}");
    let peers = MapReader::from_pins(scene.agent.home().pin_dir())?.peers()?;
    ensure!(peers.is_empty(), "the peer is still wanted");
    scene.faults()?.clear()?;
    scene.until_nothing()?;
    comes_back(scene)
}
