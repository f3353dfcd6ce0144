//! Sessions that go Down too often, or whose route others take, are held for a while; with `--hold-up` each is, after
//! it has come Up.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_tests::agent::Agent;
use dz_tests::answerer::{self, Answerer};
use dz_tests::bed::{self, Bed, HERE, INTERFACE, PATIENCE, THERE};
use dz_tests::harness::Test;
use dz_tests::netns::Netns;
use dz_tests::tun::Tun;
use dz_tests::udp_peer::{Rules, UdpPeer};
use dz_tests::wait::{eventually, monotonic_ns};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::needs::NEEDS;

const INTERVAL_MS: u32 = 100;
/// The first hold.
const FIRST_NS: u64 = 5_000_000_000;
/// Sessions that go Down at once: ten times as many as may have a line each.
const MANY: usize = 200;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("held::flapping", &NEEDS, flapping),
        Test::new("held::by_an_agent_that_is_gone", &NEEDS, taken_over),
        Test::new("held::route_taken", &NEEDS, route_taken),
        Test::new("held::off", &NEEDS, off),
        Test::new("held::hold_up", &NEEDS, hold_up),
        Test::new("held::many_downs_are_on_record", &NEEDS, on_record),
    ]
}

fn row(agent: &Agent) -> Result<Value> {
    let shown = agent.json(&["sessions", "--json"])?;
    shown["sessions"].get(0).cloned().context("no session")
}

fn until_held(agent: &Agent, why: Option<&str>) -> Result<()> {
    eventually(PATIENCE, &format!("held: {why:?}"), || {
        let row = row(agent)?;
        ensure!(row["held"].as_str() == why, "{row}");
        anyhow::Ok(())
    })
}

/// How often sessions were held, as counted.
fn holds(agent: &Agent) -> Result<u64> {
    let counters = agent.get("/v1/counters")?;
    let rows = counters["routes"].as_array().context("no routes")?;
    Ok(rows.iter().filter_map(|row| row["holds"].as_u64()).sum())
}

/// The peer goes down and comes back, so many times.
fn flap(agent: &Agent, peer: &UdpPeer, times: usize) -> Result<()> {
    for _ in 0..times {
        peer.admin_down(HERE);
        bed::until(agent.home(), State::Down)?;
        peer.admin_up(HERE);
        bed::until(agent.home(), State::Up)?;
    }
    Ok(())
}

/// An agent with a session that is Up.
fn up(label: &str, more: &[&str]) -> Result<(Bed, Agent, UdpPeer)> {
    let bed = Bed::new(label, Duration::ZERO)?;
    let agent = bed.agent_with(INTERVAL_MS, more)?;
    let peer = bed.patient_peer(Rules::Ours, INTERVAL_MS)?;
    bed::connect(&agent)?;
    bed::until(agent.home(), State::Up)?;
    Ok((bed, agent, peer))
}

fn flapping() -> Result<()> {
    let (bed, mut agent, peer) = up("held", &[])?;
    flap(&agent, &peer, 5)?;
    bed::until_route(&bed.here, THERE, true)?;
    ensure!(row(&agent)?["held"].is_null(), "five times are borne");
    ensure!(holds(&agent)? == 0);
    let begun_ns = monotonic_ns();
    flap(&agent, &peer, 1)?;
    until_held(&agent, Some("flapping"))?;
    // Up, and without a route all the same.
    bed::until(agent.home(), State::Up)?;
    bed::until_route(&bed.here, THERE, false)?;
    let status = agent.json(&["status", "--json"])?;
    ensure!(status["held"]["flapping"] == 1, "{status}");
    let shown = agent.cli(&["sessions"])?;
    ensure!(
        shown.contains("up (held for ") && shown.contains("more than 5 times"),
        "{shown}"
    );
    ensure!(holds(&agent)? == 1, "{}", holds(&agent)?);
    let log = agent.process().log();
    ensure!(log.matches("session held").count() == 1, "{log}");
    until_held(&agent, None)?;
    let held_ns = monotonic_ns() - begun_ns;
    ensure!(held_ns >= FIRST_NS, "held for {held_ns} ns");
    bed::until_route(&bed.here, THERE, true)?;
    // The next hold is longer, and a disconnect does not wait for its end.
    flap(&agent, &peer, 6)?;
    until_held(&agent, Some("flapping"))?;
    let left = row(&agent)?["held_for_seconds"]
        .as_f64()
        .context("no time")?;
    ensure!(left > 5.0, "{left}");
    agent.cli(&["disconnect", &THERE.to_string()])?;
    ensure!(bed::entries(agent.home())?.is_empty());
    bed::until_route(&bed.here, THERE, false)?;
    // Who is connected anew has no past.
    bed::connect(&agent)?;
    bed::until_route(&bed.here, THERE, true)
}

/// The agent is killed while it holds a session: the next one lets it go.
fn taken_over() -> Result<()> {
    let (bed, agent, peer) = up("held-over", &[])?;
    flap(&agent, &peer, 6)?;
    until_held(&agent, Some("flapping"))?;
    bed::until_route(&bed.here, THERE, false)?;
    let home = agent.crash()?;
    let held = bed::until(&home, State::Up)?;
    ensure!(held.is_held(), "the gate keeps it so");
    let agent = bed::agent(home, &bed.here, INTERVAL_MS)?;
    ensure!(row(&agent)?["held"] == "taken_over", "{}", row(&agent)?);
    ensure!(bed::route_to(&bed.here, THERE)?.is_empty());
    until_held(&agent, None)?;
    bed::until_route(&bed.here, THERE, true)?;
    // And everything can be taken back while a session is held.
    flap(&agent, &peer, 6)?;
    until_held(&agent, Some("flapping"))?;
    agent.end(Signal::SIGTERM)?;
    bed::until_route(&bed.here, THERE, false)
}

