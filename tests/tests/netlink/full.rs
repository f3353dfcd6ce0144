//! Tables that are full: of events, while the agent stands still, and of peers.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::packet::{Packet, State, Version};
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, HERE, INTERFACE, PATIENCE, THERE};
use dz_tests::frame::Datagram;
use dz_tests::harness::Test;
use dz_tests::netns::Netns;
use dz_tests::tun::Tun;
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;

use crate::scene::{NEEDS, logged, refusal};

/// More than `dz_events` holds.
const FLIPS: u32 = 15_000;
const PORT: u16 = 44880;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("full::events_that_end_up", &NEEDS, || events(State::Up)),
        Test::new("full::events_that_end_down", &NEEDS, || events(State::Down)),
        Test::new("full::peers", &NEEDS, peers),
    ]
}

/// A packet of the peer's. It echoes our discriminator.
fn packet(state: State, local_discr: u32) -> Vec<u8> {
    let packet = Packet {
        state,
        detect_mult: 3,
        my_discr: 77,
        your_discr: local_discr,
        desired_min_tx_us: 1_000_000,
        required_min_rx_us: 1_000_000,
        passive: false,
        version: Version::new([0, 7, 1, 5]),
        reserved_set: false,
    };
    let (src, dst) = (
        SocketAddrV4::new(THERE, PORT),
        SocketAddrV4::new(HERE, PORT),
    );
    Datagram::new(src, dst, packet.encode()).build()
}

/// The last change is among the lost ones, and the route is right all the same.
fn events(last: State) -> Result<()> {
    let netns = Netns::new("events")?;
    let tun = Tun::new(&netns, INTERFACE, &["169.254.7.0/31"])?;
    let mut agent = bed::agent(Home::new()?, &netns, 1_000)?;
    bed::connect(&agent)?;
    let discr = bed::entry(agent.home())?.session.local_discr;
    let up = packet(State::Init, discr);
    let down = packet(State::AdminDown, discr);
    let (first, last_packet) = match last {
        State::Up => (&down, &up),
        _ => (&up, &down),
    };
    // From Down, Init that echoes our discriminator leads Up.
    tun.send(first)?;
    bed::until_route(&netns, THERE, last != State::Up)?;
    agent.process().freeze()?;
    for _ in 0..FLIPS {
        tun.send(last_packet)?;
        tun.send(first)?;
    }
    tun.send(last_packet)?;
    let changes = bed::entry(agent.home())?.session.transitions;
    ensure!(changes >= 2 * FLIPS, "{changes} changes");
    agent.process().signal(Signal::SIGCONT)?;
    eventually(PATIENCE, "the route of the last change", || {
        if last == State::Up {
            tun.send(&up)?; // lest the session times out meanwhile
        }
        let route = bed::route_to(&netns, THERE)?;
        ensure!(route.is_empty() != (last == State::Up), "{route:?}");
        anyhow::Ok(())
    })?;
    eventually(PATIENCE, "lost events counted", || {
        if last == State::Up {
            tun.send(&up)?;
        }
        let status = agent.get("/v1/status")?;
        ensure!(status["events_lost"].as_u64() > Some(0), "{status}");
        anyhow::Ok(())
    })?;
    logged(&mut agent, "events lost")?;
    let shown = agent.cli(&["counters"])?;
    ensure!(shown.contains("agent_events_lost"), "{shown}");
    Ok(())
}

fn peers() -> Result<()> {
    let netns = Netns::new("peers")?;
    let _tun = Tun::new(&netns, INTERFACE, &["169.254.7.0/31"])?;
    let arguments = ["--interface", INTERFACE, "--max-sessions", "2"];
    let agent = Agent::start(&netns, &arguments)?;
    let here = HERE.to_string();
    let connect = |peers: &[&str]| -> Vec<String> {
        let mut words = vec!["connect".to_owned(), "--local".to_owned(), here.clone()];
        words.extend(peers.iter().map(|peer| (*peer).to_owned()));
        words
    };
    let peers = || -> Result<Vec<Ipv4Addr>> {
        let reader = MapReader::from_pins(agent.home().pin_dir())?;
        let peers = reader.peers()?.into_iter();
        let mut peers: Vec<Ipv4Addr> = peers.map(|(key, _)| key.peer.into()).collect();
        let mut sessions: Vec<Ipv4Addr> = bed::entries(agent.home())?
            .iter()
            .map(|entry| entry.key.peer.into())
            .collect();
        peers.sort();
        sessions.sort();
        ensure!(peers == sessions, "peers {peers:?}, sessions {sessions:?}");
        Ok(peers)
    };
    let refused = |all: &[&str]| -> Result<()> {
        let words = connect(all);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let said = refusal(&agent, &words)?;
        ensure!(said.contains("raise --max-sessions"), "{said}");
        Ok(())
    };
    let accepted = |all: &[&str]| -> Result<()> {
        let words = connect(all);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        agent.cli(&words).map(|_| ())
    };
    refused(&["10.1.0.1", "10.1.0.2", "10.1.0.3"])?;
    ensure!(peers()?.is_empty(), "half done");
    accepted(&["10.1.0.1", "10.1.0.2"])?;
    refused(&["10.1.0.3"])?;
    // One that is there does not make room for one that is not.
    refused(&["10.1.0.1", "10.1.0.3"])?;
    ensure!(peers()?.len() == 2, "{:?}", peers()?);
    accepted(&["10.1.0.1", "10.1.0.2"])?;
    agent.cli(&["disconnect", "10.1.0.1"])?;
    accepted(&["10.1.0.3"])?;
    let left = peers()?;
    let last = left.last().context("no peers")?;
    ensure!(
        left.len() == 2 && *last == Ipv4Addr::new(10, 1, 0, 3),
        "{left:?}"
    );
    Ok(())
}
