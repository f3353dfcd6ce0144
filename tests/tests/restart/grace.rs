//! An agent that is gone for longer than the grace: the kernel stops answering, so that a host
//! without control does not look healthy for ever, and goes on detecting.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::packet::State;
use dz_common::session::{DownReason, Timers};
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, Bed, HERE, INTERFACE, PATIENCE, THERE};
use dz_tests::harness::Test;
use dz_tests::udp_peer::{Rules, UdpPeer, UdpPeerConfig};
use dz_tests::wait::{eventually, holds};
use dz_tests::wire::Direction;

use crate::needs::NEEDS;

const INTERVAL_MS: u32 = 100;
/// Longer than any session could live without answers.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// A peer at this address does not mind that for long.
const PATIENT: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);

pub(super) fn tests() -> Vec<Test> {
    vec![Test::new("grace::over", &NEEDS, over)]
}

fn over() -> Result<()> {
    let bed = Bed::new("grace", Duration::ZERO)?;
    let agent = start(&bed, Home::new()?)?;
    let peer = bed.patient_peer(Rules::Deployed, INTERVAL_MS)?;
    let patient = patient(&bed)?;
    bed::connect(&agent)?;
    let local = HERE.to_string();
    agent.cli(&["connect", &PATIENT.to_string(), "--local", &local])?;
    for (peer, address) in [(&peer, THERE), (&patient, PATIENT)] {
        bed::peer_until(peer, State::Up)?;
        bed::until_route(&bed.here, address, true)?;
    }

    let home = agent.crash()?;
    // The peer is not told anything, and draws its own conclusion.
    bed::peer_until(&peer, State::Down)?;
    let theirs = peer.session(HERE).context("no session")?.session;
    ensure!(theirs.last_down_reason == DownReason::Timeout, "{theirs:?}");
    let spoken = || bed::liveness(&bed.wire, Direction::AToB).len();
    let (before, received) = (spoken(), session(&home, PATIENT)?.received);
    holds(AFTERWARDS, "silence", || {
        let now = spoken();
        ensure!(now == before, "{} packets", now - before);
        anyhow::Ok(())
    })?;
    // Listening goes on, on both counts: what comes, and what does not come any more.
    let ours = session(&home, PATIENT)?;
    ensure!(ours.received > received, "{ours:?}");
    ensure!(ours.session.state == State::Up, "{ours:?}");
    patient.silence();
    let ours = eventually(PATIENCE, "a verdict without an agent", || {
        let ours = session(&home, PATIENT)?;
        ensure!(ours.session.state == State::Down, "{ours:?}");
        anyhow::Ok(ours.session)
    })?;
    ensure!(ours.last_down_reason == DownReason::Timeout, "{ours:?}");
    // It has been told that this peer is Down, and has seen it fall silent (back-off) since.
    let ours = session(&home, THERE)?.session;
    ensure!(ours.state != State::Up && ours.ups == 1, "{ours:?}");

    patient.resume();
    let agent = start(&bed, home)?;
    for (peer, address) in [(&peer, THERE), (&patient, PATIENT)] {
        bed::peer_until(peer, State::Up)?;
        bed::until_route(&bed.here, address, true)?;
        let ours = session(agent.home(), address)?.session;
        ensure!(ours.state == State::Up && ours.ups == 2, "{ours:?}");
    }
    // One that stays goes on saying so: twice, for the start says it, too.
    let maps = MapReader::from_pins(agent.home().pin_dir())?;
    for _ in 0..2 {
        let before_ns = maps.heartbeat()?;
        eventually(PATIENCE, "another heartbeat", || {
            let now_ns = maps.heartbeat()?;
            ensure!(now_ns > before_ns, "the last was at {now_ns} ns");
            anyhow::Ok(())
        })?;
    }
    Ok(())
}

fn start(bed: &Bed, home: Home) -> Result<Agent> {
    let mut arguments = vec!["--interface", INTERFACE, "--restart-grace", "2s"];
    arguments.extend(["--tx-interval", "100ms", "--rx-interval", "100ms"]);
    // Of ours none is to go Down again while an agent starts: 4 s, for emulated machines.
    arguments.extend(["--detect-mult", "40"]);
    Agent::start_in(home, &bed.here, &arguments)
}

/// A peer whose own detection time outlasts the test.
fn patient(bed: &Bed) -> Result<UdpPeer> {
    bed.there
        .ip(&format!("address add {PATIENT}/32 dev {INTERFACE}"))?;
    let config = UdpPeerConfig {
        timers: Timers {
            desired_min_tx_us: INTERVAL_MS * 1_000,
            required_min_rx_us: INTERVAL_MS * 1_000,
            detect_mult: 255,
            ..Timers::DEFAULT
        },
        ..UdpPeerConfig::new(PATIENT)
    };
    let peer = bed.there.run(|| UdpPeer::spawn(config)).context("peer")?;
    peer.add_session(HERE);
    Ok(peer)
}

fn session(home: &Home, peer: Ipv4Addr) -> Result<dz_common::map::SessionEntry> {
    let entries = bed::entries(home)?.into_iter();
    let mut found = entries.filter(|entry| entry.key.peer == peer.octets());
    found
        .next()
        .with_context(|| format!("no session with {peer}"))
}
