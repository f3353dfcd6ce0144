//! How many answers a second leave a device: packets of 16,000 sessions, made by a kernel program at the
//! other end of a veth pair, as fast as it can; beside the same state machine over a UDP socket.
//!
//! Our agent stands still meanwhile, and the UDP peer does nothing but to answer: neither has a clock.
//! Their sessions are Up by what they receive. Packets are made on one processor, which is also where the
//! kernel receives them; the UDP peer may have the other one.

use std::thread;
use std::time::Duration;

use anyhow::ensure;
use dz_agent::datapath::MapReader;
use dz_common::session::Timers;
use dz_tests::agent::Agent;
use dz_tests::bare::{Bare, Program};
use dz_tests::bed::{HERE, INTERFACE, THERE};

use crate::crowd::{self, FIRST, Hosts, Timing, peer};
use crate::generator::{Generator, Pace};
use crate::plain::{self, Plain, Sends};
use crate::row::{Goal, Row};
use crate::speakers;
use crate::times::Times;

const SESSIONS: u32 = 16_000;
/// So short that pacing lets each of some millions of packets per second be answered.
const TIMING: Timing = Timing {
    interval_ms: 5,
    detect_mult: 255,
};
const ROUNDS: usize = 5;
const SETTLE: Duration = Duration::from_millis(500);
const WINDOW: Duration = Duration::from_secs(2);

pub(crate) fn run(part: Option<&str>) -> anyhow::Result<Vec<Row>> {
    ensure!(part.is_none(), "this bench has no parts");
    let mut rows = Vec::new();
    for (attach, sink, least) in [
        ("xdp", Program::SinkXdp, 8.0),
        ("tc", Program::SinkEthernet, 4.0),
    ] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 1..=ROUNDS {
            ours.push(answered_by_agent(attach, sink)?);
            theirs.push(answered_by_plain()?);
            let (ours, theirs) = (ours[round - 1], theirs[round - 1]);
            eprintln!("{attach}, round {round}: {ours:.0} and {theirs:.0} answers/s");
        }
        let ratios = Times::of(ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs));
        let [low, high] = ratios.spread();
        let (ours, theirs) = (Times::of(ours), Times::of(theirs));
        rows.push(Row {
            name: format!("{attach}/answers"),
            value: ours.median(),
            unit: "1/s",
            spread: Some(ours.spread()),
            baseline: Some(theirs.median()),
            goal: None,
            noisy: false,
        });
        rows.push(Row {
            name: format!("{attach}/to_plain"),
            value: ratios.median(),
            unit: "times",
            spread: Some([low, high]),
            baseline: None,
            goal: Some(Goal::AtLeast(least)),
            noisy: low < least && least <= high,
        });
    }
    Ok(rows)
}

fn answered_by_agent(attach: &str, sink: Program) -> anyhow::Result<f64> {
    let hosts = hosts()?;
    let _sink = Bare::attach(&hosts.there, INTERFACE, sink)?;
    let attach = format!("--attach={attach}");
    let more = [attach.as_str(), "--interval-floor=5ms"];
    let mut agent = hosts.agent(SESSIONS, TIMING, &more)?;
    crowd::connect(&agent, (0..SESSIONS).map(peer), Some(THERE))?;
    agent.process().freeze()?;
    let maps = MapReader::from_pins(agent.home().pin_dir())?;
    let sessions = maps.sessions()?;
    ensure!(sessions.len() == SESSIONS as usize, "sessions are missing");
    let frames = speakers::frames_to(&hosts, sessions.iter(), TIMING.interval_us())?;
    rate(&hosts, &frames, || answers(&agent))
}

fn answered_by_plain() -> anyhow::Result<f64> {
    let hosts = hosts()?;
    hosts.route_to_peers()?;
    let _sink = Bare::attach(&hosts.there, INTERFACE, Program::SinkEthernet)?;
    let timers = Timers {
        desired_min_tx_us: TIMING.interval_us(),
        required_min_rx_us: TIMING.interval_us(),
        floor_us: TIMING.interval_us(),
        detect_mult: TIMING.detect_mult,
        ..Timers::DEFAULT
    };
    let peers = (FIRST, SESSIONS);
    let plain = Plain::start(&hosts.here, HERE, peers, timers, Sends::Answers)?;
    let frame = speakers::frames(&hosts.there, &hosts.here, TIMING.interval_us())?;
    let frames: Vec<_> = (0..SESSIONS)
        .map(peer)
        .map(|peer| frame((peer, 1), (HERE, plain::discriminator(peer))))
        .collect();
    rate(&hosts, &frames, || Ok(plain.sent()))
}

/// Two hosts; the near one takes frames without socket buffers.
fn hosts() -> anyhow::Result<Hosts> {
    let hosts = Hosts::new()?;
    hosts
        .here
        .command(&format!("ethtool -K {INTERFACE} gro on"))?;
    Ok(hosts)
}

/// How much what is counted grows per second while frames come in.
fn rate(
    hosts: &Hosts,
    frames: &[Vec<u8>],
    counted: impl Fn() -> anyhow::Result<u64>,
) -> anyhow::Result<f64> {
    // The next hop is known, and stays so.
    hosts.here.command(&format!("ping -c 1 -W 5 {THERE}"))?;
    let flood = Generator::new(&hosts.there, INTERFACE, frames)?;
    let flood = flood.start(&hosts.there, Pace::LiveFlood);
    thread::sleep(SETTLE);
    let (begun, before) = (std::time::Instant::now(), counted()?);
    thread::sleep(WINDOW);
    let after = counted()?;
    let took = begun.elapsed().as_secs_f64();
    flood.stop()?;
    ensure!(after > before, "nothing is answered");
    Ok((after - before) as f64 / took)
}

fn answers(agent: &Agent) -> anyhow::Result<u64> {
    let maps = MapReader::from_pins(agent.home().pin_dir())?;
    Ok(maps.sessions()?.iter().map(|entry| entry.answered).sum())
}
