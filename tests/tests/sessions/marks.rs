//! `--tos`, `--ttl` and `--min-ttl`: what every packet of ours says of itself, and from how far away a
//! peer may be.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_tests::agent::Agent;
use dz_tests::bed::{self, Bed, HERE, PATIENCE, THERE};
use dz_tests::frame::parse_udp;
use dz_tests::harness::Test;
use dz_tests::udp_peer::{Rules, UdpPeer};
use dz_tests::wait::{eventually, holds};
use dz_tests::wire::Direction;

use crate::needs::NEEDS;

const INTERVAL_MS: u32 = 100;
/// What a UDP socket sends with.
const PEERS_TTL: u8 = 64;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("marks::default", &NEEDS, || marks(&[], (0xc0, 64))),
        Test::new("marks::cs7", &NEEDS, || {
            marks(&["--tos", "cs7", "--ttl", "255"], (0xe0, 255))
        }),
        Test::new("marks::none", &NEEDS, || {
            marks(&["--tos=0", "--ttl=1"], (0, 1))
        }),
        Test::new("marks::ef", &NEEDS, || {
            marks(&["--tos=ef", "--ttl=33"], (0xb8, 33))
        }),
        Test::new("marks::min_ttl", &NEEDS, || {
            least(&["--min-ttl=65"], &[], &["--min-ttl", "64"])
        }),
        Test::new("marks::min_ttl_by_request", &NEEDS, || {
            least(&[], &["--min-ttl", "65"], &["--min-ttl", "1"])
        }),
        Test::new("marks::min_ttl_by_override", &NEEDS, || {
            least(
                &["--override", "169.254.7.0/24 min-ttl 255"],
                &[],
                &["--min-ttl", "0"],
            )
        }),
    ]
}

/// First packets, stateless answers, answers, transmissions, farewells.
fn marks(options: &[&str], (tos, ttl): (u8, u8)) -> Result<()> {
    let bed = Bed::new("marks", Duration::ZERO)?;
    let agent = bed.agent_with(INTERVAL_MS, options)?;
    bed::connect(&agent)?;
    let peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
    until_up(&agent, &peer)?;
    // It does not know us any more, and is told.
    peer.restart_with_new_discriminators();
    eventually(PATIENCE, "a stateless answer", || {
        ensure!(count(&agent, "rx_unproven_answered")? > 0);
        anyhow::Ok(())
    })?;
    until_up(&agent, &peer)?;
    peer.silence();
    bed::until(agent.home(), State::Down)?;
    peer.resume();
    until_up(&agent, &peer)?;
    for name in ["rx_answered", "tx_originated"] {
        ensure!(count(&agent, name)? > 0, "{name}");
    }
    agent.cli(&["disconnect", &THERE.to_string()])?;
    let farewell = || {
        let sent = bed::liveness(&bed.wire, Direction::AToB).into_iter();
        let told = sent.filter(|(_, packet)| packet.state == State::AdminDown);
        (told.count() > 0).then_some(())
    };
    eventually(PATIENCE, "a farewell", farewell)?;
    let sent = bed::liveness(&bed.wire, Direction::AToB);
    for (record, _) in &sent {
        let parsed = parse_udp(&record.packet).context("no datagram")?;
        ensure!((parsed.tos, parsed.ttl) == (tos, ttl), "{parsed:?}");
        ensure!(parsed.header_checksum_good, "{parsed:?}");
    }
    println!("{} packets with TOS {tos:#x} and TTL {ttl}", sent.len());
    Ok(())
}

/// A peer that is too far away, and then is not.
fn least(options: &[&str], request: &[&str], nearer: &[&str]) -> Result<()> {
    let bed = Bed::new("marks", Duration::ZERO)?;
    let agent = bed.agent_with(INTERVAL_MS, options)?;
    connect(&agent, request)?;
    let peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
    eventually(PATIENCE, "packets from too far away", || {
        let dropped = count(&agent, "drop_ttl")?;
        ensure!(dropped > 5, "{dropped}");
        anyhow::Ok(())
    })?;
    holds(Duration::from_secs(1), "a session in Down", || {
        let entry = bed::entry(agent.home())?;
        ensure!(entry.session.state == State::Down, "{entry:?}");
        ensure!(entry.received == 0, "{entry:?}");
        anyhow::Ok(())
    })?;
    let shown = |agent: &Agent| -> Result<u64> {
        let shown = agent.json(&["sessions", "--json"])?;
        let least = &shown["sessions"][0]["min_ttl"];
        least.as_u64().with_context(|| format!("{shown}"))
    };
    ensure!(shown(&agent)? > u64::from(PEERS_TTL));
    agent.cli(&["disconnect", &THERE.to_string()])?;
    connect(&agent, nearer)?;
    ensure!(shown(&agent)? <= u64::from(PEERS_TTL));
    until_up(&agent, &peer)
}

fn connect(agent: &Agent, more: &[&str]) -> Result<()> {
    let (here, there) = (HERE.to_string(), THERE.to_string());
    let mut words = vec!["connect", &there, "--local", &here];
    words.extend(more);
    agent.cli(&words)?;
    Ok(())
}

/// Waits until both are Up and know each other.
fn until_up(agent: &Agent, peer: &UdpPeer) -> Result<()> {
    eventually(PATIENCE, "Up at both ends", || {
        let ours = bed::entry(agent.home())?.session;
        let theirs = peer.session(HERE).context("no session")?.session;
        let up = ours.state == State::Up && theirs.state == State::Up;
        ensure!(up && ours.peer_discr == theirs.local_discr, "{ours:?}");
        anyhow::Ok(())
    })
}

/// How often an exit was taken.
fn count(agent: &Agent, name: &str) -> Result<u64> {
    let reply = agent.get("/v1/counters")?;
    let blocks = reply["blocks"].as_array().context("no blocks")?;
    let counts = blocks.iter().map(|block| &block["counters"][name]);
    Ok(counts.filter_map(serde_json::Value::as_u64).sum())
}
