//! Restarts with other settings: they are carried out, and peers notice only what they have to.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_common::session::DownReason;
use dz_tests::agent::{Agent, Home};
use dz_tests::attached;
use dz_tests::bed::{self, Bed, HERE, INTERFACE};
use dz_tests::bpftool;
use dz_tests::harness::Test;
use dz_tests::wait::eventually;

use crate::crowd::{Crowd, DETECT_MULT, PATIENCE, SECOND, interval_ms};
use crate::needs::NEEDS;
use crate::witness::{Witness, seen};

const PEERS: u16 = 20;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("settings::timers_that_nobody_notices", &NEEDS, unnoticed),
        Test::new("settings::timers_that_open_anew", &NEEDS, opened_anew),
        Test::new("settings::from_request_to_file", &NEEDS, to_the_file),
        Test::new("settings::max_sessions", &NEEDS, max_sessions),
        Test::new("settings::route_protocol", &NEEDS, route_protocol),
        Test::new("settings::port", &NEEDS, port),
        Test::new("settings::fewer_interfaces", &NEEDS, fewer_interfaces),
    ]
}

/// Words of a command line.
struct Words(Vec<String>);

impl Words {
    /// With these intervals, ms, for our sending and receiving.
    fn new(tx_ms: u32, rx_ms: u32, more: &[&str]) -> Self {
        let mut words = vec![format!("--interface={INTERFACE}")];
        words.push(format!("--tx-interval={tx_ms}ms"));
        words.push(format!("--rx-interval={rx_ms}ms"));
        words.extend(more.iter().map(|word| (*word).to_owned()));
        let is_said = more.iter().any(|word| word.starts_with("--detect-mult"));
        if !is_said {
            words.push(format!("--detect-mult={DETECT_MULT}"));
        }
        Self(words)
    }

    /// As the peers have them.
    fn usual(more: &[&str]) -> Self {
        Self::new(interval_ms(), interval_ms(), more)
    }

    fn start(&self, home: Home, crowd: &Crowd) -> Result<Agent> {
        let words: Vec<_> = self.0.iter().map(String::as_str).collect();
        Agent::start_in(home, &crowd.bed.here, &words)
    }
}

/// A crowd whose agent has died while all were Up.
fn left(label: &str) -> Result<(Crowd, Home)> {
    let crowd = Crowd::with(label, PEERS)?;
    let agent = Words::usual(&[]).start(Home::new()?, &crowd)?;
    crowd.connect(&agent)?;
    let home = agent.crash()?;
    Ok((crowd, home))
}

/// Starts an agent in the place of a dead one, and makes sure that nobody notices.
fn start_unnoticed(crowd: &Crowd, home: Home, words: &Words) -> Result<Agent> {
    let witness = Witness::new(crowd, seen(&home)?)?;
    let agent = words.start(home, crowd)?;
    witness.until_heard(agent.home(), 5)?;
    witness.nothing_happened(agent.home())?;
    Ok(agent)
}

fn unnoticed() -> Result<()> {
    let (crowd, home) = left("timers")?;
    let (tx_ms, rx_ms) = (interval_ms() / 2, interval_ms() * 2);
    let words = Words::new(tx_ms, rx_ms, &["--detect-mult=12", "--backoff-cap=7s"]);
    let agent = start_unnoticed(&crowd, home, &words)?;
    for entry in bed::entries(agent.home())? {
        let timers = entry.session.timers;
        ensure!(
            timers.desired_min_tx_us == tx_ms * 1_000
                && timers.required_min_rx_us == rx_ms * 1_000
                && (timers.detect_mult, timers.backoff_cap_us) == (12, 7_000_000),
            "{timers:?}"
        );
    }
    Ok(())
}

/// We send more rarely than the peers expect: each is told, and comes back.
fn opened_anew() -> Result<()> {
    let (crowd, home) = left("slower")?;
    let tx_ms = interval_ms() * 2;
    let mut agent = Words::new(tx_ms, interval_ms(), &[]).start(home, &crowd)?;
    eventually(PATIENCE, "sessions with the new interval", || {
        let entries = bed::entries(agent.home())?;
        let slow = |tx_us: u32| tx_us == tx_ms * 1_000;
        let slow = entries
            .iter()
            .filter(|entry| slow(entry.session.timers.desired_min_tx_us));
        let slow = slow.count();
        ensure!(slow == usize::from(PEERS), "{slow}");
        anyhow::Ok(())
    })?;
    crowd.until_up(agent.home())?;
    for peer in crowd.peers.sessions() {
        let mut fallen = peer
            .changes
            .iter()
            .filter(|change| change.from == State::Up);
        let reason = fallen.next().map(|change| change.reason);
        ensure!(reason == Some(DownReason::RemoteAdmin), "{peer:?}");
        ensure!(fallen.next().is_none(), "{peer:?}");
    }
    let log = agent.process().log();
    ensure!(log.contains("the session is opened anew"), "{log}");
    Ok(())
}

fn to_the_file() -> Result<()> {
    let (crowd, home) = left("file")?;
    let files = tempfile::tempdir()?;
    let file = files.path().join("peers");
    let lines = crowd.addresses().fold(String::new(), |mut lines, peer| {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{peer} local {HERE}");
        lines
    });
    fs::write(&file, lines)?;
    let option = format!("--peers={}", file.display());
    let agent = start_unnoticed(&crowd, home, &Words::usual(&[&option]))?;
    let shown = agent.json(&["sessions", "--json"])?;
    let shown = shown["sessions"].as_array().context("no sessions")?;
    ensure!(
        shown.iter().all(|session| session["origin"] == "config"),
        "{shown:?}"
    );
    Ok(())
}

