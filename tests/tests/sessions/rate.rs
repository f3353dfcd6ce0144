//! One packet per interval and direction, whoever's clock ticks first, and never a storm.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Result, ensure};
use dz_common::packet::State;
use dz_common::session::{NS_PER_US, Session};
use dz_tests::agent::Agent;
use dz_tests::bed::{self, Bed, PATIENTLY};
use dz_tests::harness::Test;
use dz_tests::udp_peer::Rules;
use dz_tests::wait::{eventually, monotonic_ns};
use dz_tests::wire::{Direction, TunWire};
use dz_tests::{bed::HERE, bed::PATIENCE, priority};

use crate::needs::NEEDS;

const INTERVAL_MS: u32 = 50;
const INTERVAL_NS: u64 = INTERVAL_MS as u64 * 1_000 * NS_PER_US;
/// Watched for: a little more than the hundred intervals asked for.
const INTERVALS: u64 = 110;
/// 0.4 intervals each way.
const DELAY: Duration = Duration::from_millis(20);
/// Packets per interval over a wire without delay.
const STEADY: RangeInclusive<f64> = 0.85..=1.2;
/// Packets per interval over a wire whose round trip is 0.8 intervals. An answer needs ¾ of an
/// interval of silence before it, so there can be no more.
const BOUNDED: RangeInclusive<f64> = 0.85..=4.0 / 3.0;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("rate::two_agents", &NEEDS, || {
            two_agents(Duration::ZERO, &STEADY)
        }),
        Test::new("rate::two_agents_far_apart", &NEEDS, || {
            two_agents(DELAY, &BOUNDED)
        }),
        Test::new("rate::plain_peer", &NEEDS, || {
            plain_peer(Duration::ZERO, &STEADY)
        }),
        Test::new("rate::plain_peer_far_away", &NEEDS, || {
            plain_peer(DELAY, &BOUNDED)
        }),
    ]
}

fn two_agents(delay: Duration, allowed: &RangeInclusive<f64>) -> Result<()> {
    let bed = Bed::new("rate", delay)?;
    let mut near = bed.agent_with(INTERVAL_MS, &PATIENTLY)?;
    let mut far = bed.far_agent_with(INTERVAL_MS, &PATIENTLY)?;
    prefer(&mut near)?;
    prefer(&mut far)?;
    bed::connect(&near)?;
    bed::connect_back(&far)?;
    let before = [&near, &far].map(|agent| bed::until(agent.home(), State::Up));
    let span = watch(&bed.wire)?;
    for (agent, before) in [&near, &far].into_iter().zip(before) {
        unbroken(&before?.session, &bed::entry(agent.home())?.session)?;
    }
    span.check(&bed.wire, allowed)
}

fn plain_peer(delay: Duration, allowed: &RangeInclusive<f64>) -> Result<()> {
    let bed = Bed::new("rate", delay)?;
    let mut agent = bed.agent_with(INTERVAL_MS, &PATIENTLY)?;
    prefer(&mut agent)?;
    bed::connect(&agent)?;
    let peer = bed.patient_peer(Rules::Deployed, INTERVAL_MS)?;
    let before = bed::until(agent.home(), State::Up)?;
    bed::peer_until(&peer, State::Up)?;
    let span = watch(&bed.wire)?;
    unbroken(&before.session, &bed::entry(agent.home())?.session)?;
    let changes = peer.session(HERE).map(|session| session.changes);
    let last = changes.iter().flatten().next_back();
    ensure!(
        last.is_some_and(|change| change.to == State::Up && change.at_ns < span.from_ns),
        "{changes:?}"
    );
    span.check(&bed.wire, allowed)
}

/// What counts packets per interval must not count what else this machine has to do.
fn prefer(agent: &mut Agent) -> Result<()> {
    Ok(priority::raise(agent.process().pid())?)
}

/// From when to when, ns of `CLOCK_MONOTONIC`.
struct Span {
    from_ns: u64,
    to_ns: u64,
}

/// Lets `INTERVALS` pass, from the second interval after Up on: the handshake is not what is
/// measured.
fn watch(wire: &TunWire) -> Result<Span> {
    let from_ns = monotonic_ns() + 2 * INTERVAL_NS;
    let to_ns = from_ns + INTERVALS * INTERVAL_NS;
    eventually(PATIENCE, "the end of the span", || {
        (monotonic_ns() >= to_ns).then_some(())
    })?;
    // What entered the wire before the end has been noted once something after it was.
    eventually(PATIENCE, "packets after the span", || {
        let records = wire.records();
        let after = |direction| {
            let mut records = records.iter().rev();
            records.any(|record| record.direction == direction && record.at_ns > to_ns)
        };
        (after(Direction::AToB) && after(Direction::BToA)).then_some(())
    })?;
    Ok(Span { from_ns, to_ns })
}

impl Span {
    fn check(&self, wire: &TunWire, allowed: &RangeInclusive<f64>) -> Result<()> {
        for direction in [Direction::AToB, Direction::BToA] {
            let packets = bed::liveness(wire, direction);
            let inside = |at_ns: u64| (self.from_ns..self.to_ns).contains(&at_ns);
            let count = packets
                .iter()
                .filter(|(record, _)| inside(record.at_ns))
                .count();
            let intervals = (self.to_ns - self.from_ns) as f64 / INTERVAL_NS as f64;
            let rate = count as f64 / intervals;
            println!("{direction:?}: {count} packets in {intervals} intervals: {rate:.3}");
            ensure!(
                allowed.contains(&rate),
                "{direction:?}: {rate:.3} packets per interval, allowed {allowed:?}"
            );
            let up = |(record, packet): &&(_, dz_common::packet::Packet)| {
                let record: &dz_tests::wire::Record = record;
                !inside(record.at_ns) || packet.state == State::Up
            };
            ensure!(
                packets.iter().all(|packet| up(&packet)),
                "not Up throughout"
            );
        }
        Ok(())
    }
}

fn unbroken(before: &Session, after: &Session) -> Result<()> {
    ensure!(
        after.state == State::Up && after.transitions == before.transitions,
        "not Up throughout: {before:?}, then {after:?}"
    );
    Ok(())
}
