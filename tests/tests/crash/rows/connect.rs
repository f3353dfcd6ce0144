//! Connecting, and routes that follow the session.

use anyhow::{Context, Result, ensure};
use dz_common::map::{Deadline, SessionEntry};
use dz_common::pacing::due_stamp;
use dz_common::packet::State;
use dz_common::session::Session;
use dz_tests::bed::{self, HERE, INTERFACE, PATIENCE, THERE};
use dz_tests::harness::Test;
use dz_tests::wait::{eventually, monotonic_ns};
use dz_tests::wire::Direction;

use super::stage::Stage;
use crate::needs::NEEDS;

/// Within what a hint for our clock is believed.
const AHEAD_NS: u64 = 4_000_000_000;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("rows::c1", &NEEDS, peer_without_session),
        Test::new("rows::c2", &NEEDS, slot_of_no_session),
        Test::new("rows::c3", &NEEDS, session_that_has_said_nothing),
        Test::new("rows::r1", &NEEDS, up_without_route),
        Test::new("rows::r2", &NEEDS, up_with_route),
        Test::new("rows::r3", &NEEDS, another_route_of_ours),
        Test::new("rows::r4", &NEEDS, down_with_route),
        Test::new("rows::r5", &NEEDS, down_without_route),
        Test::new("rows::r6", &NEEDS, routes_that_nobody_wants),
    ]
}

fn peer_without_session() -> Result<()> {
    let stage = Stage::new()?;
    let maps = stage.maps()?;
    maps.delete_session(&stage.entry.key)?;
    stage.delete_route()?;
    stage.start()?.up().map(drop)
}

/// The slot of a session that was never inserted is due at once and again and again: that must
/// not hurt the session that gets it.
fn slot_of_no_session() -> Result<()> {
    let stage = Stage::new()?;
    let maps = stage.maps()?;
    maps.delete_session(&stage.entry.key)?;
    let slot = stage.entry.slot;
    let stale = Deadline {
        deadline_ns: monotonic_ns(),
        key: stage.entry.key,
        // Nor must what it says of our clock keep the next session silent.
        next_due: due_stamp(monotonic_ns() + AHEAD_NS),
    };
    maps.set_deadline(slot, &stale)?;
    // Until the peer is heard, the slot is as the agent has prepared it.
    stage.bed.wire.set_cut(Direction::BToA, true);
    let mut started = stage.start()?;
    let entry = bed::entry(started.agent.home())?;
    ensure!(
        entry.slot == slot,
        "{entry:?}: slot {slot} is the lowest free one"
    );
    let now = maps.deadline(slot)?;
    ensure!(
        now.key == entry.key && now.next_due != stale.next_due,
        "{now:?}, was {stale:?}"
    );
    started.bed.wire.set_cut(Direction::BToA, false);
    let entry = started.up()?;
    let later = eventually(PATIENCE, "ten packets more", || {
        let later = bed::entry(started.agent.home())?;
        ensure!(later.received > entry.received + 10, "{later:?}");
        anyhow::Ok(later)
    })?;
    ensure!(
        later.session.transitions == entry.session.transitions,
        "{later:?}"
    );
    Ok(())
}

fn session_that_has_said_nothing() -> Result<()> {
    let stage = Stage::new()?;
    // So that nothing but our own clock can have it say something.
    stage.peer.silence();
    let maps = stage.maps()?;
    let old = stage.entry;
    let fresh = SessionEntry {
        generation: old.generation + 1,
        received: 0,
        answered: 0,
        originated: 0,
        session: Session::new(old.session.timers, old.session.local_discr, monotonic_ns()),
        ..old
    };
    maps.set_session(&fresh)?;
    stage.delete_route()?;
    let said = bed::liveness(&stage.bed.wire, Direction::AToB).len();
    let mut started = stage.start()?;
    eventually(PATIENCE, "a packet of ours", || {
        let packets = bed::liveness(&started.bed.wire, Direction::AToB);
        let (_, packet) = packets.get(said).context("none")?;
        ensure!(packet.state == State::Down, "{packet:?}");
        anyhow::Ok(())
    })?;
    started.peer.resume();
    let now = started.up()?;
    ensure!(now.generation == fresh.generation, "{now:?}");
    Ok(())
}

fn up_without_route() -> Result<()> {
    let stage = Stage::new()?;
    stage.delete_route()?;
    let mut started = stage.start()?;
    started.untouched()
}

fn up_with_route() -> Result<()> {
    let mut started = Stage::new()?.start()?;
    started.untouched()?;
    ensure!(!started.log_has("route installed"), "it was there");
    ensure!(!started.log_has("route withdrawn"), "it stays there");
    Ok(())
}

/// A gateway that nobody asked for, and a source that is not ours to name.
fn another_route_of_ours() -> Result<()> {
    for other in ["via 169.254.7.9 onlink", "src 10.1.2.3"] {
        let stage = Stage::new()?;
        let here = &stage.bed.here;
        here.ip("address add 10.1.2.3/32 dev lo")?;
        here.ip(&format!(
            "route replace {THERE} dev {INTERFACE} {other} proto 144"
        ))?;
        let mut started = stage.start()?;
        eventually(PATIENCE, "the route that was asked for", || {
            let shown = bed::route_to(&started.bed.here, THERE)?;
            ensure!(
                shown.contains(&format!("src {HERE}")) && !shown.contains("via"),
                "{shown}"
            );
            anyhow::Ok(())
        })?;
        started.untouched()?;
    }
    Ok(())
}

/// The kernel has taken the session Down while no agent was there. With an own passive mode the
/// route stays.
fn down_with_route() -> Result<()> {
    for passive in [false, true] {
        let stage = if passive {
            Stage::with(&["--passive"])?
        } else {
            Stage::new()?
        };
        stage.peer.admin_down(HERE);
        bed::until(&stage.home, State::Down)?;
        let mut started = stage.start()?;
        bed::until_route(&started.bed.here, THERE, passive)?;
        ensure!(bed::entry(started.agent.home())?.session.state == State::Down);
        if passive {
            ensure!(!started.log_has("route withdrawn"), "not even for a moment");
        }
        started.peer.admin_up(HERE);
        started.up()?;
    }
    Ok(())
}

fn down_without_route() -> Result<()> {
    let stage = Stage::new()?;
    stage.peer.admin_down(HERE);
    bed::until(&stage.home, State::Down)?;
    stage.delete_route()?;
    let mut started = stage.start()?;
    ensure!(bed::route_to(&started.bed.here, THERE)?.is_empty());
    ensure!(!started.log_has("route installed"), "not even for a moment");
    started.peer.admin_up(HERE);
    started.up().map(drop)
}

/// On our interface they go; elsewhere they are another agent's.
fn routes_that_nobody_wants() -> Result<()> {
    let stage = Stage::new()?;
    let here = &stage.bed.here;
    here.ip(&format!("route add 10.96.0.1 dev {INTERFACE} proto 144"))?;
    here.ip("route add 10.96.0.2 dev lo proto 144")?;
    let mut started = stage.start()?;
    let left = eventually(PATIENCE, "no route that nobody wants", || {
        let shown = started.bed.here.ip("route show proto 144")?;
        ensure!(!shown.contains("10.96.0.1"), "{shown}");
        anyhow::Ok(shown)
    })?;
    ensure!(left.contains("10.96.0.2"), "{left}");
    started
        .bed
        .here
        .ip("route delete 10.96.0.2 dev lo proto 144")?;
    started.untouched()
}