fn delete(netns: &Netns) -> Result<()> {
    bed::until_route(netns, THERE, true)?;
    netns.ip(&format!("route delete {THERE}/32 proto 144"))?;
    Ok(())
}

fn repairs(agent: &Agent) -> Result<u64> {
    let counters = agent.get("/v1/counters")?;
    counters["routes"][0]["repairs"]
        .as_u64()
        .context("no count")
}

fn until_repairs(agent: &Agent, count: u64) -> Result<()> {
    eventually(PATIENCE, &format!("{count} repairs"), || {
        let repairs = repairs(agent)?;
        ensure!(repairs >= count, "{repairs}");
        anyhow::Ok(())
    })
}

fn route_taken() -> Result<()> {
    let (bed, agent, _peer) = up("held-route", &[])?;
    for count in 1..=20 {
        delete(&bed.here)?;
        until_repairs(&agent, count)?;
    }
    ensure!(row(&agent)?["held"].is_null(), "twenty times are borne");
    delete(&bed.here)?;
    until_held(&agent, Some("route_taken"))?;
    bed::until_route(&bed.here, THERE, false)?;
    until_held(&agent, None)?;
    bed::until_route(&bed.here, THERE, true)
}

fn off() -> Result<()> {
    let (bed, agent, peer) = up("held-off", &["--damping", "off"])?;
    flap(&agent, &peer, 8)?;
    bed::until_route(&bed.here, THERE, true)?;
    ensure!(row(&agent)?["held"].is_null());
    // A route that others take all the time is put back, but only so often.
    let begun_ns = monotonic_ns();
    for count in 1..=23 {
        delete(&bed.here)?;
        until_repairs(&agent, count)?;
    }
    let took_ns = monotonic_ns() - begun_ns;
    ensure!(
        took_ns > 2_000_000_000,
        "{took_ns} ns for three more than are put back at once"
    );
    bed::until_route(&bed.here, THERE, true)
}

fn hold_up() -> Result<()> {
    let (bed, agent, peer) = up("hold-up", &["--hold-up", "2s"])?;
    for _ in 0..2 {
        until_held(&agent, Some("hold_up"))?;
        ensure!(bed::route_to(&bed.here, THERE)?.is_empty());
        bed::until_route(&bed.here, THERE, true)?;
        let entry = bed::entry(agent.home())?;
        let up_ns = monotonic_ns() - entry.session.since_ns;
        ensure!(up_ns >= 2_000_000_000, "Up for {up_ns} ns");
        flap(&agent, &peer, 1)?;
    }
    // An agent without the option lets it count at once.
    until_held(&agent, Some("hold_up"))?;
    let home = agent.crash()?;
    let agent = bed::agent(home, &bed.here, INTERVAL_MS)?;
    ensure!(row(&agent)?["held"].is_null(), "{}", row(&agent)?);
    bed::until_route(&bed.here, THERE, true)
}

fn on_record() -> Result<()> {
    let netns = Netns::new("record")?;
    let tun = Tun::new(&netns, INTERFACE, &["169.254.7.0/31"])?;
    let peers = Answerer::start(tun, Duration::from_millis(INTERVAL_MS.into()), false)?;
    let interval = format!("{INTERVAL_MS}ms");
    let options = ["--tx-interval", &interval, "--rx-interval", &interval];
    let mut agent = Agent::start(&netns, &options)?;
    let names: Vec<_> = (0..MANY)
        .map(|index| answerer::peer(index).to_string())
        .collect();
    let local = HERE.to_string();
    let mut words = vec!["connect", "--local", &local];
    words.extend(names.iter().map(String::as_str));
    agent.cli(&words)?;
    let all_are = |agent: &Agent, state: State| {
        eventually(PATIENCE, &format!("all {}", state.name()), || {
            let entries = bed::entries(agent.home())?;
            let there = entries.iter().filter(|entry| entry.session.state == state);
            let there = there.count();
            ensure!(there == MANY, "{there}");
            anyhow::Ok(())
        })
    };
    all_are(&agent, State::Up)?;
    peers.set_cut(true);
    all_are(&agent, State::Down)?;
    let process = agent.process();
    eventually(PATIENCE, "all on record", || {
        let log = process.log();
        let downs = log
            .lines()
            .filter(|line| line.contains("from=\"up\" to=\"down\""));
        let mut said: Vec<Ipv4Addr> = Vec::new();
        for line in downs {
            let text = line.replace(['"', '='], " ");
            said.extend(
                text.split(' ')
                    .filter_map(|word| word.parse::<Ipv4Addr>().ok()),
            );
        }
        let missing = (0..MANY)
            .map(answerer::peer)
            .filter(|peer| !said.contains(peer));
        let missing: Vec<_> = missing.collect();
        ensure!(missing.is_empty(), "{} are not in {log}", missing.len());
        let suppressed = |line: &str| line.contains("suppressed") && line.contains("flows::events");
        ensure!(!log.lines().any(suppressed), "{log}");
        anyhow::Ok(())
    })
}
