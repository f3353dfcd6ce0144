//! A peer that changes our state with every packet does not drive our rate, nor does anybody else.

use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use dz_common::counters::{Counter, Kind};
use dz_tests::wait::eventually;

use crate::bed::{Bed, PATIENCE};
use crate::liveness::{ADMIN_DOWN, DOWN, INIT, Liveness, UP, ours};
use crate::peer::{INTERVAL, Peer};
use crate::session;
use crate::watch::{Place, Snapshot, Touch, come_out, compare, moves};

const PEERS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(10, 77, 0, 6),
    Ipv4Addr::new(10, 77, 0, 7),
    Ipv4Addr::new(10, 77, 0, 10),
    Ipv4Addr::new(10, 77, 0, 11),
];
const PACKETS: u64 = 500;
/// Fewer than any queue of the kernel holds.
const BATCH: u64 = 50;
/// Changes of a session's state within a second that the agent is told of.
const TOLD: u64 = 20;
/// Transmissions within any one interval.
const MOST: u64 = 3;

/// From Down, packets that say Down lead to Init and back.
pub(crate) fn down_and_init(bed: &Bed) -> Result<()> {
    flip(bed, PEERS[0], [DOWN, DOWN])
}

/// From Down, Init leads Up, where Down would be a stale one, but AdminDown leads back.
pub(crate) fn down_and_up(bed: &Bed) -> Result<()> {
    flip(bed, PEERS[1], [INIT, ADMIN_DOWN])
}

/// Everything that is not proven, while the session is Down.
pub(crate) fn blind_while_down(bed: &Bed) -> Result<()> {
    let peers = bed.connect(&[PEERS[2]])?;
    blind(bed, &peers[0], INIT)
}

/// The same while it is Up.
pub(crate) fn blind_while_up(bed: &Bed) -> Result<()> {
    blind(bed, &session::up(bed, PEERS[3])?, UP)
}

/// Of so many packets that are not proven one is answered, and the session is as it was.
fn blind(bed: &Bed, peer: &Peer, told: u8) -> Result<()> {
    let before = Snapshot::take(bed)?;
    let other = !peer.local_discr;
    let states = [DOWN, ADMIN_DOWN, INIT, UP];
    let kinds = states
        .iter()
        .flat_map(|state| [(*state, 0), (*state, other)]);
    let frames: Vec<_> = kinds
        .map(|(state, echo)| {
            let packet = Liveness {
                my_discr: 0xb11d_0001,
                ..Liveness::new(echo)
            };
            bed.frame(&packet.in_state(state).from(peer.address).build())
        })
        .collect();
    let earlier = number(&before, peer, "/received")?;
    send(bed, peer, &frames, earlier)?;
    ensure!(bed.sweep()?.is_empty(), "passed on");
    let after = Snapshot::take(bed)?;
    let mut moved = moves(&before.counters, &after.counters);
    let answers = moved.remove(&key(Place::Local, Counter::RxUnprovenAnswered));
    ensure!(answers == Some(1), "answers: {answers:?}");
    let exits = [
        Counter::RxUnprovenPaced,
        Counter::DropUnprovenAdminDown,
        Counter::DropZeroYourDiscriminator,
        Counter::DropWrongDiscriminator,
    ];
    let dropped: u64 = exits
        .iter()
        .filter_map(|exit| moved.remove(&key(Place::Local, *exit)))
        .sum();
    ensure!(dropped + 1 == PACKETS, "{dropped} dropped");
    moved.remove(&key(Place::Shared, Counter::PassOtherPort));
    ensure!(moved.is_empty(), "moved besides: {moved:?}");
    let came_out = come_out(bed)?;
    let expected = ours(peer, told, 0xb11d_0001);
    ensure!(came_out == [expected.as_slice()], "{came_out:02x?}");
    compare(&before, &after, Touch::Blind(peer.address))
}

fn key(place: Place, counter: Counter) -> (Place, String) {
    (place, counter.name().to_owned())
}

