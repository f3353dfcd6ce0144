//! Starting and stopping.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use aya::EbpfLoader;
use dz_agent::datapath::{MAPS, OBJECT};
use dz_tests::agent::{Agent, Home};
use dz_tests::attached;
use dz_tests::bed::{self, INTERFACE, PATIENCE, THERE};
use dz_tests::harness::Test;
use dz_tests::load;
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;

use super::stage::{Stage, Started, changes, spawn, start};
use crate::needs::NEEDS;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("rows::s1", &NEEDS, killed_while_withdrawing),
        Test::new("rows::s2", &NEEDS, programs_gone),
        Test::new("rows::s3", &NEEDS, pins_half_gone),
        Test::new("rows::s4", &NEEDS, left_to_the_next),
        Test::new("rows::t1", &NEEDS, maps_never_configured),
        Test::new("rows::t2", &NEEDS, || killed_at("taking over the maps")),
        Test::new("rows::t3", &NEEDS, || killed_at("attached")),
        Test::new("rows::t4", &NEEDS, || killed_at("ready")),
    ]
}

/// Route deletions are held back, so that the withdrawal is hit in the middle.
fn killed_while_withdrawing() -> Result<()> {
    let stage = Stage::new()?;
    let faults = stage.home.faults()?;
    faults.delay_delete(PATIENCE)?;
    let arguments = super::stage::arguments();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let mut agent = Agent::start_with_faults(stage.home, &stage.bed.here, &arguments)?;
    agent.process().signal(Signal::SIGTERM)?;
    eventually(PATIENCE, "a withdrawal that has begun", || {
        agent.process().log().contains("disconnected").then_some(())
    })?;
    ensure!(
        !bed::route_to(&stage.bed.here, THERE)?.is_empty(),
        "held back"
    );
    let home = agent.crash()?;
    ensure!(bed::entry(&home).is_ok(), "the session waits for its route");
    faults.clear()?;
    Stage { home, ..stage }.start()?.gone()
}

fn programs_gone() -> Result<()> {
    let stage = Stage::new()?;
    for file in fs::read_dir(stage.home.pin_dir())?.flatten() {
        if !file.file_name().to_string_lossy().starts_with("dz_") {
            fs::remove_file(file.path())?;
        }
    }
    if !attached::by_tcx() {
        let filters = format!("tc qdisc delete dev {INTERFACE} clsact");
        stage.bed.here.command(&filters)?;
    }
    attached::until(&stage.bed.here, INTERFACE, 0)?;
    let mut started = stage.start()?;
    attached::until(&started.bed.here, INTERFACE, 2)?;
    started.up().map(drop)
}

/// The pins of maps go one by one, in the order of their names; whatever is left of them, also of
/// maps of another size, the next start works.
fn pins_half_gone() -> Result<()> {
    let mut names = MAPS.map(str::to_owned);
    names.sort();
    let mut started = Stage::new()?.start()?;
    // The first and the last few: between them lies nothing new.
    for (gone, sessions) in [
        (1, 4_096),
        (1, 1_024),
        (3, 1_024),
        (5, 4_096),
        (names.len() - 1, 1_024),
    ] {
        let Started {
            bed,
            peer,
            agent,
            before,
        } = started;
        let home = agent.end(Signal::SIGTERM)?;
        lay_out(home.pin_dir(), sessions)?;
        for name in &names[..gone] {
            fs::remove_file(home.pin_dir().join(name))?;
        }
        let agent = start(home, &bed)?;
        started = Started {
            bed,
            peer,
            agent,
            before,
        };
        started.connects_again()?;
    }
    Ok(())
}

/// Makes and pins the maps, as a start does first.
fn lay_out(pin_dir: &Path, sessions: u32) -> Result<()> {
    fs::create_dir_all(pin_dir)?;
    let mut loader = EbpfLoader::new();
    for name in MAPS {
        loader.map_pin_path(name, pin_dir.join(name));
    }
    for name in ["dz_deadlines", "dz_sessions", "dz_peers"] {
        loader.map_max_entries(name, sessions);
    }
    load::object(&mut loader, OBJECT)?;
    Ok(())
}

fn left_to_the_next() -> Result<()> {
    let started = Stage::new()?.start()?;
    let far = changes(&started.peer)?;
    let home = started.agent.end(Signal::SIGUSR2)?;
    let agent = start(home, &started.bed)?;
    let mut started = Started { agent, ..started };
    started.untouched()?;
    ensure!(changes(&started.peer)? == far);
    Ok(())
}

/// Made, but never configured, and of another size than this start wants.
fn maps_never_configured() -> Result<()> {
    let started = Stage::new()?.start()?;
    let Started {
        bed,
        peer,
        agent,
        before,
    } = started;
    let home = agent.end(Signal::SIGTERM)?;
    lay_out(home.pin_dir(), 4_096)?;
    let agent = start(home, &bed)?;
    let mut started = Started {
        bed,
        peer,
        agent,
        before,
    };
    started.connects_again()
}

/// A takeover that ends as soon as it says so.
fn killed_at(words: &str) -> Result<()> {
    let stage = Stage::new()?;
    let far = changes(&stage.peer)?;
    let mut agent = spawn(stage.home, &stage.bed)?;
    let said = format!("the agent saying `{words}`");
    eventually(PATIENCE, &said, || {
        agent.process().log().contains(words).then_some(())
    })?;
    let home: Home = agent.crash()?;
    let mut started = Stage { home, ..stage }.start()?;
    started.untouched()?;
    ensure!(changes(&started.peer)? == far, "the far end has noticed");
    attached::until(&started.bed.here, INTERFACE, 2)?;
    started.stop().map(drop)
}
