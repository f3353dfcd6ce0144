//! While the agent runs.

use std::fs;
use std::os::fd::AsFd;

use anyhow::{Result, ensure};
use dz_tests::attached;
use dz_tests::bed::INTERFACE;
use dz_tests::bpf::{NEXT, Tcx, attach_tcx_first, load_classifier};
use dz_tests::harness::Test;
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;

use crate::scene::{NEEDS_TCX, Scene, TWO_CHECKS, detach, program, start, until_up};

pub(crate) fn tests() -> Vec<Test> {
    let hook = |name: &str, pin: &'static str, hook: &'static str| {
        let detached = format!("meanwhile::{name}_detached");
        let unpinned = format!("meanwhile::{name}_unpinned");
        [
            Test::new(detached, &NEEDS_TCX, move || link_detached(pin, hook)),
            Test::new(unpinned, &NEEDS_TCX, move || unpinned_and_killed(pin, hook)),
        ]
    };
    let mut tests = Vec::from(hook("ingress", "link_tc", "ingress"));
    tests.extend(hook("gate", "gate", "gate"));
    tests.push(Test::new(
        "meanwhile::others_before",
        &NEEDS_TCX,
        others_before,
    ));
    tests
}

fn link_detached(pin: &str, hook: &'static str) -> Result<()> {
    let scene = Scene::new("detached")?;
    detach(&scene.pin(pin))?;
    scene.until_mended(hook, 1)?;
    ensure!(scene.metric("doublezero_liveness_program_in_place", hook)? == "1");
    ensure!(scene.metric("doublezero_liveness_program_repairs_total", hook)? == "1");
    attached::until(&scene.bed.here, INTERFACE, 2)
}

/// A pin that is removed takes nothing off, and is there again when the agent is killed.
fn unpinned_and_killed(pin: &str, hook: &'static str) -> Result<()> {
    let scene = Scene::new("unpinned")?;
    fs::remove_file(scene.pin(pin))?;
    ensure!(
        attached::programs(&scene.bed.here, INTERFACE)? == 2,
        "it holds its links"
    );
    scene.until_mended(hook, 1)?;
    ensure!(scene.pin(pin).exists());
    let home = scene.agent.crash()?;
    ensure!(attached::programs(&scene.bed.here, INTERFACE)? == 2);
    let agent = start(home, &scene.bed)?;
    until_up(&agent)?;
    agent.end(Signal::SIGTERM)?;
    attached::until(&scene.bed.here, INTERFACE, 0)
}

/// Somebody's program is put before ours, and again when ours has been moved: once is enough.
fn others_before() -> Result<()> {
    let scene = Scene::new("before")?;
    let netns = &scene.bed.here;
    let ifindex = netns.ifindex(INTERFACE)?;
    // A hook has room for a program once.
    let theirs = [load_classifier(&NEXT)?, load_classifier(&NEXT)?];
    let put = |number: usize, hook| {
        let program = theirs[number].as_fd();
        netns.run(|| attach_tcx_first(program, ifindex, hook))
    };
    let first = [put(0, Tcx::Ingress)?, put(0, Tcx::Egress)?];
    scene.until_mended("ingress", 1)?;
    scene.until_mended("gate", 1)?;
    let second = [put(1, Tcx::Ingress)?, put(1, Tcx::Egress)?];
    for hook in ["ingress", "gate"] {
        eventually(TWO_CHECKS, "said that another runs before", || {
            let program = program(&scene.agent, hook)?;
            ensure!(
                program["before"] == 1 && program["mended"] == 1,
                "{program}"
            );
            anyhow::Ok(())
        })?;
        ensure!(scene.metric("doublezero_liveness_programs_before", hook)? == "1");
    }
    let said = scene.agent.cli(&["status"])?;
    ensure!(
        said.contains("programs of others that run before the gate: 1"),
        "{said}"
    );
    until_up(&scene.agent)?;
    drop((first, second));
    Ok(())
}
