//! Peers of a file: they come with the agent, wait for their address, and follow the file on SIGHUP.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, Bed, HERE, INTERFACE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::udp_peer::{Rules, UdpPeer};
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;

use crate::needs::NEEDS;

const INTERVAL: &str = "100ms";
const INTERVAL_MS: u32 = 100;
const PEERS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(10, 9, 0, 1),
    Ipv4Addr::new(10, 9, 0, 2),
    Ipv4Addr::new(10, 9, 0, 3),
];
/// An address of ours that comes later.
const LATER: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);

pub(super) fn tests() -> Vec<Test> {
    vec![Test::new("configured::follows_the_file", &NEEDS, follows)]
}

fn follows() -> Result<()> {
    let bed = Bed::new("configured", Duration::ZERO)?;
    let _peers = far_side(&bed)?;
    let files = tempfile::tempdir()?;
    let file = files.path().join("peers");
    let [first, second, third] = PEERS;
    fs::write(
        &file,
        format!("# ours\n{first} local {HERE}\n{second} local {LATER}\n"),
    )?;
    let mut agent = start(Home::new()?, &bed, &file)?;
    until_up(&agent, &[first])?;
    let shown = agent.json(&["sessions", "--json"])?;
    ensure!(shown["parked"][0]["peer"] == second.to_string(), "{shown}");
    bed.here
        .ip(&format!("address add {LATER}/32 dev {INTERFACE}"))?;
    until_up(&agent, &[first, second])?;
    let before = generations(&agent)?;

    // What the file asks for, nobody disconnects by request.
    let refused = agent.cli(&["disconnect", &first.to_string()]);
    let refused = refused.err().context("disconnected")?.to_string();
    ensure!(refused.contains("SIGHUP"), "{refused}");
    agent.cli(&["disconnect", "--all"])?;
    ensure!(generations(&agent)? == before, "--all has touched them");

    reload_keeps(&mut agent, &file, &before)?;
    // What the file no longer has when the agent comes back is given up; the rest has not flapped.
    let home = agent.crash()?;
    fs::write(
        &file,
        format!("{first} local {HERE}\n{third} local {HERE}\n"),
    )?;
    let mut agent = start(home, &bed, &file)?;
    until_up(&agent, &[first, third])?;
    let after = generations(&agent)?;
    ensure!(
        after.get(&first) == before.get(&first),
        "{before:?}, then {after:?}"
    );
    // A line that changes makes a new session with the same peer.
    fs::write(&file, format!("{first} local {HERE} detect-mult 5\n"))?;
    agent.process().signal(Signal::SIGHUP)?;
    until_up(&agent, &[first])?;
    let entry = bed::entry(agent.home())?;
    ensure!(entry.session.timers.detect_mult == 5, "{entry:?}");
    // Only the file changes it.
    let words = ["connect", &first.to_string(), "--detect-mult", "9"];
    let output = agent.home().command(&words)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code();
    ensure!(
        code == Some(8) && said.contains("change its line"),
        "{said}"
    );
    Ok(())
}

/// A file with a fault changes nothing; one with a new line only adds.
fn reload_keeps(agent: &mut Agent, file: &Path, before: &BTreeMap<Ipv4Addr, u32>) -> Result<()> {
    let good = fs::read_to_string(file)?;
    fs::write(file, format!("{good}10.9.0.3 local\n"))?;
    agent.process().signal(Signal::SIGHUP)?;
    eventually(PATIENCE, "the fault in the log", || {
        let log = agent.process().log();
        ensure!(log.contains("line 4: local lacks its value"), "{log}");
        anyhow::Ok(())
    })?;
    ensure!(generations(agent)? == *before, "a broken file changed it");
    let third = PEERS[2];
    fs::write(file, format!("{good}{third} local {HERE}\n"))?;
    agent.process().signal(Signal::SIGHUP)?;
    until_up(agent, &PEERS)?;
    let mut now = generations(agent)?;
    now.remove(&third);
    ensure!(now == *before, "{before:?}, then {now:?}");
    Ok(())
}

fn start(home: Home, bed: &Bed, file: &Path) -> Result<Agent> {
    let file = file.to_str().context("a path in UTF-8")?;
    let intervals = ["--tx-interval", INTERVAL, "--rx-interval", INTERVAL];
    let mut arguments = vec!["--interface", INTERFACE, "--peers", file];
    arguments.extend(intervals);
    Agent::start_in(home, &bed.here, &arguments)
}

/// Peers at the far end that ask for both of our addresses.
fn far_side(bed: &Bed) -> Result<Vec<UdpPeer>> {
    bed.there
        .ip(&format!("route add {LATER} dev {INTERFACE}"))?;
    let mut peers = Vec::new();
    for address in PEERS {
        bed.there
            .ip(&format!("address add {address}/32 dev {INTERFACE}"))?;
        let peer = bed.peer_at(address, Rules::Deployed, INTERVAL_MS)?;
        peer.add_session(HERE);
        peer.add_session(LATER);
        peers.push(peer);
    }
    Ok(peers)
}

/// Waits until these peers, and no others, have sessions that are Up.
fn until_up(agent: &Agent, peers: &[Ipv4Addr]) -> Result<()> {
    eventually(PATIENCE, &format!("{peers:?} Up"), || {
        let entries = bed::entries(agent.home())?;
        let up = |peer: &Ipv4Addr| {
            let mut entries = entries.iter();
            entries.any(|e| e.key.peer == peer.octets() && e.session.state == State::Up)
        };
        ensure!(
            entries.len() == peers.len() && peers.iter().all(up),
            "{entries:?}"
        );
        anyhow::Ok(())
    })
}

/// The generation of each peer's session: another one is another session.
fn generations(agent: &Agent) -> Result<BTreeMap<Ipv4Addr, u32>> {
    let entries = bed::entries(agent.home())?;
    Ok(entries
        .iter()
        .map(|entry| (entry.key.peer.into(), entry.generation))
        .collect())
}