/// How many deadlines the maps have room for.
fn slots(home: &Home) -> Result<u64> {
    let pin = home.pin_dir().join("dz_deadlines");
    let shown = bpftool::json(&["map", "show", "pinned", &pin.to_string_lossy()])?;
    shown["max_entries"]
        .as_u64()
        .with_context(|| format!("{shown}"))
}

fn max_sessions() -> Result<()> {
    let (crowd, home) = left("room")?;
    ensure!(slots(&home)? == 16_384);
    let Words(words) = Words::usual(&["--max-sessions=19"]);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let mut refused = Agent::spawn_in(home, &crowd.bed.here, &words)?;
    let status = refused.process().wait()?;
    let log = refused.process().log();
    ensure!(status.code() == Some(2), "{status}: {log}");
    ensure!(log.contains("there are 20 sessions"), "{log}");
    let mut home = refused.crash()?;
    for (most, room) in [(20, 2_048), (5_000, 6_144)] {
        let option = format!("--max-sessions={most}");
        let agent = start_unnoticed(&crowd, home, &Words::usual(&[&option]))?;
        ensure!(slots(agent.home())? == room);
        home = agent.crash()?;
    }
    Ok(())
}

/// How many routes of a protocol there are.
fn routes(crowd: &Crowd, protocol: u8) -> Result<usize> {
    let shown = crowd.bed.here.ip(&format!("route show proto {protocol}"))?;
    Ok(shown.lines().count())
}

fn route_protocol() -> Result<()> {
    let (crowd, home) = left("protocol")?;
    let stray = "192.0.2.9";
    let theirs = "192.0.2.10";
    let here = &crowd.bed.here;
    here.ip(&format!("route add {stray} dev {INTERFACE} proto 144"))?;
    here.ip(&format!("route add {theirs} dev lo proto 144"))?;
    let before = seen(&home)?;
    let agent = Words::usual(&["--route-protocol=150"]).start(home, &crowd)?;
    ensure!(routes(&crowd, 144)? == 1, "not on our interface");
    eventually(PATIENCE, "our routes and no other", || {
        let routes = routes(&crowd, 150)?;
        ensure!(routes == usize::from(PEERS), "{routes}");
        anyhow::Ok(())
    })?;
    // Back again, after a crash.
    let agent = Words::usual(&[]).start(agent.crash()?, &crowd)?;
    ensure!(routes(&crowd, 150)? == 0);
    ensure!(routes(&crowd, 144)? == usize::from(PEERS) + 1);
    let after = seen(agent.home())?;
    for (peer, before) in before {
        let after = after.get(&peer).context("gone")?;
        ensure!(after.transitions == before.transitions, "{after:?}");
    }
    Ok(())
}

fn port() -> Result<()> {
    const INTERVAL_MS: u32 = 100;
    let bed = Bed::new("port", std::time::Duration::ZERO)?;
    let agent = bed.agent(INTERVAL_MS)?;
    let far = bed.far_agent(INTERVAL_MS)?;
    bed::connect(&agent)?;
    bed::connect_back(&far)?;
    bed::until(agent.home(), State::Up)?;
    let interval = format!("{INTERVAL_MS}ms");
    let [interface, tx, rx] = ["--interface", "--tx-interval", "--rx-interval"];
    let words = [
        interface, INTERFACE, tx, &interval, rx, &interval, "--port", "44990",
    ];
    let mut agent = Agent::start_in(agent.crash()?, &bed.here, &words)?;
    let log = agent.process().log();
    ensure!(log.contains("another liveness port"), "{log}");
    bed::until(agent.home(), State::Down)?;
    let _far = Agent::start_in(far.crash()?, &bed.there, &words)?;
    bed::until(agent.home(), State::Up)?;
    Ok(())
}

/// An interface that is not named any more, with peers of requests: they are told, and stay for when it is.
fn fewer_interfaces() -> Result<()> {
    let one = Crowd::with("fewer", PEERS)?;
    let two = one.beside(PEERS)?;
    let both = Words::usual(&["--interface", SECOND]);
    let agent = both.start(Home::new()?, &one)?;
    one.connect_some(&agent)?;
    two.connect_some(&agent)?;
    eventually(PATIENCE, "all Up", || {
        ensure!(one.routes()? + two.routes()? == 2 * usize::from(PEERS));
        anyhow::Ok(())
    })?;
    let home = agent.crash()?;
    let here = &one.bed.here;
    let before = seen(&home)?;
    let agent = Words::usual(&[]).start(home, &one)?;
    eventually(PATIENCE, "nothing of ours on the other", || {
        ensure!(two.routes()? == 0, "routes");
        let programs = attached::programs(here, SECOND)?;
        ensure!(programs == 0, "{programs} programs");
        anyhow::Ok(())
    })?;
    for peer in two.peers.sessions() {
        let last = peer.changes.iter().rfind(|change| change.from == State::Up);
        let reason = last.map(|change| change.reason);
        ensure!(reason == Some(DownReason::RemoteAdmin), "{peer:?}");
    }
    let after = seen(agent.home())?;
    ensure!(
        after.len() == usize::from(PEERS),
        "{} sessions",
        after.len()
    );
    for (peer, after) in after {
        ensure!(one.has(&peer), "{peer:?}");
        ensure!(after.transitions == before[&peer].transitions, "{after:?}");
    }
    // Its lock is free.
    let other = Agent::start(here, &["--interface", SECOND, "--metrics-listen", "off"])?;
    other.end(nix::sys::signal::Signal::SIGTERM)?;
    let agent = both.start(agent.crash()?, &one)?;
    eventually(PATIENCE, "all Up again", || {
        ensure!(one.routes()? + two.routes()? == 2 * usize::from(PEERS));
        anyhow::Ok(())
    })?;
    drop(agent);
    Ok(())
}
