//! The kernel keeps a session up, and takes it down, while the agent stands still.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_common::session::DownReason;
use dz_tests::bed::{self, Bed, HERE, PATIENTLY, THERE};
use dz_tests::bpftool;
use dz_tests::harness::{Requirement, Test};
use dz_tests::udp_peer::Rules;
use dz_tests::wait::holds;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::needs::NEEDS;

const INTERVAL_MS: u32 = 100;
const INTERVAL_NS: u64 = INTERVAL_MS as u64 * 1_000_000;
const FROZEN: Duration = Duration::from_secs(5);

pub(super) fn tests() -> Vec<Test> {
    let needs = [NEEDS[0], NEEDS[1], Requirement::Tool("bpftool")];
    vec![
        Test::new("freeze::peer_notices_nothing", &NEEDS, stays_up),
        Test::new("freeze::silent_peer", &needs, goes_down_in_time),
    ]
}

fn stays_up() -> Result<()> {
    let bed = Bed::new("freeze", Duration::ZERO)?;
    // Two seconds of silence make a peer Down: shorter than the agent is frozen.
    let mut agent = bed.agent_with(INTERVAL_MS, &PATIENTLY)?;
    bed::connect(&agent)?;
    let peer = bed.patient_peer(Rules::Deployed, INTERVAL_MS)?;
    bed::peer_until(&peer, State::Up)?;
    let ours = bed::until(agent.home(), State::Up)?;
    agent.process().freeze()?;
    let theirs = || peer.session(HERE).context("no session");
    let before = theirs()?;
    holds(FROZEN, "no transition at the peer", || {
        let now = theirs()?;
        ensure!(now.changes == before.changes, "{:?}", now.changes);
        anyhow::Ok(())
    })?;
    let after = theirs()?;
    let frozen = bed::entry(agent.home())?;
    agent.process().signal(Signal::SIGCONT)?;
    println!(
        "frozen for {FROZEN:?}: the peer received {} packets, the kernel answered {}",
        after.received - before.received,
        frozen.answered - ours.answered
    );
    ensure!(
        frozen.session.transitions == ours.session.transitions,
        "{frozen:?}"
    );
    // Not our clock, which stood still.
    ensure!(frozen.answered > ours.answered, "{ours:?}, then {frozen:?}");
    agent.cli(&["sessions"])?;
    ensure!(theirs()?.changes == before.changes, "a transition after it");
    Ok(())
}

fn goes_down_in_time() -> Result<()> {
    let bed = Bed::new("freeze", Duration::ZERO)?;
    let mut agent = bed.agent(INTERVAL_MS)?;
    bed::connect(&agent)?;
    let peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
    bed::until_route(&bed.here, THERE, true)?;
    agent.process().freeze()?;
    peer.silence();
    let down = bed::until(agent.home(), State::Down)?.session;
    let dumped = bpftool::dump(&agent.home().pin_dir().join("dz_sessions"))?;
    let seen = &dumped[0]["value"]["session"];
    ensure!(
        number(&seen["since_ns"]) == Some(down.since_ns),
        "bpftool shows {seen}, we read {down:?}"
    );
    let deadline_ns = down.last_rx_ns + 3 * INTERVAL_NS;
    ensure!(down.last_down_reason == DownReason::Timeout, "{down:?}");
    ensure!(
        down.since_ns >= deadline_ns,
        "before its deadline: {down:?}"
    );
    let late_ns = down.since_ns - deadline_ns;
    println!("Down {late_ns} ns after the deadline, the agent frozen");
    let route = bed::route_to(&bed.here, THERE)?;
    ensure!(!route.is_empty(), "who withdrew it? The agent is frozen");

    agent.process().signal(Signal::SIGCONT)?;
    bed::until_route(&bed.here, THERE, false)?;
    let shown = agent.json(&["sessions", "--json"])?;
    let shown = &shown["sessions"][0];
    ensure!(
        shown["state"] == "down" && shown["last_down_reason"] == "timeout",
        "{shown}"
    );
    ensure!(agent.cli(&["sessions"])?.contains("timeout"));
    Ok(())
}

/// bpftool writes numbers beyond 53 bits as text.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}
