//! Between two runs: the next start looks where the pinned links are, and believes no name and no number.

use anyhow::{Result, ensure};
use dz_tests::agent::Agent;
use dz_tests::attached;
use dz_tests::bed::{Bed, INTERFACE};
use dz_tests::harness::Test;
use dz_tests::tun::Tun;
use std::time::Duration;

use crate::scene::{NEEDS_TCX, Scene, start};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("between::renamed", &NEEDS_TCX, renamed),
        Test::new("between::another_namespace", &NEEDS_TCX, another_namespace),
    ]
}

/// The interface has another name by now, and another one has its name.
fn renamed() -> Result<()> {
    let scene = Scene::new("renamed")?;
    let home = scene.agent.crash()?;
    let here = &scene.bed.here;
    here.ip(&format!("link set {INTERFACE} down"))?;
    here.ip(&format!("link set {INTERFACE} name former0"))?;
    let _anew = Tun::new(here, INTERFACE, &["169.254.9.0/31"])?;
    let agent = start(home, &scene.bed)?;
    ensure!(
        attached::programs(here, INTERFACE)? == 2,
        "on the one that has the name"
    );
    attached::until(here, "former0", 0)?;
    drop(agent);
    Ok(())
}

/// The pins are those of an agent in another namespace, where the interface has the same name and number.
fn another_namespace() -> Result<()> {
    let scene = Scene::new("one")?;
    let there = Bed::new("other", Duration::ZERO)?;
    let (one, other) = (&scene.bed.here, &there.here);
    ensure!(
        one.ifindex(INTERFACE)? == other.ifindex(INTERFACE)?,
        "not the same number"
    );
    let home = scene.agent.crash()?;
    let mut agent = Agent::spawn_in(home, other, &["--interface", INTERFACE])?;
    let status = agent.process().wait()?;
    ensure!(status.code() == Some(6), "{status}");
    ensure!(attached::programs(one, INTERFACE)? == 2, "taken off there");
    ensure!(attached::programs(other, INTERFACE)? == 0);
    Ok(())
}
