//! From cold to Up at both ends: at most two round trips, plus one transmission by either clock.
//!
//! Counted in packets, not in milliseconds: two round trips are four packets, the fifth is the
//! clock's; and of those that an agent sends, its clock sends one at most. (A handshake that waits
//! for the clocks needs few packets, too.) A deployed peer tells a new state an interval after its last
//! packet, and by then our clock may have its turn once more.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_tests::agent::Agent;
use dz_tests::bed::{self, Bed, HERE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::udp_peer::{Rules, UdpPeer};
use dz_tests::wait::eventually;
use dz_tests::wire::{Direction, TunWire};

use crate::needs::NEEDS;

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
    bed.wire.set_cut_both(true);
    bed::connect(&near)?;
    bed::connect_back(&far)?;
    entered(&bed.wire, Direction::AToB)?;
    entered(&bed.wire, Direction::BToA)?;
    let before = [sent_by_clock(&near)?, sent_by_clock(&far)?];
    bed.wire.set_cut_both(false);
    let near_up_ns = up(&near, before[0], 1)?;
    count(&bed.wire, near_up_ns.max(up(&far, before[1], 1)?))
}

fn second_agent_later() -> Result<()> {
    let bed = Bed::new("cold", DELAY)?;
    let (near, far) = (bed.agent(INTERVAL_MS)?, bed.far_agent(INTERVAL_MS)?);
    bed.wire.set_cut(Direction::AToB, true);
    bed::connect(&near)?;
    entered(&bed.wire, Direction::AToB)?;
    let before = sent_by_clock(&near)?;
    bed.wire.set_cut_both(false);
    bed::connect_back(&far)?;
    let near_up_ns = up(&near, before, 1)?;
    count(&bed.wire, near_up_ns.max(up(&far, 0, 1)?))
}

fn plain_peer_first() -> Result<()> {
    let bed = Bed::new("cold", DELAY)?;
    let agent = bed.agent(INTERVAL_MS)?;
    bed.wire.set_cut(Direction::BToA, true);
    let peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
    entered(&bed.wire, Direction::BToA)?;
    bed.wire.set_cut_both(false);
    bed::connect(&agent)?;
    let up_ns = up(&agent, 0, 2)?;
    count(&bed.wire, up_ns.max(peer_up(&peer)?))
}

fn plain_peer_later() -> Result<()> {
    let bed = Bed::new("cold", DELAY)?;
    let agent = bed.agent(INTERVAL_MS)?;
    bed.wire.set_cut(Direction::AToB, true);
    bed::connect(&agent)?;
    entered(&bed.wire, Direction::AToB)?;
    let before = sent_by_clock(&agent)?;
    bed.wire.set_cut_both(false);
    let peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
    let up_ns = up(&agent, before, 2)?;
    count(&bed.wire, up_ns.max(peer_up(&peer)?))
}

fn sent_by_clock(agent: &Agent) -> Result<u64> {
    Ok(bed::entry(agent.home())?.originated)
}

/// Since when an agent's session is Up. `before`: what its clock had sent before the handshake, and
/// what it may send in it.
fn up(agent: &Agent, before: u64, most: u64) -> Result<u64> {
    let entry = bed::until(agent.home(), State::Up)?;
    let by_clock = entry.originated - before;
    ensure!(by_clock <= most, "{by_clock} transmissions by the clock");
    Ok(entry.session.since_ns)
}

/// Since when a plain peer's session is Up.
fn peer_up(peer: &UdpPeer) -> Result<u64> {
    bed::peer_until(peer, State::Up)?;
    let session = peer.session(HERE).context("no session")?.session;
    Ok(session.since_ns)
}

/// Waits until a first liveness packet has entered.
fn entered(wire: &TunWire, direction: Direction) -> Result<()> {
    eventually(PATIENCE, "a first packet", || {
        (!bed::liveness(wire, direction).is_empty()).then_some(())
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
