//! From cold to Up at both ends: at most two round trips, plus one transmission by either clock.
//!
//! Counted in packets: over a wire whose delay is long against everything but the clocks' interval,
//! two round trips are four packets. The fifth is the clock's.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_tests::bed::{self, Bed, HERE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::udp_peer::Rules;
use dz_tests::wait::eventually;
use dz_tests::wire::{Direction, TunWire};

use crate::NEEDS;

/// One way. Four of them are well within the interval of a second.
const DELAY: Duration = Duration::from_millis(100);
const INTERVAL_MS: u32 = 1_000;
/// Two round trips and one transmission.
const MOST: usize = 5;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("handshake::two_agents_at_once", &NEEDS, two_agents_at_once),
        Test::new("handshake::second_agent_later", &NEEDS, second_agent_later),
        Test::new("handshake::plain_peer_first", &NEEDS, plain_peer_first),
        Test::new("handshake::plain_peer_later", &NEEDS, plain_peer_later),
    ]
}

fn two_agents_at_once() -> Result<()> {
    let bed = Bed::new("cold", DELAY)?;
    let (near, far) = (bed.agent(INTERVAL_MS)?, bed.far_agent(INTERVAL_MS)?);
    // The first packets find no session at the far end, as good as lost.
    bed.wire.set_cut_both(true);
    bed::connect(&near)?;
    bed::connect_back(&far)?;
    entered(&bed.wire, Direction::AToB, 1)?;
    entered(&bed.wire, Direction::BToA, 1)?;
    bed.wire.set_cut_both(false);
    let ups = [&near, &far].map(|agent| bed::until(agent.home(), State::Up));
    let [near_up, far_up] = ups;
    count(
        &bed.wire,
        near_up?.session.since_ns.max(far_up?.session.since_ns),
    )
}

fn second_agent_later() -> Result<()> {
    let bed = Bed::new("cold", DELAY)?;
    let (near, far) = (bed.agent(INTERVAL_MS)?, bed.far_agent(INTERVAL_MS)?);
    bed.wire.set_cut(Direction::AToB, true);
    bed::connect(&near)?;
    entered(&bed.wire, Direction::AToB, 1)?;
    bed.wire.set_cut_both(false);
    bed::connect_back(&far)?;
    let ups = [&near, &far].map(|agent| bed::until(agent.home(), State::Up));
    let [near_up, far_up] = ups;
    count(
        &bed.wire,
        near_up?.session.since_ns.max(far_up?.session.since_ns),
    )
}

fn plain_peer_first() -> Result<()> {
    let bed = Bed::new("cold", DELAY)?;
    let agent = bed.agent(INTERVAL_MS)?;
    bed.wire.set_cut(Direction::BToA, true);
    let peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
    entered(&bed.wire, Direction::BToA, 1)?;
    bed.wire.set_cut_both(false);
    bed::connect(&agent)?;
    both_up(&bed, &agent, &peer)
}

fn plain_peer_later() -> Result<()> {
    let bed = Bed::new("cold", DELAY)?;
    let agent = bed.agent(INTERVAL_MS)?;
    bed.wire.set_cut(Direction::AToB, true);
    bed::connect(&agent)?;
    entered(&bed.wire, Direction::AToB, 1)?;
    bed.wire.set_cut_both(false);
    let peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
    both_up(&bed, &agent, &peer)
}

fn both_up(
    bed: &Bed,
    agent: &dz_tests::agent::Agent,
    peer: &dz_tests::udp_peer::UdpPeer,
) -> Result<()> {
    let ours = bed::until(agent.home(), State::Up)?;
    bed::peer_until(peer, State::Up)?;
    let theirs = peer.session(HERE).context("no session")?;
    count(
        &bed.wire,
        ours.session.since_ns.max(theirs.session.since_ns),
    )
}

/// Waits until so many liveness packets have entered.
fn entered(wire: &TunWire, direction: Direction, count: usize) -> Result<()> {
    eventually(PATIENCE, "a first packet", || {
        (bed::liveness(wire, direction).len() >= count).then_some(())
    })
}

/// The packets that met no cut and entered before the last end came Up.
fn count(wire: &TunWire, up_ns: u64) -> Result<()> {
    let mut steps = Vec::new();
    for direction in [Direction::AToB, Direction::BToA] {
        let packets = bed::liveness(wire, direction).into_iter();
        let counted = packets.filter(|(record, _)| record.forwarded && record.at_ns < up_ns);
        steps.extend(counted.map(|(record, packet)| (record.at_ns, direction, packet.state)));
    }
    steps.sort_by_key(|(at_ns, ..)| *at_ns);
    let shown: Vec<_> = steps
        .iter()
        .map(|(at_ns, direction, state)| {
            (
                format!("-{} ms", (up_ns - at_ns) / 1_000_000),
                direction,
                state,
            )
        })
        .collect();
    println!("{} packets until both were Up: {shown:?}", steps.len());
    ensure!(
        steps.len() <= MOST,
        "{} packets, {MOST} are allowed: {shown:?}",
        steps.len()
    );
    Ok(())
}
