//! Bringing sessions into a state.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use dz_common::counters::Counter::{
    self, DownToInit, DownToUp, EventEmitted, RxAnswered, RxUnprovenAnswered,
};
use dz_tests::frame::Datagram;

use crate::bed::Bed;
use crate::liveness::{DOWN, INIT, PEER_DISCR, STATES, UP, ours};
use crate::peer::Peer;
use crate::watch::{Place, Snapshot, Touch, compare, observe};

/// Connects a peer and brings the session Up.
pub(crate) fn up(bed: &Bed, address: Ipv4Addr) -> Result<Peer> {
    let peers = bed.connect(&[address])?;
    enter(bed, &peers[0], UP)?;
    Ok(peers[0])
}

/// The same with further words of the command, by a packet with so many hops left.
pub(crate) fn up_by(bed: &Bed, address: Ipv4Addr, more: &[&str], ttl: u8) -> Result<Peer> {
    let peers = bed.connect_with(&[address], more)?;
    let before = Snapshot::take(bed)?;
    let datagram = Datagram {
        ttl,
        ..bed.liveness(&peers[0]).in_state(INIT).from(address)
    };
    let frame = bed.frame(&datagram.build());
    answered(bed, &before, &peers[0], &frame, &[local(DownToUp)], UP)?;
    Ok(peers[0])
}

/// Brings a session from Down into Down, Init or Up, by one packet at most. What is left of the
/// interval's three transmissions is one, after the first packet and an answer.
pub(crate) fn enter(bed: &Bed, peer: &Peer, state: u8) -> Result<Snapshot> {
    let before = Snapshot::take(bed)?;
    let good = bed.liveness(peer);
    let (packet, transition) = match state {
        INIT => (good.in_state(DOWN), DownToInit),
        UP => (good.in_state(INIT), DownToUp),
        _ => return Ok(before),
    };
    let frame = bed.frame(&packet.from(peer.address).build());
    answered(bed, &before, peer, &frame, &[local(transition)], state)
}

/// Sends a frame that is answered with one packet that says `state`, checks every byte of it, and
/// that the session is in this state.
pub(crate) fn answered(
    bed: &Bed,
    before: &Snapshot,
    peer: &Peer,
    frame: &[u8],
    besides: &[(Place, Counter)],
    state: u8,
) -> Result<Snapshot> {
    let mut counters = vec![local(RxAnswered), (Place::Shared, EventEmitted)];
    counters.extend(besides);
    let seen = observe(bed, before, frame, &counters)?;
    compare(before, &seen.after, Touch::Changed(peer.address))?;
    ensure!(seen.passed.is_empty(), "answered, and passed on");
    let expected = ours(peer, state, PEER_DISCR);
    ensure!(
        seen.came_out == [expected.as_slice()],
        "the answer is\n{:02x?}\n{expected:02x?} expected",
        seen.came_out
    );
    ensure_state(&seen.after, peer, state)?;
    Ok(seen.after)
}

/// Sends a frame that is not proven, which is answered with one packet that says `state` and changes
/// nothing in its session, and checks every byte of the answer.
pub(crate) fn introduced(
    bed: &Bed,
    before: &Snapshot,
    peer: &Peer,
    frame: &[u8],
    besides: &[(Place, Counter)],
    state: u8,
) -> Result<Snapshot> {
    let mut counters = vec![local(RxUnprovenAnswered)];
    counters.extend(besides);
    let seen = observe(bed, before, frame, &counters)?;
    compare(before, &seen.after, Touch::Introduced(peer.address))?;
    ensure!(seen.passed.is_empty(), "answered, and passed on");
    let expected = ours(peer, state, PEER_DISCR);
    ensure!(
        seen.came_out == [expected.as_slice()],
        "the stateless answer is\n{:02x?}\n{expected:02x?} expected",
        seen.came_out
    );
    Ok(seen.after)
}

/// The session is in this state.
pub(crate) fn ensure_state(snapshot: &Snapshot, peer: &Peer, state: u8) -> Result<()> {
    let found = snapshot.field(peer.address, "/session/state")?;
    let wanted = STATES[usize::from(state)];
    ensure!(found == wanted, "state {found}, {wanted} expected");
    Ok(())
}

/// A counter of the session's own address.
pub(crate) const fn local(counter: Counter) -> (Place, Counter) {
    (Place::Local, counter)
}
