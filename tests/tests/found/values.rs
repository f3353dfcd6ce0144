//! Values in the maps of a dead agent that cannot be read or served: each costs itself.

use std::mem::offset_of;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::map::{Peer, SessionEntry, SessionKey};
use dz_common::session::Session;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::INTERFACE;
use dz_tests::bpftool;
use dz_tests::harness::Test;
use dz_tests::pinned::Pinned;
use dz_tests::wait::eventually;

use crate::scene::{INTERVAL_MS, NEEDS_TCX, Scene, TWO_CHECKS, start, until_up};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("values::cost_themselves", &NEEDS_TCX, at_start),
        Test::new("values::in_maps_of_another_size", &NEEDS_TCX, taken_over),
        Test::new("values::while_it_runs", &NEEDS_TCX, meanwhile),
        Test::new("values::of_another_size", &NEEDS_TCX, another_size),
    ]
}

/// Writes four entries that are no use, beside the session that is.
fn spoil(home: &Home) -> Result<SessionEntry> {
    let maps = Pinned::open(home.pin_dir())?;
    let sessions = maps.reader().sessions()?;
    let good = *sessions.first().context("a session")?;
    let with_peer = |last| SessionEntry {
        generation: 0,
        key: SessionKey {
            peer: [10, 9, 0, last],
            ..good.key
        },
        ..good
    };
    maps.set_session(&SessionEntry {
        slot: 1 << 20,
        ..with_peer(1)
    })?;
    maps.set_session(&with_peer(2))?;
    let state = offset_of!(SessionEntry, session) + offset_of!(Session, state);
    maps.spoil_session(&with_peer(3), state, 99)?;
    let (mut key, peer) = *maps.reader().peers()?.first().context("a peer")?;
    key.peer = [10, 9, 0, 4];
    maps.spoil_peer(&key, &peer, offset_of!(Peer, origin), 99)?;
    Ok(good)
}

/// What is left is the session that is of use, and it is the same.
fn until_clean(home: &Home, good: &SessionEntry) -> Result<()> {
    eventually(TWO_CHECKS, "maps without them", || {
        let entries = bpftool::dump(&home.pin_dir().join("dz_sessions"))?.len();
        let peers = bpftool::dump(&home.pin_dir().join("dz_peers"))?.len();
        ensure!(
            (entries, peers) == (1, 1),
            "{entries} sessions, {peers} peers"
        );
        anyhow::Ok(())
    })?;
    let sessions = MapReader::from_pins(home.pin_dir())?.sessions()?;
    ensure!(
        sessions[0].key == good.key && sessions[0].generation == good.generation,
        "{sessions:?}"
    );
    ensure!(
        sessions[0].session.transitions == good.session.transitions,
        "it flapped"
    );
    Ok(())
}

fn at_start() -> Result<()> {
    let scene = Scene::new("values")?;
    let home = scene.agent.crash()?;
    let good = spoil(&home)?;
    let agent = start(home, &scene.bed)?;
    until_up(&agent)?;
    until_clean(agent.home(), &good)
}

/// The start makes smaller maps, and copies what is of use.
fn taken_over() -> Result<()> {
    let scene = Scene::new("smaller")?;
    let home = scene.agent.crash()?;
    let good = spoil(&home)?;
    let interval = format!("{INTERVAL_MS}ms");
    let mut words = vec!["--interface", INTERFACE, "--max-sessions", "2048"];
    words.extend(["--tx-interval", &interval, "--rx-interval", &interval]);
    let mut agent = Agent::start_in(home, &scene.bed.here, &words)?;
    let log = agent.process().log();
    ensure!(log.contains("entry not taken over"), "{log}");
    until_clean(agent.home(), &good)
}

fn meanwhile() -> Result<()> {
    let scene = Scene::new("meanwhile")?;
    let good = spoil(scene.agent.home())?;
    until_clean(scene.agent.home(), &good)?;
    until_up(&scene.agent)
}

/// A map whose values have another size is no map of ours, whatever its name: nothing reads it.
fn another_size() -> Result<()> {
    let scene = Scene::new("size")?;
    let here = &scene.bed.here;
    let home = scene.agent.crash()?;
    let pin = home.pin_dir().join("dz_heartbeat");
    let aside = home.pin_dir().join("aside");
    std::fs::rename(&pin, &aside)?;
    let mut make = Command::new("bpftool");
    make.args(["map", "create"]).arg(&pin);
    let shape = "type array key 4 value 64 entries 1 name other";
    ensure!(make.args(shape.split(' ')).status()?.success());
    let mut agent = Agent::spawn_in(home, here, &["--interface", INTERFACE])?;
    let status = agent.process().wait()?;
    ensure!(status.code() == Some(1), "{status}");
    let home = agent.crash()?;
    std::fs::rename(&aside, &pin)?;
    until_up(&start(home, &scene.bed)?)
}
