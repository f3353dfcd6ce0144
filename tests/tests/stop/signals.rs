//! Signals: SIGTERM and SIGINT take everything back, SIGUSR2 leaves it all.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_tests::agent::Agent;
use dz_tests::bed::{self, HERE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;

use crate::scene::{Belongings, NEEDS, Scene};

const PEERS: u8 = 5;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("signals::sigterm", &NEEDS, || withdraws(Signal::SIGTERM)),
        Test::new("signals::sigint", &NEEDS, || withdraws(Signal::SIGINT)),
        Test::new("signals::sigterm_again", &NEEDS, again),
        Test::new("signals::sigusr2", &NEEDS, leaves),
    ]
}

fn withdraws(signal: Signal) -> Result<()> {
    let scene = Scene::new("term", PEERS)?;
    let agent = scene.agent(&[])?;
    let belongings = Belongings::of(&agent, &scene.bed)?;
    let home = agent.end(signal)?;
    belongings.are_gone(&home, &scene.bed)?;
    scene.told(belongings.since_ns)
}

/// Impatience changes nothing.
fn again() -> Result<()> {
    let scene = Scene::new("again", PEERS)?;
    let mut agent = scene.agent(&[])?;
    let belongings = Belongings::of(&agent, &scene.bed)?;
    agent.process().signal(Signal::SIGTERM)?;
    // It has heard the first one; so SIGUSR2 cannot overtake it.
    until_withdrawing(&mut agent)?;
    let mut sent = 0;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR2].repeat(100) {
        agent.process().signal(signal)?;
        sent += 1;
    }
    let status = agent.process().wait()?;
    println!("{sent} signals more");
    ensure!(status.success(), "{status}");
    belongings.are_gone(agent.home(), &scene.bed)?;
    scene.told(belongings.since_ns)
}

/// Looks more often than other waits, for the signals are to come while it withdraws.
fn until_withdrawing(agent: &mut Agent) -> Result<()> {
    let start = Instant::now();
    loop {
        // In this order: what it said before it ended is in the log by then.
        let over = agent.process().ended()?.is_some() || start.elapsed() > PATIENCE;
        let log = agent.process().log();
        if log.contains("withdrawing") {
            return Ok(());
        }
        ensure!(
            !over,
            "ended, or {PATIENCE:?} passed, without \"withdrawing\" in its log: {log}"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

fn leaves() -> Result<()> {
    let scene = Scene::new("leave", PEERS)?;
    let agent = scene.agent(&[])?;
    let belongings = Belongings::of(&agent, &scene.bed)?;
    let home = agent.end(Signal::SIGUSR2)?;
    belongings.are_there(&scene.bed, scene.peers.len())?;
    ensure!(!home.socket().exists(), "nobody listens there any more");
    // The kernel goes on answering, and no peer has heard of any of this.
    let before = bed::entries(&home)?;
    eventually(PATIENCE, "answers to every peer", || {
        let now = bed::entries(&home)?;
        let more = now.iter().filter(|entry| {
            let same = before.iter().find(|before| before.key == entry.key);
            same.is_some_and(|before| entry.answered > before.answered)
        });
        ensure!(more.count() == before.len(), "not yet");
        anyhow::Ok(())
    })?;
    for (_, peer) in &scene.peers {
        let theirs = peer.session(HERE).context("no session")?;
        ensure!(theirs.session.state == State::Up, "{theirs:?}");
        ensure!(theirs.session.ups == 1, "{theirs:?}");
    }
    belongings.are_there(&scene.bed, scene.peers.len())
}