/// Sends the packets, these in turn, in batches that queues hold; `earlier` have been received.
fn send(bed: &Bed, peer: &Peer, frames: &[Vec<u8>], earlier: u64) -> Result<()> {
    let mut sent = 0;
    for frame in frames.iter().cycle().take(PACKETS as usize) {
        bed.send(frame)?;
        sent += 1;
        if sent % BATCH == 0 {
            eventually(PATIENCE, "a batch's receipt", || {
                let received = number(&Snapshot::take(bed)?, peer, "/received")? - earlier;
                ensure!(received == sent, "{received} received of {sent}");
                anyhow::Ok(())
            })?;
        }
    }
    Ok(())
}

fn flip(bed: &Bed, address: Ipv4Addr, states: [u8; 2]) -> Result<()> {
    let start = Instant::now();
    let peers = bed.connect(&[address])?;
    let peer = &peers[0];
    let before = Snapshot::take(bed)?;
    let frames: Vec<_> = states
        .iter()
        .map(|state| {
            let packet = bed.liveness(peer).in_state(*state);
            bed.frame(&packet.from(peer.address).build())
        })
        .collect();
    send(bed, peer, &frames, 0)?;
    ensure!(bed.sweep()?.is_empty(), "passed on");
    check_counters(bed, &before, peer)?;
    let after = Snapshot::take(bed)?;
    let answered = number(&after, peer, "/answered")?;
    // The first packet of the session, before all this, belongs to the same interval; so does what
    // our clock has sent meanwhile. On a machine slow beyond measure there are more intervals.
    let transmissions = answered + number(&after, peer, "/originated")?;
    let intervals = 1 + start.elapsed().as_nanos() / INTERVAL.as_nanos();
    ensure!(
        answered >= 1 && transmissions <= MOST * intervals as u64,
        "{answered} answers, {transmissions} transmissions within {intervals} interval(s)"
    );
    let came_out = come_out(bed)?.len() as u64;
    ensure!(
        came_out + 1 == transmissions,
        "{came_out} on the wire after the first, {transmissions} counted"
    );
    // What the agent does about it is over before the next test looks.
    eventually(PATIENCE, "a session whose changes are told again", || {
        let held = number(&Snapshot::take(bed)?, peer, "/held")?;
        ensure!(held == 0, "{held}");
        anyhow::Ok(())
    })
}

fn number(snapshot: &Snapshot, peer: &Peer, pointer: &str) -> Result<u64> {
    let number = snapshot.field(peer.address, pointer)?.as_u64();
    number.with_context(|| format!("{pointer} is no number"))
}

/// Each packet had one exit and changed the state, and nothing else has moved.
fn check_counters(bed: &Bed, before: &Snapshot, peer: &Peer) -> Result<()> {
    let after = Snapshot::take(bed)?;
    compare(before, &after, Touch::Changed(peer.address))?;
    let mut moved = moves(&before.counters, &after.counters);
    let sentinel = key(Place::Shared, Counter::PassOtherPort);
    ensure!(
        moved.remove(&sentinel) == Some(1),
        "the sentinel: {moved:?}"
    );
    let mut take = |place: Place, wanted: &dyn Fn(Counter) -> bool| -> u64 {
        let counters = Counter::ALL.iter().filter(|counter| wanted(**counter));
        let keys = counters.map(|counter| key(place, *counter));
        keys.filter_map(|key| moved.remove(&key)).sum()
    };
    let exits = [
        Counter::RxAnswered,
        Counter::RxBurstSpent,
        Counter::RxRemoteAdmin,
    ];
    let left = take(Place::Local, &|counter| exits.contains(&counter));
    let changed = take(Place::Local, &|counter| counter.kind() == Kind::Transition);
    let events = [Counter::EventEmitted, Counter::EventLost];
    let told = take(Place::Shared, &|counter| events.contains(&counter));
    // Of a session that changes so fast the agent is told the first twenty of a second.
    ensure!(
        (left, changed) == (PACKETS, PACKETS) && (TOLD..=PACKETS).contains(&told),
        "{left} exits, {changed} changes, {told} events"
    );
    // Each time the agent has it told no more, or told again, or held.
    moved.remove(&key(Place::Local, Counter::ControlDone));
    ensure!(moved.is_empty(), "moved besides: {moved:?}");
    let transitions = after.field(peer.address, "/session/transitions")?;
    ensure!(*transitions == PACKETS, "{transitions} transitions");
    Ok(())
}
